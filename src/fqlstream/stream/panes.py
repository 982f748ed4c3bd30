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
    one lane only, and they must not be loaded from there.
    """

    held: dict[PaneKey, Pane] = field(default_factory=dict)
    dirty: dict[Lane, set[PaneKey]] = field(default_factory=lambda: {lane: set() for lane in LANES})
    writing: frozenset[PaneKey] = frozenset()

    def put(self, key: PaneKey, pane: Pane) -> None:
        """Add a pane or put a changed one in its place; it becomes the most recently used."""
        self.held.pop(key, None)
        self.held[key] = pane

    def evict(self, panes_max: int) -> None:
        """Forget the least recently used panes that are written, until the bound holds; they are loaded again on demand."""
        surplus = len(self.held) - panes_max
        if surplus <= 0:
            return
        unwritten = self.unwritten()
        for key in [key for key in self.held if key not in unwritten][:surplus]:
            del self.held[key]

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
