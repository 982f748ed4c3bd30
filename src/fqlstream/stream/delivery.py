"""The order in which things become durable: takeover, fetch, flush. The promise "nothing lost, nothing twice" lives here.

Written against two ports, so that the simulator runs these very functions. Any step may be the last one of a process:

    FLUSH  1 dead letters, event rows, label rows    keyed by position: writing them again changes nothing
           2 changed states with their fence and version
           3 the flush row: what is durable now, and under which version
           4 look for a higher epoch                 somebody else has claimed the partition: our states lose from here on
           5 notices, acknowledgement, commit        losing these loses nothing

A crash after 1 brings the same rows again; after 2 the fences skip them, and their panes are published again; after 3 there
is nothing to redo. A paused owner that wakes has a lower epoch: its states lose against its successor's. An owner that finds a
higher epoch must take the partition over again, from what is durable: a claimer may have come and gone without the group ever
taking the partition away from us.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from fqlstream.clock import Clock
from fqlstream.errors import FqlstreamError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition, Role
from fqlstream.events.refusals import POISON
from fqlstream.fql.plan import Lane
from fqlstream.settings import StreamSettings
from fqlstream.stream.arrow_events import content_types
from fqlstream.stream.baselines import reach_ms
from fqlstream.stream.batches import DeadLetter, Decoded, Fetch, RowKind, StoredEvents
from fqlstream.stream.deleted import without_deleted
from fqlstream.stream.engines import plan_digest
from fqlstream.stream.findings import shown
from fqlstream.stream.fingerprints import fingerprint
from fqlstream.stream.pace import Pace
from fqlstream.stream.panes import LANES, NO_FENCE, Pane, pane_codes
from fqlstream.stream.partition import EngineOf, PartitionState, Staged, Update, empty_pane
from fqlstream.stream.protocol import CAUGHT_UP, FlushRow, PaneKey, RepairNeed, StateRecord, Version
from fqlstream.stream.recent import CHUNK_ROWS, Chunk, WaitingLabels
from fqlstream.stream.suspects import Caution, caution, inherited, noted

#: Rows of panes that are rebuilt by one query, about: they are in memory at once.
_REBUILT_ROWS = 100_000
#: Panes so far apart are still read by one query: a sparse model has few panes side by side, and a query costs milliseconds.
_GAP_PANES_MAX = 16
#: Stands for the models of a fetch that cannot be read as a whole.
_UNREADABLE = frozenset({"?"})
#: Waiting labels whose events are looked for by one query.
_SEARCHED_LABELS = 20_000
#: Panes whose records one query reads: its text stays below ClickHouse's limit.
_LOADED_PANES_MAX = 2_000
#: More than any fetch has.
_RECORDS_MAX = 2**40
#: Of the memory for panes a quarter may wait for a flush, and another one be added by one fetch: as much again is on its way.
_WAITING_PART = 4
#: Clocks of workers differ by less, and so long a row may be on its way.
_SLACK_MS = 60_000
#: A label's step copies the chunk it changes: small chunks keep that cheap.
_RECOVERED_CHUNK_ROWS = 16_384


class StorePort(Protocol):
    """What the protocol asks of ClickHouse. Every call either has happened durably when it returns, or raises."""

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        """Give the row of the highest version."""
        ...

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        """Give every partition's row of the highest version, read in one query."""
        ...

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        """Give the owners that claimed this epoch or a higher one, with their epoch."""
        ...

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        """Write flush or claim rows."""
        ...

    async def write_events(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        """Write event rows, duplicates included."""
        ...

    async def write_labels(self, model: ModelDefinition, partition: int, table: pa.Table) -> None:
        """Write label rows."""
        ...

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write what was refused, for SQL."""
        ...

    async def write_states(self, records: Sequence[StateRecord]) -> None:
        """Write state records."""
        ...

    async def read_states(self, partition: int, keys: Sequence[PaneKey]) -> Sequence[StateRecord]:
        """Give the newest record of each lane of these panes, as far as there is one."""
        ...

    async def pane_keys(self, partition: int, model: str, version: str, from_ms: int) -> Sequence[PaneKey]:
        """Name the panes from a time on that have a record."""
        ...

    async def read_pane_rows(
        self, model: ModelDefinition, partition: int, start_ms: int, end_ms: int, upto: int
    ) -> Sequence[pa.Table]:
        """Give counted events of a time range with the targets they have at an offset; rows of later offsets left out."""
        ...

    async def events_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> StoredEvents:
        """Give counted events as they are at an offset, and where other partitions hold such events."""
        ...

    async def store_now_ms(self) -> int:
        """Give the store's time (Unix ms): its rows are stamped with it."""
        ...

    async def labelled_elsewhere(self, model: str, partition: int, since_ms: int) -> Sequence[RepairNeed]:
        """Name panes of other partitions' events that have a label in this one, if either was written since a time of the store."""
        ...

    async def labels_by_id(self, model: str, partition: int, ids: Sequence[str], upto: int) -> pa.Table:
        """Give the last label of each id up to an offset."""
        ...

    async def recent_ids(self, partition: int, upto: int, rows_max: int) -> Mapping[str, pa.Table]:
        """Give per model event_id, offset, row, record_at and duplicate of the partition's latest events."""
        ...

    async def recent_rows(self, model: ModelDefinition, partition: int, upto: int, rows_max: int) -> pa.Table:
        """Give the latest counted rows as they are at an offset."""
        ...

    async def waiting_labels(self, model: str, partition: int, upto: int, rows_max: int) -> pa.Table:
        """Give the newest labels whose event is not in the partition."""
        ...

    async def model_watermark(self, model: str) -> int | None:
        """Give how far time has come for a model, as last published."""
        ...

    async def request_repairs(self, needs: Sequence[RepairNeed], reason: str) -> None:
        """Ask the owners of these partitions to rebuild panes."""
        ...

    async def forget_record(self, partition: int, offset: int) -> None:
        """Take the rows of one record out of history."""
        ...

    async def panes_beyond(self, partition: int, fence: int) -> Sequence[PaneKey]:
        """Name the partition's panes with a record that contains a later offset."""
        ...

    async def was_survived(self, topic: str, partition: int, offset: int, epoch: int) -> bool:
        """Say whether an owner of this epoch or a later one has applied a record and lived to write so.

        Setting it aside is not applying.
        """
        ...


class ClaimStore(Protocol):
    """What a claim asks of ClickHouse."""

    async def newest_flush(self, topic: str, partition: int) -> FlushRow | None:
        """Give the row of the highest version."""
        ...

    async def owners_from(self, topic: str, partition: int, epoch: int) -> Mapping[str, int]:
        """Give the owners that claimed this epoch or a higher one, with their epoch."""
        ...

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        """Write flush or claim rows."""
        ...


class ClaimLog(Protocol):
    """What a claim asks of Kafka."""

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        """Give the first offset in the log and the next one to be written."""
        ...


class ClaimPorts(Protocol):
    """Where a partition of any topic is claimed."""

    @property
    def store(self) -> ClaimStore:
        """ClickHouse."""
        ...

    @property
    def log(self) -> ClaimLog:
        """Kafka."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...


class LogPort(Protocol):
    """What the protocol asks of Kafka."""

    async def topic_id(self, topic: str) -> str:
        """Identify the topic: a recreated one has another id."""
        ...

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        """Give the first offset in the log and the next one to be written."""
        ...

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write to the dead-letter topic; returns when acknowledged."""
        ...

    async def send_notices(self, rows: Sequence[FlushRow]) -> None:
        """Tell the finalisers; only a hint."""
        ...

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        """Let the commit follow."""
        ...


Decode = Callable[[Fetch, Catalogue, StreamSettings], Decoded]
HistoryItem = tuple[ModelDefinition, RowKind, pa.Table]


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside: one value, so that the simulator swaps it whole."""

    store: StorePort
    log: LogPort
    clock: Clock
    decode: Decode
    settings: StreamSettings
    #: told for how many seconds the engine has computed what a fetch changes
    evaluated: Callable[[float], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Cut:
    """A partition at one moment: everything that a flush writes of it."""

    history: Sequence[HistoryItem]
    dead_letters: Sequence[DeadLetter]
    records: Sequence[StateRecord]
    row: FlushRow
    next_offset: int


class _TooWideError(Exception):
    """A fetch touches so many panes that their states would not fit the memory; its first `records_count` records do."""

    def __init__(self, records_count: int) -> None:
        super().__init__(records_count)
        self.records_count = records_count


class Owner:
    """The owner of one partition: its state, what waits to be written, and under which version."""

    def __init__(
        self, state: PartitionState, base: FlushRow, ports: Ports, lock: AbstractAsyncContextManager[object]
    ) -> None:
        self.state = state
        self.base = base  # the newest flush row that is, or is about to be, durable
        self.ports = ports
        self.lock = lock
        self.history: list[HistoryItem] = []  # applied, and not handed to a flush
        self.writing: Sequence[HistoryItem] = ()  # handed to the flush that is under way
        self.history_bytes = 0
        self.dead_letters: list[DeadLetter] = []
        self.backlog: deque[PaneKey] = deque()  # panes to be looked at under newer definitions
        self._digests: dict[str, str] = {}
        self.flushed_offset = state.next_offset  # rows below it are durable
        self.touched_at_ms: dict[str, int] = {}
        self.read_end = False
        self.superseded = (
            False  # a higher epoch was claimed or a flush failed: this memory must not be written any more
        )
        self.said_something = False  # the first flush of an owner always speaks: a predecessor's commit may be missing
        self.needs_news = False  # the last fetch held columns that no definition names: the next one may as well
        self.leaving = False  # the partition may be given up after the next flush
        self.caution: Caution | None = None  # how the next records are to be applied, where one may kill the process
        self.labels_flushed_at_ms = ports.clock.now_ms()
        # until when labels that memory has let go of were looked for in other partitions: by model, by our clock and the store's
        self._sought_ms: dict[str, tuple[int, int]] = {}
        # from when on that was not done, where it never was; by our clock
        self.sought_from_ms = ports.clock.now_ms() - ports.settings.label_search_ms_max
        self.panes_bytes_max = ports.settings.panes_bytes_max  # our share of what a worker may hold
        self._loading = Pace(ports.settings.load_bytes_max, _LOADED_PANES_MAX)
        self._records_max = _RECORDS_MAX  # of a fetch, that are applied at once: fewer where they touch very many panes
        self.counted_from = base.fences.get(Lane.EVENTS, NO_FENCE) + 1

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.state.partition

    @property
    def unwritten_bytes(self) -> int:
        """What waits for the next flush: rows, and bytes that were refused."""
        return self.history_bytes + sum(len(letter.value or b"") for letter in self.dead_letters)

    @property
    def is_full(self) -> bool:
        """Whether so much of the memory for panes waits for a flush that nothing should be applied before it."""
        return self.state.panes.unwritten_bytes() > self.panes_bytes_max // _WAITING_PART

    def fitting(self, panes: Iterable[PaneKey]) -> int:
        """Say how many of these panes, from the first on, may be made or loaded between two flushes: at least one."""
        room = self.panes_bytes_max // _WAITING_PART
        count = 0
        for key in panes:
            room -= self._expected_bytes(key)
            if room < 0:
                break
            count += 1
        return max(1, count)

    def _expected_bytes(self, key: PaneKey) -> int:
        known = self.state.panes.expected_bytes(key)
        if known is None:
            known_now = self.state.is_known(key.model, key.version)
            known = self.state.engine_of(key.model, key.version).most_bytes if known_now else 0
        return known

    # -- FETCH -----------------------------------------------------------------------------------------------------

    async def apply(self, fetch: Fetch, *, caught_up: bool, is_known: bool = False) -> frozenset[str]:
        """Apply a fetch, or its first records: as many as touch no more panes than fit the memory.

        `state.next_offset` says how far it came; the rest is applied by the same call again, after a flush if we are full.
        Does nothing but name their models if models, versions or columns were met that a newer catalogue may know; with
        `is_known`, the caller has read definitions to their end: such records become dead letters, such columns are left out.
        """
        self.leaving = False
        whole = _from_offset(fetch, self.state.next_offset)
        fetch = whole if len(whole) <= self._records_max else whole.part(0, self._records_max)
        self.read_end = False
        if len(fetch):
            try:
                decoded = self.ports.decode(fetch, self.state.catalogue, self.ports.settings)
                self.needs_news = bool(decoded.foreign)
                unknown = decoded.unknown_models | decoded.foreign
            except Exception:  # a record that breaks the decoder itself: it is found by halves, which must not ask
                decoded, unknown = None, _UNREADABLE
            if unknown and not is_known:
                return unknown
            # what has been counted before comes alone: a predecessor's counters hold it
            counted = int(np.searchsorted(fetch.offsets, self.counted_from))
            if 0 < counted < len(fetch):
                if not await self._apply_or_halve(fetch.part(0, counted), None):
                    return frozenset()
                fetch, decoded = fetch.part(counted, len(fetch)), None
            if not await self._apply_or_halve(fetch, decoded):
                return frozenset()
        self.state.next_offset = max(self.state.next_offset, fetch.next_offset)
        self._records_max = min(2 * self._records_max, _RECORDS_MAX)
        self.read_end = caught_up and len(fetch) == len(whole)
        return frozenset()

    async def _apply_or_halve(self, fetch: Fetch, decoded: Decoded | None) -> bool:
        """Apply a fetch; if that raises, apply its halves, down to the one record that is the cause.

        False where only a first part was applied, because the panes of all would not fit the memory.
        """
        try:
            if decoded is None:
                decoded = self.ports.decode(fetch, self.state.catalogue, self.ports.settings)
            staged, update = await self._compute(fetch, decoded)
        except FqlstreamError:
            raise  # ClickHouse is away, or a newer release wrote its states: no record's fault
        except _TooWideError as error:
            self._records_max = error.records_count
            await self._apply_or_halve(fetch.part(0, error.records_count), None)
            return False
        except Exception as error:  # whatever one record makes our code raise, the others count
            if len(fetch) > 1:
                middle = len(fetch) // 2
                if not await self._apply_or_halve(fetch.part(0, middle), None):
                    return False
                return await self._apply_or_halve(fetch.part(middle, len(fetch)), None)
            self.dead_letters.append(_poison(fetch, error))
            self.state.next_offset = fetch.next_offset
            return True
        replayed = staged.next_offset <= self.counted_from
        if replayed:
            update.counters.clear()
        self.state.commit(staged, update)
        now_ms = self.ports.clock.now_ms()
        for model in update.watermarks:
            self.touched_at_ms[model] = now_ms
        if self.ports.settings.history:
            self.history.extend(update.history)
            self.history_bytes += sum(table.nbytes for _, _, table in update.history)
        self.dead_letters.extend(update.dead_letters)
        if staged.elsewhere:  # after the commit: the owners of those events read these labels from history
            await self._repair_elsewhere(staged.elsewhere)
        self.evict()
        return True

    def evict(self) -> None:
        """Let go of panes beyond the bounds; what waits for a flush stays."""
        self.state.panes.evict(self.ports.settings.panes_max, self.panes_bytes_max)

    async def _compute(self, fetch: Fetch, decoded: Decoded) -> tuple[Staged, Update]:
        staged = self.state.stage(decoded, fetch.next_offset)
        first = int(fetch.offsets[0])
        touched = {key for events in staged.events for key in events.codes.keys}
        self._see_room(fetch, touched)
        while needs := self.state.needs(staged):
            touched |= needs.panes
            self._see_room(fetch, touched)
            await self._load_panes(sorted(needs.panes))
            if needs.events or needs.labels:
                await self._write_history()  # what memory has let go of may not have been flushed yet
            for model, ids in needs.events.items():
                found = await self.ports.store.events_by_id(model, self.partition, ids, first - 1)
                self.state.absorb_events(staged, model, ids, found)
            for model, ids in needs.labels.items():
                table = await self.ports.store.labels_by_id(model, self.partition, ids, first - 1)
                self.state.absorb_labels(staged, model, ids, table)
        began_s = self.ports.clock.monotonic_s()
        update = self.state.compute(staged)
        self.ports.evaluated(self.ports.clock.monotonic_s() - began_s)
        return staged, update

    def _see_room(self, fetch: Fetch, panes: Set[PaneKey]) -> None:
        """Raise _TooWideError where these panes would be too much at once. A single record has to fit."""
        if len(fetch) == 1 or not panes:
            return
        fitting = self.fitting(panes)
        if fitting < len(panes):
            raise _TooWideError(max(1, min(len(fetch) - 1, len(fetch) * fitting // len(panes))))

    # -- panes -----------------------------------------------------------------------------------------------------

    async def _load_panes(self, keys: Sequence[PaneKey]) -> None:
        """Load panes from their newest records; one whose record lacks something that is computed now is rebuilt."""
        lacking: list[PaneKey] = []
        while keys:
            part, keys = keys[: self._loading.items], keys[self._loading.items :]
            lacking += await self._load_some(part)
        await self.rebuild(lacking)

    async def _load_some(self, keys: Sequence[PaneKey]) -> list[PaneKey]:
        """Load panes by one query; gives those whose record lacks something."""
        found: dict[PaneKey, dict[Lane, StateRecord]] = {}
        records = await self.ports.store.read_states(self.partition, keys)
        for record in records:
            found.setdefault(record.pane, {})[record.lane] = record
        self._loading.took(len(keys), sum(len(record.cells) for record in records))
        lacking = []
        for key in keys:
            engine = self.state.engine_of(key.model, key.version)
            pane = empty_pane(engine)
            for lane, record in found.get(key, {}).items():
                cells, missing = engine.decode(lane, record.cells)
                pane = Pane(
                    {**pane.cells, lane: cells}, {**pane.fences, lane: record.fence}, lacking=pane.lacking | missing
                )
            self.state.absorb_pane(key, pane)
            if pane.lacking:
                lacking.append(key)
        return lacking

    async def rebuild(self, keys: Iterable[PaneKey]) -> None:
        """Make panes anew from history up to what has been applied; history is written first, because it is what is read.

        Without history nothing can be rebuilt: the panes stay as they are.
        """
        keys = list(keys)
        if not keys or not self.ports.settings.history:
            return
        await self._write_history()
        wanted: dict[tuple[str, str], set[int]] = {}
        for key in keys:
            if self.state.is_known(key.model, key.version):
                wanted.setdefault((key.model, key.version), set()).add(key.start_ms)
        for (model, version), starts in wanted.items():
            definition = self.state.catalogue.models[model].versions[version]
            left, step = sorted(starts), 1
            while left:
                rows_count = await self._rebuild_some(definition, left[:step])
                left = left[step:]
                # as many panes at once as stay a moderate number of rows
                step = 2 * step if rows_count < _REBUILT_ROWS else max(1, step // 2)

    async def _rebuild_some(self, definition: ModelDefinition, starts: Sequence[int]) -> int:
        """Rebuild panes of one model version; gives the number of rows that they hold."""
        model, version, pane_ms = definition.name, definition.version, definition.windows.pane_ms
        engine = self.state.engine_of(model, version)
        upto = self.state.next_offset - 1
        rows_count = 0
        for run in _runs(starts, pane_ms):
            first, last = run[0], run[-1]
            fresh = {PaneKey(model, version, start): empty_pane(engine, upto) for start in run}
            tables = await self.ports.store.read_pane_rows(definition, self.partition, first, last + pane_ms, upto)
            for found in tables:
                # a worker that slept may have written rows again after they were deleted
                table = without_deleted(self.state.deleted, model, found)
                rows_count += len(table)
                event_at = table.column("event_at").to_numpy().astype(np.int64, copy=False)
                asked = np.isin(event_at // pane_ms * pane_ms, run)
                if not asked.all():
                    table, event_at = table.filter(pa.array(asked)), event_at[asked]
                codes = pane_codes(model, version, event_at, pane_ms)
                partials = engine.partials_both(table, codes.codes, len(codes.keys))
                for place, key in enumerate(codes.keys):
                    for lane in LANES:
                        pane = fresh[key]
                        fresh[key] = pane.with_cells(lane, engine.merge(lane, pane.cells[lane], partials[lane][place]))
                self.state.refresh_rows(model, version, table)
            for key, pane in fresh.items():
                self.state.absorb_pane(key, pane)
                for lane in LANES:
                    self.state.panes.dirty[lane].add(key)
        return rows_count

    # -- labels of other partitions' events ------------------------------------------------------------------------

    async def _repair_elsewhere(self, needs: Sequence[RepairNeed]) -> None:
        """Ask the owners of labels' events to rebuild their panes from history, these labels included."""
        await self._write_history()
        await self.ports.store.request_repairs(needs, "a label arrived in another partition")

    async def search(self) -> None:
        """Look in other partitions for the events of labels that wait: a label may have been ahead of its event.

        Later and later for each of them: most labels that wait long have no event, anywhere.
        """
        now_ms = self.ports.clock.now_ms()
        for model, room in list(self.state.waiting.items()):
            rows = room.due(now_ms, _SEARCHED_LABELS)
            if not len(rows) or model not in self.state.catalogue.models or not self.ports.settings.history:
                continue
            texts = room.table.column("event_id").take(pa.array(rows)).combine_chunks()
            found = await self.ports.store.events_by_id(model, self.partition, texts.to_pylist(), NO_FENCE)
            async with self.lock:
                if found.elsewhere:
                    await self._repair_elsewhere(found.elsewhere)
                self.state.looked_for(model, room.ids.take(rows), texts, found.elsewhere_ids, now_ms)
        await self._search_forgotten(now_ms)

    async def _search_forgotten(self, now_ms: int) -> None:
        """Look in history for labels that have left a full room, and whose event another partition has: rarely, all at once."""
        every_ms = self.ports.settings.label_search_ms_max
        for model, room in list(self.state.waiting.items()):
            if not room.overflowed or model not in self.state.catalogue.models or not self.ports.settings.history:
                continue
            ours_ms, theirs_ms = self._sought_ms.get(model, (None, None))
            if ours_ms is not None and now_ms < ours_ms + every_ms:
                continue
            # by the clock that stamps rows, and from a time on that stays what it is however long the answer is waited for
            there_ms = await self.ports.store.store_now_ms()
            if theirs_ms is None:  # our clock is read last: time that passes between makes the search longer
                theirs_ms = there_ms - (self.ports.clock.now_ms() - self.sought_from_ms)
            needs = await self.ports.store.labelled_elsewhere(model, self.partition, theirs_ms - _SLACK_MS)
            if needs:
                async with self.lock:
                    await self._repair_elsewhere(needs)
            self._sought_ms[model] = now_ms, there_ms

    # -- definitions -----------------------------------------------------------------------------------------------

    async def adopt(self, catalogue: Catalogue, engine_of: EngineOf, changed: frozenset[str]) -> None:
        """Go over to newer definitions; `changed` names the models that differ.

        Nothing that was applied is lost. The panes of open windows are looked at again by `backfill`.
        """
        before = self.state.engine_of
        self.state.catalogue, self.state.engine_of = catalogue, engine_of
        self._digests.clear()
        await self.rebuild(self.state.carry_over(before, changed))
        await self.look_again(changed)

    async def look_again(self, models: Iterable[str]) -> None:
        """Line up the panes of the open windows of these models: some may lack what is computed now."""
        if not self.ports.settings.history:
            return  # what is new begins now
        waiting = set(self.backlog)
        for model in models:
            entry = self.state.catalogue.models.get(model)
            if entry is None or entry.newest is None:
                continue
            reached_ms = await self.ports.store.model_watermark(model)
            windows = entry.newest.windows
            # windows, and the panes before them that they are compared with
            longest_ms = max(*(window.size_ms for window in windows.sizes), reach_ms(entry.baselines.values()))
            from_ms = 0 if reached_ms is None else max(0, reached_ms - windows.lateness_ms - longest_ms)
            for version in entry.versions:
                keys = await self.ports.store.pane_keys(self.partition, model, version, from_ms)
                self.backlog.extend(key for key in keys if key not in waiting)

    async def backfill(self, panes_max: int) -> bool:
        """Make some of the panes that were lined up whole; says whether there were any.

        Whole ones are written again too: a predecessor that was superseded may have made them so after the finaliser had seen
        its successor's claim, and nobody would look at what has a lower version than that.
        """
        async with self.lock:
            state = self.state
            ahead = [key for key, _ in zip(self.backlog, range(panes_max), strict=False)]
            keys = [self.backlog.popleft() for _ in ahead[: self.fitting(ahead)]]
            known = [key for key in keys if state.is_known(key.model, key.version)]
            state.panes.needed = frozenset(known)
            try:
                await self._load_panes([key for key in known if key not in state.panes.held])
                for lane in LANES:
                    state.panes.dirty[lane].update(known)
            finally:
                state.panes.needed = frozenset()
            self.evict()
        return bool(keys)

    async def take_stock(self) -> None:
        """After a takeover: line up the panes that a predecessor left under other definitions."""
        models = self.base.adopted.keys() | {model for marks in self.base.watermarks.values() for model in marks}
        known = models & self.state.catalogue.models.keys()
        await self.look_again(model for model in sorted(known) if self.base.adopted.get(model) != self._digest(model))

    def _adopted(self) -> Mapping[str, str]:
        """Say under what the open panes of this partition's models are computed."""
        known = self.state.watermarks.keys() & self.state.catalogue.models.keys()
        return {model: self._digest(model) for model in sorted(known)}

    def _digest(self, model: str) -> str:
        if model not in self._digests:
            versions = self.state.catalogue.models[model].versions
            self._digests[model] = plan_digest([self.state.engine_of(model, version).plan for version in versions])
        return self._digests[model]

    # -- FLUSH -----------------------------------------------------------------------------------------------------

    async def cut(self, *, labels: bool) -> Cut | None:
        """Take what a flush writes; None where there is nothing to say. Broken panes are made whole first."""
        async with self.lock:
            now_ms = self.ports.clock.now_ms()
            labels = labels or self._label_lane_due(now_ms)
            broken = [key for key in self.state.panes.dirty[Lane.LABELS] if self.state.panes.held[key].broken]
            if labels and broken:
                await self.rebuild(broken)
            lanes = [Lane.EVENTS, *([Lane.LABELS] if labels else [])]
            idle = self._idle(now_ms)
            nothing = (
                not any(self.state.panes.dirty[lane] for lane in lanes) and not self.history and not self.dead_letters
            )
            stands_still = self.state.next_offset == self.flushed_offset and idle == self.base.idle
            is_leaving = self.leaving and not self.base.suspicion.has_left
            if nothing and stands_still and self.said_something and not is_leaving:
                return None
            self.said_something = True
            return self._cut(lanes, idle, now_ms)

    def _cut(self, lanes: Sequence[Lane], idle: frozenset[str], now_ms: int) -> Cut:
        state = self.state
        version = Version(self.base.version.epoch, self.base.version.flush + 1)
        fence = state.next_offset - 1
        records = []
        panes: set[PaneKey] = set()
        fences = dict(self.base.fences)
        watermarks = dict(self.base.watermarks)
        for lane in LANES:
            if lane not in lanes and state.panes.dirty[lane]:
                continue  # a lane that waits keeps its older fence; one without work moves along
            for key in sorted(state.panes.dirty[lane]):
                engine = state.engine_of(key.model, key.version)
                pane = state.panes.held[key]
                # a state that a predecessor wrote ahead of its flush row contains more than has been applied again so far
                contained = max(fence, pane.fences[lane])
                cells = engine.encode(lane, pane.cells[lane], pane.lacking)
                records.append(StateRecord(key, self.partition, lane, version, contained, cells))
            panes |= state.panes.dirty[lane]
            state.panes.dirty[lane] = set()
            fences[lane] = fence
            watermarks[lane] = dict(state.watermarks)
            if lane is Lane.LABELS:
                self.labels_flushed_at_ms = now_ms
        row = replace(
            self.base,
            version=version,
            fences=fences,
            watermarks=watermarks,
            idle=idle,
            panes=tuple(sorted(panes)),
            written_at_ms=now_ms,
            counters=dict(state.counters),
            suspicion=noted(self.base, min(fences.values()), has_left=self.leaving),
        )
        if not self.backlog and not any(state.panes.dirty.values()):
            # only now: who takes over from an earlier row must look at the open panes again
            row = replace(row, adopted=self._adopted())
        self.base = row
        state.panes.writing = frozenset(panes)
        cut = Cut(self.history, self.dead_letters, records, row, state.next_offset)
        self.writing, self.history, self.history_bytes, self.dead_letters = self.history, [], 0, []
        return cut

    def flushed(self, cut: Cut) -> None:
        """Note that a cut is durable."""
        self.writing = ()
        self.state.panes.writing = frozenset()
        self.flushed_offset = max(self.flushed_offset, cut.next_offset)

    def _label_lane_due(self, now_ms: int) -> bool:
        """Say whether to write the label lane: rarely, and when time moved on by a pane, as a window may wait to be final."""
        if not self.state.panes.dirty[Lane.LABELS]:
            return True
        if now_ms - self.labels_flushed_at_ms >= self.ports.settings.label_flush_ms or self.is_full:
            return True
        before = self.base.watermarks.get(Lane.LABELS, {})
        for model, at in self.state.watermarks.items():
            entry = self.state.catalogue.models.get(model)
            pane_ms = entry.newest.windows.pane_ms if entry and entry.newest else 60_000
            if at // pane_ms > before.get(model, at - pane_ms) // pane_ms:
                return True
        return False

    def _idle(self, now_ms: int) -> frozenset[str]:
        """Name the models that this partition no longer holds back: read to the end, and no row for a while."""
        if not self.read_end:
            return frozenset()
        quiet = {
            model
            for model in self.state.watermarks
            if now_ms - self.touched_at_ms.setdefault(model, now_ms) >= self.ports.settings.idle_ms
        }
        return frozenset(quiet | {CAUGHT_UP})

    async def _write_history(self) -> None:
        """Make the rows applied so far durable, ahead of the flushes that would do it: what is read next must find them.

        Rows of a flush under way are written by both: that changes nothing, and waiting for it could take long.
        """
        items = [*self.writing, *self.history]
        if not items:
            return
        await write_history(self.ports.store, [(self.partition, item) for item in items])
        # nobody else touches these while the lock is held; a failure leaves them where they were
        self.history, self.history_bytes = [], 0


async def write_history(store: StorePort, items: Sequence[tuple[int, HistoryItem]]) -> None:
    """Write rows with one insert per partition, model version and kind."""
    groups: dict[tuple[int, str, str, RowKind], list[pa.Table]] = {}
    models: dict[tuple[str, str], ModelDefinition] = {}
    for partition, (model, kind, table) in items:
        models[model.name, model.version] = model
        groups.setdefault((partition, model.name, model.version, kind), []).append(table)
    for (partition, name, version, kind), tables in groups.items():
        write = store.write_events if kind is RowKind.INFERENCE else store.write_labels
        await write(models[name, version], partition, pa.concat_tables(tables) if len(tables) > 1 else tables[0])


async def flush(owners: Sequence[Owner], ports: Ports, *, labels: bool = False) -> None:
    """Make everything that these owners applied durable, in the order that the promise needs.

    An owner that is `superseded` afterwards must be dropped, and the partition taken over again if it is still ours. After a
    failure all of them are: what it had taken out of memory is in no state and in no row, so a later flush, as on leaving,
    would move the fence past it.
    """
    try:
        await _flush(owners, ports, labels=labels)
    except BaseException:
        for owner in owners:
            owner.superseded = True
        raise


async def _flush(owners: Sequence[Owner], ports: Ports, *, labels: bool) -> None:
    taken = [(owner, await owner.cut(labels=labels)) for owner in owners if not owner.superseded]
    cuts = [(owner, cut) for owner, cut in taken if cut is not None]
    if not cuts:
        return
    letters = [letter for _, cut in cuts for letter in cut.dead_letters]
    if letters:
        await ports.log.send_dead_letters(letters)
        await ports.store.write_dead_letters(letters)
    await write_history(ports.store, [(owner.partition, item) for owner, cut in cuts for item in cut.history])
    records = [record for _, cut in cuts for record in cut.records]
    if records:
        await ports.store.write_states(records)
    await ports.store.write_flushes([cut.row for _, cut in cuts])
    epochs = {row.partition: row.version.epoch for row in await ports.store.newest_flushes(cuts[0][1].row.topic)}
    for owner, cut in cuts:
        owner.superseded = epochs.get(owner.partition, 0) > cut.row.version.epoch
        owner.flushed(cut)
    for owner in owners:  # the setting is for all partitions of a worker
        owner.evict()
        owner.state.recent.evict(ports.settings.recent_bytes_max // len(owners), owner.flushed_offset - 1)
    kept = [cut for owner, cut in cuts if not owner.superseded]
    await ports.log.send_notices([cut.row for cut in kept])
    for cut in kept:
        ports.log.acknowledge(cut.row.topic, cut.row.partition, cut.next_offset)


async def take_over(
    topic: str,
    partition: int,
    owner_id: str,
    catalogue: Catalogue,
    engine_of: EngineOf,
    ports: Ports,
    lock: AbstractAsyncContextManager[object],
) -> Owner:
    """Become the owner of a partition: claim a higher epoch, find the place to go on from, rebuild the memory.

    Raises FqlstreamError DLV001 or DLV002 where going on would lose or double rows: the topic was recreated, or the rows
    that are needed have left the log.
    """
    topic_id = await ports.log.topic_id(topic)
    claim, left_at_ms = await claim_partition(topic, partition, owner_id, topic_id, ports)
    begin, end = await ports.log.offset_range(topic, partition)
    next_offset = resume_offset(claim, topic_id, begin, end)
    state = PartitionState(partition, catalogue, engine_of, ports.settings)
    state.next_offset = next_offset
    state.watermarks = dict(claim.watermarks.get(Lane.LABELS, {}))
    state.counters = dict(claim.counters)
    await _rebuild_memory(state, ports)
    owner = Owner(state, replace(claim, topic_id=topic_id), ports, lock)
    owner.sought_from_ms = min(owner.sought_from_ms, left_at_ms - ports.settings.label_search_ms_max)
    owner.caution = caution(claim.suspicion, next_offset, end, ports.settings)
    await owner.take_stock()
    return owner


async def claim_partition(
    topic: str, partition: int, owner_id: str, topic_id: str, ports: ClaimPorts
) -> tuple[FlushRow, int]:
    """Insert a claim row with a new highest epoch; on a tie, claim again, higher. Also gives when the row before was written."""
    least = 0
    while True:
        newest = await ports.store.newest_flush(topic, partition)
        if newest is None:
            # nobody has been here: the log begins where it begins now, and must be whole from there on
            begin, _ = await ports.log.offset_range(topic, partition)
            newest = FlushRow(topic, partition, Version(0, 0), owner_id, topic_id, dict.fromkeys(LANES, begin - 1), {})
        epoch = max(newest.version.epoch + 1, least)
        claim = replace(
            newest,
            version=Version(epoch, 0),
            owner=owner_id,
            idle=frozenset(),
            panes=(),
            written_at_ms=ports.clock.now_ms(),
            suspicion=inherited(newest, owner_id),
        )
        await ports.store.write_flushes([claim])
        rivals = {
            owner: at
            for owner, at in (await ports.store.owners_from(topic, partition, epoch)).items()
            if owner != owner_id
        }
        if not rivals:
            return claim, newest.written_at_ms
        least = max(rivals.values()) + 1


def resume_offset(claim: FlushRow, topic_id: str, begin: int, end: int) -> int:
    """Give the first offset that is not durable yet. Raises FqlstreamError DLV001, DLV002, DLV003 where the log lacks it."""
    fence = min(claim.fences.get(lane, NO_FENCE) for lane in LANES)
    where = f"{claim.topic}[{claim.partition}]"
    if claim.topic_id and topic_id and claim.topic_id != topic_id:
        raise FqlstreamError(
            "DLV001",
            f"{where} is not the topic it was: it was deleted and created again, and its offsets start anew",
            "restore the old topic, or start a new data directory or ClickHouse database for the new one",
        )
    if fence + 1 < begin:
        raise FqlstreamError(
            "DLV002",
            f"{where}: offsets {fence + 1} to {begin - 1} have left the log before they were counted",
            "raise the topic's retention, so that it outlasts an outage; to go on without those rows, start a new data directory "
            "or ClickHouse database",
        )
    if fence + 1 > end:
        raise FqlstreamError(
            "DLV003",
            f"{where}: states contain offset {fence}, but the log ends before {end}",
            "the broker was restored from an older copy than ClickHouse: restore both from one moment",
        )
    return fence + 1


async def _rebuild_memory(state: PartitionState, ports: Ports) -> None:
    """Fill the duplicate index, the recent rows and the waiting room as they were at the fence."""
    upto = state.next_offset - 1
    if upto < 0:
        return
    tables = await ports.store.recent_ids(state.partition, upto, ports.settings.duplicate_ids_max)
    rows = [(model, table) for model, table in tables.items() if len(table)]
    if rows:
        offsets = np.concatenate([table.column("offset").to_numpy() for _, table in rows])
        numbers = np.concatenate([table.column("row").to_numpy() for _, table in rows])
        sequence = np.empty(len(offsets), np.int64)
        sequence[np.lexsort((numbers, offsets))] = np.arange(len(offsets))
        cut = 0
        for model, table in rows:
            part = sequence[cut : cut + len(table)]
            cut += len(table)
            counted = np.flatnonzero(~table.column("duplicate").to_numpy(zero_copy_only=False).astype(bool))
            record_at = table.column("record_at").to_numpy().astype(np.int64, copy=False)[counted]
            ids = fingerprint(table.column("event_id"), model).take(counted)
            order = np.argsort(part[counted])
            state.index.insert(
                ids.take(order), part[counted][order], record_at[order], np.full(len(order), -1, np.int64)
            )
        state.index.sequence_next = len(offsets)
    for name, entry in state.catalogue.models.items():
        for definition in entry.versions.values():
            if definition.role(Role.TARGET):
                await _rebuild_rows(state, definition, upto, ports)
        if any(definition.role(Role.TARGET) for definition in entry.versions.values()):
            room_max = ports.settings.waiting_labels_max
            table = await ports.store.waiting_labels(name, state.partition, upto, room_max)
            if len(table):
                ids = fingerprint(table.column("event_id"), name)
                room = WaitingLabels.of(ids, table, overflowed=len(table) >= room_max)
                state.waiting[name] = room.with_labels(ids.take(np.empty(0, np.int64)), table.slice(0, 0), room_max)


async def _rebuild_rows(state: PartitionState, definition: ModelDefinition, upto: int, ports: Ports) -> None:
    table = await ports.store.recent_rows(definition, state.partition, upto, ports.settings.recover_rows_max)
    if not len(table):
        return
    wanted = state.pruned(definition.name, definition.version, table)
    for start in range(0, len(wanted), _RECOVERED_CHUNK_ROWS):
        part = wanted.slice(start, _RECOVERED_CHUNK_ROWS)
        number = state.recent.next_chunk()
        state.recent.put(number, Chunk(definition.name, definition.version, part, upto))
        places = number * CHUNK_ROWS + np.arange(len(part), dtype=np.int64)
        ids = fingerprint(part.column("event_id"), definition.name)
        state.visitors.insert(ids, places, np.zeros(len(places), np.int64), places)


def _runs(starts: Sequence[int], pane_ms: int) -> list[list[int]]:
    """Join panes that are close together, so that one query reads many, and not many rows for nothing."""
    runs: list[list[int]] = []
    for start in starts:
        if runs and start <= runs[-1][-1] + _GAP_PANES_MAX * pane_ms:
            runs[-1].append(start)
        else:
            runs.append([start])
    return runs


def _from_offset(fetch: Fetch, offset: int) -> Fetch:
    """Leave out records below an offset: a seek that came late must not count a row twice."""
    if not len(fetch) or int(fetch.offsets[0]) >= offset:
        return fetch
    return fetch.part(int(np.searchsorted(fetch.offsets, offset)), len(fetch))


def _poison(fetch: Fetch, error: Exception) -> DeadLetter:
    reason = f"{type(error).__name__}: {shown(str(error))}"
    return DeadLetter.of(fetch, 0, POISON.code, reason, content_types(fetch).get(0))
