"""Kafka's murmur2 partitioner over a whole column of keys: rows of a batch go where a record of that key would go."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint32]

_SEED: Final = np.uint32(0x9747B28C)
_M: Final = np.uint32(0x5BD1E995)


def partitions_of(keys: pa.Array, partitions_count: int) -> npt.NDArray[np.int64]:
    """Give the partition of every key (texts without nulls; their UTF-8 is what is hashed)."""
    positive = murmur2(keys) & np.uint32(0x7FFFFFFF)
    return (positive % np.uint32(partitions_count)).astype(np.int64)


def murmur2(keys: pa.Array) -> Words:
    """Give Kafka's 32-bit murmur2 of every key, keys of one length at a time."""
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
    data = keys.buffers()[2]
    letters = np.frombuffer(data if data is not None else b"", np.uint8)
    lengths = np.diff(offsets)
    hashes = np.empty(len(keys), np.uint32)
    for length in np.unique(lengths).tolist():
        at = np.flatnonzero(lengths == length)
        if len(at) == len(keys):
            rows = letters[offsets[0] : offsets[-1]].reshape(len(at), length)
        else:
            rows = letters[offsets[at][:, None] + np.arange(length)]
        hashes[at] = _same_length(np.ascontiguousarray(rows.T), len(at))
    return hashes


def _same_length(letters: npt.NDArray[np.uint8], count: int) -> Words:
    """Hash keys of one length; `letters[i]` holds the i-th byte of every key."""
    length = len(letters)
    whole = length // 4 * 4
    hashes = np.full(count, _SEED ^ np.uint32(length), np.uint32)
    for place in range(0, whole, 4):
        word = _little_endian(letters[place : place + 4])
        word *= _M
        word ^= word >> np.uint32(24)
        word *= _M
        hashes *= _M
        hashes ^= word
    if length > whole:
        hashes ^= _little_endian(letters[whole:])
        hashes *= _M
    hashes ^= hashes >> np.uint32(13)
    hashes *= _M
    hashes ^= hashes >> np.uint32(15)
    return hashes


def _little_endian(letters: npt.NDArray[np.uint8]) -> Words:
    word: Words = letters[0].astype(np.uint32)
    for place in range(1, len(letters)):
        word |= letters[place].astype(np.uint32) << np.uint32(8 * place)
    return word
