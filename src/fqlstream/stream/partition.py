"""What a partition's owner holds, and what a fetch does to it.

`apply` is in two steps. `stage` and `compute` only read: whatever an odd record makes them raise, nothing has changed, and
the record can be set aside. `commit` then puts the computed values in place and cannot fail.

Positions are (offset, row). A label changes the state of its event's pane: `update(row with label) - update(row as it was)`.
It counts from the later of the two offsets, so that a fence skips it only when both are in the state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.aggregates.masks import booleans
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition, Role
from fqlstream.fql.compile_arrow import Cells, Engine
from fqlstream.fql.plan import Lane
from fqlstream.settings import StreamSettings
from fqlstream.stream.batches import DeadLetter, Decoded, RowKind, Rows, StoredEvents
from fqlstream.stream.deleted import Deleted, deleted_rows
from fqlstream.stream.fingerprints import Fingerprints, concat, fingerprint
from fqlstream.stream.id_index import IdIndex, judge
from fqlstream.stream.panes import LANES, NO_FENCE, Pane, PaneCodes, Panes, pane_codes
from fqlstream.stream.protocol import PaneKey, RepairNeed
from fqlstream.stream.recent import (
    CHUNK_ROWS,
    ELSEWHERE_AT,
    Chunk,
    RecentRows,
    WaitingLabels,
    outdone,
    replace_targets,
)

#: Columns of a row that a label's step needs beside those that the engine reads.
_ROW_COLUMNS = ("offset", "row", "event_at", "event_id", "_type_violations", "_range_violations", ELSEWHERE_AT)

#: Memory of a pane beside its states: the object, its dictionaries and its key.
_PANE_HEAD_BYTES = 1_000
#: Older chunks have long left the memory.
_UNINDEXED_MAX = 10_000

EngineOf = Callable[[str, str], Engine]


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be fetched from ClickHouse before a batch can be computed."""

    panes: frozenset[PaneKey] = frozenset()
    #: per model: ids of labels whose event is not in memory
    events: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: per model: ids of new events whose label may have left the waiting room
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.panes or self.events or self.labels)


@dataclass(frozen=True, slots=True)
class StagedEvents:
    """Events of one model version with their verdicts."""

    rows: Rows
    model: ModelDefinition
    ids: Fingerprints | None
    duplicate: np.ndarray
    sequence: np.ndarray
    chunk: int
    all_new: bool = False
    _codes: list[PaneCodes] = field(default_factory=list, repr=False)

    @property
    def codes(self) -> PaneCodes:
        """Sort the rows that count into panes, once."""
        if not self._codes:
            event_at = _int64(self.rows.table, "event_at")
            event_at = event_at[self.counted] if self.duplicate.any() else event_at
            self._codes.append(pane_codes(self.rows.model, self.rows.version, event_at, self.model.windows.pane_ms))
        return self._codes[0]

    def counted_ids(self) -> Fingerprints:
        """Fingerprint the rows that count."""
        if self.ids is not None:
            return self.ids.take(self.counted)
        return fingerprint(self.rows.table.column("event_id"), self.rows.model)

    @property
    def counted(self) -> np.ndarray:
        """Index of the rows that count."""
        return np.flatnonzero(~self.duplicate)


