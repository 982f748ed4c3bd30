"""Which event ids a partition has seen lately, and where their rows are: decides duplicates and finds a label's event.

A ring of the latest counted ids and an open-addressing table of ring places, both NumPy arrays worked on a batch at a
time: no Python object per id. 40 bytes an id, and 16 to 32 for its share of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fqlstream.stream.fingerprints import Fingerprints

NOWHERE = -1
_FREE = -1
_FIRST_CAPACITY = 1 << 14


@dataclass(frozen=True, slots=True)
class Found:
    """What the index knows of each id asked for; `sequence` is -1 where it knows nothing."""

    sequence: np.ndarray  # int64: which event of the partition, counted along the log
    record_at_ms: np.ndarray  # int64
    place: np.ndarray  # int64: where the row is in memory


class IdIndex:
    """The latest `ids_max` counted ids. `find` only reads; `insert` is the one step that changes it."""

    def __init__(self, ids_max: int) -> None:
        self.ids_max = ids_max
        #: events of the partition so far, duplicates included: the horizon is counted along the log
        self.sequence_next = 0
        self._count = 0  # ever inserted; the ring place of the k-th is k modulo the capacity
        self._allocate(min(_FIRST_CAPACITY, ids_max))

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def find(self, ids: Fingerprints) -> Found:
        """Look up a batch of ids."""
        rows_count = len(ids)
        found = np.full(rows_count, NOWHERE, np.int64)
        rows = np.arange(rows_count)
        slots = (ids.high & self._mask).astype(np.int64)
        while len(rows):
            entries = self._table[slots]
            used = entries != _FREE
            rows, slots, entries = rows[used], slots[used], entries[used]
            same = (self._high[entries] == ids.high[rows]) & (self._low[entries] == ids.low[rows])
            found[rows[same]] = entries[same]
            rows = rows[~same]
            slots = (slots[~same] + 1) & int(self._mask)
        known = found >= 0
        safe = np.where(known, found, 0)
        return Found(
            np.where(known, self._sequence[safe], NOWHERE),
            self._record_at_ms[safe],
            np.where(known, self._place[safe], NOWHERE),
        )

    def insert(
        self,
        ids: Fingerprints,
        sequence: np.ndarray,
        record_at_ms: np.ndarray,
        place: np.ndarray,
        *,
        all_new: bool = False,
    ) -> None:
        """Remember ids in the order given; an id that stands already points to its newest row from now on.

        `all_new` promises that no id stands already or comes twice: that saves the look at what is there.
        """
        start = 0
        while start < len(ids):
            self._make_room(len(ids) - start)
            # at most a ring's worth at once, and never over the table's end of life
            part = slice(start, start + min(len(ids) - start, self._capacity, self._inserts_left))
            self._insert_part(ids.take(part), sequence[part], record_at_ms[part], place[part], all_new=all_new)
            start = part.stop

    def _insert_part(
        self, ids: Fingerprints, sequence: np.ndarray, record_at_ms: np.ndarray, place: np.ndarray, *, all_new: bool
    ) -> None:
        count = len(ids)
        first = self._count % self._capacity
        if first + count <= self._capacity:
            span: slice | np.ndarray = slice(first, first + count)
            entries = np.arange(first, first + count, dtype=np.int32)
        else:
            entries = ((first + np.arange(count)) % self._capacity).astype(np.int32)
            span = entries
        self._high[span], self._low[span] = ids.high, ids.low
        self._sequence[span], self._record_at_ms[span], self._place[span] = sequence, record_at_ms, place
        self._count += count
        self._inserts_left -= count
        if all_new:
            self._link_new(entries, ids.high)
        else:
            self._link(entries)

    def _link_new(self, entries: np.ndarray, high: np.ndarray) -> None:
        """Put ring places of ids that the table does not hold into free slots."""
        mask = int(self._mask)
        slots = (high & self._mask).astype(np.int64)
        while len(entries):
            free = self._table[slots] == _FREE
            # several may want one slot: NumPy keeps the last written, the others look again
            self._table[slots[free]] = entries[free]
            left = self._table[slots] != entries
            entries, slots = entries[left], (slots[left] + 1) & mask

    def _link(self, entries: np.ndarray) -> None:
        """Put ring places into the table; of one id the last place given wins."""
        slots = (self._high[entries] & self._mask).astype(np.int64)
        mask = int(self._mask)
        while len(entries):
            there = self._table[slots]
            usable = there == _FREE
            usable |= (self._high[there] == self._high[entries]) & (self._low[there] == self._low[entries])
            # several may want one slot: NumPy keeps the last written, the others look again
            self._table[slots[usable]] = entries[usable]
            settled = self._table[slots]
            done = (self._high[settled] == self._high[entries]) & (self._low[settled] == self._low[entries])
            done &= settled != _FREE
            entries = entries[~done]
            slots = (slots[~done] + 1) & mask

    def _make_room(self, wanted: int) -> None:
        if self._capacity < self.ids_max and self._count + wanted > self._capacity:
            self._rebuild(min(self.ids_max, max(4 * self._capacity, self._count + wanted)))
        elif self._inserts_left <= 0:
            self._rebuild(self._capacity)

    def _rebuild(self, capacity: int) -> None:
        """Make a new ring and table from what is remembered, oldest first: drops table slots of forgotten ids."""
        kept = min(self._count, self._capacity)
        order = (np.arange(self._count - kept, self._count) % self._capacity).astype(np.int64)
        columns = [c[order] for c in (self._high, self._low, self._sequence, self._record_at_ms, self._place)]
        self._allocate(capacity)
        self._high[:kept], self._low[:kept], self._sequence[:kept], self._record_at_ms[:kept], self._place[:kept] = (
            columns
        )
        self._count = kept
        self._link(np.arange(kept, dtype=np.int32))  # an id may stand in the ring twice: the newest wins

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        self._high = np.zeros(capacity, np.uint64)
        self._low = np.zeros(capacity, np.uint64)
        self._sequence = np.full(capacity, NOWHERE, np.int64)
        self._record_at_ms = np.zeros(capacity, np.int64)
        self._place = np.full(capacity, NOWHERE, np.int64)
        size = 1 << max(4, int(4 * capacity - 1).bit_length())
        self._mask = np.uint64(size - 1)
        self._table = np.full(size, _FREE, np.int32)
        # slots of overwritten ids are reclaimed by a rebuild before the table is three quarters full
        self._inserts_left = size // 2 if capacity < size // 2 else size // 4


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the index says of a batch of events: which are duplicates, and the sequence number of each."""

    duplicate: np.ndarray  # bool
    sequence: np.ndarray  # int64
    all_new: bool  # none of the ids was known, none comes twice


