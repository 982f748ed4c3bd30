"""What workers and the API send to Kafka, none lost in silence: notices, values, dead letters, recorded metrics.

Example::

    async with OutboxProducer(settings.kafka) as outbox:
        await outbox.send("pane-updates", notice, key=b"churn")
        await outbox.flush()  # raises the first delivery that failed
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from fqlstream.errors import BrokerError
from fqlstream.ops.kafka_errors import NO_SUCH_TOPIC, NOT_KNOWN_HERE, may_pass, topic_trouble
from fqlstream.ops.kafka_options import RECORD_BYTES_ANY, producer_options
from fqlstream.settings import KafkaSettings
from fqlstream.stream.batches import Headers

LOG = logging.getLogger("fqlstream.producer")

#: The code of the error of a record that Kafka does not take because of its size.
TOO_LARGE: Final = "KFK113"
_SIZES: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
#: What a producer says of records that it had when it was ended.
_ENDED: Final = frozenset({KafkaError._FATAL, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
_ENDED_HINT: Final = "a fatal error has ended this producer, which the log names: start the process anew"
#: How long librdkafka may wait for events in one call of its polling thread: bounds how long stopping takes.
_POLL_S: Final = 0.1
#: One question: a worker that stops waits no longer for a broker that is away.
_ASK_S: Final = 5.0
#: A topic that the broker does not know for so long is missing: all that are sent to were made before the worker started.
_NEW_TOPIC_MS: Final = 5_000
#: How long records gather into a batch.
_LINGER_MS: Final = 2


@dataclass(frozen=True, slots=True, order=True)
class Written:
    """Where a record stands in the log; offset -1 where the broker did not say."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Running:
    """A producer of librdkafka, and the thread that asks it for what became of records."""

    producer: Producer
    over: threading.Event
    poller: threading.Thread

    def end(self) -> None:
        """Fail what it still holds, telling who waits for it, and stop asking. Blocks for a moment."""
        self.producer.purge()
        _flush(self.producer, _POLL_S)
        self.over.set()
        self.poller.join()


