"""Quantiles: the exact distinct values and how often each came, up to a cap; then a sketch with its rank error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.encoding import ForeignStateError, body
from fqlstream.aggregates.inputs import everything, numbers_and_valid, selected
from fqlstream.aggregates.protocol import ARRAY_HEAD_BYTES, Masks, Reading
from fqlstream.aggregates.sketches import Sketch, SketchKind, merged

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

#: A weighted value enters a sketch as so many equal ones; in pieces, so that memory stays bounded.
_REPEAT_ROWS: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class ExactValues:
    """Distinct values in rising order, and how often each came."""

    values: Doubles
    counts: Counts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExactValues):
            return NotImplemented
        return np.array_equal(self.values, other.values) and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.values.tobytes(), self.counts.tobytes()))


@dataclass(frozen=True, slots=True, eq=False)
class Sketched:
    """A sketch; it is never changed after it came in here."""

    sketch: Sketch
    _data: list[Any] = field(default_factory=list, repr=False)

    @property
    def data(self) -> Any:
        """The sketch as plain data, made once."""
        if not self._data:
            self._data.append(self.sketch.to_data())
        return self._data[0]

    def encoded(self) -> Any:
        """Give the same without keeping it: a pane is encoded once, and its sketches would take twice the memory."""
        return self._data[0] if self._data else self.sketch.to_data()

    @property
    def bytes_count(self) -> int:
        """About how many bytes of memory it takes."""
        return self.sketch.bytes_count * (1 + len(self._data))

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, Sketched) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self.data))


QuantileState = ExactValues | Sketched
_ZERO: Final = np.zeros(1, dtype=np.int64)
_EMPTY = ExactValues(np.zeros(0), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Quantile:
    """Any quantile of a Number: exact up to `values_max` distinct values, then by the sketch of the given kind."""

    values_max: int
    sketch: SketchKind
    kind: ClassVar[str] = "quantile"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> QuantileState:
        """Give the state of no values."""
        return _EMPTY

    def update(self, state: QuantileState, args: tuple[pa.Array, ...]) -> QuantileState:
        """Take a batch in."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[QuantileState]:
        """Summarise under each mask."""
        numbers, valid = numbers_and_valid(args[0])
        return [self.of_numbers(selected(numbers, valid, mask)) for mask in masks]

    def of_numbers(self, numbers: Doubles) -> QuantileState:
        """Summarise finite numbers."""
        rising = np.sort(numbers)
        is_new = rising[1:] != rising[:-1]
        if len(rising) and np.count_nonzero(is_new) < self.values_max:
            bounds = np.concatenate((_ZERO, np.flatnonzero(is_new) + 1, [len(rising)]))
            # + 0.0 turns -0.0 into 0.0: equal numbers, one state
            return ExactValues(rising[bounds[:-1]] + 0.0, bounds[1:] - bounds[:-1])
        return Sketched(self.sketch.sketch_of(numbers, rising)) if len(rising) else _EMPTY

    def merge(self, left: QuantileState, right: QuantileState) -> QuantileState:
        """Give the state of both."""
        if isinstance(left, ExactValues) and isinstance(right, ExactValues):
            return self._merge_exact(left, right)
        if isinstance(left, Sketched) and isinstance(right, Sketched):
            return Sketched(left.sketch + right.sketch)
        if isinstance(left, Sketched) and isinstance(right, ExactValues):
            return self._merge_into(left, right)
        if isinstance(left, ExactValues) and isinstance(right, Sketched):
            return self._merge_into(right, left)
        raise TypeError(type(left), type(right))

    def merge_many(self, states: Sequence[QuantileState]) -> QuantileState:
        """Give the state of all: exact values are joined first, so that few small sketches are made of them."""
        exact = _joined([state for state in states if isinstance(state, ExactValues)])
        sketches = [state.sketch for state in states if isinstance(state, Sketched)]
        if not sketches and len(exact.values) <= self.values_max:
            return exact
        if len(exact.values):
            sketches.append(self._sketch_of(exact))
        return Sketched(merged(sketches))

    def retract(self, state: QuantileState, gone: QuantileState) -> QuantileState | None:
        """Take values away again; None where either is a sketch, which forgot which values it saw."""
        if isinstance(gone, ExactValues) and not len(gone.values):
            return state
        if not (isinstance(state, ExactValues) and isinstance(gone, ExactValues)):
            return None
        place = np.searchsorted(state.values, gone.values)
        known = place < len(state.values)
        if not known.all() or not np.array_equal(state.values[place], gone.values):
            return None
        counts = state.counts.copy()
        counts[place] -= gone.counts
        if (counts < 0).any():
            return None
        left = counts > 0
        return ExactValues(state.values[left], counts[left])

    def read(self, state: QuantileState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `quantile` at `level`: numpy.quantile's linear method where exact. Null of nothing."""
        del name
        level = params["level"]
        if isinstance(state, ExactValues):
            return Reading(_linear(state, level) if len(state.values) else None)
        error = state.sketch.rank_error
        value = state.sketch.quantile(level)
        if error is None:
            return Reading(value, exact=False)
        low, high = state.sketch.quantile(max(level - error, 0.0)), state.sketch.quantile(min(level + error, 1.0))
        return Reading(value, exact=False, error_bound=error, low=low, high=high)

    def bytes_of(self, state: QuantileState) -> int:
        """Say about how many bytes of memory a state takes."""
        if isinstance(state, ExactValues):
            return 2 * ARRAY_HEAD_BYTES + state.values.nbytes + state.counts.nbytes
        return state.bytes_count

    def encode(self, state: QuantileState) -> list[Any]:
        """Give [version, "exact", values, counts] or [version, sketch name, the sketch's own form]."""
        if isinstance(state, ExactValues):
            return [self.state_version, "exact", state.values.tolist(), state.counts.tolist()]
        return [self.state_version, self.sketch.name, state.encoded()]

    def decode(self, data: Any) -> QuantileState:
        """Give the state back."""
        form, *rest = body(data, self.kind, self.state_version)
        if form == "exact":
            return ExactValues(np.array(rest[0], dtype=np.float64), np.array(rest[1], dtype=np.int64))
        if form != self.sketch.name:
            raise ForeignStateError(
                "STA003",
                f"a stored quantile state is a sketch of kind {form!r}, the settings say {self.sketch.name!r}",
                "set FQLSTREAM_FQL__QUANTILE_SKETCH back, or rebuild the states from history with `fqlstream repair`",
            )
        return Sketched(self.sketch.decode(rest[0]))

    def _merge_exact(self, left: ExactValues, right: ExactValues) -> QuantileState:
        if not len(left.values) or not len(right.values):
            return right if not len(left.values) else left
        joined = _joined([left, right])
        return joined if len(joined.values) <= self.values_max else Sketched(self._sketch_of(joined))

    def _merge_into(self, sketched: Sketched, exact: ExactValues) -> QuantileState:
        return Sketched(sketched.sketch + self._sketch_of(exact)) if len(exact.values) else sketched

    def _sketch_of(self, exact: ExactValues) -> Sketch:
        sketch = self.sketch.make()
        ends = np.cumsum(exact.counts)
        for start in range(0, int(ends[-1]) if len(ends) else 0, _REPEAT_ROWS):
            stop = min(start + _REPEAT_ROWS, int(ends[-1]))
            within = np.clip(ends, start, stop)
            repeated = np.repeat(exact.values, np.diff(within, prepend=start))
            sketch = sketch + self.sketch.sketch_of(repeated, repeated)
        return sketch


def _joined(states: Sequence[ExactValues]) -> ExactValues:
    """Give the distinct values of all."""
    if not states:
        return _EMPTY
    values, place = np.unique(np.concatenate([state.values for state in states]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, place, np.concatenate([state.counts for state in states]))
    return ExactValues(values, counts)


def _linear(state: ExactValues, level: float) -> float:
    """Interpolate as numpy.quantile's method "linear" does, to the bit."""
    ends = np.cumsum(state.counts)
    place = (int(ends[-1]) - 1) * level
    below = math.floor(place)
    part = place - below
    left, right = (
        float(state.values[np.searchsorted(ends, min(rank, int(ends[-1]) - 1), side="right")])
        for rank in (below, below + 1)
    )
    step = right - left
    if not math.isfinite(step):  # neighbours further apart than the largest double
        return left * (1 - part) + right * part
    return right - step * (1 - part) if part >= 0.5 else left + step * part
