"""128-bit fingerprints of event ids, a whole column at a time.

Two independent 64-bit multiply-and-fold hashes over the UTF-8 bytes. Fixed for ever, because nothing else would make a
replay decide the same; not cryptographic: who forges a collision only hides an event of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_MULTIPLIERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_SEEDS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))
_FINAL = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """One fingerprint per row: two uint64 arrays of one length."""

    high: np.ndarray
    low: np.ndarray

    def __len__(self) -> int:
        return len(self.high)

    def take(self, index: np.ndarray | slice) -> Fingerprints:
        """Give the fingerprints at an index, mask or slice."""
        return Fingerprints(self.high[index], self.low[index])


EMPTY = Fingerprints(np.empty(0, np.uint64), np.empty(0, np.uint64))


def concat(parts: list[Fingerprints]) -> Fingerprints:
    """Join fingerprints end to end."""
    if not parts:
        return EMPTY
    return Fingerprints(np.concatenate([p.high for p in parts]), np.concatenate([p.low for p in parts]))


def fingerprint(ids: pa.ChunkedArray | pa.Array, model: str) -> Fingerprints:
    """Fingerprint a string column without nulls; the model's name is part of each."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if isinstance(array, pa.ChunkedArray):  # an empty chunked array stays chunked in some versions
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.string())
    array = array.cast(pa.large_string())
    count = len(array)
    salt = np.uint64(_salt(model))
    offsets = np.frombuffer(array.buffers()[1], np.int64, count + 1, array.offset * 8)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    if count and (lengths == lengths[0]).all():
        return _fixed(data[offsets[0] : offsets[-1]].reshape(count, int(lengths[0])), salt)
    high = np.empty(count, np.uint64)
    low = np.empty(count, np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        places = offsets[rows][:, None] + np.arange(length)
        part = _fixed(data[places], salt)
        high[rows], low[rows] = part.high, part.low
    return Fingerprints(high, low)


def _fixed(matrix: np.ndarray, salt: np.uint64) -> Fingerprints:
    """Fingerprint rows of equally many bytes."""
    count, length = matrix.shape
    words_count = -(-length // 8)
    padded = np.zeros((count, words_count * 8), np.uint8)
    padded[:, :length] = matrix
    words = np.ascontiguousarray(padded.view("<u8").T)
    out = []
    with np.errstate(over="ignore"):
        for multiplier, seed in zip(_MULTIPLIERS, _SEEDS, strict=True):
            state = np.full(count, seed ^ salt, np.uint64)
            for word in words:
                state ^= word
                state *= multiplier
                state ^= state >> _HALF
            state ^= np.uint64(length)  # behind the words: beside the first one, "b" and "a\0" would be one id
            state *= _FINAL
            state ^= state >> _HALF
            out.append(state)
    return Fingerprints(out[0], out[1])


def _salt(model: str) -> int:
    """Fold a model's name into 64 bits (FNV-1a)."""
    value = 0xCBF29CE484222325
    for byte in model.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
