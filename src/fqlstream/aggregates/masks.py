"""Which rows count, as bits: Arrow keeps Booleans so, and segments are counted 64 rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bits = npt.NDArray[np.uint64]  # rows of bits, 64 per word, least significant first
Mask = npt.NDArray[np.bool_]

#: Words of one pass of counting: a few megabytes, so that it stays in the processor's cache.
_WORDS_MAX = 2**18


def pack(arrays: Sequence[pa.BooleanArray], rows: int) -> Bits:
    """Give Boolean arrays as rows of bits; null is false, and so are the bits behind the last row."""
    words = -(-rows // 64)
    packed = np.zeros((len(arrays), words * 8), dtype=np.uint8)
    for place, array in enumerate(arrays):
        _pack_into(packed[place], array, rows)
    return packed.view(np.uint64)


def pack_mask(mask: Mask) -> Bits:
    """Give one NumPy mask, or a matrix of them, as rows of bits."""
    matrix = np.atleast_2d(mask)
    packed = np.zeros((len(matrix), -(-matrix.shape[1] // 64) * 8), dtype=np.uint8)
    tight = np.packbits(matrix, axis=1, bitorder="little")
    packed[:, : tight.shape[1]] = tight
    return packed.view(np.uint64)


def unpack(bits: Bits, rows: int) -> Mask:
    """Give rows of bits as a matrix of Booleans."""
    return np.unpackbits(bits.view(np.uint8), axis=1, count=rows, bitorder="little").view(np.bool_)


def count_common(left: Bits, right: Bits) -> npt.NDArray[np.int64]:
    """Count the bits that each row of the left has in common with each row of the right: shape (left, right)."""
    counts = np.empty((len(left), len(right)), dtype=np.int64)
    at_once = max(1, _WORDS_MAX // max(1, right.size))
    for start in range(0, len(left), at_once):
        common = left[start : start + at_once, None, :] & right[None, :, :]
        counts[start : start + at_once] = np.bitwise_count(common).sum(axis=2, dtype=np.int64)
    return counts


def flags(array: pa.BooleanArray) -> Mask:
    """Give a Boolean array as NumPy Booleans, null as false."""
    return np.asarray(unpack(pack([array], len(array)), len(array))[0])


def valid_mask(array: pa.Array) -> Mask | None:
    """Give where an array is not null; None where that is everywhere."""
    if not array.null_count:
        return None
    bitmap = np.frombuffer(array.buffers()[0], np.uint8)
    first = array.offset // 8
    bits = np.unpackbits(bitmap[first:], count=array.offset % 8 + len(array), bitorder="little")
    return bits[array.offset % 8 :].view(np.bool_)


def booleans(values: Mask, valid: Mask | None = None) -> pa.BooleanArray:
    """Give Arrow's Booleans of a mask; null where `valid` does not hold."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.BooleanArray.from_buffers(pa.bool_(), len(values), [validity, bits])


@lru_cache(maxsize=64)
def all_true(rows: int) -> pa.BooleanArray:
    """Give a Boolean array of nothing but true; the same object for the same length."""
    return pa.BooleanArray.from_buffers(pa.bool_(), rows, [None, pa.py_buffer(b"\xff" * -(-rows // 8))])


def _pack_into(target: npt.NDArray[np.uint8], array: pa.BooleanArray, rows: int) -> None:
    size = -(-rows // 8)
    if not size:
        return
    validity, values = array.buffers()
    target[:size] = _bits_from(values, array.offset, rows)
    if validity is not None:
        target[:size] &= _bits_from(validity, array.offset, rows)
    if rows % 8:
        target[size - 1] &= (1 << rows % 8) - 1


def _bits_from(buffer: pa.Buffer, offset: int, rows: int) -> npt.NDArray[np.uint8]:
    """Give a bitmap's bytes from an offset on, which may lie inside a byte."""
    stored = np.frombuffer(buffer, np.uint8)[offset // 8 :]
    inside = offset % 8
    if not inside:
        return stored[: -(-rows // 8)]
    bits = np.unpackbits(stored, count=inside + rows, bitorder="little")
    return np.packbits(bits[inside:], bitorder="little")
