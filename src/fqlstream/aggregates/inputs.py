"""Arguments of aggregates as NumPy sees them: which rows count, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.masks import Mask, valid_mask

Doubles = npt.NDArray[np.float64]
Values = TypeVar("Values", npt.NDArray[np.float64], npt.NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Numbers:
    """A Number array as NumPy sees it: 0 stands where a row does not count (`valid` None: all do); `top` is the largest size."""

    values: Doubles
    valid: Mask | None
    top: float


class Argument:
    """An argument of several aggregates at once: what they need of it is made once."""

    __slots__ = ("_numbers", "array")

    def __init__(self, array: pa.Array) -> None:
        self.array = array
        self._numbers: Numbers | None = None

    @property
    def numbers(self) -> Numbers:
        """The array's numbers; it must be of Numbers."""
        if self._numbers is None:
            self._numbers = numbers_of(self.array)
        return self._numbers


def numbers_of(array: pa.Array) -> Numbers:
    """Give a Number array's numbers; null and what is not finite do not count."""
    if not pa.types.is_float64(array.type):
        array = array.cast(pa.float64(), safe=False)
    numbers = np.frombuffer(array.buffers()[1], np.float64)[array.offset : array.offset + len(array)]
    valid = valid_mask(array)
    if valid is not None:
        numbers = np.where(valid, numbers, 0.0)
    top = largest(numbers)
    if not math.isfinite(top):
        finite = np.isfinite(numbers)
        numbers = np.where(finite, numbers, 0.0)
        valid = finite if valid is None else valid & finite
        top = largest(numbers)
    return Numbers(numbers, valid, top)


def largest(numbers: Doubles) -> float:
    """Give the largest size; NaN where there is one, 0 of nothing."""
    return max(float(numbers.max()), -float(numbers.min())) if len(numbers) else 0.0


def numbers_and_valid(array: pa.Array) -> tuple[Doubles, Mask | None]:
    """Give a Number array's values and where they count (None: everywhere); 0 stands where they do not."""
    found = numbers_of(array)
    return found.values, found.valid


def all_numbers_and_valid(args: tuple[pa.Array, ...]) -> tuple[tuple[Doubles, ...], Mask | None]:
    """Give several Number arrays, and where all of them count; 0 stands where one does not."""
    return joined([numbers_of(array) for array in args])


def joined(columns: Sequence[Numbers]) -> tuple[tuple[Doubles, ...], Mask | None]:
    """Give several columns' values, and where all of them count; 0 stands where one does not."""
    valid = both(*(column.valid for column in columns))
    if valid is None:
        return tuple(column.values for column in columns), None
    return tuple(np.where(valid, column.values, 0.0) for column in columns), valid


def selected(values: Values, valid: Mask | None, mask: Mask) -> Values:
    """Give what both masks let in; a third of the time that indexing by a mask takes."""
    return np.compress(mask if valid is None else mask & valid, values)


def both(*masks: Mask | None) -> Mask | None:
    """Give where all masks hold; None means everywhere."""
    result: Mask | None = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else result & mask
    return result


def everything(rows: int) -> Mask:
    """Give the one mask that lets every row in, as `reduce` takes it."""
    return np.ones((1, rows), dtype=np.bool_)
