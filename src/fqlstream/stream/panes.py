"""A partition's panes: the mergeable states of the finest slices of time, kept per lane with their fence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fqlstream.fql.compile_arrow import Cells
from fqlstream.fql.plan import Lane
from fqlstream.stream.protocol import PaneKey

LANES = (Lane.EVENTS, Lane.LABELS)
NO_FENCE = -1


@dataclass(frozen=True, slots=True)
class Pane:
    """The states of one pane.

    `fences` gives per lane the last offset the stored record contained when it was loaded; rows at or below it are in already.
    `broken` marks a pane whose state cannot tell any more (a sketch would have to forget a row): it is rebuilt from history.
    Where no history is kept, `lacking` names the cells that do not hold all rows: they are not written, nor published.
    """

    cells: Mapping[Lane, Cells]
    fences: Mapping[Lane, int]
    broken: bool = False
    lacking: frozenset[str] = frozenset()

    def with_cells(self, lane: Lane, cells: Cells) -> Pane:
        """Give the pane with another state in one lane."""
        return replace(self, cells={**self.cells, lane: cells})


@dataclass(slots=True)
class Panes:
    """Panes in memory and which of them wait to be written, per lane.

    `writing` names those that a flush under way has taken: until it is durable, ClickHouse holds an older state of them, or
    one lane only, and they must not be loaded from there. `needed` names those that somebody is about to change all together:
    a flush that ends while some of them are still being loaded must not let go of the others.
    """

    held: dict[PaneKey, Pane] = field(default_factory=dict)
    bytes_count: int = 0
    _bytes_of: dict[PaneKey, int] = field(default_factory=dict)
    _expected: dict[tuple[str, str], int] = field(default_factory=dict)  # bytes of a pane, by model and version
    dirty: dict[Lane, set[PaneKey]] = field(default_factory=lambda: {lane: set() for lane in LANES})
    writing: frozenset[PaneKey] = frozenset()
    needed: frozenset[PaneKey] = frozenset()

    def put(self, key: PaneKey, pane: Pane, bytes_count: int) -> None:
        """Add a pane of about so many bytes, or put a changed one in its place; it becomes the most recently used."""
        if key in self.held:
            self.pop(key)
        self.held[key] = pane
        self._bytes_of[key] = bytes_count
        self.bytes_count += bytes_count
        version = (key.model, key.version)
        # up at once, down slowly: rather a few panes less than more than the memory has room for
        self._expected[version] = max(bytes_count, (7 * self._expected.get(version, 0) + bytes_count) // 8)

    def pop(self, key: PaneKey) -> Pane:
        """Take a pane out."""
        self.bytes_count -= self._bytes_of.pop(key)
        return self.held.pop(key)

    def evict(self, panes_max: int, bytes_max: int) -> None:
        """Forget the least recently used panes that are written, until both bounds hold; they are loaded again on demand."""
        if len(self.held) <= panes_max and self.bytes_count <= bytes_max:
            return
        stays = self.unwritten() | self.needed
        for key in [key for key in self.held if key not in stays]:
            self.pop(key)
            if len(self.held) <= panes_max and self.bytes_count <= bytes_max:
                return

    def unwritten_bytes(self) -> int:
        """Say how much of the memory cannot be let go of before the next flush."""
        return sum(self._bytes_of[key] for key in self.dirty[Lane.EVENTS] | self.dirty[Lane.LABELS])

    def expected_bytes(self, key: PaneKey) -> int | None:
        """Say how large a pane will be, about; None where none of its model version was seen."""
        return self._expected.get((key.model, key.version))

    def unwritten(self) -> set[PaneKey]:
        """Name the panes that ClickHouse does not hold as they are in memory."""
        return self.dirty[Lane.EVENTS] | self.dirty[Lane.LABELS] | self.writing


@dataclass(frozen=True, slots=True)
class PaneCodes:
    """Which pane each row belongs to: `keys[codes[i]]` is the pane of row i."""

    keys: tuple[PaneKey, ...]
    codes: np.ndarray  # int64

    def fence_mask(self, offsets: np.ndarray, panes: Mapping[PaneKey, Pane], lane: Lane) -> np.ndarray | None:
        """Say which rows the stored states do not contain yet; None where that is all of them."""
        fences = np.array([panes[key].fences[lane] for key in self.keys], np.int64)
        if not len(offsets) or fences.max(initial=NO_FENCE) < offsets.min():
            return None
        mask: np.ndarray = offsets > fences[self.codes]
        return mask


def pane_codes(model: str, version: str, event_at_ms: np.ndarray, pane_ms: int) -> PaneCodes:
    """Sort rows into panes by their event time."""
    if not len(event_at_ms):
        return PaneCodes((), np.empty(0, np.int64))
    index = event_at_ms // pane_ms
    low, high = int(index.min()), int(index.max())
    if low == high:
        return PaneCodes((PaneKey(model, version, low * pane_ms),), np.zeros(len(index), np.int64))
    if high - low < 4 * len(index) + 1024:  # a table is faster than a sort while time is dense
        present = np.zeros(high - low + 1, bool)
        present[index - low] = True
        starts = np.flatnonzero(present)
        code_of = np.zeros(high - low + 1, np.int64)
        code_of[starts] = np.arange(len(starts))
        codes = code_of[index - low]
        starts = starts + low
    else:
        starts, codes = np.unique(index, return_inverse=True)
    return PaneCodes(tuple(PaneKey(model, version, int(start) * pane_ms) for start in starts), codes)
