"""Which rows count, as bits: segments and Booleans are counted 64 rows at a time."""

from __future__ import annotations

from collections.abc import Sequence

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


def _pack_into(target: npt.NDArray[np.uint8], array: pa.BooleanArray, rows: int) -> None:
    size = -(-rows // 8)
    if array.offset % 8:
        values = np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)
        target[:size] = np.packbits(values, bitorder="little")
        return
    validity, values = array.buffers()
    if not size:
        return
    start = array.offset // 8
    target[:size] = np.frombuffer(values, np.uint8)[start : start + size]
    if validity is not None:
        target[:size] &= np.frombuffer(validity, np.uint8)[start : start + size]
    if rows % 8:
        target[size - 1] &= (1 << rows % 8) - 1
