"""The Gini coefficient of actual values in the order of predicted ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.exact import Doubles, ExactNumber, group_sums
from fqlstream.aggregates.grids import Grid, Keys, keys_of, values_of
from fqlstream.aggregates.inputs import all_numbers_and_valid, everything
from fqlstream.aggregates.protocol import Masks, Reading

Counts = npt.NDArray[np.int64]
_GRID: Final = Grid("relative")
#: Memory of a state without its predictions, and of one prediction: three Python integers.
_HEAD_BYTES: Final = 300
_PREDICTION_BYTES: Final = 3 * 40


@dataclass(frozen=True, slots=True)
class GiniState:
    """Distinct predictions in rising order (as keys of a grid's level), rows and exact sum of actual values at each.

    Sums are integers in units of 2^exponent, canonical: the exponent is the largest that leaves them whole. `negatives`
    counts rows whose actual value is below 0: the coefficient is not defined with them.
    """

    level: int = 0
    keys: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    sums: tuple[int, ...] = ()
    exponent: int = 0
    negatives: int = 0


_EMPTY = GiniState()


@dataclass(frozen=True, slots=True)
class Gini:
    """Rows and sums per distinct prediction up to `values_max` of them, then per bin of relative width."""

    values_max: int
    kind: ClassVar[str] = "gini"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> GiniState:
        """Give the state of no rows."""
        return _EMPTY

    def update(self, state: GiniState, args: tuple[pa.Array, ...]) -> GiniState:
        """Take a batch in: actual, predicted."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[GiniState]:
        """Sum under each mask."""
        (actual, predicted), valid = all_numbers_and_valid(args)
        order = np.argsort(predicted)
        actual, keys = actual[order], keys_of(predicted)[order]
        states = []
        for mask in masks:
            kept = (mask if valid is None else mask & valid)[order]
            states.append(self._of_rows(np.compress(kept, keys), np.compress(kept, actual)))
        return states

    def merge(self, left: GiniState, right: GiniState) -> GiniState:
        """Give the state of both."""
        level = max(left.level, right.level)
        exponent = _common_exponent(left, right)
        found: dict[int, tuple[int, int]] = {}
        for side in (left, right):
            for key, count, total in _at(side, level, exponent):
                n, s = found.get(key, (0, 0))
                found[key] = (n + count, s + total)
        return self._of_groups(level, found, exponent, left.negatives + right.negatives)

    def retract(self, state: GiniState, gone: GiniState) -> GiniState | None:
        """Take rows away; None where they cannot have been in. Bins stay as coarse as they are."""
        if not gone.counts:
            return state
        if gone.level > state.level or gone.negatives > state.negatives:
            return None
        exponent = _common_exponent(state, gone)
        found = {key: (count, total) for key, count, total in _at(state, state.level, exponent)}
        for key, count, total in _at(gone, state.level, exponent):
            n, s = found.get(key, (0, 0))
            if count > n:
                return None
            found[key] = (n - count, s - total)
        left = {key: (n, s) for key, (n, s) in found.items() if n}
        return self._of_groups(state.level, left, exponent, state.negatives - gone.negatives)

    def read(self, state: GiniState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `gini`, rounded once. Null of nothing, with a negative actual value, and where they add up to nothing."""
        del name, params
        n, total = sum(state.counts), sum(state.sums)
        if state.negatives or total <= 0:
            return Reading(None)
        before = ranked = within = 0
        for count, weight in zip(state.counts, state.sums, strict=True):
            ranked += weight * (2 * before + count + 1)  # twice the midrank
            within += weight * (count - 1)
            before += count
        value = (ranked - (n + 1) * total) / (n * total)
        if state.level == 0:
            return Reading(value)
        # within a bin the order is unknown: each value's rank may be off by half the bin
        bound = within / (n * total)
        return Reading(value, exact=False, error_bound=bound, low=value - bound, high=value + bound)

    def bytes_of(self, state: GiniState) -> int:
        """Say about how many bytes of memory a state takes."""
        return _HEAD_BYTES + _PREDICTION_BYTES * len(state.keys)

    def encode(self, state: GiniState) -> list[Any]:
        """Give [version, level, predictions, counts, sums, exponent, negatives].

        Above level 0 bin numbers stand in place of predictions; sums are big-endian two's complement.
        """
        keys: list[Any] = list(state.keys) if state.level else values_of(np.array(state.keys, dtype=np.int64)).tolist()
        sums = [value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True) for value in state.sums]
        return [self.state_version, state.level, keys, list(state.counts), sums, state.exponent, state.negatives]

    def decode(self, data: Any) -> GiniState:
        """Give the state back."""
        level, predictions, counts, sums, exponent, negatives = body(data, self.kind, self.state_version)
        keys = predictions if level else keys_of(np.array(predictions, dtype=np.float64)).tolist()
        totals = tuple(int.from_bytes(value, "big", signed=True) for value in sums)
        return GiniState(int(level), tuple(keys), tuple(counts), totals, int(exponent), int(negatives))

    def _of_rows(self, keys: Keys, actual: Doubles) -> GiniState:
        if not len(keys):
            return _EMPTY
        level = _GRID.level_for(keys, 0, self.values_max)
        keys = _GRID.coarsened(keys, 0, level)
        is_first = np.append(True, keys[1:] != keys[:-1])
        starts = np.flatnonzero(is_first)
        sums = group_sums(actual, np.cumsum(is_first) - 1, len(starts))
        return _canonical(
            level,
            keys[starts].tolist(),
            np.diff(starts, append=len(keys)).tolist(),
            *_aligned(sums),
            int(np.count_nonzero(actual < 0.0)),
        )

    def _of_groups(self, level: int, groups: Mapping[int, tuple[int, int]], exponent: int, negatives: int) -> GiniState:
        keys = np.array(sorted(groups), dtype=np.int64)
        finest = _GRID.level_for(keys, level, self.values_max)
        joined: dict[int, tuple[int, int]] = {}
        for fine, coarse in zip(keys.tolist(), _GRID.coarsened(keys, level, finest).tolist(), strict=True):
            n, s = joined.get(coarse, (0, 0))
            count, total = groups[fine]
            joined[coarse] = (n + count, s + total)
        counts, sums = [n for n, _ in joined.values()], [s for _, s in joined.values()]
        return _canonical(finest, list(joined), counts, sums, exponent, negatives)


def _common_exponent(left: GiniState, right: GiniState) -> int:
    held = [side.exponent for side in (left, right) if any(side.sums)]
    return min(held, default=0)


def _at(state: GiniState, level: int, exponent: int) -> list[tuple[int, int, int]]:
    """Give key, count and sum of each group at a coarser level and a smaller unit."""
    shift = max(state.exponent - exponent, 0)
    keys = _GRID.coarsened(np.array(state.keys, dtype=np.int64), state.level, level).tolist()
    return [(key, n, s << shift) for key, n, s in zip(keys, state.counts, state.sums, strict=True)]


def _aligned(numbers: list[ExactNumber]) -> tuple[list[int], int]:
    exponent = min((number.e for number in numbers if number.m), default=0)
    return [number.m << (number.e - exponent) if number.m else 0 for number in numbers], exponent


def _canonical(
    level: int, keys: list[int], counts: list[int], sums: list[int], exponent: int, negatives: int
) -> GiniState:
    joined = reduce(or_, sums, 0)
    zeros = (joined & -joined).bit_length() - 1 if joined else 0
    if zeros:
        sums = [value >> zeros for value in sums]
    return GiniState(level, tuple(keys), tuple(counts), tuple(sums), exponent + zeros if joined else 0, negatives)
