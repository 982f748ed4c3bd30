"""What r2 needs, as exact sums: it can be merged and undone without losing a bit, also where y is large and varies little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import pyarrow as pa

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.exact import (
    ZERO,
    Doubles,
    ExactNumber,
    Room,
    Slices,
    decode_exact,
    encode_exact,
    exact_product_sum,
    exact_products,
    exact_sum,
    slice_exactly,
)
from fqlstream.aggregates.inputs import Argument, all_numbers_and_valid, everything, joined, selected
from fqlstream.aggregates.protocol import Addends, Masks, Reading
from fqlstream.aggregates.sums import given

#: Memory of four exact sums, about.
_STATE_BYTES: Final = 700


@dataclass(frozen=True, slots=True)
class MomentsState:
    """Number of rows, and exact sums of y, y*y, y*f and f*f."""

    n: int = 0
    y: ExactNumber = ZERO
    yy: ExactNumber = ZERO
    yf: ExactNumber = ZERO
    ff: ExactNumber = ZERO


_EMPTY = MomentsState()


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over rows with a target y and a prediction f."""

    kind: ClassVar[str] = "moments"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> MomentsState:
        """Give the sums of nothing."""
        return _EMPTY

    def update(self, state: MomentsState, args: tuple[pa.Array, ...]) -> MomentsState:
        """Add a batch."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[MomentsState]:
        """Sum under each mask."""
        (y, f), valid = all_numbers_and_valid(args)
        states = []
        for mask in masks:
            a, b = selected(y, valid, mask), selected(f, valid, mask)
            products = (exact_product_sum(a, a), exact_product_sum(a, b), exact_product_sum(b, b))
            states.append(MomentsState(len(a), exact_sum(a), *products))
        return states

    def merge(self, left: MomentsState, right: MomentsState) -> MomentsState:
        """Add."""
        return MomentsState(
            left.n + right.n, left.y + right.y, left.yy + right.yy, left.yf + right.yf, left.ff + right.ff
        )

    def retract(self, state: MomentsState, gone: MomentsState) -> MomentsState:
        """Subtract."""
        return MomentsState(
            state.n - gone.n, state.y - gone.y, state.yy - gone.yy, state.yf - gone.yf, state.ff - gone.ff
        )

    def read(self, state: MomentsState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `r2` = 1 - sum((y - f)^2) / sum((y - mean y)^2), rounded once. Null below two rows and for constant y."""
        del name, params
        if state.n < 2:
            return Reading(None)
        errors = state.yy - state.yf - state.yf + state.ff
        # both sides times n: no division before the last step
        spread = ExactNumber(state.yy.m * state.n, state.yy.e) - ExactNumber(state.y.m**2, 2 * state.y.e)
        if spread.m <= 0:
            return Reading(None)
        top, top_unit = (spread - ExactNumber(errors.m * state.n, errors.e)).as_ratio()
        below, below_unit = spread.as_ratio()
        try:
            return Reading((top * below_unit) / (below * top_unit))
        except OverflowError:
            return Reading(None)

    def bytes_of(self, state: MomentsState) -> int:
        """Say about how many bytes of memory a state takes."""
        return _STATE_BYTES if state.n else 0

    def encode(self, state: MomentsState) -> list[Any]:
        """Give [version, n, then m and e of the sums of y, y*y, y*f, f*f]."""
        sums = (state.y, state.yy, state.yf, state.ff)
        return [self.state_version, state.n, *(item for number in sums for item in encode_exact(number))]

    def decode(self, data: Any) -> MomentsState:
        """Give the state back."""
        n, *sums = body(data, self.kind, self.state_version)
        return MomentsState(int(n), *(decode_exact(sums[i : i + 2]) for i in range(0, 8, 2)))

    def addends(self, args: tuple[Argument, ...], room: Room) -> Addends | None:
        """Give the count and the slices of all sums; None where a product would lose bits."""
        (y, f), valid = joined([arg.numbers for arg in args])
        used = room.used
        sums = [slice_exactly(y, room=room)]
        for left, right in ((y, y), (y, f), (f, f)):
            products = exact_products(left, right)
            sums.append(None if products is None else _slices_of(products, room))
        found = tuple(slices for slices in sums if slices is not None)
        if len(found) < len(sums):
            room.used = used
            return None
        return Addends((given(valid, len(y)),), found)

    def from_totals(self, counts: Sequence[int], sums: Sequence[ExactNumber]) -> MomentsState:
        """Give the state of totals."""
        return MomentsState(counts[0], *sums)


def _slices_of(parts: tuple[Doubles, Doubles], room: Room) -> Slices | None:
    """Give the slices of numbers that are the sum of two doubles each, one behind the other."""
    high, low = (slice_exactly(part, room=room) for part in parts)
    if high is None or low is None:
        return None
    return Slices(room, high.first, (*high.exponents, *low.exponents))
