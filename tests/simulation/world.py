"""A world in memory for the production code of workers: a log, a store, definitions. What survives every death.

Every call to a port is a point where the scheduler may let somebody else go first, or let the caller die. A worker that is
not let on for a long time is a paused one; when it goes on, its successor has long been at work.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.columns import arrow_schema
from fqlstream.events.definitions import ModelDefinition, Role
from fqlstream.fql.plan import Lane
from fqlstream.store import repairs
from fqlstream.store.repairs import RepairRequest
from fqlstream.stream.batches import DeadLetter, StoredEvents
from fqlstream.stream.protocol import FlushRow, MetricValue, PaneKey, Published, RepairNeed, StateRecord
from fqlstream.stream.recent import ELSEWHERE_AT
from fqlstream.stream.windows import Span

TOPIC = "inference-events"
MODEL = "m"
#: A record that holds this ends whoever decodes it. To everything else it is an event like any other.
KILLER = b"killer"
_ROW_FIELDS = ("offset", "row", "record_at", "event_at", "event_id")


class Actor(Protocol):
    """Somebody who calls ports: a worker."""

    name: str
    dead: bool


#: The store's clock is behind that of the workers by so much: whoever takes one for the other misses rows.
STORE_BEHIND_MS = 3_600_000


class Clock:
    """The loop's time as a wall clock."""

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms

    def now_ms(self) -> int:
        return self.start_ms + round(asyncio.get_running_loop().time() * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass
class Record:
    offset: int
    value: bytes
    at_ms: int


@dataclass(eq=False)
class Waiting:
    actor: Actor
    name: str
    go: asyncio.Future[None]


@dataclass
class Prefix:
    """Numbers from 0 on, without gaps up to `end`."""

    _numbers: set[int] = field(default_factory=set)
    _end: int = 0

    def add(self, number: int) -> None:
        self._numbers.add(number)

    def end(self) -> int:
        while self._end in self._numbers:
            self._end += 1
        return self._end


@dataclass
class World:
    """Log, store, definitions and clock."""

    catalogue: Catalogue
    partitions: int
    clock: Clock
    log: dict[int, list[Record]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    holder: dict[int, Any] = field(default_factory=dict)  # the worker that the group has given a partition to
    flushes: dict[tuple[int, int, str], FlushRow] = field(default_factory=dict)
    states: dict[tuple[PaneKey, int, Lane], StateRecord] = field(default_factory=dict)
    events: dict[tuple[str, int, int, int], dict[str, Any]] = field(default_factory=dict)
    labels: dict[tuple[str, int, int, int], dict[str, Any]] = field(default_factory=dict)
    values: dict[tuple[Any, ...], MetricValue] = field(default_factory=dict)
    sent: dict[tuple[Any, ...], MetricValue] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)
    publisher: Actor | None = None
    told_ms: dict[int, int] = field(default_factory=dict)  # up to when each has said that it has published
    finalisers: dict[tuple[str, str], int] = field(default_factory=dict)
    letters: dict[tuple[int, int, str], DeadLetter] = field(default_factory=dict)
    repairs: dict[str, RepairNeed] = field(default_factory=dict)  # each asking is a request of its own
    repairs_asked: int = 0
    asked_at: dict[str, int] = field(default_factory=dict)  # the newest state of the pane when its repair was asked for
    waiting: list[Waiting] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # promises about the order of writes that were not kept
    _kept: dict[int, Prefix] = field(default_factory=lambda: defaultdict(Prefix))
    _rows: dict[int, Prefix] = field(default_factory=lambda: defaultdict(Prefix))
    outdated: set[tuple[int, int, int, str]] = field(default_factory=set)  # flush rows written under somebody's claim

    def store_now_ms(self) -> int:
        """Say what rows are stamped with now."""
        return self.clock.now_ms() - STORE_BEHIND_MS

    def append(self, partition: int, **fields: Any) -> None:
        self.append_bytes(partition, json.dumps({"model": MODEL, **fields}).encode())

    def append_bytes(self, partition: int, value: bytes) -> None:
        records = self.log.setdefault(partition, [])
        if KILLER in value or b'"watermark"' in value:
            self.keep(partition, len(records))
        if KILLER in value or b'"columns": {' not in value or b'"who"' in value:
            self._rows[partition].add(len(records))  # nothing of it will be in history
        records.append(Record(len(records), value, self.clock.now_ms()))

    # -- what must hold at any instant -----------------------------------------------------------------------------

    def keep(self, partition: int, offset: int) -> None:
        """Note that the dead letters hold a record."""
        self._kept[partition].add(offset)

    def keep_row(self, partition: int, offset: int) -> None:
        """Note that history holds a record."""
        self._kept[partition].add(offset)
        self._rows[partition].add(offset)

    def kept_below(self, partition: int) -> int:
        """The first offset that neither history nor the dead letters hold."""
        return self._kept[partition].end()

    def promise_history(self, partition: int, upto: int) -> None:
        """Whoever asks history up to an offset has to have written it."""
        end = self._rows[partition].end()
        self.promise(upto < end, f"history is asked up to {upto} before offset {end} is written")

    def promise(self, is_kept: bool, text: str) -> None:
        if not is_kept:
            self.broken.append(text)

    def newest_flush(self, partition: int) -> FlushRow | None:
        rows = [row for (p, _, _), row in self.flushes.items() if p == partition]
        return max(rows, key=lambda row: (row.version, row.owner), default=None)

    def is_on_trial(self, partition: int) -> bool:
        """Whether a record of the partition is suspected of having ended its owners."""
        newest = self.newest_flush(partition)
        return newest is not None and (newest.suspicion.trying or newest.suspicion.suspects) is not None

    async def step(self, actor: Actor, name: str) -> None:
        """Wait until the scheduler says so. The dead never get any further."""
        if actor.dead:
            raise asyncio.CancelledError
        entry = Waiting(actor, name, asyncio.get_running_loop().create_future())
        self.waiting.append(entry)
        try:
            await entry.go
        finally:
            if entry in self.waiting:
                self.waiting.remove(entry)
        if actor.dead:
            raise asyncio.CancelledError


def _wins(new: MetricValue, old: MetricValue | None) -> bool:
    return old is None or (old.value_version, old.updated_at_ms) <= (new.value_version, new.updated_at_ms)


class MemoryStore:
    """ClickHouse as the protocol sees it: keyed rows, the newest version wins."""

    def __init__(self, world: World, actor: Actor) -> None:
        self.world = world
        self.actor = actor

    async def _step(self, name: str) -> None:
        await self.world.step(self.actor, name)

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        await self._step("read newest flush")
        return self.world.newest_flush(partition)

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        await self._step("read owners")
        return {owner: e for (p, e, owner) in self.world.flushes if p == partition and e >= epoch}

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        for row in rows:
            await self._step("write flush row")
            key = (row.partition, row.version.epoch, row.owner)
            self._promised(row)
            if any(p == row.partition and e > row.version.epoch for p, e, _ in self.world.flushes):
                self.world.outdated.add((row.partition, row.version.epoch, row.version.flush, row.owner))
            before = self.world.flushes.get(key)
            if before is None or before.version <= row.version:
                self.world.flushes[key] = row

    def _promised(self, row: FlushRow) -> None:
        """A flush row comes after everything it speaks of; a claim and a note of what is tried say nothing new."""
        if not row.version.flush or row.suspicion.trying is not None:
            return
        world, newest = self.world, {}
        for (pane, partition, _), record in world.states.items():
            if partition == row.partition:
                newest[pane] = max(record.version.number, newest.get(pane, 0))
        late = [pane for pane in row.panes if newest.get(pane, 0) < row.version.number]
        world.promise(not late, f"flush row {row.version} before the states of {late}")
        kept = world.kept_below(row.partition)
        world.promise(max(row.fences.values()) < kept, f"flush row {row.version} before the history of offset {kept}")

    async def write_events(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        await self._step("write events")
        for row in table.to_pylist():
            row["version"] = model.version
            self.world.keep_row(partition, row["offset"])
            row["written_at"] = self.world.store_now_ms()
            self.world.events[model.name, partition, row["offset"], row["row"]] = row

    async def write_labels(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        await self._step("write labels")
        for row in table.to_pylist():
            row["written_at"] = self.world.store_now_ms()
            self.world.keep_row(partition, row["offset"])
            self.world.labels[model.name, partition, row["offset"], row["row"]] = row

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await self._step("write dead letters")
        for letter in letters:
            self.world.keep(letter.partition, letter.offset)
            self.world.letters[letter.partition, letter.offset, letter.row] = letter

    async def write_states(self, records: Sequence[StateRecord]) -> None:
        for record in records:  # an insert of several blocks may be cut short between two of them
            await self._step("write states")
            key = (record.pane, record.partition, record.lane)
            kept = self.world.kept_below(record.partition)
            self.world.promise(record.fence < kept, f"states up to {record.fence} before the history of offset {kept}")
            before = self.world.states.get(key)
            if before is None or before.version.number <= record.version.number:
                self.world.states[key] = record

    async def read_states(self, partition: int, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        await self._step("read states")
        wanted = set(keys)
        return [r for (key, p, _), r in self.world.states.items() if p == partition and key in wanted]

    async def pane_keys(self, partition: int, model: str, version: str, from_ms: int) -> Sequence[PaneKey]:
        await self._step("read pane keys")
        return sorted(
            {
                key
                for key, p, _ in self.world.states
                if p == partition and (key.model, key.version) == (model, version) and key.start_ms >= from_ms
            }
        )

    def _current(self, model: str, partition: int, row: dict[str, Any], upto: int) -> dict[str, Any]:
        """The row with its last label: in its own partition by position up to an offset, from others by the record's time."""
        label = self._last_label(model, partition, row["event_id"], upto)
        if label is None:
            return row
        others = [
            found["record_at"]
            for (name, p, _, _), found in self.world.labels.items()
            if (name, found["event_id"]) == (model, row["event_id"]) and p != partition
        ]
        row = {**row, ELSEWHERE_AT: max(others, default=None)}
        definition = self.world.catalogue.models[model].versions[row["version"]]
        targets = {column.name for column in definition.role(Role.TARGET)}
        return {**row, **{name: label.get(name) for name in targets}}

    def _last_label(self, model: str, partition: int, event_id: str, upto: int) -> dict[str, Any] | None:
        last: dict[int, tuple[tuple[int, int], dict[str, Any]]] = {}
        for (name, p, offset, number), label in self.world.labels.items():
            if name == model and label["event_id"] == event_id and (p != partition or offset <= upto):
                last[p] = max(last.get(p, ((-1, -1), {})), ((offset, number), label), key=lambda found: found[0])
        if not last:
            return None
        chosen = max(last, key=lambda p: (last[p][1]["record_at"], p == partition, p))
        return last[chosen][1]

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
        await self._step("read pane rows")
        self.world.promise_history(partition, upto)
        rows = self._rows(model.name, model.version, partition, upto)
        return _tables(model, [row for row in rows if start_ms <= row["event_at"] < end_ms])

    async def events_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> StoredEvents:
        await self._step("read events by id")
        self.world.promise_history(partition, upto)
        versions = self.world.catalogue.models[model].versions
        wanted = set(ids)
        found = [row for row in self._rows(model, None, partition, upto) if row["event_id"] in wanted]
        tables = {
            version: table
            for version, definition in versions.items()
            for table in _tables(definition, [row for row in found if row["version"] == version])
        }
        others = [(p, row) for p, row in self._others(model, partition) if row["event_id"] in wanted]
        return StoredEvents(tables, self._needs(model, others), frozenset(row["event_id"] for _, row in others))

    def _others(self, model: str, partition: int) -> list[tuple[int, dict[str, Any]]]:
        """Other partitions' counted events."""
        return [
            (p, row)
            for (name, p, _, _), row in self.world.events.items()
            if name == model and p != partition and not row["duplicate"]
        ]

    def _needs(self, model: str, rows: Iterable[tuple[int, dict[str, Any]]]) -> list[RepairNeed]:
        offsets: dict[tuple[int, PaneKey], int] = {}
        for p, row in rows:
            pane_ms = self.world.catalogue.models[model].versions[row["version"]].windows.pane_ms
            key = (p, PaneKey(model, row["version"], row["event_at"] // pane_ms * pane_ms))
            offsets[key] = max(row["offset"], offsets.get(key, -1))
        return [RepairNeed(p, pane, offset) for (p, pane), offset in sorted(offsets.items())]

    async def store_now_ms(self) -> int:
        await self._step("read the store's time")
        return self.world.store_now_ms()

    async def labelled_elsewhere(self, model: str, partition: int, since_ms: int) -> Sequence[RepairNeed]:
        await self._step("read labels of other partitions' events")
        labels = {
            label["event_id"]: label["written_at"]
            for (name, p, _, _), label in self.world.labels.items()
            if name == model and p == partition
        }
        return self._needs(
            model,
            [
                (p, row)
                for p, row in self._others(model, partition)
                if max(row["written_at"], labels.get(row["event_id"], -1)) >= since_ms and row["event_id"] in labels
            ],
        )

    async def labels_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> pa.Table:
        await self._step("read labels by id")
        self.world.promise_history(partition, upto)
        found = [self._last_label(model, partition, text, upto) for text in ids]
        return _label_table(self.world.catalogue, model, [label for label in found if label is not None])

    async def recent_ids(self, partition: int, upto: int, rows_max: int) -> Mapping[str, pa.Table]:
        await self._step("read recent ids")
        rows = sorted(
            (o, n, name, row) for (name, p, o, n), row in self.world.events.items() if p == partition and o <= upto
        )
        out: dict[str, list[dict[str, Any]]] = {}
        for _, _, name, row in rows[-rows_max:]:
            out.setdefault(name, []).append({key: row[key] for key in (*_ROW_FIELDS, "duplicate")})
        return {name: pa.Table.from_pylist(found) for name, found in out.items()}

    async def recent_rows(self, model: ModelDefinition, partition: int, upto: int, rows_max: int) -> pa.Table:
        await self._step("read recent rows")
        rows = self._rows(model.name, model.version, partition, upto)[-rows_max:] if rows_max else []
        tables = _tables(model, rows)
        return tables[0] if tables else _tables(model, [], keep_empty=True)[0]

    async def waiting_labels(self, model: str, partition: int, upto: int, rows_max: int) -> pa.Table:
        await self._step("read waiting labels")
        known = {row["event_id"] for row in self._rows(model, None, partition, upto)}
        last: dict[str, dict[str, Any]] = {}
        for (name, p, offset, _), label in sorted(self.world.labels.items()):
            if name == model and p == partition and offset <= upto and label["event_id"] not in known:
                last.pop(label["event_id"], None)
                last[label["event_id"]] = label
        return _label_table(self.world.catalogue, model, list(last.values())[-rows_max:])

    async def request_repairs(self, needs: Sequence[RepairNeed], reason: str) -> None:
        await self._step("request repairs")
        for need in needs:
            self.world.repairs_asked += 1
            self.world.repairs[str(self.world.repairs_asked)] = need
            self.world.asked_at[str(self.world.repairs_asked)] = self._newest_number(need.partition, need.pane)

    def _newest_number(self, partition: int, pane: PaneKey) -> int:
        return max((self.world.states[key].version.number for key in self._lanes(partition, pane)), default=-1)

    def _lanes(self, partition: int, pane: PaneKey) -> list[tuple[PaneKey, int, Lane]]:
        return [key for lane in Lane if (key := (pane, partition, lane)) in self.world.states]

    async def forget_record(self, partition: int, offset: int) -> None:
        await self._step("forget a record")
        for rows in (self.world.events, self.world.labels):
            for key in [key for key in rows if key[1:3] == (partition, offset)]:
                del rows[key]

    async def panes_beyond(self, partition: int, fence: int) -> Sequence[PaneKey]:
        await self._step("read panes beyond")
        return sorted(
            {pane for (pane, p, _), record in self.world.states.items() if p == partition and record.fence > fence}
        )

    async def was_survived(self, topic: str, partition: int, offset: int, epoch: int) -> bool:
        await self._step("read who got past a record")
        is_aside = any(
            (p, o) == (partition, offset) and x.code == "DLQ019" for (p, o, _), x in self.world.letters.items()
        )
        return not is_aside and any(
            p == partition and row.fence >= offset and row.version.epoch >= epoch
            for (p, _, _), row in self.world.flushes.items()
        )

    async def take_repairs(self, partition: int, next_offset: int) -> Sequence[RepairRequest]:
        await self._step("take repairs")
        found = [
            RepairRequest(name, partition, need.pane, "", need.applied_offset)
            for name, need in self.world.repairs.items()
            if need.partition == partition and need.applied_offset < next_offset
        ]
        return found[: repairs.TAKEN_MAX]

    async def finish_repairs(self, requests: Sequence[RepairRequest]) -> None:
        await self._step("finish repairs")
        for request in requests:
            asked_at = self.world.asked_at[request.id]
            is_written = self._newest_number(request.partition, request.pane) > asked_at
            self.world.promise(is_written, f"the repair of {request.pane} is done before it is written")
            self.world.repairs.pop(request.id, None)

    # -- what publishing asks --------------------------------------------------------------------------------------

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        await self._step("read all flush rows")
        newest: dict[int, FlushRow] = {}
        for (partition, _, _), row in self.world.flushes.items():
            if partition not in newest or newest[partition].version < row.version:
                newest[partition] = row
        return list(newest.values())

    async def changed_panes(self, model: str, after: Mapping[int, int]) -> Sequence[PaneKey]:
        await self._step("read changed panes")
        return sorted(
            {
                key
                for (key, partition, _), record in self.world.states.items()
                if key.model == model and record.version.number > after.get(partition, -1)
            }
        )

    async def pane_records(self, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        await self._step("read pane records")
        wanted = set(keys)
        return [record for (key, _, _), record in self.world.states.items() if key in wanted]

    async def pane_starts(self, model: str, version: str, start_ms: int, end_ms: int) -> Sequence[int]:
        await self._step("read pane starts")
        return sorted(
            {
                key.start_ms
                for key, _, _ in self.world.states
                if (key.model, key.version) == (model, version) and start_ms <= key.start_ms < end_ms
            }
        )

    async def model_watermark(self, model: str) -> int | None:
        published = await self.read_published(model)
        return published.watermark_ms if published is not None else None

    async def read_published(self, model: str) -> Published | None:
        await self._step("read published")
        return self.world.published.get(model)

    async def write_published(self, model: str, published: Published, now_ms: int) -> None:
        await self._step("write published")
        self.world.told_ms[id(self.actor)] = now_ms
        before = self.world.published.get(model)
        if before is None or before.value_version <= published.value_version:
            # one that was read before a predecessor's last word may begin below it, for a moment
            reached = before.watermark_ms if before is not None and self.world.publisher is self.actor else None
            goes_back = reached is not None and (published.watermark_ms is None or published.watermark_ms < reached)
            self.world.promise(not goes_back, f"the watermark goes back from {reached} to {published.watermark_ms}")
            self.world.published[model] = published
            self.world.publisher = self.actor

    async def claim_finaliser(self, model: str, epoch: int, owner: str) -> None:
        await self._step("claim finaliser")
        self.world.finalisers[model, owner] = epoch

    async def finalisers(self, model: str) -> Mapping[str, int]:
        await self._step("read finalisers")
        mine = {owner: epoch for (name, owner), epoch in self.world.finalisers.items() if name == model}
        return {owner: epoch for owner, epoch in mine.items() if epoch == max(mine.values())}

    async def latest_values(self, model: str, spans: Sequence[Span]) -> Sequence[MetricValue]:
        await self._step("read latest values")
        wanted = set(spans)
        return [v for v in self.world.values.values() if Span(v.window_start_ms, v.window_end_ms) in wanted]

    async def open_spans(self, model: str) -> Sequence[Span]:
        await self._step("read open windows")
        return list(
            {Span(v.window_start_ms, v.window_end_ms) for v in self.world.values.values() if v.status == "early"}
        )

    async def write_values(self, values: Sequence[MetricValue], retention_ms: int) -> None:
        await self._step("write values")
        for value in values:
            before = self.world.values.get(key_of(value))
            sent = self.world.sent.get(key_of(value))
            is_sent = sent is not None and sent.value_version >= value.value_version
            is_first = value.updated_at_ms > self.world.told_ms.get(id(self.actor), -1)
            self.world.promise(is_first, f"{key_of(value)} is written after it was said to be published")
            self.world.promise(is_sent, f"{key_of(value)} is in the table before it is in the topic")
            if _wins(value, before):
                goes_back = before is not None and before.status != "early" and value.status == "early"
                self.world.promise(not goes_back, f"{value} is {value.status} and was final before")
                self.world.values[key_of(value)] = value


def key_of(value: MetricValue) -> tuple[Any, ...]:
    return (value.version, value.metric, value.segment, value.window_start_ms, value.window_end_ms)


class MemoryLog:
    """Kafka as the protocol sees it."""

    def __init__(self, world: World, actor: Actor, holds: Any) -> None:
        self.world = world
        self.actor = actor
        self.holds = holds
        self._durable: dict[int, int] = {}

    async def topic_id(self, topic: str) -> str:
        await self.world.step(self.actor, "read topic id")
        return "t"

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        await self.world.step(self.actor, "read offsets")
        return 0, len(self.world.log.get(partition, []))

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await self.world.step(self.actor, "send dead letters")

    async def send_notices(self, rows: Sequence[FlushRow]) -> None:
        await self.world.step(self.actor, "send notices")
        for row in rows:
            key = (row.partition, row.version.epoch, row.owner)
            durable = self.world.flushes.get(key)
            is_durable = durable is not None and durable.version >= row.version
            self.world.promise(is_durable, f"notice of flush row {row.version} before the row")
            is_outdated = (row.partition, row.version.epoch, row.version.flush, row.owner) in self.world.outdated
            self.world.promise(not is_outdated, f"notice of flush row {row.version}, written under a higher claim")

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        self._durable[partition] = next_offset

    async def commit(self) -> None:
        if not self._durable:
            return
        await self.world.step(self.actor, "commit")
        for partition, next_offset in self._durable.items():
            durable = [max(row.fences.values()) for (p, _, _), row in self.world.flushes.items() if p == partition]
            self.world.promise(
                next_offset - 1 <= max(durable, default=-1), f"commit of {next_offset} before a flush row"
            )
            # Kafka takes no commit of a generation that is over
            if self.holds(partition) and self.world.holder.get(partition) is self.actor:
                self.world.committed[partition] = next_offset
        self._durable.clear()

    async def partitions_count(self, topic: str) -> int:
        return self.world.partitions

    async def send_values(self, values: Sequence[MetricValue]) -> None:
        await self.world.step(self.actor, "send values")
        for value in values:
            if _wins(value, self.world.sent.get(key_of(value))):
                self.world.sent[key_of(value)] = value


def _tables(model: ModelDefinition, rows: Iterable[dict[str, Any]], *, keep_empty: bool = False) -> list[pa.Table]:
    rows = list(rows)
    if not rows and not keep_empty:
        return []
    own = arrow_schema(model, "inference")
    fields = [
        pa.field(n, pa.string() if n == "event_id" else pa.int32() if n == "row" else pa.int64()) for n in _ROW_FIELDS
    ]
    schema = pa.schema([*fields, *own, pa.field(ELSEWHERE_AT, pa.int64())])
    return [pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema)]


def _label_table(catalogue: Catalogue, model: str, rows: list[dict[str, Any]]) -> pa.Table:
    newest = catalogue.models[model].newest
    assert newest is not None
    own = arrow_schema(newest, "label")
    fields = [
        pa.field(n, pa.string() if n == "event_id" else pa.int32() if n == "row" else pa.int64()) for n in _ROW_FIELDS
    ]
    schema = pa.schema([*fields, *own])
    return pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in rows], schema)
