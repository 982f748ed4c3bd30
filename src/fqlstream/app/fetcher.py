"""aiokafka's fetcher, with whole fetches for source topics and a say in which partitions may be drained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from fqlstream.app.records import SourceRecords

#: Beside aiokafka's own two: those of fetches and of the group's coordination.
_PROMPT_CONNECTION: Final = 2
#: How long a request without an answer stands: the first record ends it.
_PROMPT_WAIT_MS: Final = 500


class SourceFetcher(Fetcher):
    """Fetches as its base does, but hands over a source partition's records as (first position, `Fetch`).

    Lives in the consumer's thread. `fetchable` is set from outside, as a whole: the partitions that `take` may drain.
    A source partition in `begun` whose offset has left the log is an error, never a silent jump.

    A broker gathers an answer until it is worth sending, and answers the requests of one connection one after the other. Records
    of `prompt_topics`, for which somebody waits, are therefore asked for apart, on a connection of their own, and come at once.
    """

    def __init__(
        self,
        client: Any,
        subscriptions: Any,
        source_topics: Collection[str],
        *,
        prompt_topics: Collection[str] = (),
        is_prompt: bool = False,
        **options: Any,
    ) -> None:
        self._prompt: SourceFetcher | None = None
        if prompt_topics and not is_prompt:
            self._prompt = SourceFetcher(
                client, subscriptions, source_topics, prompt_topics=prompt_topics, is_prompt=True,
                **{**options, "fetch_min_bytes": 1, "fetch_max_wait_ms": _PROMPT_WAIT_MS},
            )  # fmt: skip
        self._tap = _ResponseTap(client, _PROMPT_CONNECTION if is_prompt else ConnectionGroup.DEFAULT)
        super().__init__(self._tap, subscriptions, **options)
        self._source_topics = frozenset(source_topics)
        self._prompt_topics = frozenset(prompt_topics)
        self._is_prompt = is_prompt
        self.slice_bytes: int = self._max_partition_fetch_bytes
        self.fetchable: frozenset[tuple[str, int]] = frozenset()
        self.begun: set[TopicPartition] = set()
        if self._prompt is not None:  # whoever waits, waits for both
            self._prompt._fetch_waiters = self._fetch_waiters
            self._prompt.begun = self.begun

    def limit_partition_bytes(self, size: int) -> None:
        """Set how much of one partition the following requests ask for, in compressed bytes."""
        for fetcher in self._both():
            fetcher._max_partition_fetch_bytes = size

    def seek_to(self, tp: TopicPartition, offset: int) -> None:
        """Go on with a partition from an offset; what was fetched of it is dropped where it is."""
        if self._prompt is not None and tp.topic in self._prompt_topics:
            self._prompt.seek_to(tp, offset)
        else:
            super().seek_to(tp, offset)

    def _both(self) -> list[SourceFetcher]:
        return [self] if self._prompt is None else [self._prompt, self]

    def _get_actions_per_node(self, assignment: Any) -> Any:
        mine = [tp for tp in assignment.tps if (tp.topic in self._prompt_topics) is self._is_prompt]
        return super()._get_actions_per_node(_Part(mine, assignment.state_value))

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
        if self._prompt is not None:
            await self._prompt.close()
        self._closed = True
        tasks = [self._fetch_task, *self._pending_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.wake()

    def _drain(self, bytes_max: int) -> dict[TopicPartition, list[Any]]:
        drained: dict[TopicPartition, list[Any]] = {}
        bytes_count = 0
        for fetcher, tp in [(one, tp) for one in self._both() for tp in one._records]:
            if bytes_count >= bytes_max:
                break
            if tp not in self.fetchable:
                if not self._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            result = fetcher._records[tp]
            if not isinstance(result, FetchResult):
                if drained:
                    break  # the error comes with the next call
                fetcher._release(tp)
                result.check_raise()
            is_source = tp.topic in self._source_topics
            records = result.getall(1 if is_source else None)
            if not result.has_more():
                fetcher._release(tp)
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


@dataclass(frozen=True, slots=True)
class _Part:
    """Some partitions of an assignment, as far as the base looks at it when it makes requests."""

    tps: Collection[TopicPartition]
    state_value: Callable[[TopicPartition], Any]


class _ResponseTap:
    """The Kafka client; keeps the record blocks of the fetch response that it last handed over."""

    def __init__(self, client: Any, connection: int) -> None:
        self._client = client
        self._connection = connection
        self.blocks: dict[TopicPartition, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        is_fetch = isinstance(request, FetchRequest)
        where = {"group": self._connection} if is_fetch else {}
        response = await self._client.send(node_id, request, **options, **where)
        if is_fetch:
            self.blocks = {
                TopicPartition(topic, partition): rest[-1]
                for topic, partitions in response.topics
                for partition, *rest in partitions
            }
        return response
