"""Ordered values as integer keys that can be coarsened: exact while few are distinct, then bins that still merge.

Level 0 keeps every double apart. Each further level joins neighbouring bins of the level below, so a state that takes the
finest level at which its keys are few enough depends on its rows alone, not on how they were cut or merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Keys = npt.NDArray[np.int64]

_SIGN = np.int64(2**63 - 1)
#: The unit grid's finest level has 2^52 bins between 0 and 1.
_UNIT_BITS = 52
_LEVEL_MAX = 63


@dataclass(frozen=True, slots=True)
class Grid:
    """How keys are coarsened beyond level 0.

    `unit`: bins of equal width between 0 and 1, one below and one above all of them, for scores. `relative`: bins of
    equal width within each power of two, for numbers of any size.
    """

    kind: Literal["unit", "relative"]

    def coarsened(self, keys: Keys, level: int, to: int) -> Keys:
        """Give keys of one level at a coarser one; order is kept, neighbours may fall together."""
        if to == level:
            return keys
        if self.kind == "relative" or level > 0:
            return keys >> (to - level)
        return _unit_keys(values_of(keys)) >> (to - 1)

    def level_for(self, keys: Keys, level: int, keys_max: int) -> int:
        """Give the finest level from `level` on at which rising keys are at most so many distinct ones."""
        if _distinct(keys) <= keys_max:
            return level
        low, high = level, _LEVEL_MAX  # too many at low, few enough at high
        base = max(level, 1)
        fine = self.coarsened(keys, level, base)
        while high - low > 1:
            middle = (low + high) // 2
            if _distinct(fine >> (middle - base)) <= keys_max:
                high = middle
            else:
                low = middle
        return high

    def edges(self, keys: Keys, level: int) -> tuple[Doubles, Doubles]:
        """Give the smallest and the largest number that each key stands for; infinite in the outer bins."""
        if level == 0:
            values = values_of(keys)
            return values, values
        if self.kind == "relative":
            return values_of(keys << level), values_of(((keys + 1) << level) - 1)
        # where a unit bin is wider than 1 it is the only one
        bits = _UNIT_BITS - (level - 1)
        low, high = np.ldexp(keys.astype(np.float64), -bits), np.ldexp(keys + 1.0, -bits)
        return np.where(keys < 0, -np.inf, low), np.where((keys < 0), 0.0, np.where(high > 1.0, np.inf, high))


def keys_of(values: Doubles) -> Keys:
    """Give integers in the order of the doubles, one for each; -0.0 counts as 0.0."""
    bits = (values + 0.0).view(np.int64)
    return bits ^ ((bits >> 63) & _SIGN)


def values_of(keys: Keys) -> Doubles:
    """Give the doubles of `keys_of`."""
    return (keys ^ ((keys >> 63) & _SIGN)).view(np.float64)


def _unit_keys(values: Doubles) -> Keys:
    """Give the bin of each value on the unit grid's finest level: -1 below 0, 2^52 above 1."""
    inside = np.minimum(np.floor(np.ldexp(np.clip(values, 0.0, 1.0), _UNIT_BITS)), 2.0**_UNIT_BITS - 1.0)
    keys = inside.astype(np.int64)
    keys[values < 0.0] = -1
    keys[values > 1.0] = 2**_UNIT_BITS
    return keys


def _distinct(keys: Keys) -> int:
    return int(np.count_nonzero(keys[1:] != keys[:-1])) + 1 if len(keys) else 0
