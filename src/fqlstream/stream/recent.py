"""Recent rows in memory, so that a label finds its event without a query, and labels that wait for theirs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.stream.fingerprints import Fingerprints, concat

#: A place is `chunk * CHUNK_ROWS + row`.
CHUNK_ROWS = 2**24
#: Record time (Unix ms, null for none) of the latest label that other partitions hold of a row's event, where history was
#: asked for it: a column of rows that come from there.
ELSEWHERE_AT = "_elsewhere_at"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Counted rows of one model version with their targets as they are now.

    `touched_offset` is the last offset that made or changed it: what lies at or below the flushed offset may be forgotten,
    because ClickHouse knows it.
    """

    model: str
    version: str
    table: pa.Table
    touched_offset: int


@dataclass(slots=True)
class RecentRows:
    """Chunks by number, the oldest first, bounded in bytes."""

    chunks: dict[int, Chunk] = field(default_factory=dict)
    bytes_count: int = 0
    _next: int = 0

    def next_chunk(self) -> int:
        """Reserve the number of a chunk to come."""
        self._next += 1
        return self._next - 1

    def put(self, number: int, chunk: Chunk) -> None:
        """Add a chunk, or put a changed one in its place."""
        before = self.chunks.get(number)
        if before is not None:
            self.bytes_count -= before.table.nbytes
        self.chunks[number] = chunk
        self.bytes_count += chunk.table.nbytes

    def drop(self, number: int) -> None:
        """Forget a chunk."""
        self.bytes_count -= self.chunks.pop(number).table.nbytes

    def evict(self, bytes_max: int, flushed_offset: int) -> None:
        """Forget the oldest chunks that ClickHouse has, until the bound holds."""
        if self.bytes_count <= bytes_max:
            return
        for number in list(self.chunks):
            if self.bytes_count <= bytes_max:
                return
            if self.chunks[number].touched_offset <= flushed_offset:
                self.drop(number)


