"""Counts of rows. A state is an integer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.exact import ExactNumber, Room
from fqlstream.aggregates.inputs import Argument
from fqlstream.aggregates.masks import all_true, booleans, flags, valid_mask
from fqlstream.aggregates.protocol import Addends, Masks, Reading


@dataclass(frozen=True, slots=True)
class Count:
    """Rows whose argument counts: true ones (`count_true`), or those that are not null (`count`; '' counts as null)."""

    kind: str
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> int:
        """Give 0."""
        return 0

    def update(self, state: int, args: tuple[pa.Array, ...]) -> int:
        """Add a batch."""
        return state + int(flags(self._counted(args[0])).sum())

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[int]:
        """Count under each mask."""
        counted = flags(self._counted(args[0]))
        return [int(n) for n in np.count_nonzero(masks & counted, axis=1)]

    def merge(self, left: int, right: int) -> int:
        """Add."""
        return left + right

    def merge_many(self, states: Sequence[int]) -> int:
        """Add all."""
        return sum(states)

    def retract(self, state: int, gone: int) -> int:
        """Subtract."""
        return state - gone

    def read(self, state: int, name: str, params: Mapping[str, float]) -> Reading:
        """Read `value`."""
        del name, params
        return Reading(float(state))

    def encode(self, state: int) -> list[Any]:
        """Give [version, n]."""
        return [self.state_version, state]

    def decode(self, data: Any) -> int:
        """Give n."""
        return int(body(data, self.kind, self.state_version)[0])

    def addends(self, args: tuple[Argument, ...], room: Room) -> Addends:
        """Give the one Boolean that is counted."""
        del room
        return Addends((self._counted(args[0].array),))

    def from_totals(self, counts: Sequence[int], sums: Sequence[ExactNumber]) -> int:
        """Give n."""
        del sums
        return counts[0]

    def _counted(self, array: pa.Array) -> pa.BooleanArray:
        return array if self.kind == "count_true" else is_given(array)


def is_given(array: pa.Array) -> pa.BooleanArray:
    """Tell where a value is neither null nor the empty text."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type):
        ends = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
        return booleans(ends[1:] > ends[:-1], valid_mask(array))
    if pa.types.is_large_string(array.type):
        return pc.greater(pc.binary_length(array), 0)
    if pa.types.is_floating(array.type):
        return pc.is_finite(array)
    return pc.is_valid(array) if array.null_count else all_true(len(array))
