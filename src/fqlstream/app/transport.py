"""Faust's transport for source topics: whole fetches in, exact commits out.

Kafka's consumer group, its heartbeats and its assignment stay Faust's and aiokafka's. What differs for source topics:

* one fetched block of a partition is one Faust message; its value is a `Fetch`, its offset the fetch's first position;
* nothing of a partition is delivered before its owner says where to begin, and nothing below that ever;
* a fetch counts as delivered when the partition's agent takes it: what Faust drops on the way is fetched again;
* what is committed is what was acknowledged, for partitions that are held, in the generation that they are held in.

`faust_app.serve_source` turns this into calls of a partition's owner; use that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode.threads import QueueServiceThread

from fqlstream.app.fetcher import SourceFetcher
from fqlstream.app.ledger import Held, Ledger, Partition, Verdict
from fqlstream.app.retries import persist
from fqlstream.app.sharing import Sharing
from fqlstream.app.topic_metadata import TopicsRequest, id_in
from fqlstream.errors import BrokerError
from fqlstream.ops.kafka_options import aiokafka_options
from fqlstream.settings import Settings
from fqlstream.stream.batches import Fetch

LOG = logging.getLogger("fqlstream.transport")

#: Pause before a failed look for records is repeated: a broker that is coming back is not to be hammered.
_RETRY_S: Final = 0.2
#: A partition is asked for no less than this, however many there are: a smaller request costs more than it saves.
_PARTITION_BYTES_MIN: Final = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Progress:
    """Where reading stands: next offset to hand over, end of the log as the broker last said it, and when (Unix ms)."""

    position: int
    log_end: int
    seen_at_ms: int


class SourcePartition:
    """One source partition that this worker holds: what its owner talks to. Use it on the event loop only."""

    def __init__(self, consumer: SourceConsumer, held: Held) -> None:
        self._consumer = consumer
        self._held = held

    def __repr__(self) -> str:
        return f"<SourcePartition {self._held.partition} at {self._held.position}>"

    @property
    def key(self) -> Partition:
        """Topic and number."""
        return self._held.partition

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._held.partition.topic

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self._held.partition.partition

    @property
    def lost(self) -> bool:
        """Whether the group has given the partition to somebody else: what happens here no longer counts."""
        return self._held.lost

    @property
    def position(self) -> int | None:
        """The next offset to be handed over; None before the owner has begun."""
        return self._held.position

    def progress(self) -> Progress | None:
        """Say how far the log reaches, as the last answer of the broker had it; None before the first answer."""
        return self._consumer.progress(self._held)

    def ack(self, next_offset: int) -> None:
        """Be done with everything before `next_offset`; the next commit commits exactly that.

        Raises ValueError for an offset beyond what was handed over.
        """
        self._consumer.ledger.ack(self._held, next_offset)

    def pause(self) -> None:
        """Be given nothing until `resume`. The partition stays ours, its membership alive."""
        self._consumer.pause(self._held, paused=True)

    def resume(self) -> None:
        """Be given fetches again, from where it stopped."""
        self._consumer.pause(self._held, paused=False)

    async def begin(self, offset: int) -> None:
        """Deliver from `offset` on; `serve_source` calls it with what the owner's `take_over` gave.

        Raises BrokerError KFK101 where the log does not hold that offset.
        """
        await self._consumer.begin(self._held, offset)

    async def hand_over(
        self, start: int, fetch: Fetch, lock: asyncio.Lock, on_fetch: Callable[[Fetch], Awaitable[None]]
    ) -> None:
        """Give the owner a fetch, if it is the one that comes next; otherwise see that the right one comes."""
        verdict = Verdict.STALE
        try:
            await self._consumer.unpaused(self._held)
            async with lock:
                verdict = self._consumer.ledger.accept(self._held, start, fetch)
                if verdict is Verdict.NEXT:
                    await on_fetch(replace(fetch, start=start))
        finally:
            self._consumer.ledger.finished(self._held, fetch)
        if verdict is Verdict.ASTRAY:
            await self._consumer.go_back(self._held)

    async def commit(self) -> bool:
        """Commit what all partitions have acknowledged; False where Kafka did not take it now (the next one will try)."""
        return await self._consumer.commit()

    async def log_start(self) -> int:
        """Ask for the first offset that the log still holds, however long Kafka is away."""
        return await self._consumer.log_start(self._held.partition)

    async def log_end(self) -> int:
        """Ask for the offset after the last committed record of the log, however long Kafka is away."""
        return await self._consumer.log_end(self._held.partition)

    async def log_end_now(self) -> int:
        """Ask once. Raises BrokerError KFK102 where Kafka does not answer."""
        return await self._consumer.log_end_now(self._held.partition)

    async def topic_id(self) -> str:
        """Ask which topic the name means now, however long Kafka is away.

        Raises BrokerError KFK021 where there is none.
        """
        return await self._consumer.topic_id(self._held.partition.topic)


class SourceListener(driver.ConsumerRebalanceListener):
    """Keeps new partitions quiet until their owners begin: Kafka's committed offset is not where they do."""

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """Hush the new partitions, then tell Faust; runs in the consumer's thread."""
        self._thread.hush(assigned)
        await super().on_partitions_assigned(assigned)