@dataclass(frozen=True, slots=True)
class WaitingLabels:
    """Labels of one model whose event has not come: bounded, the newest stay.

    `overflowed` says that some left: from then on arriving events also ask ClickHouse for labels. `due_ms` and `wait_ms` say
    when each label's event is looked for in other partitions next, and how long that was waited for; new ones are due at once.
    """

    ids: Fingerprints
    table: pa.Table
    overflowed: bool
    due_ms: np.ndarray  # int64
    wait_ms: np.ndarray  # int64

    @classmethod
    def of(cls, ids: Fingerprints, table: pa.Table, *, overflowed: bool = False) -> WaitingLabels:
        """Give a room with these labels, one per id."""
        return cls(ids, table, overflowed, np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def match(self, ids: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
        """Give (rows of `ids`, rows of the waiting table) that belong together."""
        if not len(self) or not len(ids):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        order = np.argsort(self.ids.high, kind="stable")
        high = self.ids.high[order]
        at = np.searchsorted(high, ids.high)
        at[at == len(high)] = 0
        hit = np.flatnonzero((high[at] == ids.high) & (self.ids.low[order[at]] == ids.low))
        return hit, order[at[hit]]

    def without(self, rows: np.ndarray) -> WaitingLabels:
        """Give the room without the labels at these rows."""
        keep = np.ones(len(self), bool)
        keep[rows] = False
        return self._take(np.flatnonzero(keep))

    def with_labels(self, ids: Fingerprints, table: pa.Table, labels_max: int) -> WaitingLabels:
        """Give the room with these labels too; a newer label of the same id replaces the older."""
        new = WaitingLabels.of(ids, table)
        joined = WaitingLabels(
            concat([self.ids, ids]),
            _joined(self.table, table),
            self.overflowed,
            np.concatenate([self.due_ms, new.due_ms]),
            np.concatenate([self.wait_ms, new.wait_ms]),
        )
        order = np.lexsort((np.arange(len(joined)), joined.ids.low, joined.ids.high))
        high, low = joined.ids.high[order], joined.ids.low[order]
        last = np.ones(len(order), bool)
        last[:-1] = (high[:-1] != high[1:]) | (low[:-1] != low[1:])
        keep = np.sort(order[last])
        return replace(joined._take(keep[-labels_max:]), overflowed=self.overflowed or len(keep) > labels_max)

    def due(self, now_ms: int, rows_max: int) -> np.ndarray:
        """Name the labels whose event is to be looked for elsewhere now, by their rows."""
        return np.flatnonzero(self.due_ms <= now_ms)[:rows_max]

    def put_off(self, ids: Fingerprints, now_ms: int, first_ms: int, longest_ms: int) -> WaitingLabels:
        """Give the room with these labels due later, each time later than the last time."""
        _, rows = self.match(ids)
        wait_ms, due_ms = self.wait_ms.copy(), self.due_ms.copy()
        wait_ms[rows] = np.clip(2 * wait_ms[rows], first_ms, longest_ms)
        due_ms[rows] = now_ms + wait_ms[rows]
        return replace(self, wait_ms=wait_ms, due_ms=due_ms)

    def _take(self, rows: np.ndarray) -> WaitingLabels:
        table = self.table.take(pa.array(rows))
        return WaitingLabels(self.ids.take(rows), table, self.overflowed, self.due_ms[rows], self.wait_ms[rows])


def _joined(a: pa.Table, b: pa.Table) -> pa.Table:
    """Put labels of several versions into one table; a target whose types do not go together becomes text."""
    try:
        return pa.concat_tables([a, b], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        both = [name for name in a.column_names if name in b.column_names]
        unlike = [name for name in both if a.schema.field(name).type != b.schema.field(name).type]
        for name in unlike:
            a, b = (t.set_column(t.column_names.index(name), name, t.column(name).cast(pa.string())) for t in (a, b))
        return pa.concat_tables([a, b], promote_options="permissive")


def outdone(rows: pa.Table, labels: pa.Table) -> np.ndarray:
    """Say which labels of a row's own partition are older than one that another partition holds: history decides those.

    Both tables have one row per event, in the same order.
    """
    if ELSEWHERE_AT not in rows.column_names:
        return np.zeros(len(rows), bool)
    later = pc.less(labels.column("record_at"), rows.column(ELSEWHERE_AT))
    return np.asarray(pc.fill_null(later, False).to_numpy()).astype(bool)


def replace_targets(rows: pa.Table, labels: pa.Table, targets: Iterable[str]) -> pa.Table:
    """Give the rows as their labels make them: every target taken from the label, its violations too.

    Both tables have one row per event, in the same order. A target that the label lacks, or whose type does not fit the
    row's version, becomes null.
    """
    out = rows
    names = [name for name in targets if name in rows.column_names]
    for name in names:
        field_type = rows.schema.field(name).type
        out = out.set_column(out.column_names.index(name), name, _as_type(labels, name, field_type))
    for column in ("_type_violations", "_range_violations"):
        if column in rows.column_names:
            out = out.set_column(
                out.column_names.index(column), column, _violations(rows, labels, column, frozenset(names))
            )
    return out


def _as_type(labels: pa.Table, name: str, wanted: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if name not in labels.column_names:
        return pa.nulls(len(labels), wanted)
    column = labels.column(name)
    if column.type == wanted:
        return column
    try:
        return column.cast(wanted)
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(labels), wanted)
    except pa.ArrowInvalid:  # some value does not fit: it alone is null
        return pa.concat_arrays([_cast_or_null(column.slice(at, 1), wanted) for at in range(len(column))])


def _cast_or_null(value: pa.ChunkedArray, wanted: pa.DataType) -> pa.Array:
    try:
        return value.cast(wanted).combine_chunks()
    except pa.ArrowInvalid:
        return pa.nulls(1, wanted)


def _violations(rows: pa.Table, labels: pa.Table, column: str, targets: frozenset[str]) -> pa.ChunkedArray | pa.Array:
    """Violations of the event's own columns stay, those of its targets come from the label."""
    theirs = labels.column(column) if column in labels.column_names else None
    if not _any_entries(rows.column(column)) and (theirs is None or not _any_entries(theirs)):
        return rows.column(column)
    mine = rows.column(column).to_pylist()
    others = theirs.to_pylist() if theirs is not None else [[]] * len(rows)
    merged = [
        [name for name in own or () if name not in targets] + [name for name in other or () if name in targets]
        for own, other in zip(mine, others, strict=True)
    ]
    return pa.array(merged, pa.list_(pa.string()))


def _any_entries(column: pa.ChunkedArray) -> bool:
    return any(len(chunk.flatten()) for chunk in column.chunks)
