"""The whole worker with parts of the delivery protocol left out, to see what they cost. What it promises is then void.

`fences`: no row is compared with the fence of its pane. `flush`: states and flush rows are neither encoded nor written; they
stay in this process, where publishing finds them, and nothing is committed to Kafka. History, values and notices stay as they are.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fqlstream.app.worker import Worker
from fqlstream.bench.contender import Task
from fqlstream.bench.worker import Watch
from fqlstream.errors import UsageError
from fqlstream.fql.compile_arrow import Cells, Engine
from fqlstream.fql.plan import Lane
from fqlstream.local.joining import join
from fqlstream.settings import load
from fqlstream.stream.panes import PaneCodes
from fqlstream.stream.protocol import FlushRow, PaneKey, Published, StateRecord

#: Names, separated by commas, of what is left out.
STUBS_VARIABLE: Final = "BENCH_STUBS"
STUBS: Final = ("fences", "flush")


class Passed(bytes):
    """Stands for an encoded record: the states themselves, as they are."""

    cells: Cells
    without: frozenset[str]


class RememberedStates:
    """A store that keeps flush rows and states in this process, the newest ones; everything else goes to ClickHouse."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._rows: dict[tuple[str, int], FlushRow] = {}
        self._records: dict[tuple[PaneKey, int, Lane], StateRecord] = {}
        self._published: dict[str, Published] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        """Give the row of the highest version."""
        return self._rows.get((topic, partition))

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        """Give every partition's row of the highest version."""
        return [row for (of, _), row in sorted(self._rows.items()) if of == topic]

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        """Give nobody: there is one worker."""
        del topic, partition, epoch
        return {}

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        """Keep flush rows."""
        self._rows.update({(row.topic, row.partition): row for row in rows})

    async def write_states(self, records: Sequence[StateRecord]) -> None:
        """Keep states."""
        self._records.update({(record.pane, record.partition, record.lane): record for record in records})

    async def read_states(self, partition: int, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        """Give the record of each lane of these panes."""
        return [found for found in self._of(keys) if found.partition == partition]

    async def pane_records(self, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        """Give the record of each lane and partition of these panes."""
        return list(self._of(keys))

    async def pane_keys(self, partition: int, model: str, version: str, from_ms: int) -> Sequence[PaneKey]:
        """Name the panes from a time on."""
        return sorted({
            key for key, of, _ in self._records
            if of == partition and (key.model, key.version) == (model, version) and key.start_ms >= from_ms
        })  # fmt: skip

    async def pane_starts(self, model: str, version: str, start_ms: int, end_ms: int) -> Sequence[int]:
        """Name the panes of a time range."""
        return sorted({
            key.start_ms for key, _, _ in self._records
            if (key.model, key.version) == (model, version) and start_ms <= key.start_ms < end_ms
        })  # fmt: skip

    async def changed_panes(self, model: str, after: Mapping[int, int]) -> Sequence[PaneKey]:
        """Name the panes with a record newer than the given version of its partition."""
        return sorted({
            record.pane for record in self._records.values()
            if record.pane.model == model and record.version.number > after.get(record.partition, -1)
        })  # fmt: skip

    async def read_published(self, model: str) -> Published | None:
        """Give what was remembered last."""
        return self._published.get(model)

    async def write_published(self, model: str, published: Published, now_ms: int) -> None:
        """Remember."""
        del now_ms
        self._published[model] = published

    def _of(self, keys: Iterable[PaneKey]) -> Iterable[StateRecord]:
        wanted = set(keys)
        return (record for record in self._records.values() if record.pane in wanted)


def leave_out(worker: Worker, stubs: Collection[str]) -> None:
    """Leave parts of the protocol out of a worker that was not started. Changes classes: the process is for this alone.

    Raises UsageError for a part that there is not.
    """
    unknown = sorted(set(stubs) - set(STUBS))
    if unknown:
        raise UsageError("BEN009", f"there is no part {unknown[0]!r} to leave out", f"there are: {', '.join(STUBS)}")
    if "fences" in stubs:
        _replace(PaneCodes, "fence_mask", lambda *_: None)  # the same answer as where no fence reaches
    if "flush" in stubs:
        _replace(Engine, "encode", _passed)  # states are handed over as they are
        _replace(Engine, "decode", _taken)
        store: Any = RememberedStates(worker.adapter)
        worker.aggregate.ports = replace(worker.ports, store=store)
        worker.finalise.store = store
        worker.aggregate.commit = _nothing


def _replace(owner: type, method: str, stub: Callable[..., Any]) -> None:
    """Put a stub in a method's place, for the whole process."""
    setattr(owner, method, stub)


def _passed(engine: Engine, lane: Lane, cells: Cells, without: Collection[str] = ()) -> bytes:
    del engine, lane
    record = Passed()
    record.cells, record.without = cells, frozenset(without)
    return record


def _taken(engine: Engine, lane: Lane, data: bytes) -> tuple[Cells, frozenset[str]]:
    del engine, lane
    if not isinstance(data, Passed):
        raise TypeError("a state that was not encoded here")
    return data.cells, data.without


async def _nothing() -> None:
    return


def main() -> int:
    """Run one worker of the stack in the task's directory over everything in its topic."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    task = Task.from_arguments()
    worker = Worker(join(Path(task.data_dir), load()))
    leave_out(worker, [name for name in os.environ.get(STUBS_VARIABLE, "").split(",") if name])
    worker.app.task(Watch(worker, task).run)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