class SourceThread(driver.AIOKafkaConsumerThread):
    """The thread that holds the Kafka connection: heartbeats go on whatever the event loop does."""

    @property
    def _settings(self) -> Settings:
        settings: Settings = self.transport.settings
        return settings

    async def on_start(self) -> None:
        """Connect, and put the fetcher for source topics in the place of aiokafka's.

        Raises BrokerError KFK104 where no broker answers.
        """
        try:
            await super().on_start()
        except KafkaError as error:
            raise BrokerError(
                "KFK104",
                f"no broker answers at {self._settings.kafka.bootstrap}: {error}",
                "check FQLSTREAM_KAFKA__BOOTSTRAP, __SECURITY_PROTOCOL and the SASL and SSL settings",
            ) from error
        consumer = self._ensure_consumer()
        await consumer._fetcher.close()
        kafka = self._settings.kafka
        consumer._fetcher = SourceFetcher(
            consumer._client,
            consumer._subscription,
            self.transport.source_topics,
            prompt_topics=self.transport.prompt_topics,
            fetch_min_bytes=kafka.fetch_bytes_min,
            fetch_max_bytes=max(kafka.fetch_bytes_max, self._settings.stream.queued_bytes_max // 4),
            fetch_max_wait_ms=kafka.fetch_wait_ms,
            max_partition_fetch_bytes=kafka.fetch_bytes_max,
            check_crcs=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        consumer._client.cluster.add_listener(self._look_at_topics)

    def _look_at_topics(self, cluster: Any) -> None:
        """Have new partitions shared out, whoever leads the group; aiokafka calls it with every answer about topics."""
        consumer = self._ensure_consumer()
        if self.transport.sharing.look(cluster, consumer.subscription()):
            consumer._coordinator.request_rejoin()

    def _create_worker_consumer(self, _transport: Any) -> AIOKafkaConsumer:
        kafka = self._settings.kafka
        self._assignor = self.transport.sharing
        return AIOKafkaConsumer(
            **aiokafka_options(kafka),
            group_id=self.app.conf.id,
            group_instance_id=kafka.instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=kafka.session_timeout_ms,
            # A topic that was deleted and made again is missed, and found again, as soon as a worker would be.
            metadata_max_age_ms=min(kafka.topic_look_ms, kafka.session_timeout_ms),
            heartbeat_interval_ms=kafka.session_timeout_ms // 10,
            # The others wait so long for a member to give up its partitions. The join request itself waits for them
            # and must not time out first.
            rebalance_timeout_ms=min(kafka.session_timeout_ms, kafka.request_timeout_ms * 3 // 4),
            # An event loop that asks for nothing for so long is stuck: somebody else should go on.
            max_poll_interval_ms=self._settings.stream.stuck_ms,
        )

    @property
    def fetcher(self) -> SourceFetcher:
        """The fetcher; its `fetchable` may be set from any thread."""
        fetcher: SourceFetcher = self._ensure_consumer()._fetcher
        return fetcher

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in this thread, from the event loop's; cancelling the call cancels the work.

        Not by Faust's method queue: its two workers may both be waiting for the broker. Raises ConsumerStoppedError
        where the thread has ended or ends meanwhile.
        """
        if self.thread_loop.is_closed():
            work.close()
            raise ConsumerStoppedError
        running = asyncio.run_coroutine_threadsafe(work, self.thread_loop)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling():
                raise
            raise ConsumerStoppedError from None

    def _stopped_set(self) -> None:
        with suppress(RuntimeError):  # the thread's loop is closed: a crash has ended the thread already
            super()._stopped_set()

    def hush(self, assigned: Iterable[Any]) -> None:
        """Fetch nothing of newly assigned source partitions, and share the memory between all of them."""
        consumer = self._ensure_consumer()
        sources = [tp for tp in assigned if tp.topic in self.transport.source_topics]
        for tp in sources:
            consumer._subscription.pause(tp)
        share = self._settings.stream.queued_bytes_max // (2 * max(1, len(sources)))
        size = min(self._settings.kafka.fetch_bytes_max, max(_PARTITION_BYTES_MIN, share))
        self.fetcher.limit_partition_bytes(size)
        self.fetcher.begun.clear()

    async def seek_and_fetch(self, positions: Mapping[Partition, int]) -> None:
        """Move source partitions to their owners' positions and fetch from there; those no longer ours are left out."""
        consumer = self._ensure_consumer()
        for partition, offset in positions.items():
            tp = TopicPartition(*partition)
            if consumer._subscription.is_assigned(tp):
                consumer.seek(tp, offset)
                consumer.resume(tp)
                self.fetcher.begun.add(tp)

    async def take(self, bytes_max: int, timeout_s: float) -> Mapping[TopicPartition, list[Any]]:
        """Give the next fetched records; also tells aiokafka that somebody still asks."""
        if not self.consumer.flow_active:
            return {}
        consumer = self._ensure_consumer()
        with consumer._subscription.fetch_context():
            return await self.fetcher.take(bytes_max, timeout_s)

    async def commit_in(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        """Commit as a member of that generation; False where the group has moved on.

        A member that was thrown out would otherwise commit as nobody in particular, which Kafka allows while the group
        is empty, and turn back its successor's offsets.
        """
        consumer = self._ensure_consumer()
        if consumer._coordinator.generation != generation:
            return False
        try:
            await consumer.commit({TopicPartition(*partition): offset for partition, offset in offsets.items()})
        except (CommitFailedError, IllegalStateError) as error:
            LOG.info("offsets not committed, the group is rebalancing: %s", error)
            return False
        return True

    async def offset_of(self, partition: Partition, *, end: bool) -> int:
        """Ask the broker for the log's first offset or for its end."""
        consumer = self._ensure_consumer()
        tp = TopicPartition(*partition)
        answer = await (consumer.end_offsets([tp]) if end else consumer.beginning_offsets([tp]))
        return int(answer[tp])

    async def topic_id_of(self, topic: str) -> str:
        """Ask the broker which topic a name means; nothing where it is too old to know (before Kafka 2.8)."""
        client = self._ensure_consumer()._client
        node = client.get_random_node()
        if node is None:
            raise NodeNotReadyError("no broker is known")
        try:
            return id_in(await client.send(node, TopicsRequest([topic])), topic)
        except NotImplementedError:  # aiokafka's word for a request that the broker is too old for
            return ""

    async def seek_others_to_committed(self) -> Mapping[Any, int]:
        """Move every partition that is not a source's to its committed offset, as Faust does with all."""
        consumer = self._ensure_consumer()
        others = [tp for tp in consumer.assignment() if tp.topic not in self.transport.source_topics]
        return await consumer.seek_to_committed(*others) if others else {}

    async def on_thread_stop(self) -> None:
        """Leave the group; a broker that does not answer within `kafka.leave_wait_ms` is left as it is."""
        await QueueServiceThread.on_thread_stop(self)
        if self._consumer is not None:
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(self._consumer.stop(), self._settings.kafka.leave_wait_ms / 1000)


class SourceConsumer(driver.Consumer):
    """Faust's consumer, delivering whole fetches and committing what was acknowledged."""

    RebalanceListener = SourceListener

    def __init__(self, transport: SourceTransport, *args: Any, **kwargs: Any) -> None:
        self.settings = transport.settings
        self.source_topics = transport.source_topics
        self.ledger = Ledger(self.settings.stream.queued_bytes_max, self._fetchable_changed)
        self._assigned = asyncio.Event()
        self._resumed: dict[Partition, asyncio.Event] = {}
        self._subscribed: frozenset[str] = frozenset()
        self._commits_open = self._commit_failed = False
        self._commit_lock = asyncio.Lock()
        self._uncommitted_since_s: float | None = None
        super().__init__(transport, *args, **kwargs)

    def _new_consumer_thread(self) -> SourceThread:
        return SourceThread(self, loop=self.loop, beacon=self.beacon)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe, once: Faust asks again after every assignment, and even after the thread has ended."""
        wanted = frozenset(topics)
        if wanted != self._subscribed and not self.should_stop:
            await super().subscribe(wanted)
            self._subscribed = wanted

    # --- what an agent needs -------------------------------------------------------------------------------------

    async def partition_of(self, active_partitions: Collection[TP]) -> SourcePartition | None:
        """Give the partition that an isolated agent was started for, waiting until it has one; None: already lost."""
        while not active_partitions:
            # Faust starts an agent before it knows the assignment, and fills its set in later.
            self._assigned.clear()
            await self._assigned.wait()
        (tp,) = active_partitions
        held = self.ledger.held(Partition(*tp))
        return SourcePartition(self, held) if held is not None else None

    async def begin(self, held: Held, offset: int) -> None:
        """Deliver the partition from `offset` on.

        Raises BrokerError KFK101 where the log does not reach that far back or not that far.
        """
        start, end = await asyncio.gather(self.log_start(held.partition), self.log_end(held.partition))
        if not start <= offset <= end:
            raise _left_log(held.partition, offset, f"the log now holds {start} to {end}")
        self.ledger.begin(held, offset)
        if not held.lost:
            await self._thread.run(self._thread.seek_and_fetch({held.partition: offset}))

    async def go_back(self, held: Held) -> None:
        """Fetch again from where the partition's owner is: something was dropped on the way to it."""
        if not held.lost and held.position is not None:
            await self._thread.run(self._thread.seek_and_fetch({held.partition: held.position}))

    def pause(self, held: Held, *, paused: bool) -> None:
        """Stop or go on delivering one partition."""
        self.ledger.pause(held, paused=paused)
        gate = self._resumed.setdefault(held.partition, asyncio.Event())
        gate.clear() if paused else gate.set()

    async def unpaused(self, held: Held) -> None:
        """Wait until the partition is not paused, or not ours."""
        while held.paused and not held.lost:
            await self._resumed[held.partition].wait()

    def progress(self, held: Held) -> Progress | None:
        """Say how far the partition's log reaches by the last fetch's answer."""
        consumer = self._thread._consumer
        subscription = consumer._subscription.subscription if consumer is not None else None
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(TopicPartition(*held.partition)) if assignment is not None else None
        if state is None or state.lso is None or held.position is None:
            return None
        return Progress(held.position, state.lso, state.timestamp)

    async def log_start(self, partition: Partition) -> int:
        """Ask for the first offset that the log holds, until Kafka answers."""
        return await persist("ends of the log", lambda: self._ask_offset(partition, end=False))

    async def log_end(self, partition: Partition) -> int:
        """Ask for the end of the log that a read_committed reader sees, until Kafka answers."""
        return await persist("ends of the log", lambda: self._ask_offset(partition, end=True))

    async def log_end_now(self, partition: Partition) -> int:
        """Ask for the end of the log once."""
        return await self._ask_offset(partition, end=True)

    async def _ask_offset(self, partition: Partition, *, end: bool) -> int:
        try:
            return int(await self._thread.run(self._thread.offset_of(partition, end=end)))
        except (KafkaError, ConsumerStoppedError) as error:
            raise BrokerError(
                "KFK102",
                f"the broker did not say how far {partition} reaches: {error!r}",
                "is it up, and may this user Describe and Read the topic?",
                retryable=_may_pass(error),
            ) from error

    async def topic_id(self, topic: str) -> str:
        """Ask which topic a name means, until Kafka answers."""
        return await persist("the topic's id", lambda: self._ask_topic_id(topic))

    async def _ask_topic_id(self, topic: str) -> str:
        try:
            return str(await self._thread.run(self._thread.topic_id_of(topic)))
        except UnknownTopicOrPartitionError:
            raise BrokerError(
                "KFK021", f"the topic {topic} does not exist", "make it: fqlstream topics apply"
            ) from None
        except (KafkaError, ConsumerStoppedError) as error:
            raise BrokerError(
                "KFK120",
                f"the id of topic {topic} cannot be had: {error!r}",
                "the worker needs it to notice a topic that was deleted and made again; is the broker up, and Describe allowed?",
                retryable=_may_pass(error),
            ) from error

    # --- fetching ------------------------------------------------------------------------------------------------

    def stop_flow(self) -> None:
        """Deliver nothing more, and drain nothing more: what is drained now could not be delivered."""
        super().stop_flow()
        self._fetchable_changed()

    def resume_flow(self) -> None:
        """Deliver again."""
        super().resume_flow()
        self._fetchable_changed()

    def _fetchable_changed(self) -> None:
        if self._thread._consumer is None or not isinstance(self._thread._consumer._fetcher, SourceFetcher):
            return
        others = {tp for tp in self._get_active_partitions() if tp.topic not in self.source_topics}
        fetchable = frozenset(self.ledger.fetchable() | others) if self.flow_active else frozenset()
        fetcher = self._thread.fetcher
        if fetchable != fetcher.fetchable:
            fetcher.fetchable = fetchable
            with suppress(RuntimeError):  # the thread's loop is closed: the worker stops
                self._thread.thread_loop.call_soon_threadsafe(fetcher.wake)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109  # the name is Faust's
        """Yield one message per fetch of a source partition, and one per record of any other."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        self._fetchable_changed()
        records = await self._take(timeout)
        generation = self.app.consumer_generation_id
        for tp, items in records.items():
            for item in items:
                if not self.flow_active or self.should_stop or generation != self.app.consumer_generation_id:
                    return  # fetched again from the owners' positions once the flow is back
                faust_tp = TP(tp.topic, tp.partition)
                if tp.topic not in self.source_topics:
                    yield faust_tp, self._to_message(faust_tp, item)
                    continue
                message = self._deliver(faust_tp, item)
                if message is not None:
                    yield faust_tp, message

    async def _take(self, wait_s: float) -> Mapping[TopicPartition, list[Any]]:
        taken: Mapping[TopicPartition, list[Any]] = {}
        try:
            taken = await self._thread.run(self._thread.take(self.settings.kafka.fetch_bytes_max, wait_s))
        except OffsetOutOfRangeError as error:
            ((tp, offset),) = error.args[0].items()
            raise _left_log(Partition(*tp), offset, "it was deleted while it was waited for") from error
        except CorruptRecordException as error:
            raise BrokerError(
                "KFK105",
                f"the log is damaged: {error}",
                "restore the partition from another replica; reading on would lose the batch in silence",
            ) from error
        except KafkaError as error:
            if not error.retriable:
                raise
            LOG.warning("fetching failed and is tried again: %s", error)
            await self.sleep(_RETRY_S)
        return taken

    def _deliver(self, tp: TP, item: tuple[int, Fetch]) -> ConsumerMessage | None:
        start, fetch = item
        held = self.ledger.held(Partition(*tp))
        if held is None or held.position is None:
            return None
        self.ledger.sent(held, fetch)
        # Faust would drop messages at or below the highest offset it has seen of the partition; the ledger knows better.
        self._read_offset[tp] = None
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            start,
            None,
            0,
            None,
            None,
            fetch,
            None,
            serialized_value_size=fetch.bytes_count,
            tp=tp,
            # Without it the stream drops the message without a word.
            generation_id=self.app.consumer_generation_id,
        )

    async def perform_seek(self) -> None:
        """Go back to where the owners are; topics that are no source go to their committed offsets."""
        positions = {held.partition: held.position for held in self.ledger.all_held() if held.position is not None}
        await self._thread.run(self._thread.seek_and_fetch(positions))
        committed = await self._thread.run(self._thread.seek_others_to_committed())
        for tp, offset in committed.items():
            faust_tp = TP(tp.topic, tp.partition)
            self._read_offset[faust_tp] = self._committed_offset[faust_tp] = offset or None

    # --- commits -------------------------------------------------------------------------------------------------

    @property
    def commit_age_s(self) -> float:
        """For how long offsets wait that Kafka has not taken; 0 where none wait."""
        return 0.0 if self._uncommitted_since_s is None else time.monotonic() - self._uncommitted_since_s

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002  # as Faust calls it
        """Commit what is acknowledged. False where Kafka did not take it; the next commit will try again.

        Offsets in Kafka serve lag tools and operators: what was processed is known by the flush rows. So a commit that
        fails is said and forgotten.
        """
        if self._uncommitted_since_s is None:
            self._uncommitted_since_s = time.monotonic()
        done = await self._commit()
        if done:
            self._uncommitted_since_s = None
        return done

    async def _commit(self) -> bool:
        async with self._commit_lock:
            offsets = self.ledger.to_commit()
            generation = self.ledger.generation
            if not offsets or generation is None or not self._commits_open:
                return not offsets
            work = self._thread.run(self._thread.commit_in(generation, offsets))
            try:
                done = await asyncio.wait_for(work, self.settings.kafka.commit_wait_ms / 1000)
            except (TimeoutError, KafkaError, ConsumerStoppedError) as error:
                # said once: the commits that follow find the same
                LOG.log(
                    logging.DEBUG if self._commit_failed else logging.WARNING, "offsets not committed now: %r", error
                )
                self._commit_failed = True
                return False
            self._commit_failed = False
            if done:
                self.ledger.committed(offsets)
            return bool(done)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Add nothing: a fetch is a jump of offsets, and what is committed is what was acknowledged."""

    def ack(self, message: Any) -> bool:
        """Faust's own acknowledgement; a source's owner acknowledges offsets instead."""
        if message.topic in self.source_topics:
            message.acked = True
            return True
        return bool(super().ack(message))

    # --- the group -----------------------------------------------------------------------------------------------

    async def release(self) -> None:
        """Stop delivering, let the owners write what they have, commit. Bounded in time."""
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        self.ledger.forget_waiting()
        try:
            await asyncio.wait_for(self.app.release_owners(), self.settings.stream.release_wait_ms / 1000)
        except TimeoutError:
            LOG.warning("partitions are given up before everything was written; their next owner reads it again")
            return  # without a commit, which may wait behind those of other agents: what was flushed was committed
        except Exception as error:  # any: Faust would go on without it
            await self.crash(error)
            return
        await self.commit()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Release everything before the group is joined anew: any partition may go."""
        if revoked and not self.app.should_stop:
            await self.release()
        # From here to the new assignment a commit could reach the new generation with the old one's partitions.
        self._commits_open = False
        async with self._commit_lock:
            pass  # one that is under way has ended, or was given up
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take on the new assignment, before anything of it is delivered."""
        if not self.ledger.is_continued_by(generation_id) and self.app._assignment:
            # Somebody else may have owned our partitions in between: their agents begin anew.
            await self.app.agents.on_rebalance(self.app._assignment, set())
            self.app._assignment = set()
        sources = [Partition(*tp) for tp in assigned if tp.topic in self.source_topics]
        self.ledger.assign(sources, generation_id)
        self._commits_open = True
        self._drop_gates()
        await super().on_partitions_assigned(assigned, generation_id)
        self._assigned.set()

    def _drop_gates(self) -> None:
        for partition, gate in list(self._resumed.items()):
            if self.ledger.held(partition) is None:
                gate.set()
                del self._resumed[partition]

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Create nothing: `fqlstream topics apply` does, with the partitions and the retention that were declared."""

    def close(self) -> None:
        """Faust calls this for a rebalance while it stops, from the wrong thread; stopping leaves the group anyway."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own stall warnings count records, not fetches; the worker watches its progress itself."""


class SourceProducer(driver.Producer):
    """Stands in for Faust's producer and connects to nothing: what the worker sends goes through `OutboxProducer`.

    Faust's buffer gives up a flush after a tenth of a second and only logs what could not be sent.
    """

    async def on_start(self) -> None:
        """Start nothing."""

    async def on_stop(self) -> None:
        """Stop nothing."""

    async def send(self, *_: Any, **__: Any) -> Any:
        """Refuse. Raises RuntimeError."""
        raise RuntimeError("send with ops.outbox.OutboxProducer: its flush raises what could not be delivered")

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        """Create nothing: `fqlstream topics apply` does."""


class SourceTransport(driver.Transport):
    """The Faust transport of source topics."""

    Consumer = SourceConsumer
    Producer = SourceProducer

    def __init__(
        self,
        url: Any,
        app: Any,
        *,
        settings: Settings,
        source_topics: Collection[str],
        prompt_topics: Collection[str] = (),
    ) -> None:
        super().__init__(url, app)
        self.settings = settings
        self.source_topics = frozenset(source_topics)
        self.prompt_topics = frozenset(prompt_topics)
        self.sharing = Sharing(settings.kafka.topic_look_ms / 1000, time.monotonic)


def _may_pass(error: Exception) -> bool:
    """Say whether the same request may succeed later. One that ended with this consumer will not."""
    return isinstance(error, KafkaError) and not isinstance(error, ConsumerStoppedError) and bool(error.retriable)


def _left_log(partition: Partition, offset: int, now: str) -> BrokerError:
    return BrokerError(
        "KFK101",
        f"{partition}@{offset} is no longer in the log: {now}",
        "retention was shorter than the time this partition was not read, or the topic was deleted and created again. "
        "`fqlstream doctor` shows what is missing; a larger retention.ms prevents it",
    )
