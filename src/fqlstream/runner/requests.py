"""Requests of a runner's partitions, from their records to their ends: what is under way holds the committed offset back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from fqlstream.events.payloads import CodeMetricTask

log = logging.getLogger("fqlstream.runner")


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its place in the log."""

    partition: int
    offset: int
    task: CodeMetricTask


@dataclass(slots=True)
class _Partition:
    next_offset: int = -1
    open: dict[int, Request] = field(default_factory=dict)


class RequestBook:
    """What was asked for and is not done. A runner that ends in between leaves its requests to whoever comes next."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}

    def take(self, partition: int) -> None:
        """Begin with a partition."""
        self._partitions[partition] = _Partition()

    def leave(self, partition: int) -> None:
        """Forget a partition and its requests."""
        self._partitions.pop(partition, None)

    def add(self, partition: int, offset: int, value: bytes | None) -> None:
        """Note a record; one that is no request is said and left behind."""
        known = self._partitions.setdefault(partition, _Partition())
        known.next_offset = max(known.next_offset, offset + 1)
        try:
            task = CodeMetricTask.model_validate_json(value or b"")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            log.warning("code-metric-tasks[%d]@%d is no request: %s", partition, offset, first["msg"])
            return
        if all(
            request.task != task for request in known.open.values()
        ):  # sent again while it waits, it is the same one
            known.open[offset] = Request(partition, offset, task)

    def open(self) -> Iterator[Request]:
        """Give the requests that are not done, those of a partition in their order."""
        for known in list(self._partitions.values()):
            yield from list(known.open.values())

    def close(self, request: Request) -> None:
        """Note that a request is done."""
        known = self._partitions.get(request.partition)
        if known is not None:
            known.open.pop(request.offset, None)

    def offsets(self) -> dict[int, int]:
        """Give, by partition, where whoever comes next has to begin."""
        return {
            partition: min(known.open, default=known.next_offset)
            for partition, known in self._partitions.items()
            if known.next_offset >= 0
        }
