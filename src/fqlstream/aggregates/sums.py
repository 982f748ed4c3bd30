"""Sums and averages, exact: the same bits whatever the order of merging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.exact import (
    ZERO,
    ExactNumber,
    Room,
    decode_exact,
    encode_exact,
    exact_sum,
    exact_total,
    slice_exactly,
)
from fqlstream.aggregates.inputs import Argument, everything, numbers_and_valid, selected
from fqlstream.aggregates.masks import Mask, all_true, booleans
from fqlstream.aggregates.protocol import Addends, Masks, Reading


@dataclass(frozen=True, slots=True)
class SumState:
    """How many numbers, and their exact sum."""

    n: int = 0
    total: ExactNumber = ZERO


_EMPTY = SumState()


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum, average and count of the numbers that are not null."""

    kind: ClassVar[str] = "sum"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> SumState:
        """Give the sum of nothing."""
        return _EMPTY

    def update(self, state: SumState, args: tuple[pa.Array, ...]) -> SumState:
        """Add a batch."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[SumState]:
        """Sum under each mask."""
        numbers, valid = numbers_and_valid(args[0])
        states = []
        for mask in masks:
            kept = selected(numbers, valid, mask)
            states.append(SumState(len(kept), exact_sum(kept)))
        return states

    def merge(self, left: SumState, right: SumState) -> SumState:
        """Add."""
        return SumState(left.n + right.n, left.total + right.total)

    def merge_many(self, states: Sequence[SumState]) -> SumState:
        """Add all."""
        total = exact_total((state.total.m, state.total.e) for state in states)
        return SumState(sum(state.n for state in states), total)

    def retract(self, state: SumState, gone: SumState) -> SumState:
        """Subtract."""
        return SumState(state.n - gone.n, state.total - gone.total)

    def read(self, state: SumState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `sum`, `average` (both correctly rounded; null of nothing, and beyond all doubles) or `count`."""
        del params
        if name == "count":
            return Reading(float(state.n))
        if state.n <= 0:
            return Reading(None)
        value = float(state.total) if name == "sum" else state.total.over(state.n)
        return Reading(value if math.isfinite(value) else None)

    def encode(self, state: SumState) -> list[Any]:
        """Give [version, n, m, e]: the sum is m * 2^e, m big-endian two's complement."""
        return [self.state_version, state.n, *encode_exact(state.total)]

    def decode(self, data: Any) -> SumState:
        """Give the state back."""
        n, m, e = body(data, self.kind, self.state_version)
        return SumState(int(n), decode_exact((m, e)))

    def addends(self, args: tuple[Argument, ...], room: Room) -> Addends | None:
        """Give the count of numbers and the slices of the sum."""
        numbers = args[0].numbers
        slices = slice_exactly(numbers.values, top=numbers.top, room=room)
        if slices is None:
            return None
        return Addends((given(numbers.valid, len(numbers.values)),), (slices,))

    def from_totals(self, counts: Sequence[int], sums: Sequence[ExactNumber]) -> SumState:
        """Give the state of totals."""
        return SumState(counts[0], sums[0]) if counts[0] else _EMPTY


def given(valid: Mask | None, rows: int) -> pa.BooleanArray:
    """Give a mask as Arrow's Booleans; None is everywhere."""
    return all_true(rows) if valid is None else booleans(valid)
