"""Read a record batch (format v2) whose header names are not UTF-8: aiokafka's reader refuses the whole batch."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import decode_varint

# Base offset, length | leader epoch, magic, checksum | attributes, last offset delta | first and largest timestamp |
# producer id, epoch, first sequence | number of records
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH_AT: Final = 8
_BEFORE_LENGTH_ENDS: Final = 12
_CODEC_MASK: Final = 0x07
_LOG_APPEND_TIME_MASK: Final = 0x08
_DECODERS: Final = {
    0: lambda data: data,
    1: gzip_decode,
    2: snappy_decode,
    3: lz4_decode,
    4: zstd_decode,
}


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record; bytes of a header's name that are not UTF-8 are shown as U+FFFD."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def raw_batches(block: bytes) -> list[bytes]:
    """Cut a fetched block into its record batches; a cut-off last one is left out."""
    batches = []
    at = 0
    while at + _BEFORE_LENGTH_ENDS <= len(block):
        end = at + _BEFORE_LENGTH_ENDS + int(struct.unpack_from(">i", block, at + _LENGTH_AT)[0])
        if end > len(block):
            break
        batches.append(bytes(block[at:end]))
        at = end
    return batches


def read_leniently(batch: bytes) -> list[RawRecord]:
    """Read all records of one batch. Raises CorruptRecordException where lengths and contents disagree."""
    header = _HEADER.unpack_from(batch)
    base_offset, attributes, first_at_ms, largest_at_ms, count = header[0], header[5], header[7], header[8], header[12]
    data = bytes(_DECODERS[attributes & _CODEC_MASK](batch[_HEADER.size :]))
    records = []
    at = 0
    for _ in range(count):
        size, at = decode_varint(data, at)
        end = at + size
        delta_ms, at = decode_varint(data, at + 1)
        offset_delta, at = decode_varint(data, at)
        key, at = _sized(data, at)
        value, at = _sized(data, at)
        headers, at = _headers(data, at)
        if at != end:
            raise CorruptRecordException(f"record at offset {base_offset + offset_delta} does not fill its length")
        at_ms = largest_at_ms if attributes & _LOG_APPEND_TIME_MASK else first_at_ms + delta_ms
        records.append(RawRecord(base_offset + offset_delta, at_ms, key, value, headers))
    return records


def _headers(data: bytes, at: int) -> tuple[list[tuple[str, bytes | None]], int]:
    count, at = decode_varint(data, at)
    headers = []
    for _ in range(count):
        name, at = _sized(data, at)
        value, at = _sized(data, at)
        headers.append(((name or b"").decode("utf-8", errors="replace"), value))
    return headers, at


def _sized(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if size < 0:
        return None, at
    return data[at : at + size], at + size
