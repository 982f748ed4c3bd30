"""aiokafka's fetcher, with whole fetches for source topics and a say in which partitions may be drained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from fqlstream.app.records import SourceRecords


class SourceFetcher(Fetcher):
    """Fetches as its base does, but hands over a source partition's records as (first position, `Fetch`).

    Lives in the consumer's thread. `fetchable` is set from outside, as a whole: the partitions that `take` may drain.
    A source partition in `begun` whose offset has left the log is an error, never a silent jump.
    """

    def __init__(self, client: Any, subscriptions: Any, source_topics: Collection[str], **options: Any) -> None:
        self._tap = _ResponseTap(client)
        super().__init__(self._tap, subscriptions, **options)
        self._source_topics = frozenset(source_topics)
        self.slice_bytes: int = self._max_partition_fetch_bytes
        self.fetchable: frozenset[tuple[str, int]] = frozenset()
        self.begun: set[TopicPartition] = set()

    def limit_partition_bytes(self, size: int) -> None:
        """Set how much of one partition the following requests ask for, in compressed bytes."""
        self._max_partition_fetch_bytes = size

    def wake(self) -> None:
        """Let `take` look again: `fetchable` has changed."""
        for waiter in list(self._fetch_waiters):
            self._notify(waiter)

    async def take(self, bytes_max: int, timeout_s: float) -> Mapping[TopicPartition, list[Any]]:
        """Give what was fetched of the fetchable partitions, waiting up to `timeout_s` for it.

        A source partition gives one fetch at most; no further partition is drained once `bytes_max` bytes are. Raises
        what the broker answered instead of records.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._closed:
            if self._subscriptions.reassignment_in_progress:
                await self._subscriptions.wait_for_assignment()
            drained = self._drain(bytes_max)
            remaining_s = deadline_s - time.monotonic()
            if drained or remaining_s <= 0:
                return drained
            waiter = self._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=remaining_s)
            if waiter.done():
                waiter.result()  # raises what ended the fetching, such as a missing permission
            else:
                waiter.cancel()
        return {}

    async def close(self) -> None:
        """End all requests. The base lets the cancellation of a request that is waiting for a retry end the caller."""
        self._closed = True
        tasks = [self._fetch_task, *self._pending_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.wake()

    def _drain(self, bytes_max: int) -> dict[TopicPartition, list[Any]]:
        drained: dict[TopicPartition, list[Any]] = {}
        bytes_count = 0
        for tp in list(self._records):
            if bytes_count >= bytes_max:
                break
            if tp not in self.fetchable:
                if not self._subscriptions.is_assigned(tp):
                    del self._records[tp]
                continue
            result = self._records[tp]
            if not isinstance(result, FetchResult):
                if drained:
                    break  # the error comes with the next call
                self._release(tp)
                result.check_raise()
            is_source = tp.topic in self._source_topics
            records = result.getall(1 if is_source else None)
            if not result.has_more():
                self._release(tp)
            if records:
                drained[tp] = records
                bytes_count += sum(fetch.bytes_count for _, fetch in records) if is_source else 0
        return drained

    def _release(self, tp: TopicPartition) -> None:
        del self._records[tp]
        self._notify(self._wait_consume_future)

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        woken = await super()._proc_fetch_request(assignment, node_id, request)
        # No await since the response was read: nobody has drained what it brought.
        blocks, self._tap.blocks = self._tap.blocks, {}
        for tp, block in blocks.items():
            result = self._records.get(tp)
            if tp.topic in self._source_topics and isinstance(result, FetchResult):
                self._unpack_whole(tp, result, block)
        return self._refuse_lost_offsets(assignment, request) or woken

    def _unpack_whole(self, tp: TopicPartition, result: FetchResult, block: bytes) -> None:
        records = result._partition_records
        if type(records) is not PartitionRecords:
            return
        result._partition_records = SourceRecords(
            tp,
            block,
            records._aborted_transactions,
            records.next_fetch_offset,
            isolation_level=self._isolation_level,
            slice_bytes=self.slice_bytes,
        )

    def _refuse_lost_offsets(self, assignment: Any, request: Any) -> bool:
        """Turn a reset of a source partition's position, which would skip records, into an error."""
        refused = False
        for topic, partitions in request.topics if assignment.active else ():
            for partition, offset, _ in partitions:
                tp = TopicPartition(topic, partition)
                state = assignment.state_value(tp)
                if tp in self.begun and state.awaiting_reset and tp not in self._records:
                    state.seek(offset)
                    self._set_error(tp, OffsetOutOfRangeError({tp: offset}))
                    refused = True
        return refused


class _ResponseTap:
    """The Kafka client; keeps the record blocks of the fetch response that it last handed over."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.blocks: dict[TopicPartition, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        response = await self._client.send(node_id, request, **options)
        if isinstance(request, FetchRequest):
            self.blocks = {
                TopicPartition(topic, partition): rest[-1]
                for topic, partitions in response.topics
                for partition, *rest in partitions
            }
        return response
