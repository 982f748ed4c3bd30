"""Counts per bin: what drift and calibration are measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.exact import ExactNumber, Room
from fqlstream.aggregates.inputs import Argument, everything, numbers_and_valid, selected
from fqlstream.aggregates.masks import booleans
from fqlstream.aggregates.protocol import Addends, Masks, Reading

#: Up to so many bins, one Boolean column each is counted faster than by bin number.
_COLUMNS_MAX: Final = 64


#: Memory of a state without its bins, and of one bin: Python's integers.
_HEAD_BYTES: Final = 100
_BIN_BYTES: Final = 36


@dataclass(frozen=True, slots=True)
class HistogramState:
    """Rows per bin: underflow, the interior bins, overflow."""

    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a Number between fixed edges: [e_i, e_i+1), the last closed, and one bin below and one above all.

    Edges come with the state's identity, so states of one kind always have the same bins.
    """

    edges: tuple[float, ...]
    kind: ClassVar[str] = "histogram"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    @property
    def bins(self) -> int:
        """Number of bins, both outer ones included."""
        return len(self.edges) + 1

    def init(self) -> HistogramState:
        """Give all zeros."""
        return HistogramState((0,) * self.bins)

    def update(self, state: HistogramState, args: tuple[pa.Array, ...]) -> HistogramState:
        """Count a batch."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[HistogramState]:
        """Count under each mask."""
        numbers, valid = numbers_and_valid(args[0])
        place = self._places(numbers)
        return [
            HistogramState(tuple(np.bincount(selected(place, valid, mask), minlength=self.bins).tolist()))
            for mask in masks
        ]

    def merge(self, left: HistogramState, right: HistogramState) -> HistogramState:
        """Add."""
        return HistogramState(tuple(a + b for a, b in zip(left.counts, right.counts, strict=True)))

    def retract(self, state: HistogramState, gone: HistogramState) -> HistogramState:
        """Subtract."""
        return HistogramState(tuple(a - b for a, b in zip(state.counts, gone.counts, strict=True)))

    def read(self, state: HistogramState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `bin` at `index`, or `total`."""
        if name == "total":
            return Reading(float(sum(state.counts)))
        return Reading(float(state.counts[int(params["index"])]))

    def bytes_of(self, state: HistogramState) -> int:
        """Say about how many bytes of memory a state takes."""
        return _HEAD_BYTES + _BIN_BYTES * len(state.counts)

    def encode(self, state: HistogramState) -> list[Any]:
        """Give [version, counts]."""
        return [self.state_version, list(state.counts)]

    def decode(self, data: Any) -> HistogramState:
        """Give the state back."""
        return HistogramState(tuple(map(int, body(data, self.kind, self.state_version)[0])))

    def addends(self, args: tuple[Argument, ...], room: Room) -> Addends | None:
        """Give one Boolean per bin; None where there are too many bins for that."""
        del room
        if self.bins > _COLUMNS_MAX:
            return None
        numbers, valid = args[0].numbers.values, args[0].numbers.valid
        place = self._places(numbers).astype(np.int8)
        columns = (place == index for index in range(self.bins))
        return Addends(tuple(booleans(column if valid is None else column & valid) for column in columns))

    def from_totals(self, counts: Sequence[int], sums: Sequence[ExactNumber]) -> HistogramState:
        """Give the state of counts."""
        del sums
        return HistogramState(tuple(counts))

    def _places(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        # by comparison with the edges themselves: multiplying and truncating misplaces values such as 0.29
        place = np.searchsorted(np.array(self.edges), numbers, side="right")
        place[numbers == self.edges[-1]] = len(self.edges) - 1
        return place
