"""Record batches as a broker would store them, built with aiokafka's own writer and edited byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_CRC_AT, _ATTRIBUTES_AT, _LAST_DELTA_AT, _LARGEST_AT = 17, 21, 23, 35
_LOG_APPEND_TIME, _CONTROL = 0x08, 0x20

Header = tuple[str, bytes | None]


@dataclass(frozen=True)
class Row:
    """A record to be written; `delta` is its offset within the batch."""

    delta: int
    at_ms: int = 1_700_000_000_000
    key: bytes | None = None
    value: bytes | None = b"v"
    headers: tuple[Header, ...] = ()


def batch(
    base: int,
    rows: Sequence[Row],
    *,
    last_delta: int | None = None,
    codec: str = "none",
    producer: int = -1,
    transactional: bool = False,
    log_append_at_ms: int | None = None,
) -> bytes:
    """Write a batch whose first offset is `base`; `last_delta` beyond the last row: compaction removed what followed."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[codec],
        is_transactional=int(transactional),
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=2**30,
    )
    for row in rows:
        assert builder.append(row.delta, row.at_ms, row.key, row.value, list(row.headers)) is not None
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    if last_delta is not None:
        struct.pack_into(">i", data, _LAST_DELTA_AT, last_delta)
    if log_append_at_ms is not None:
        _set_attributes(data, _LOG_APPEND_TIME)
        struct.pack_into(">q", data, _LARGEST_AT, log_append_at_ms)
    return sealed(data)


def marker(base: int, *, producer: int, abort: bool) -> bytes:
    """Write the control batch that ends a transaction."""
    key = struct.pack(">hh", 0, 0 if abort else 1)
    data = bytearray(batch(base, [Row(0, key=key, value=b"\0" * 6)], producer=producer, transactional=True))
    _set_attributes(data, _CONTROL)
    return sealed(data)


def sealed(data: bytes | bytearray) -> bytes:
    """Put the right checksum into an edited batch."""
    edited = bytearray(data)
    struct.pack_into(">I", edited, _CRC_AT, calc_crc32c(bytes(edited[_ATTRIBUTES_AT:])))
    return bytes(edited)


def _set_attributes(data: bytearray, bits: int) -> None:
    struct.pack_into(">h", data, _ATTRIBUTES_AT, struct.unpack_from(">h", data, _ATTRIBUTES_AT)[0] | bits)