def judge(index: IdIndex, ids: Fingerprints, record_at_ms: np.ndarray, horizon_ms: int) -> Verdicts:
    """Decide which events of a batch, in log order, repeat a counted one within the horizon.

    An event is a duplicate if the newest counted event of its id lies at most `index.ids_max` events and `horizon_ms` of
    record time before it. Decided along the log, so cutting the batch elsewhere decides the same.
    """
    sequence = np.arange(index.sequence_next, index.sequence_next + len(ids), dtype=np.int64)
    found = index.find(ids)
    duplicate = (
        (found.sequence >= 0)
        & (sequence - found.sequence <= index.ids_max)
        & (record_at_ms - found.record_at_ms <= horizon_ms)
    )
    ordered = np.sort(ids.high)
    repeats = bool((ordered[1:] == ordered[:-1]).any())
    if repeats:
        _judge_repeats(index, ids, record_at_ms, horizon_ms, found, duplicate)
    return Verdicts(duplicate, sequence, all_new=not repeats and not (found.sequence >= 0).any())


def _judge_repeats(
    index: IdIndex, ids: Fingerprints, record_at_ms: np.ndarray, horizon_ms: int, found: Found, duplicate: np.ndarray
) -> None:
    """Decide ids that stand several times in one batch, one after the other as in the log."""
    order = np.lexsort((np.arange(len(ids)), ids.low, ids.high))
    high, low = ids.high[order], ids.low[order]
    same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    ends = np.append(starts[1:], len(order))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        rows = order[start:end]
        counted, counted_at = int(found.sequence[rows[0]]), int(found.record_at_ms[rows[0]])
        for row in rows:
            at = index.sequence_next + int(row)
            near = counted >= 0 and at - counted <= index.ids_max and int(record_at_ms[row]) - counted_at <= horizon_ms
            duplicate[row] = near
            if not near:
                counted, counted_at = at, int(record_at_ms[row])
