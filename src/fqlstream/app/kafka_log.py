"""The delivery protocol's view of Kafka: topic ids, offsets, dead letters, notices, values, acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from fqlstream.app.transport import SourcePartition
from fqlstream.errors import BrokerError
from fqlstream.settings import KafkaSettings
from fqlstream.stream.batches import DeadLetter
from fqlstream.stream.protocol import FlushRow, MetricValue

PANE_UPDATES = "pane-updates"
METRIC_VALUES = "metric-values"
DEAD_LETTERS = "dead-letters"


class Outbox(Protocol):
    """Where records leave this process."""

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Awaitable[object]:
        """Hand a record over; awaiting what this gives awaits its delivery, and raises where that failed."""
        ...


@dataclass(slots=True)
class KafkaLog:
    """Kafka, as `stream.delivery` and `stream.finalise` ask for it."""

    settings: KafkaSettings
    outbox: Outbox
    topic_ids: Callable[[KafkaSettings, Sequence[str]], Mapping[str, str]]
    count_partitions: Callable[[KafkaSettings, str], int]
    #: partitions that this worker holds, by number
    sources: dict[int, SourcePartition] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    async def topic_id(self, topic: str) -> str:
        """Identify the topic, asking the broker each time: between two takeovers it may have been recreated."""
        ids = await asyncio.to_thread(self.topic_ids, self.settings, [topic])
        return ids[topic]

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        """Give the first offset in the log and the next one to be written."""
        source = self.sources.get(partition)
        if source is None or source.lost:
            raise BrokerError("KFK020", f"{topic}[{partition}] was given to another worker meanwhile")
        return await source.log_start(), await source.log_end()

    async def partitions_count(self, topic: str) -> int:
        """Count the partitions of a topic; asked once, because a topic never shrinks and growth restarts the workers."""
        if topic not in self._counts:
            self._counts[topic] = await asyncio.to_thread(self.count_partitions, self.settings, topic)
        return self._counts[topic]

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write refused records to the dead-letter topic: the original bytes, the reasons in headers."""
        await self._send_all([(DEAD_LETTERS, letter.value, letter.key, _letter_headers(letter)) for letter in letters])

    async def send_notices(self, rows: Sequence[FlushRow]) -> None:
        """Tell the finalisers which panes changed. They look anyway, so a failure here is none."""
        records = []
        for row in rows:
            models: dict[str, list[list[object]]] = {name: [] for name in row.watermarks.get(next(iter(row.fences)), {})}
            for pane in row.panes:
                models.setdefault(pane.model, []).append([pane.version, pane.start_ms])
            for model, panes in models.items():
                notice = {
                    "topic": row.topic,
                    "partition": row.partition,
                    "epoch": row.version.epoch,
                    "flush": row.version.flush,
                    "model": model,
                    "panes": panes[:_NOTICE_PANES_MAX],
                }
                records.append((PANE_UPDATES, msgspec.json.encode(notice), model.encode(), ()))
        try:
            await self._send_all(records)
        except BrokerError:
            return

    async def send_values(self, values: Sequence[MetricValue]) -> None:
        """Write published values to the metric-values topic."""
        await self._send_all([
            (METRIC_VALUES, msgspec.json.encode(value_payload(value)), _value_key(value), ()) for value in values
        ])

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        """Let the commit follow what is durable; nothing where the partition was lost meanwhile."""
        source = self.sources.get(partition)
        if source is not None and source.topic == topic and not source.lost:
            source.ack(next_offset)

    async def _send_all(
        self, records: Sequence[tuple[str, bytes | None, bytes | None, Sequence[tuple[str, bytes]]]]
    ) -> None:
        deliveries = [
            await self.outbox.send(topic, value, key=key, headers=headers) for topic, value, key, headers in records
        ]
        for delivery in deliveries:
            await delivery


#: A notice is a hint: a longer list would only be a larger hint.
_NOTICE_PANES_MAX = 1_000


def value_payload(value: MetricValue) -> dict[str, object]:
    """Give a published value as the metric-values topic carries it; times in RFC 3339, UTC."""
    return {
        "model": value.model,
        "version": value.version,
        "metric": value.metric,
        "segment": value.segment,
        "window_start": _iso(value.window_start_ms),
        "window_end": _iso(value.window_end_ms),
        "window_s": (value.window_end_ms - value.window_start_ms) // 1000,
        "value": value.value,
        "rows": value.rows,
        "labelled_rows": value.labelled_rows,
        "exact": value.exact,
        "error_bound": value.error_bound,
        "status": value.status,
        "value_version": value.value_version,
        "definition_revision": value.definition_revision,
        "updated_at": _iso(value.updated_at_ms),
    }


def _iso(ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")


def _value_key(value: MetricValue) -> bytes:
    return msgspec.json.encode([value.model, value.metric, value.segment])


def _letter_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    texts = {
        "code": letter.code,
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "row": letter.row,
        "seen_at": _iso(letter.record_at_ms),
    }
    if letter.content_type is not None:
        texts["content-type"] = letter.content_type
    return [(name, text.encode()) for name, text in texts.items()]
