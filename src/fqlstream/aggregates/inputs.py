"""Arguments of aggregates as NumPy sees them: which rows count, and their numbers."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.masks import Mask, valid_mask

Doubles = npt.NDArray[np.float64]
Values = TypeVar("Values", npt.NDArray[np.float64], npt.NDArray[np.int64])


def numbers_and_valid(array: pa.Array) -> tuple[Doubles, Mask | None]:
    """Give a Number array's values and where they count (None: everywhere); 0 stands where they do not."""
    if not pa.types.is_float64(array.type):
        array = array.cast(pa.float64(), safe=False)
    numbers = np.frombuffer(array.buffers()[1], np.float64)[array.offset : array.offset + len(array)]
    valid = valid_mask(array)
    if valid is not None:
        numbers = np.where(valid, numbers, 0.0)
    if len(numbers) and not math.isfinite(max(float(numbers.max()), -float(numbers.min()))):
        finite = np.isfinite(numbers)
        numbers = np.where(finite, numbers, 0.0)
        valid = finite if valid is None else valid & finite
    return numbers, valid


def all_numbers_and_valid(args: tuple[pa.Array, ...]) -> tuple[tuple[Doubles, ...], Mask | None]:
    """Give several Number arrays, and where all of them count; 0 stands where one does not."""
    pairs = [numbers_and_valid(array) for array in args]
    valid = both(*(valid for _, valid in pairs))
    if valid is None:
        return tuple(numbers for numbers, _ in pairs), None
    return tuple(np.where(valid, numbers, 0.0) for numbers, _ in pairs), valid


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
