"""Smallest and largest number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.inputs import Doubles, everything, numbers_and_valid, selected
from fqlstream.aggregates.protocol import Masks, Reading


@dataclass(frozen=True, slots=True)
class ExtremeState:
    """The extreme; None of nothing."""

    value: float | None = None


_EMPTY = ExtremeState()


@dataclass(frozen=True, slots=True)
class Extreme:
    """The smallest (`min`) or largest (`max`) number."""

    kind: Literal["min", "max"]
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> ExtremeState:
        """Give the extreme of nothing."""
        return _EMPTY

    def update(self, state: ExtremeState, args: tuple[pa.Array, ...]) -> ExtremeState:
        """Look at a batch."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[ExtremeState]:
        """Give the extreme under each mask."""
        numbers, valid = numbers_and_valid(args[0])
        return [self.of_numbers(selected(numbers, valid, mask)) for mask in masks]

    def of_numbers(self, numbers: Doubles) -> ExtremeState:
        """Give the extreme of finite numbers."""
        if not len(numbers):
            return _EMPTY
        # + 0.0 turns -0.0 into 0.0: equal numbers, one state
        return ExtremeState(float(numbers.min() if self.kind == "min" else numbers.max()) + 0.0)

    def merge(self, left: ExtremeState, right: ExtremeState) -> ExtremeState:
        """Give the more extreme one."""
        if left.value is None or right.value is None:
            return right if left.value is None else left
        return left if self._is_beyond(left.value, right.value) else right

    def retract(self, state: ExtremeState, gone: ExtremeState) -> ExtremeState | None:
        """Give the same state where what goes was not the extreme; None where it was: what stands behind it is unknown."""
        if gone.value is None:
            return state
        if state.value is None or not self._is_beyond(state.value, gone.value):
            return None
        return state

    def read(self, state: ExtremeState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `value`; null of nothing."""
        del name, params
        return Reading(state.value)

    def encode(self, state: ExtremeState) -> list[Any]:
        """Give [version, number or nil]."""
        return [self.state_version, state.value]

    def decode(self, data: Any) -> ExtremeState:
        """Give the state back."""
        value = body(data, self.kind, self.state_version)[0]
        return _EMPTY if value is None else ExtremeState(float(value))

    def _is_beyond(self, value: float, other: float) -> bool:
        return value < other if self.kind == "min" else value > other
