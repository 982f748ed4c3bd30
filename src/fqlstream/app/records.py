"""One fetched block of a source partition, unpacked a whole Kafka record batch at a time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

from fqlstream.app.raw_batch import raw_batches, read_leniently
from fqlstream.stream.batches import Fetch, Headers


class SourceRecords(PartitionRecords):
    """Iterates over (first position, fetch) in one fetched block, where its base iterates over single records.

    A block is one `Fetch`, cut at a record batch's border once it holds `slice_bytes` uncompressed bytes, so that a
    block of well compressed batches is never in memory as a whole. `next_fetch_offset` is at each step the yielded
    fetch's `next_offset`. Control records, aborted transactions and offsets that compaction removed yield no record
    but move `next_offset`: a block of nothing else is an empty fetch. Raises CorruptRecordException at the first batch
    whose checksum is wrong, after yielding what came before it.
    """

    next_fetch_offset: int

    def __init__(
        self,
        tp: Any,
        block: bytes,
        aborted_transactions: Any,
        fetch_offset: int,
        *,
        isolation_level: int,
        slice_bytes: int,
    ) -> None:
        super().__init__(
            tp, MemoryRecords(block), aborted_transactions, fetch_offset, None, None, True, isolation_level
        )
        self._block = block
        self._slice_bytes = slice_bytes

    def _unpack_records(self) -> Iterator[tuple[int, Fetch]]:
        columns = _Columns()
        start = self.next_fetch_offset
        index = 0
        while self._records.has_next():
            batch = self._records.next_batch()
            if not batch.validate_crc():
                if self.next_fetch_offset > start:
                    yield start, self._fetch(columns)
                raise CorruptRecordException(
                    f"wrong checksum of a record batch: {self._tp.topic}[{self._tp.partition}]@{self.next_fetch_offset}"
                )
            # A control batch may end an aborted transaction, so it is looked at before it is skipped.
            if not self._is_aborted(batch) and not batch.is_control_batch:
                self._append(columns, batch, index)
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)
            index += 1
            if columns.bytes_count >= self._slice_bytes:
                yield start, self._fetch(columns)
                columns, start = _Columns(), self.next_fetch_offset
        if self.next_fetch_offset > start:
            yield start, self._fetch(columns)

    def _is_aborted(self, batch: Any) -> bool:
        if self._isolation_level != READ_COMMITTED or batch.producer_id is None:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and self._contains_abort_marker(batch):
            self._aborted_producers.discard(batch.producer_id)
        return bool(batch.is_transactional and batch.producer_id in self._aborted_producers)

    def _append(self, columns: _Columns, batch: Any, index: int) -> None:
        # Thousands of records are born and die here, and none is in a cycle. The collector would walk the whole heap
        # every few batches, in vain: measured 0.9 us a record instead of 0.15.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            self._read(columns, batch, index)
        finally:
            if was_enabled:
                gc.enable()

    def _read(self, columns: _Columns, batch: Any, index: int) -> None:
        try:
            records = list(batch)
        except UnicodeDecodeError:
            # A header's name is not UTF-8. Any client can write that, and the worker must outlive it.
            records = read_leniently(raw_batches(self._block)[index])
        # The first batch of a block is whole: the broker does not cut it at the asked offset.
        if records and records[0].offset < self.next_fetch_offset:
            records = [record for record in records if record.offset >= self.next_fetch_offset]
        if records:
            columns.append(records)

    def _fetch(self, columns: _Columns) -> Fetch:
        return Fetch(
            topic=self._tp.topic,
            partition=self._tp.partition,
            offsets=_joined(columns.offsets),
            record_at_ms=_joined(columns.record_at_ms),
            keys=columns.keys,
            values=columns.values,
            headers=columns.headers,
            next_offset=self.next_fetch_offset,
            bytes_count=columns.bytes_count,
        )


class _Columns:
    """What a fetch will hold, while its batches are read."""

    __slots__ = ("bytes_count", "headers", "keys", "offsets", "record_at_ms", "values")

    def __init__(self) -> None:
        self.offsets: list[np.ndarray] = []
        self.record_at_ms: list[np.ndarray] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.headers: dict[int, Headers] = {}
        self.bytes_count = 0

    def append(self, records: list[Any]) -> None:
        keys = [record.key for record in records]
        values = [record.value for record in records]
        headers = [record.headers for record in records]
        if any(headers):
            first = len(self.values)
            self.headers.update(
                (first + index, tuple((name, value or b"") for name, value in pairs))
                for index, pairs in enumerate(headers)
                if pairs
            )
        self.offsets.append(_offsets(records))
        self.record_at_ms.append(np.array([record.timestamp for record in records], dtype=np.int64))
        self.keys += keys
        self.values += values
        self.bytes_count += _bytes(values) + _bytes(keys)


def _offsets(records: list[Any]) -> np.ndarray:
    first, last = records[0].offset, records[-1].offset
    # Offsets in a batch only grow, so as many of them as the range holds are the range: nothing was compacted away.
    if last - first + 1 == len(records):
        return np.arange(first, last + 1, dtype=np.int64)
    return np.fromiter((record.offset for record in records), dtype=np.int64, count=len(records))


def _bytes(texts: list[bytes | None]) -> int:
    try:
        return sum(map(len, texts))  # type: ignore[arg-type]  # None is the exception below: tombstones are rare
    except TypeError:
        return sum(len(text) for text in texts if text is not None)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