#: Ranks of tasks: what waited comes before what ClickHouse knows of it, and both before the labels of the batch itself.
_WAITED, _STORED, _ARRIVED = range(3)


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Labels that have found their events: rows of `labels`, places of the events, and when each step counts from."""

    rank: int
    labels: pa.Table
    rows: np.ndarray  # rows of `labels`
    places: np.ndarray  # chunk * CHUNK_ROWS + row
    offsets: np.ndarray


@dataclass(slots=True)
class Staged:
    """A decoded batch on its way: verdicts taken, nothing changed yet."""

    decoded: Decoded
    next_offset: int
    events: list[StagedEvents]
    labels: list[tuple[Rows, Fingerprints]]
    #: ids that ClickHouse was asked for, so that nothing is asked twice: (model, id)
    asked_events: set[tuple[str, str]] = field(default_factory=set)
    asked_labels: set[tuple[str, str]] = field(default_factory=set)
    #: labels from ClickHouse for events of this batch, by model
    found_labels: dict[str, pa.Table] = field(default_factory=dict)
    #: rows from ClickHouse, already chunks but not yet in the index: reserved chunk numbers
    visitors: dict[int, Chunk] = field(default_factory=dict)
    visitor_ids: dict[str, tuple[Fingerprints, np.ndarray]] = field(default_factory=dict)
    #: labels whose event is another partition's: their ids by model, and what its owner is to be asked
    elsewhere_ids: dict[str, set[str]] = field(default_factory=dict)
    elsewhere: list[RepairNeed] = field(default_factory=list)
    #: rows of deleted ids that were left out, and the highest event time of such events by model
    deleted_count: int = 0
    deleted_marks: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Update:
    """Everything a batch changes."""

    panes: dict[PaneKey, Pane] = field(default_factory=dict)
    pane_bytes: dict[PaneKey, int] = field(default_factory=dict)
    touched: dict[Lane, set[PaneKey]] = field(default_factory=lambda: {lane: set() for lane in LANES})
    chunks: dict[int, Chunk] = field(default_factory=dict)
    waiting: dict[str, WaitingLabels] = field(default_factory=dict)
    watermarks: dict[str, int] = field(default_factory=dict)
    history: list[tuple[ModelDefinition, RowKind, pa.Table]] = field(default_factory=list)
    dead_letters: tuple[DeadLetter, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int) -> None:
        """Add to a diagnostic counter."""
        if number:
            self.counters[name] = self.counters.get(name, 0) + number


class PartitionState:
    """All that the owner of one partition remembers. Everything in it can be rebuilt from ClickHouse."""

    def __init__(self, partition: int, catalogue: Catalogue, engine_of: EngineOf, settings: StreamSettings) -> None:
        self.partition = partition
        self.catalogue = catalogue
        self.engine_of = engine_of
        self.settings = settings
        self.index = IdIndex(settings.duplicate_ids_max)
        self.visitors = IdIndex(max(settings.waiting_labels_max, settings.recover_rows_max, 1))
        self.recent = RecentRows()
        self.waiting: dict[str, WaitingLabels] = {}
        self.panes = Panes()
        self.watermarks: dict[str, int] = {}
        self.next_offset = 0
        #: ids whose events and labels are dropped
        self.deleted: Deleted = {}
        #: chunks whose ids are not in the index yet: (number, ids, model)
        self._unindexed: deque[tuple[int, pa.ChunkedArray, str]] = deque(maxlen=_UNINDEXED_MAX)
        self.counters: dict[str, int] = {}

    # -- reading steps ---------------------------------------------------------------------------------------------

    def stage(self, decoded: Decoded, next_offset: int) -> Staged:
        """Leave out what was deleted, fingerprint the other rows and decide duplicates."""
        decoded, deleted_count, marks = self._without_deleted(decoded)
        staged = self._stage(decoded, next_offset)
        staged.deleted_count, staged.deleted_marks = deleted_count, marks
        return staged

    def _without_deleted(self, decoded: Decoded) -> tuple[Decoded, int, dict[str, int]]:
        """Leave out rows of deleted ids; time moves on by their events all the same, as it did when they came first."""
        kept: list[Rows] = []
        count = 0
        marks: dict[str, int] = {}
        for rows in decoded.rows:
            gone = deleted_rows(self.deleted, rows.model, rows.table)
            if gone is None:
                kept.append(rows)
                continue
            count += int(np.count_nonzero(gone))
            if rows.kind is RowKind.INFERENCE:
                newest = int(_int64(rows.table, "event_at")[gone].max())
                marks[rows.model] = max(newest, marks.get(rows.model, newest))
            if not gone.all():
                kept.append(replace(rows, table=rows.table.filter(pa.array(~gone))))
        return (replace(decoded, rows=tuple(kept)) if count else decoded), count, marks

    def _stage(self, decoded: Decoded, next_offset: int) -> Staged:
        labels = [
            (rows, fingerprint(rows.table.column("event_id"), rows.model))
            for rows in decoded.rows
            if rows.kind is RowKind.LABEL
        ]
        if labels:
            self._index_now()
        inference = [rows for rows in decoded.rows if rows.kind is RowKind.INFERENCE]
        if not self.settings.history:
            return Staged(decoded, next_offset, [self._uncounted(rows) for rows in inference], labels)
        ids = [fingerprint(rows.table.column("event_id"), rows.model) for rows in inference]
        verdicts = self._judge(inference, ids)
        events = [
            StagedEvents(rows, self._model(rows), found, duplicate, sequence, self.recent.next_chunk(), all_new)
            for rows, found, (duplicate, sequence, all_new) in zip(inference, ids, verdicts, strict=True)
        ]
        return Staged(decoded, next_offset, events, labels)

    def _uncounted(self, rows: Rows) -> StagedEvents:
        """Stage events without a verdict: without history nothing could decide the same again after a crash."""
        count = len(rows.table)
        return StagedEvents(
            rows, self._model(rows), None, np.zeros(count, bool), np.arange(count), self.recent.next_chunk()
        )

    def _index_now(self) -> None:
        """Index the events that were left for the first label to ask for."""
        for number, ids, model in self._unindexed:
            if number in self.recent.chunks:
                places = number * CHUNK_ROWS + np.arange(len(ids), dtype=np.int64)
                self.index.insert(fingerprint(ids, model), places, np.zeros(len(ids), np.int64), places)
        self._unindexed.clear()

    def _judge(self, groups: list[Rows], ids: list[Fingerprints]) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """Take the verdicts in log order, across the models of the batch."""
        if len(groups) == 1:
            verdict = judge(
                self.index, ids[0], _int64(groups[0].table, "record_at"), self.settings.duplicate_horizon_ms
            )
            return [(verdict.duplicate, verdict.sequence, verdict.all_new)]
        if not groups:
            return []
        offsets = np.concatenate([_int64(rows.table, "offset") for rows in groups])
        numbers = np.concatenate([_int64(rows.table, "row") for rows in groups])
        record_at = np.concatenate([_int64(rows.table, "record_at") for rows in groups])
        order = np.lexsort((numbers, offsets))
        verdict = judge(self.index, concat(ids).take(order), record_at[order], self.settings.duplicate_horizon_ms)
        duplicate = np.empty(len(order), bool)
        sequence = np.empty(len(order), np.int64)
        duplicate[order], sequence[order] = verdict.duplicate, verdict.sequence
        cuts = np.cumsum([len(rows.table) for rows in groups])[:-1]
        parts = zip(np.split(duplicate, cuts), np.split(sequence, cuts), strict=True)
        return [(*part, verdict.all_new) for part in parts]

    def needs(self, staged: Staged) -> Needs:
        """Say what ClickHouse must be asked before `compute`; ask again until nothing is needed."""
        panes: set[PaneKey] = set()
        for events in staged.events:
            panes.update(events.codes.keys)
        asked_events: dict[str, tuple[str, ...]] = {}
        for rows, ids in staged.labels:
            if not self._joins(rows.model):
                continue
            places = self._places(staged, rows.model, ids)
            panes.update(self._panes_at(staged, places[places >= 0]))
            if not self.settings.history:
                continue  # labels find only events in memory
            unknown = _texts(rows.table, places < 0)
            new = tuple(dict.fromkeys(text for text in unknown if (rows.model, text) not in staged.asked_events))
            if new:
                asked_events[rows.model] = tuple(dict.fromkeys(asked_events.get(rows.model, ()) + new))
        asked_labels: dict[str, tuple[str, ...]] = {}
        for events in staged.events:
            room = self.waiting.get(events.rows.model)
            if room is None or not room.overflowed or not self.settings.history:
                continue
            texts = _texts(events.rows.table, ~events.duplicate)
            new = tuple(text for text in texts if (events.rows.model, text) not in staged.asked_labels)
            if new:
                asked_labels[events.rows.model] = asked_labels.get(events.rows.model, ()) + new
        return Needs(frozenset(key for key in panes if key not in self.panes.held), asked_events, asked_labels)

    def absorb_pane(self, key: PaneKey, pane: Pane) -> None:
        """Take a pane that was loaded from ClickHouse, or a new empty one."""
        self.panes.put(key, pane, self.bytes_of(key, pane))

    def bytes_of(self, key: PaneKey, pane: Pane) -> int:
        """Say about how many bytes of memory a pane takes."""
        return _PANE_HEAD_BYTES + self.engine_of(key.model, key.version).bytes_of(pane.cells)

    def absorb_events(self, staged: Staged, model: str, asked: tuple[str, ...], found: StoredEvents) -> None:
        """Take old rows that labels ask for, and note the labels that are another partition's business."""
        staged.asked_events.update((model, text) for text in asked)
        staged.elsewhere_ids.setdefault(model, set()).update(found.elsewhere_ids)
        staged.elsewhere.extend(found.elsewhere)
        for version, table in found.tables.items():
            if not len(table):
                continue
            number = self.recent.next_chunk()
            staged.visitors[number] = Chunk(model, version, self.pruned(model, version, table), staged.next_offset - 1)
            ids = fingerprint(table.column("event_id"), model)
            places = number * CHUNK_ROWS + np.arange(len(table), dtype=np.int64)
            known = staged.visitor_ids.get(model)
            if known is not None:
                ids, places = concat([known[0], ids]), np.concatenate([known[1], places])
            staged.visitor_ids[model] = (ids, places)

    def absorb_labels(self, staged: Staged, model: str, asked: tuple[str, ...], table: pa.Table) -> None:
        """Take labels that had left the waiting room."""
        staged.asked_labels.update((model, text) for text in asked)
        if len(table):
            staged.found_labels[model] = table

    def compute(self, staged: Staged) -> Update:
        """Work out everything that the batch changes."""
        update = Update(dead_letters=staged.decoded.dead_letters, chunks=dict(staged.visitors))
        update.count("dead_letters", len(staged.decoded.dead_letters))
        for mark in staged.decoded.watermarks:
            update.watermarks[mark.model] = max(mark.event_at_ms, update.watermarks.get(mark.model, mark.event_at_ms))
        for model, at_ms in staged.deleted_marks.items():
            update.watermarks[model] = max(at_ms, update.watermarks.get(model, at_ms))
        update.count("deleted", staged.deleted_count)
        for events in staged.events:
            self._count_events(events, update)
        for model in dict.fromkeys([rows.model for rows, _ in staged.labels] + [e.rows.model for e in staged.events]):
            self._join_labels(staged, model, update)
        for rows, _ in staged.labels:
            update.history.append((self._model(rows), RowKind.LABEL, rows.table))
            update.count("labels", len(rows.table))
        update.pane_bytes = {key: self.bytes_of(key, pane) for key, pane in update.panes.items()}
        return update

    # -- the one changing step -------------------------------------------------------------------------------------

    def commit(self, staged: Staged, update: Update) -> None:
        """Put a computed update in place."""
        for key, pane in update.panes.items():
            self.panes.put(key, pane, update.pane_bytes[key])
        for lane in LANES:
            self.panes.dirty[lane] |= update.touched[lane]
        for events in staged.events:
            if events.ids is None:
                if events.chunk in update.chunks:
                    table = events.rows.table
                    self._unindexed.append((events.chunk, table.column("event_id"), events.rows.model))
                continue
            counted: np.ndarray | slice = slice(None) if events.all_new else events.counted
            record_at = _int64(events.rows.table, "record_at")[counted]
            place = events.chunk * CHUNK_ROWS + np.arange(len(record_at), dtype=np.int64)
            ids, sequence = events.ids.take(counted), events.sequence[counted]
            self.index.insert(ids, sequence, record_at, place, all_new=events.all_new)
            self.index.sequence_next += len(events.duplicate)
        for ids, places in staged.visitor_ids.values():
            self.visitors.insert(ids, places, np.zeros(len(places), np.int64), places)
        for number, chunk in sorted(update.chunks.items()):
            self.recent.put(number, chunk)
        self.waiting.update(update.waiting)
        for model, at in update.watermarks.items():
            self.watermarks[model] = max(at, self.watermarks.get(model, at))
        for name, number in update.counters.items():
            self.counters[name] = self.counters.get(name, 0) + number
        self.next_offset = max(self.next_offset, staged.next_offset)

    # -- changes from outside --------------------------------------------------------------------------------------

    def carry_over(self, before: EngineOf, changed: frozenset[str]) -> list[PaneKey]:
        """Bring what is in memory of changed models under the definitions of now.

        Panes that wait to be written keep what they hold. Gives those that lack something that is computed now; all other
        panes and rows are read again when they are needed.
        """
        lacking = []
        unwritten = self.panes.unwritten()
        for key in [key for key in self.panes.held if key.model in changed]:
            pane = self.panes.pop(key)
            if not self.is_known(key.model, key.version):
                for lane in LANES:
                    self.panes.dirty[lane].discard(key)
            elif key in unwritten:
                old, new = before(key.model, key.version), self.engine_of(key.model, key.version)
                cells, missing = {}, frozenset[str]()
                for lane in LANES:
                    cells[lane], absent = new.decode(lane, old.encode(lane, pane.cells[lane], pane.lacking))
                    missing |= absent
                self.absorb_pane(key, Pane(cells, pane.fences, pane.broken, missing))
                if missing:
                    lacking.append(key)
        for number, chunk in list(self.recent.chunks.items()):
            if chunk.model in changed and not self._serves(chunk):
                self.recent.drop(number)
        for model in changed - self.catalogue.models.keys():
            self.waiting.pop(model, None)
        return lacking

    def looked_for(
        self, model: str, ids: Fingerprints, texts: pa.Array, elsewhere: frozenset[str], now_ms: int
    ) -> None:
        """Note that events were looked for in other partitions: labels of those found are theirs, the others wait on."""
        room = self.waiting.get(model)
        if room is None:
            return
        room = room.put_off(ids, now_ms, self.settings.label_search_ms, self.settings.label_search_ms_max)
        if elsewhere:
            found = pc.is_in(texts, value_set=pa.array(sorted(elsewhere), pa.string()))
            _, rows = room.match(ids.take(np.flatnonzero(found.to_numpy(zero_copy_only=False))))
            room = room.without(rows)
        self.waiting[model] = room

    def forget_deleted(self, flushed_offset: int) -> None:
        """Drop what memory holds of deleted ids, as far as ClickHouse has it: the other rows are read again when needed."""
        for model, deleted in self.deleted.items():
            room = self.waiting.get(model)
            if room is not None and len(gone := np.flatnonzero(deleted.holds(room.ids))):
                self.waiting[model] = room.without(gone)
        for number, chunk in list(self.recent.chunks.items()):
            if chunk.touched_offset > flushed_offset:
                continue
            if deleted_rows(self.deleted, chunk.model, chunk.table) is not None:
                self.recent.drop(number)

    def refresh_rows(self, model: str, version: str, table: pa.Table) -> None:
        """Give rows in memory the targets that they have in history: a pane was made of these very rows.

        They differ where a label of another partition has come.
        """
        targets = self._targets(model, version)
        if not targets or not len(table):
            return
        ids = fingerprint(table.column("event_id"), model)
        places = self._held_places(ids)
        fresh = self.pruned(model, version, table)
        for number in np.unique(places[places >= 0] // CHUNK_ROWS).tolist():
            chunk = self.recent.chunks[number]
            of = np.flatnonzero(places // CHUNK_ROWS == number)
            rows = places[of] % CHUNK_ROWS
            after = fresh.take(pa.array(of))
            if (chunk.model, chunk.version) != (model, version):
                continue
            held = _with_elsewhere(chunk.table, after)
            if any(_differs(held, rows, after, name) for name in [*targets, ELSEWHERE_AT] if name in held.column_names):
                self.recent.put(number, replace(chunk, table=_with_rows(held, rows, after)))

    def _serves(self, chunk: Chunk) -> bool:
        """Say whether a chunk has every column that a label's step reads now."""
        if not self.is_known(chunk.model, chunk.version):
            return False
        wanted = self.engine_of(chunk.model, chunk.version).label_columns | set(
            self._targets(chunk.model, chunk.version)
        )
        return wanted <= set(chunk.table.column_names)

    def is_known(self, model: str, version: str) -> bool:
        """Say whether the catalogue has this version."""
        entry = self.catalogue.models.get(model)
        return entry is not None and version in entry.versions

    # -- events ----------------------------------------------------------------------------------------------------

    def _count_events(self, events: StagedEvents, update: Update) -> None:
        rows = events.rows
        stored = rows.table.append_column("duplicate", booleans(events.duplicate))
        update.history.append((events.model, RowKind.INFERENCE, stored))
        update.count("events", len(rows.table))
        duplicates_count = int(np.count_nonzero(events.duplicate))
        update.count("duplicates", duplicates_count)
        table = rows.table.take(pa.array(events.counted)) if duplicates_count else rows.table
        if not len(table):
            return
        codes = events.codes
        event_at = _int64(table, "event_at")
        offsets = _int64(table, "offset")
        self._count_late(events.model, event_at, update)
        newest = int(event_at.max())
        update.watermarks[rows.model] = max(newest, update.watermarks.get(rows.model, newest))
        panes = self._with_new(codes, update)
        engine = self.engine_of(rows.model, rows.version)
        masks = {lane: codes.fence_mask(offsets, panes, lane) for lane in LANES}
        if all(mask is None for mask in masks.values()):
            partials = engine.partials_both(table, codes.codes, len(codes.keys))
            for lane in LANES:
                self._merge_partials(engine, lane, codes.keys, partials[lane], update)
        else:
            for lane, mask in masks.items():
                self._merge_unfenced(engine, lane, table, codes, mask, update)
        for key in codes.keys:  # a row that a fence skips still marks its pane as to be published
            for lane in LANES:
                update.touched[lane].add(key)
        if engine.label_columns or events.model.role(Role.TARGET):
            update.chunks[events.chunk] = Chunk(
                rows.model, rows.version, self.pruned(rows.model, rows.version, table), int(offsets[-1])
            )

    def _merge_unfenced(
        self, engine: Engine, lane: Lane, table: pa.Table, codes: PaneCodes, mask: np.ndarray | None, update: Update
    ) -> None:
        """Merge the rows that the stored states lack."""
        kept, of = table, codes.codes
        if mask is not None:
            kept, of = table.filter(pa.array(mask)), codes.codes[mask]
        if len(kept):
            self._merge_partials(engine, lane, codes.keys, engine.partials(kept, of, len(codes.keys), lane), update)

    def _merge_partials(
        self, engine: Engine, lane: Lane, keys: tuple[PaneKey, ...], partials: list[Cells], update: Update
    ) -> None:
        for key, partial in zip(keys, partials, strict=True):
            pane = update.panes[key]
            update.panes[key] = pane.with_cells(lane, engine.merge(lane, pane.cells[lane], partial))

    def _with_new(self, codes: PaneCodes, update: Update) -> Mapping[PaneKey, Pane]:
        """Give the panes of a batch as far as they are computed, every key present."""
        for key in codes.keys:
            if key not in update.panes:
                update.panes[key] = self.panes.held[key]
        return update.panes

    def _count_late(self, model: ModelDefinition, event_at: np.ndarray, update: Update) -> None:
        watermark = self.watermarks.get(model.name)
        if watermark is not None:
            # the end of the newest pane that is closed for rows in time
            closed_ms = (watermark - model.windows.lateness_ms) // model.windows.pane_ms * model.windows.pane_ms
            update.count("late", int(np.count_nonzero(event_at < closed_ms)))

    # -- labels ----------------------------------------------------------------------------------------------------

    def _join_labels(self, staged: Staged, model: str, update: Update) -> None:
        """Find the events of a batch's labels, and the labels of its events, and apply the steps in label order."""
        tasks: list[LabelTask] = []
        room = self.waiting.get(model)
        for events in (e for e in staged.events if e.rows.model == model):
            room = self._labels_of_events(staged, events, room, tasks, update)
        for rows, ids in ((rows, ids) for rows, ids in staged.labels if rows.model == model):
            places = self._places(staged, model, ids)
            found = np.flatnonzero(places >= 0)
            offsets = _int64(rows.table, "offset")
            if len(found):
                tasks.append(LabelTask(_ARRIVED, rows.table, found, places[found], offsets[found]))
            lost = np.flatnonzero(places < 0)
            if len(lost) and self._joins(model):
                room = self._wait(staged, rows, ids, lost, room, update)
        if room is not None:
            update.waiting[model] = room
        self._apply_in_order(model, tasks, update)

    def _wait(
        self,
        staged: Staged,
        rows: Rows,
        ids: Fingerprints,
        lost: np.ndarray,
        room: WaitingLabels | None,
        update: Update,
    ) -> WaitingLabels | None:
        """Let labels wait that have found no event, here or in another partition."""
        table = rows.table.take(pa.array(lost))
        elsewhere = staged.elsewhere_ids.get(rows.model)
        if elsewhere:
            known = pc.is_in(table.column("event_id"), value_set=pa.array(elsewhere, pa.string()))
            lost, table = lost[~known.to_numpy().astype(bool)], table.filter(pc.invert(known))
        if not len(lost):
            return room
        if room is None:
            room = WaitingLabels.of(ids.take(lost[:0]), table.slice(0, 0))
        update.count("labels_waiting", len(lost))
        return room.with_labels(ids.take(lost), table, self.settings.waiting_labels_max)

    def _labels_of_events(
        self,
        staged: Staged,
        events: StagedEvents,
        room: WaitingLabels | None,
        tasks: list[LabelTask],
        update: Update,
    ) -> WaitingLabels | None:
        """Match arriving events with labels that came before them, from the room or from ClickHouse."""
        counted = events.counted
        sources: list[tuple[WaitingLabels, bool]] = []
        table = staged.found_labels.get(events.rows.model)
        if table is not None:
            sources.append((WaitingLabels.of(fingerprint(table.column("event_id"), events.rows.model), table), False))
        if room is not None and len(room):
            sources.append((room, True))
        for source, is_room in sources:
            hits, rows = source.match(events.counted_ids())
            if not len(hits):
                continue
            places = events.chunk * CHUNK_ROWS + hits
            # the step counts from the event: the label was there before
            offsets = _int64(events.rows.table, "offset")[counted][hits]
            tasks.append(LabelTask(_WAITED if is_room else _STORED, source.table, rows, places, offsets))
            if is_room:
                room = source.without(rows)
                update.count("labels_waiting", -len(rows))
        return room

    def _apply_in_order(self, model: str, tasks: Sequence[LabelTask], update: Update) -> None:
        """Apply labels in the order of the log, each event at most once per round: a fence may lie between two of one event.

        Labels of one event may stand in several tables: one names the event's version, the next one no version.
        """
        if not tasks:
            return
        lengths = [len(task.rows) for task in tasks]
        places = np.concatenate([task.places for task in tasks])
        offsets, rows = (
            np.concatenate([_int64(task.labels, name)[task.rows] for task in tasks]) for name in ("offset", "row")
        )
        order = np.lexsort((rows, offsets, np.repeat([task.rank for task in tasks], lengths), places))
        places = places[order]
        starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
        occurrence = np.empty(len(places), np.int64)
        occurrence[order] = np.arange(len(places)) - np.repeat(starts, np.diff(np.append(starts, len(places))))
        parts = np.split(occurrence, np.cumsum(lengths)[:-1])
        for number in range(int(occurrence.max(initial=-1)) + 1):
            for task, numbers in zip(tasks, parts, strict=True):
                chosen = np.flatnonzero(numbers == number)
                if len(chosen):
                    self._apply_round(model, task, chosen, update)

    def _apply_round(self, model: str, task: LabelTask, chosen: np.ndarray, update: Update) -> None:
        places, offsets, label_rows = task.places[chosen], task.offsets[chosen], task.rows[chosen]
        chunk_numbers = places // CHUNK_ROWS
        by_version: dict[str, list[tuple[pa.Table, pa.Table, np.ndarray]]] = {}
        order = np.argsort(chunk_numbers, kind="stable")
        cuts = np.flatnonzero(np.diff(chunk_numbers[order])) + 1
        for part in np.split(order, cuts):
            number = int(chunk_numbers[part[0]])
            chunk = update.chunks.get(number) or self.recent.chunks[number]
            rows = places[part] % CHUNK_ROWS
            before = chunk.table.take(pa.array(rows))
            labels = task.labels.take(pa.array(label_rows[part]))
            late = outdone(before, labels)
            if late.any():
                self._leave_to_history(model, chunk.version, before.filter(pa.array(late)), update)
                kept = pa.array(~late)
                part, rows, before, labels = part[~late], rows[~late], before.filter(kept), labels.filter(kept)
                if not len(part):
                    continue
            if ELSEWHERE_AT in before.column_names:  # rows of one version come from several chunks: all of one schema
                before = before.drop_columns([ELSEWHERE_AT])
            after = replace_targets(before, labels, self._targets(model, chunk.version))
            from_offset = np.maximum(offsets[part], _int64(before, "offset"))
            by_version.setdefault(chunk.version, []).append((before, after, from_offset))
            table = _with_rows(chunk.table, rows, after)
            update.chunks[number] = Chunk(
                model, chunk.version, table, max(chunk.touched_offset, int(offsets[part].max()))
            )
        for version, parts in by_version.items():
            before = pa.concat_tables([part[0] for part in parts])
            after = pa.concat_tables([part[1] for part in parts])
            self._step(model, version, before, after, np.concatenate([part[2] for part in parts]), update)

    def _leave_to_history(self, model: str, version: str, rows: pa.Table, update: Update) -> None:
        """Have the panes of these rows rebuilt: which of several partitions' labels counts, only history can tell."""
        pane_ms = self.catalogue.models[model].versions[version].windows.pane_ms
        codes = pane_codes(model, version, _int64(rows, "event_at"), pane_ms)
        panes = self._with_new(codes, update)
        for key in codes.keys:
            update.panes[key] = replace(panes[key], broken=True)
        update.touched[Lane.LABELS].update(codes.keys)

    def _step(
        self, model: str, version: str, before: pa.Table, after: pa.Table, from_offset: np.ndarray, update: Update
    ) -> None:
        """Take the rows as they were out of the label lane, and put them in as they are."""
        definition = self.catalogue.models[model].versions[version]
        codes = pane_codes(model, version, _int64(before, "event_at"), definition.windows.pane_ms)
        panes = self._with_new(codes, update)
        mask = codes.fence_mask(from_offset, panes, Lane.LABELS)
        of = codes.codes
        if mask is not None:
            before, after, of = before.filter(pa.array(mask)), after.filter(pa.array(mask)), of[mask]
        update.touched[Lane.LABELS].update(codes.keys)
        update.count("labels_joined", len(from_offset))
        if not len(before):
            return
        engine = self.engine_of(model, version)
        gone = engine.partials(before, of, len(codes.keys), Lane.LABELS)
        come = engine.partials(after, of, len(codes.keys), Lane.LABELS)
        for code in np.unique(of):
            key = codes.keys[code]
            pane = update.panes[key]
            old = pane.cells[Lane.LABELS]
            cells, replaced = engine.replace(Lane.LABELS, old, gone[code], come[code])
            pane = pane.with_cells(Lane.LABELS, cells)
            if not replaced and self.settings.history:
                pane = replace(pane, broken=True)
            elif not replaced:
                lost = engine.cells_lost(Lane.LABELS, old, gone[code], come[code])
                pane = replace(pane, lacking=pane.lacking | lost)
            update.panes[key] = pane

    # -- small readings --------------------------------------------------------------------------------------------

    def _model(self, rows: Rows) -> ModelDefinition:
        return self.catalogue.models[rows.model].versions[rows.version]

    def _targets(self, model: str, version: str) -> list[str]:
        return [column.name for column in self.catalogue.models[model].versions[version].role(Role.TARGET)]

    def _joins(self, model: str) -> bool:
        """Whether labels of the model change any state."""
        return any(definition.role(Role.TARGET) for definition in self.catalogue.models[model].versions.values())

    def pruned(self, model: str, version: str, table: pa.Table) -> pa.Table:
        """Keep the columns that a later label's step reads."""
        wanted = set(_ROW_COLUMNS) | self.engine_of(model, version).label_columns | set(self._targets(model, version))
        return table.select([name for name in table.column_names if name in wanted]).combine_chunks()

    def _places(self, staged: Staged, model: str, ids: Fingerprints) -> np.ndarray:
        """Find rows in this batch, in memory, or among those that ClickHouse gave; -1 where there is none."""
        places = self._held_places(ids)
        for events in staged.events:
            if events.rows.model == model:
                known = events.counted_ids()
                _fill(places, ids, known, events.chunk * CHUNK_ROWS + np.arange(len(known)))
        if model in staged.visitor_ids:
            _fill(places, ids, *staged.visitor_ids[model])
        return places

    def _held_places(self, ids: Fingerprints) -> np.ndarray:
        """Find rows in memory; -1 where there is none."""
        places = self.index.find(ids).place
        places = np.where(self._held(places), places, -1)
        missing = places < 0
        if missing.any():
            visiting = self.visitors.find(ids).place
            places = np.where(missing & self._held(visiting), visiting, places)
        return places

    def _held(self, places: np.ndarray) -> np.ndarray:
        """Say which places are of chunks that are still in memory."""
        numbers = np.where(places >= 0, places // CHUNK_ROWS, -1)
        return np.isin(numbers, np.fromiter(self.recent.chunks, np.int64, len(self.recent.chunks)))

    def _panes_at(self, staged: Staged, places: np.ndarray) -> set[PaneKey]:
        keys: set[PaneKey] = set()
        fresh = {events.chunk for events in staged.events}
        for number in np.unique(places // CHUNK_ROWS).tolist():
            if number in fresh:
                continue  # the batch's own events: their panes are asked for already
            chunk = staged.visitors.get(number) or self.recent.chunks[number]
            rows = places[places // CHUNK_ROWS == number] % CHUNK_ROWS
            event_at = _int64(chunk.table, "event_at")[rows]
            pane_ms = self.catalogue.models[chunk.model].versions[chunk.version].windows.pane_ms
            keys.update(pane_codes(chunk.model, chunk.version, event_at, pane_ms).keys)
        return keys


def empty_pane(engine: Engine, fence: int = NO_FENCE) -> Pane:
    """Give a pane without rows."""
    return Pane({lane: engine.init(lane) for lane in LANES}, dict.fromkeys(LANES, fence))


def _fill(places: np.ndarray, wanted: Fingerprints, ids: Fingerprints, found_places: np.ndarray) -> None:
    """Put the place of every wanted id that stands in `ids`."""
    if not len(ids) or not len(wanted):
        return
    order = np.argsort(ids.high, kind="stable")
    high = ids.high[order]
    at = np.searchsorted(high, wanted.high)
    at[at == len(high)] = 0
    hit = np.flatnonzero((high[at] == wanted.high) & (ids.low[order[at]] == wanted.low))
    places[hit] = found_places[order[at[hit]]]


def _with_elsewhere(table: pa.Table, changed: pa.Table) -> pa.Table:
    """Give rows a place for the time of labels in other partitions where the changed ones have any."""
    if ELSEWHERE_AT in table.column_names or changed.column(ELSEWHERE_AT).null_count == len(changed):
        return table
    return table.append_column(ELSEWHERE_AT, pa.nulls(len(table), pa.int64()))


def _with_rows(table: pa.Table, rows: np.ndarray, changed: pa.Table) -> pa.Table:
    """Put changed rows in their places, touching only columns that differ; those that `changed` lacks stay."""
    order = np.argsort(rows)
    mask = np.zeros(len(table), bool)
    mask[rows] = True
    sorted_rows = changed.take(pa.array(order))
    out = table
    for index, name in enumerate(table.column_names):
        if name not in changed.column_names:
            continue
        new = sorted_rows.column(name)
        if name in ("offset", "row", "event_at", "event_id") or (
            pa.types.is_nested(new.type) and not _differs(table, rows, changed, name)
        ):
            continue
        if pa.types.is_nested(new.type):
            values = table.column(name).to_pylist()
            for row, value in zip(rows[order].tolist(), new.to_pylist(), strict=True):
                values[row] = value
            out = out.set_column(index, name, pa.array(values, new.type))
        else:
            replaced = pc.replace_with_mask(out.column(name).combine_chunks(), pa.array(mask), new.combine_chunks())
            out = out.set_column(index, name, replaced)
    return out


def _differs(table: pa.Table, rows: np.ndarray, changed: pa.Table, name: str) -> bool:
    return not table.column(name).take(pa.array(rows)).equals(changed.column(name))


def _texts(table: pa.Table, mask: np.ndarray) -> list[str]:
    texts: list[str] = table.column("event_id").filter(pa.array(mask)).to_pylist()
    return texts


def _int64(table: pa.Table, name: str) -> np.ndarray:
    column: np.ndarray = table.column(name).to_numpy()
    return column.astype(np.int64, copy=False)