class OutboxProducer:
    """An idempotent producer on the event loop: acks=all, lz4, Kafka's own partitioner, bounded in memory.

    Retries within `kafka.delivery_timeout_ms` are the library's; the error of a record that has failed then says whether
    sending it again may help. After a fatal error, as of a sequence of records that Kafka does not know, a producer sends nothing
    any more: whoever cannot leave that to a restart, as the API, lets it be made anew with `renews`. Without, what it still had
    fails, so that nobody waits for it, and whatever is sent later is refused.
    """

    def __init__(self, settings: KafkaSettings, *, linger_ms: int = _LINGER_MS, renews: bool = False) -> None:
        self._settings = settings
        self._linger_ms = linger_ms
        self._renews = renews
        self._running: _Running | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._pending: set[asyncio.Future[Written]] = set()
        self._failed: BrokerError | None = None
        self._room = asyncio.Event()

    async def start(self) -> None:
        """Make the producer. Connects in the background. Raises BrokerError where no broker is named."""
        self._loop = asyncio.get_running_loop()
        self._running = self._begin()

    def _begin(self) -> _Running:
        over = threading.Event()
        options = producer_options(
            self._settings,
            acks="all",
            linger_ms=self._linger_ms,
            message_max_bytes=RECORD_BYTES_ANY,
            message_timeout_ms=self._settings.delivery_timeout_ms,
            topic_metadata_propagation_max_ms=_NEW_TOPIC_MS,
            queue_buffering_max_kbytes=self._settings.send_queue_bytes_max // 2**10,
        )
        producer = Producer(options)
        poller = threading.Thread(target=self._poll, args=(producer, over), name="outbox-poll", daemon=True)
        poller.start()
        return _Running(producer, over, poller)

    def _poll(self, producer: Producer, over: threading.Event) -> None:
        """Ask what became of records, until it is over; `over` also names the producer."""
        while not over.is_set():
            try:
                producer.poll(_POLL_S)
            except KafkaException as error:  # how a fatal error is told; deliveries are told to whoever goes on asking
                self._note(producer, over, error.args[0])

    def _note(self, producer: Producer, over: threading.Event, error: KafkaError) -> None:
        """Take in an error of a producer. Called in its thread."""
        if not error.fatal():
            LOG.warning("the producer says: %s", error.str())
        elif self._renews:
            with suppress(RuntimeError):  # the loop is closed: nobody sends any more
                self._loop.call_soon_threadsafe(self._renew, over, error)
        else:
            LOG.error("a fatal error has ended the producer: %s", error.str())
            producer.purge()  # it would hold its records for ever, and neither deliver nor fail them

    def _renew(self, over: threading.Event, error: KafkaError) -> None:
        """Go on with a new producer. What the old one had is failed: its senders know best whether to send it again."""
        ended = self._running
        if ended is None or ended.over is not over:
            return
        LOG.error("a fatal error has ended the producer, a new one goes on: %s", error.str())
        self._running = self._begin()
        task = self._loop.create_task(asyncio.to_thread(ended.end))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """Send what is left, for `kafka.leave_wait_ms` at most, and end. What is lost then was never flushed."""
        running, self._running = self._running, None
        if running is None:
            return
        left = await asyncio.to_thread(_flush, running.producer, self._settings.leave_wait_ms / 1000)
        if left:
            LOG.warning("%d records were not delivered before the producer stopped", left)
        await asyncio.to_thread(running.end)
        await asyncio.gather(*self._ending)
        for future in list(self._pending):
            future.cancel()
        self._pending.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> asyncio.Future[Written]:
        """Queue one record, waiting while the queue is full; give a future of its place.

        The future may be ignored: `flush` raises what failed. Raises BrokerError at once for a record that Kafka
        would never take: KFK113 where it is too large, even for the empty queue, else KFK111.
        """
        self._require()
        future: asyncio.Future[Written] = self._loop.create_future()
        while True:
            self._room.clear()
            try:
                self._produce(
                    topic,
                    value,
                    key,
                    headers,
                    partition,
                    timestamp_ms,
                    lambda error, record: self._delivered(future, error, record),
                )
            except BufferError:
                # Woken by the next delivery. The time-out is for the one that came between the two lines above.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), _POLL_S)
            else:
                break
        self._pending.add(future)
        return future

    def hint(self, topic: str, value: bytes | None, key: bytes | None, partition: int) -> None:
        """Queue one record that may as well be lost; a full queue leaves it out. What becomes of it is not told."""
        with suppress(BufferError, BrokerError):
            self._produce(topic, value, key, (), partition, None, None)

    def partitions_count(self, topic: str) -> int:
        """Ask how many partitions a topic has; blocks. Raises BrokerError KFK121 where there is none, KFK122 without an answer."""
        try:
            found = self._require().list_topics(topic, timeout=_ASK_S).topics[topic]
        except KafkaException as error:
            raise _uncounted(topic, error.args[0]) from error
        if found.error is not None:
            raise _uncounted(topic, found.error)
        return len(found.partitions)

    def _produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        partition: int | None,
        timestamp_ms: int | None,
        on_delivery: Callable[[Any, Any], None] | None,
    ) -> None:
        """Queue a record. Raises BufferError where there is no room, BrokerError KFK111 or KFK113 for one that never gets in."""
        room = self._settings.send_queue_bytes_max // 2**10 * 2**10
        if value is not None and len(value) > room:  # librdkafka would call the queue full for ever
            raise _too_large(topic, f"{len(value)} bytes, more than kafka.send_queue_bytes_max")
        place: dict[str, Any] = {}
        if partition is not None:
            place["partition"] = partition
        if timestamp_ms is not None:
            place["timestamp"] = timestamp_ms
        if on_delivery is not None:
            place["on_delivery"] = on_delivery
        try:
            self._require().produce(topic, value=value, key=key, headers=list(headers) or None, **place)
        except KafkaException as error:
            # a topic that is known to be missing is refused here, one that is not known yet fails later: the same to who sends
            is_missing = error.args[0].code() in NO_SUCH_TOPIC | NOT_KNOWN_HERE
            told = _undelivered if is_missing else _refused
            raise told(topic, error.args[0], is_renewed=self._renews) from error

    async def flush(self) -> None:
        """Wait until everything sent so far has arrived.

        Raises BrokerError KFK110 or KFK113 for the first delivery that failed since the last flush, once.
        """
        pending: Sequence[asyncio.Future[Written]] = list(self._pending)
        if pending:
            await asyncio.wait(pending)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _require(self) -> Producer:
        if self._running is None:
            raise BrokerError("KFK112", "the producer is not running", "await start() first")
        return self._running.producer

    def _delivered(self, future: asyncio.Future[Written], error: Any, record: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            place = Written(record.partition(), -1 if record.offset() is None else record.offset())
            self._loop.call_soon_threadsafe(self._settle, future, error, record.topic(), place)

    def _settle(self, future: asyncio.Future[Written], error: Any, topic: str, place: Written) -> None:
        self._room.set()
        self._pending.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(place)
            return
        failed = _undelivered(topic, error, is_renewed=self._renews)
        self._failed = self._failed or failed
        future.set_exception(failed)
        future.exception()  # marks it as seen: flush raises it


def _uncounted(topic: str, error: Any) -> BrokerError:
    return topic_trouble(
        topic, error, missing="KFK121", failed="KFK122", what=f"the partitions of topic {topic} cannot be counted",
        hint="is the broker up, and may this user Describe the topic?",
    )  # fmt: skip


def _flush(producer: Producer, wait_s: float) -> int:
    """Wait for what a producer still has; gives how many records are left. One that a fatal error has ended delivers none."""
    try:
        return int(producer.flush(wait_s))
    except KafkaException:  # a fatal error that its thread has not seen yet
        return len(producer)


def _undelivered(topic: str, error: Any, *, is_renewed: bool = False) -> BrokerError:
    if error.code() in _SIZES:
        return _too_large(topic, error.str())
    missing = error.code() in NO_SUCH_TOPIC | NOT_KNOWN_HERE
    ended = _has_ended(error)
    hint = "make the topic: fqlstream topics apply" if missing else "is Kafka up, and may this user Write to the topic?"
    return BrokerError(
        "KFK110",
        f"a record for {topic} was not delivered: {error.str()}",
        _ENDED_HINT if ended and not is_renewed else hint,
        retryable=missing or may_pass(error) or (is_renewed and ended),
    )


def _refused(topic: str, error: Any, *, is_renewed: bool = False) -> BrokerError:
    if error.code() in _SIZES:
        return _too_large(topic, error.str())
    ended = _has_ended(error)
    return BrokerError(
        "KFK111",
        f"a record for {topic} was refused: {error.str()}",
        ("send it again" if is_renewed else _ENDED_HINT) if ended else "does the topic have that partition?",
        retryable=is_renewed and ended,
    )


def _has_ended(error: Any) -> bool:
    return bool(error.fatal()) or error.code() in _ENDED


def _too_large(topic: str, why: str) -> BrokerError:
    return BrokerError(
        TOO_LARGE,
        f"a record for {topic} is too large: {why}",
        "raise the topic's max.message.bytes; it bounds what a record takes compressed",
    )
