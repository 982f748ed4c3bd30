"""A world in memory for the production functions of `stream/`: a log, a store, workers that may die between any two steps.

Every call to a port is a point where the scheduler may run somebody else, or let the caller die. A worker that is not run for
a long time is a paused one; when it goes on, its successor has long been at work.
"""

from __future__ import annotations

import json
import random
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from fqlstream.clock import ManualClock
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition, Role
from fqlstream.fql.plan import Lane
from fqlstream.settings import StreamSettings
from fqlstream.stream.batches import DeadLetter, Fetch
from fqlstream.stream.decode import decode
from fqlstream.stream.delivery import Owner, Ports, flush, take_over
from fqlstream.stream.engines import Engines
from fqlstream.stream.finalise import ModelFinaliser, Published
from fqlstream.stream.protocol import FlushRow, MetricValue, PaneKey, StateRecord
from fqlstream.stream.windows import Span

TOPIC = "inference-events"
_ROW_FIELDS = ("offset", "row", "record_at", "event_at", "event_id")


#: A worker that has read and written everything.
AT_REST = "at rest"


class Step:
    """Awaiting this hands control to the scheduler."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __await__(self) -> Generator[str, None, None]:
        yield self.name


@dataclass
class Record:
    offset: int
    value: bytes
    at_ms: int


@dataclass
class World:
    """Log, store and clock: what survives every death."""

    catalogue: Catalogue
    partitions: int
    clock: ManualClock
    engines: Engines
    log: dict[int, list[Record]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    flushes: dict[tuple[int, int, str], FlushRow] = field(default_factory=dict)
    states: dict[tuple[PaneKey, int, Lane], StateRecord] = field(default_factory=dict)
    events: dict[tuple[str, int, int, int], dict[str, Any]] = field(default_factory=dict)
    labels: dict[tuple[str, int, int, int], dict[str, Any]] = field(default_factory=dict)
    values: dict[tuple[Any, ...], MetricValue] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)
    letters: dict[tuple[int, int, str], DeadLetter] = field(default_factory=dict)
    repairs: dict[str, tuple[int, PaneKey]] = field(default_factory=dict)

    def append(self, partition: int, value: bytes) -> None:
        records = self.log.setdefault(partition, [])
        records.append(Record(len(records), value, self.clock.now_ms()))


class MemoryStore:
    """ClickHouse as the protocol sees it: keyed rows, the newest version wins."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        await Step("read newest flush")
        rows = [row for (p, _, _), row in self.world.flushes.items() if p == partition]
        return max(rows, key=lambda row: (row.version, row.owner), default=None)

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        await Step("read owners")
        return {owner: e for (p, e, owner) in self.world.flushes if p == partition and e >= epoch}

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        for row in rows:
            await Step("write flush row")
            key = (row.partition, row.version.epoch, row.owner)
            before = self.world.flushes.get(key)
            if before is None or before.version <= row.version:
                self.world.flushes[key] = row

    async def write_events(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        await Step("write events")
        for row in table.to_pylist():
            row["version"] = model.version
            self.world.events[model.name, partition, row["offset"], row["row"]] = row

    async def write_labels(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        await Step("write labels")
        for row in table.to_pylist():
            self.world.labels[model.name, partition, row["offset"], row["row"]] = row

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await Step("write dead letters")
        for letter in letters:
            self.world.letters[letter.partition, letter.offset, letter.row] = letter

    async def write_states(self, records: Sequence[StateRecord]) -> None:
        for record in records:  # an insert of several blocks may be cut short between two of them
            await Step("write states")
            key = (record.pane, record.partition, record.lane)
            before = self.world.states.get(key)
            if before is None or before.version <= record.version:
                self.world.states[key] = record

    async def read_states(self, partition: int, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        await Step("read states")
        wanted = set(keys)
        return [r for (key, p, _), r in self.world.states.items() if p == partition and key in wanted]

    async def pane_keys(self, partition: int, model: str, version: str, from_ms: int) -> Sequence[PaneKey]:
        await Step("read pane keys")
        return sorted(
            {
                key
                for key, p, _ in self.world.states
                if p == partition and (key.model, key.version) == (model, version) and key.start_ms >= from_ms
            }
        )

    def _current(self, model: str, partition: int, row: dict[str, Any], upto: int) -> dict[str, Any]:
        """The row with its last label up to an offset: highest position in its own partition."""
        labels = [
            (offset, number, label)
            for (name, p, offset, number), label in self.world.labels.items()
            if name == model and p == partition and offset <= upto and label["event_id"] == row["event_id"]
        ]
        if not labels:
            return row
        label = max(labels, key=lambda found: found[:2])[2]
        definition = self.world.catalogue.models[model].versions[row["version"]]
        targets = {column.name for column in definition.role(Role.TARGET)}
        return {**row, **{name: label.get(name) for name in targets}}

    def _rows(self, model: str, version: str | None, partition: int, upto: int) -> list[dict[str, Any]]:
        rows = [
            self._current(model, partition, row, upto)
            for (name, p, offset, _), row in sorted(self.world.events.items())
            if name == model and p == partition and offset <= upto and not row["duplicate"]
        ]
        return [row for row in rows if version is None or row["version"] == version]

    async def read_pane_rows(
        self, model: ModelDefinition, partition: int, start_ms: int, end_ms: int, upto: int
    ) -> Sequence[pa.Table]:
        await Step("read pane rows")
        rows = self._rows(model.name, model.version, partition, upto)
        return _tables(model, [row for row in rows if start_ms <= row["event_at"] < end_ms])

    async def events_by_id(
        self, model: str, partition: int, ids: Sequence[str], upto: int
    ) -> tuple[Mapping[str, pa.Table], Sequence[tuple[int, PaneKey]]]:
        await Step("read events by id")
        versions = self.world.catalogue.models[model].versions
        found = [row for row in self._rows(model, None, partition, upto) if row["event_id"] in set(ids)]
        tables = {
            version: table
            for version, definition in versions.items()
            for table in _tables(definition, [row for row in found if row["version"] == version])
        }
        return tables, ()

    async def labels_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> pa.Table:
        await Step("read labels by id")
        last: dict[str, dict[str, Any]] = {}
        for (name, p, offset, _), label in sorted(self.world.labels.items()):
            if name == model and p == partition and offset <= upto and label["event_id"] in set(ids):
                last[label["event_id"]] = label
        return _label_table(self.world.catalogue, model, list(last.values()))

    async def recent_ids(self, partition: int, upto: int, rows_max: int) -> Mapping[str, pa.Table]:
        await Step("read recent ids")
        rows = sorted(
            (o, n, name, row) for (name, p, o, n), row in self.world.events.items() if p == partition and o <= upto
        )
        out: dict[str, list[dict[str, Any]]] = {}
        for _, _, name, row in rows[-rows_max:]:
            out.setdefault(name, []).append({key: row[key] for key in (*_ROW_FIELDS, "duplicate")})
        return {name: pa.Table.from_pylist(found) for name, found in out.items()}

    async def recent_rows(self, model: ModelDefinition, partition: int, upto: int, rows_max: int) -> pa.Table:
        await Step("read recent rows")
        rows = self._rows(model.name, model.version, partition, upto)[-rows_max:] if rows_max else []
        tables = _tables(model, rows)
        return tables[0] if tables else _tables(model, [], keep_empty=True)[0]

    async def waiting_labels(self, model: str, partition: int, upto: int, rows_max: int) -> pa.Table:
        await Step("read waiting labels")
        known = {row["event_id"] for row in self._rows(model, None, partition, upto)}
        last: dict[str, dict[str, Any]] = {}
        for (name, p, offset, _), label in sorted(self.world.labels.items()):
            if name == model and p == partition and offset <= upto and label["event_id"] not in known:
                last[label["event_id"]] = label
        return _label_table(self.world.catalogue, model, list(last.values())[-rows_max:])

    async def request_repairs(self, requests: Sequence[tuple[int, PaneKey]], reason: str) -> None:
        await Step("request repairs")

    # -- what publishing asks --------------------------------------------------------------------------------------

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        await Step("read all flush rows")
        newest: dict[int, FlushRow] = {}
        for (partition, _, _), row in self.world.flushes.items():
            if partition not in newest or newest[partition].version < row.version:
                newest[partition] = row
        return list(newest.values())

    async def changed_panes(self, model: str, after: Mapping[int, int]) -> Sequence[PaneKey]:
        await Step("read changed panes")
        return sorted(
            {
                key
                for (key, partition, _), record in self.world.states.items()
                if key.model == model and record.version.number > after.get(partition, -1)
            }
        )

    async def pane_records(self, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        await Step("read pane records")
        wanted = set(keys)
        return [record for (key, _, _), record in self.world.states.items() if key in wanted]

    async def pane_starts(self, model: str, version: str, start_ms: int, end_ms: int) -> Sequence[int]:
        await Step("read pane starts")
        return sorted(
            {
                key.start_ms
                for key, _, _ in self.world.states
                if (key.model, key.version) == (model, version) and start_ms <= key.start_ms < end_ms
            }
        )

    async def read_published(self, model: str) -> Published | None:
        await Step("read published")
        return self.world.published.get(model)

    async def write_published(self, model: str, published: Published, now_ms: int) -> None:
        await Step("write published")
        before = self.world.published.get(model)
        if before is None or before.value_version <= published.value_version:
            self.world.published[model] = published

    async def latest_values(self, model: str, spans: Sequence[Span]) -> Sequence[MetricValue]:
        await Step("read latest values")
        wanted = set(spans)
        return [v for v in self.world.values.values() if Span(v.window_start_ms, v.window_end_ms) in wanted]

    async def open_spans(self, model: str) -> Sequence[Span]:
        await Step("read open windows")
        return list(
            {Span(v.window_start_ms, v.window_end_ms) for v in self.world.values.values() if v.status == "early"}
        )

    async def write_values(self, values: Sequence[MetricValue], retention_ms: int) -> None:
        await Step("write values")
        for value in values:
            key = (value.version, value.metric, value.segment, value.window_start_ms, value.window_end_ms)
            before = self.world.values.get(key)
            if before is None or (before.value_version, before.updated_at_ms) <= (
                value.value_version,
                value.updated_at_ms,
            ):
                self.world.values[key] = value


class MemoryLog:
    """Kafka as the protocol sees it."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def topic_id(self, topic: str) -> str:
        await Step("read topic id")
        return "t"

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        await Step("read offsets")
        return 0, len(self.world.log.get(partition, []))

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await Step("send dead letters")

    async def send_notices(self, rows: Sequence[FlushRow]) -> None:
        await Step("send notices")

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        self.world.committed[partition] = max(next_offset, self.world.committed.get(partition, 0))

    async def partitions_count(self, topic: str) -> int:
        return self.world.partitions

    async def send_values(self, values: Sequence[MetricValue]) -> None:
        await Step("send values")


def ports_of(world: World, settings: StreamSettings) -> Ports:
    return Ports(MemoryStore(world), MemoryLog(world), world.clock, decode, settings)


@asynccontextmanager
async def no_lock() -> Any:
    yield


class Lock:
    """One worker's coroutine is its own lock here: it does one thing at a time."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


async def work(world: World, partition: int, name: str, settings: StreamSettings, rng: random.Random) -> None:
    """Own a partition: take it over, then fetch and flush for ever, as the worker does."""
    ports = ports_of(world, settings)
    engines = world.engines
    owner = await take_over(TOPIC, partition, name, world.catalogue, engines, ports, Lock())
    while True:
        if owner.superseded:
            owner = await take_over(TOPIC, partition, name, world.catalogue, engines, ports, Lock())
        fetch = fetch_of(world, owner, rng)
        if fetch is not None:
            await owner.apply(fetch, caught_up=fetch.next_offset == len(world.log.get(partition, [])))
        if fetch is None or rng.random() < 0.4:
            await flush([owner], ports, labels=fetch is None or rng.random() < 0.3)
        done = fetch is None and not owner.superseded
        await Step(AT_REST if done else "idle")


async def finish(world: World, partition: int, name: str, settings: StreamSettings) -> Owner:
    """Take a partition over and bring it to the end of its log, without trouble."""
    ports = ports_of(world, settings)
    engines = world.engines
    owner = await take_over(TOPIC, partition, name, world.catalogue, engines, ports, Lock())
    while (fetch := fetch_of(world, owner, random.Random(0))) is not None:
        await owner.apply(fetch, caught_up=True)
    await flush([owner], ports, labels=True)
    return owner


def settle(task: Coroutine[Any, Any, Any]) -> None:
    """Run a worker until it has read and written everything twice over."""
    rests = 0
    while rests < 2:
        if step(task) == AT_REST:
            rests += 1


async def publish(world: World, model: str, settings: StreamSettings, *, times: int | None = None) -> None:
    """Publish what changes, for ever or so many times."""
    finaliser = ModelFinaliser(model, TOPIC, MemoryStore(world), MemoryLog(world), world.clock, settings)
    engines = world.engines
    done = 0
    while times is None or done < times:
        await finaliser.refresh(world.catalogue, engines)
        done += 1
        await Step("idle")


def fetch_of(world: World, owner: Owner, rng: random.Random) -> Fetch | None:
    """Give the next few records: a fetch is cut anywhere."""
    records = world.log.get(owner.partition, [])[owner.state.next_offset :][: rng.randint(1, 12)]
    if not records:
        return None
    return Fetch(
        TOPIC,
        owner.partition,
        np.array([record.offset for record in records], np.int64),
        np.array([record.at_ms for record in records], np.int64),
        [None] * len(records),
        [record.value for record in records],
        {},
        records[-1].offset + 1,
        sum(len(record.value) for record in records),
    )


def step(task: Coroutine[Any, Any, Any]) -> str | None:
    """Run a task to its next step; None when it has ended."""
    try:
        name: str = task.send(None)
    except StopIteration:
        return None
    return name


def run_out(task: Coroutine[Any, Any, Any]) -> None:
    while step(task) is not None:
        pass


def event(world: World, partition: int, **fields: Any) -> None:
    world.append(partition, json.dumps({"model": "m", **fields}).encode())


def _tables(model: ModelDefinition, rows: Iterable[dict[str, Any]], *, keep_empty: bool = False) -> list[pa.Table]:
    from fqlstream.events.columns import arrow_schema

    rows = list(rows)
    if not rows and not keep_empty:
        return []
    own = arrow_schema(model, "inference")
    fields = [
        pa.field(n, pa.string() if n == "event_id" else pa.int32() if n == "row" else pa.int64()) for n in _ROW_FIELDS
    ]
    violations = [
        pa.field(n, pa.list_(pa.string())) for n in ("_type_violations", "_range_violations") if n not in own.names
    ]
    schema = pa.schema([*fields, *own, *violations])
    return [pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema)]


def _label_table(catalogue: Catalogue, model: str, rows: list[dict[str, Any]]) -> pa.Table:
    if not rows:
        return pa.table({"event_id": pa.array([], pa.string())})
    return pa.Table.from_pylist(rows)


__all__ = ["MemoryLog", "MemoryStore", "World", "event", "finish", "publish", "replace", "run_out", "step", "work"]
