"""Recording metrics through Kafka, for whoever has to answer a caller: the place in the log, the verdict, and when it can be read.

    recorder = Recorder(settings, store)
    await recorder.start()
    written = await recorder.record(ListMetric(id="e-1", name="loss", values=[0.3, 0.2]))   # durable in Kafka
    refusal = await recorder.verdict(written)                                               # None: it was taken
    await recorder.settled()                                                                # everything of ours can be read

A verdict is a function of the log before it, so the record agent tells it before anything is flushed, on the topic
record-verdicts. Those notices are hints: where one does not come, ClickHouse is asked, which knows as much a little later.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from fqlstream.client.payloads import forget_json, job_metric_json, list_metric_json, pipeline_metric_json
from fqlstream.errors import BrokerError, StoreError
from fqlstream.events.payloads import Forget, JobMetric, ListMetric, PipelineMetric
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.outbox import OutboxProducer, Written
from fqlstream.settings import Settings
from fqlstream.store import recorded
from fqlstream.store.client import Store
from fqlstream.store.recorded import Refusal
from fqlstream.stream.recorded import ListKey

T = TypeVar("T")

log = logging.getLogger("fqlstream.recording")

METRIC_EVENTS: Final = "metric-events"
RECORD_VERDICTS: Final = "record-verdicts"

RecordedEvent = PipelineMetric | ListMetric | JobMetric | Forget

_POLL_S: Final = 0.1
#: A start waits no longer for the broker; without notices it goes too, only slower.
_LISTENING_S: Final = 2.0
_NOTICES_PER_CALL: Final = 500
#: Refusals of a partition that are remembered for those who ask: older ones are in the dead letters.
_REFUSED_KEPT: Final = 10_000


class _RefusedRecord(msgspec.Struct):
    offset: int
    code: str
    message: str
    stored: int = 0


class _Verdict(msgspec.Struct):
    partition: int
    first: int
    applied: int
    flushed: int
    refused: list[_RefusedRecord] = []


_VERDICT: Final = msgspec.json.Decoder(_Verdict)


@dataclass(slots=True)
class _Known:
    """What notices have told of one partition: offsets `first` to `applied` are decided, up to `flushed` they can be read."""

    first: int = 0
    applied: int = -1
    flushed: int = -1
    refused: dict[int, Refusal] = field(default_factory=dict)

    def take_in(self, told: _Verdict) -> None:
        """Add a notice; one that leaves a gap to what was known makes that be forgotten."""
        if not self.first <= told.first <= self.applied + 1:
            self.first, self.applied = told.first, told.applied
            self.refused = {}
        self.applied = max(self.applied, told.applied)
        self.flushed = max(self.flushed, told.flushed)
        for refused in told.refused:
            self.refused[refused.offset] = Refusal(refused.code, refused.message, refused.stored)
        while len(self.refused) > _REFUSED_KEPT:
            oldest = next(iter(self.refused))
            del self.refused[oldest]
            self.first = max(self.first, oldest + 1)

    def decides(self, offset: int) -> bool:
        """Say whether a verdict on this offset is known here."""
        return self.first <= offset <= self.applied


class Recorder:
    """Writes metric events and knows what became of them. Use it on one event loop.

    Raises, from any of its three questions: BrokerError REC001 where Kafka did not acknowledge in time, StoreError REC002 where
    no verdict came in time, StoreError REC003 where what was acknowledged cannot be read yet: of all three the cause is in the
    message, and what was written may be, or become, stored.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings.record
        self._kafka = settings.kafka
        self._store = store
        self._outbox = OutboxProducer(settings.kafka, linger_ms=settings.record.linger_ms, renews=True)
        self._acknowledged: dict[int, int] = {}
        self._known: dict[int, _Known] = {}
        self._appended: dict[Written, ListKey] = {}  # lists whose verdicts are awaited
        self._found: dict[Written, Refusal | None] = {}  # verdicts that ClickHouse knew and no notice told
        self._trouble = ""  # why ClickHouse could not be asked
        self._changed = asyncio.Event()
        self._looking = asyncio.Lock()
        self._stopping = threading.Event()
        self._reader: threading.Thread | None = None

    async def start(self) -> None:
        """Begin to listen for notices, waiting a moment for the broker: one that is away is met by whoever records."""
        self._loop = asyncio.get_running_loop()
        await self._outbox.start()
        self._stopping.clear()
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(listening,), name="record-verdicts", daemon=True)
        self._reader.start()
        await asyncio.to_thread(listening.wait, _LISTENING_S)

    async def stop(self) -> None:
        """Send what is left and end."""
        self._stopping.set()
        await self._outbox.stop()
        if self._reader is not None:
            await asyncio.to_thread(self._reader.join)
            self._reader = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- the three questions -----------------------------------------------------------------------------------------

    async def record(self, event: RecordedEvent) -> Written:
        """Write an event; returns once every replica that must have it has it.

        Raises UsageError for an event that the record agent would refuse for its form, BrokerError KFK113 for one that is too
        large, BrokerError REC001 where Kafka does not acknowledge in time.
        """
        value = event_json(event)
        try:
            async with asyncio.timeout(self._settings.write_wait_ms / 1000):
                sent = await self._outbox.send(METRIC_EVENTS, value, str(event.id).encode())
                written = await asyncio.shield(sent)
        except TimeoutError:
            raise BrokerError(
                "REC001",
                f"Kafka has not acknowledged the metric within {self._settings.write_wait_ms} ms: it may still be stored",
                "is the broker up? write it again where a second copy does no harm, or read it first",
                retryable=True,
            ) from None
        if written.offset < 0:  # the broker has it and did not say where, so nobody can tell what becomes of it
            raise BrokerError("REC001", "Kafka did not say where the metric stands: it may be stored", retryable=True)
        if isinstance(event, ListMetric):
            self._appended[written] = ListKey(str(event.id), event.name)
        self.expect({written.partition: written.offset})
        return written

    def expect(self, offsets: Mapping[int, int]) -> None:
        """Let `settled` wait for records that somebody else has written, given by partition: as for this recorder's own."""
        for partition, offset in offsets.items():
            self._acknowledged[partition] = max(offset, self._acknowledged.get(partition, -1))

    async def verdict(self, written: Written) -> Refusal | None:
        """Say whether what was written was refused; None: it was taken.

        Raises StoreError REC002 where nobody has decided in time: the values may still be stored.
        """
        try:
            async with asyncio.timeout(self._settings.verdict_wait_ms / 1000):
                return await self._until(lambda: self._told(written), lambda: self._decided(written))
        except TimeoutError:
            raise StoreError(
                "REC002",
                f"no worker has decided within {self._settings.verdict_wait_ms} ms whether the list has room: "
                f"the values stand at {METRIC_EVENTS}[{written.partition}]@{written.offset} and may still be stored{self._trouble}",
                "is a worker running? `fqlstream lag` shows how far the record agent is",
                retryable=True,
            ) from None
        finally:
            self._found.pop(written, None)
            self._appended.pop(written, None)

    async def settled(self) -> None:
        """Wait until everything that this recorder has acknowledged can be read.

        Raises StoreError REC003 where that takes too long.
        """
        awaited = dict(self._acknowledged)
        if not self._unread(awaited):
            return
        try:
            async with asyncio.timeout(self._settings.read_wait_ms / 1000):
                await self._until(lambda: None if self._unread(awaited) else (True,), self._look)
        except TimeoutError:
            behind = ", ".join(f"{METRIC_EVENTS}[{p}]@{offset}" for p, offset in sorted(self._unread(awaited).items()))
            raise StoreError(
                "REC003",
                f"what was recorded before cannot be read after {self._settings.read_wait_ms} ms: {behind} is not stored yet"
                f"{self._trouble}",
                "is a worker running, and is ClickHouse in trouble? Nothing is lost: `fqlstream lag` shows how far it is",
                retryable=True,
            ) from None

    # -- what is known -----------------------------------------------------------------------------------------------

    async def _until(self, known: Callable[[], tuple[T] | None], ask: Callable[[], Awaitable[None]]) -> T:
        """Wait until something is known by notices, or by asking now and then, however many notices there are of other things."""
        look_s = self._settings.look_ms / 1000
        due_s = self._loop.time() + look_s
        while (answer := known()) is None:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(due_s):
                    await self._changed.wait()
            except TimeoutError:
                await ask()
                due_s = self._loop.time() + look_s
        return answer[0]

    def _told(self, written: Written) -> tuple[Refusal | None] | None:
        if written in self._found:
            return (self._found[written],)
        known = self._of(written.partition)
        return (known.refused.get(written.offset),) if known.decides(written.offset) else None

    def _unread(self, awaited: Mapping[int, int]) -> dict[int, int]:
        return {p: offset for p, offset in awaited.items() if self._of(p).flushed < offset}

    def _of(self, partition: int) -> _Known:
        return self._known.setdefault(partition, _Known())

    # -- ClickHouse, where notices do not tell -----------------------------------------------------------------------

    async def _decided(self, written: Written) -> None:
        """Look for a verdict in ClickHouse: what was flushed and is no dead letter was taken."""
        await self._look()
        if self._of(written.partition).flushed < written.offset:
            return
        with self._asking():
            where = written.partition, written.offset
            refusal = await asyncio.to_thread(recorded.refusal_at, self._store, *where)
            if refusal is not None and written in self._appended:
                appended = self._appended[written]
                stored = await asyncio.to_thread(recorded.stored_before, self._store, appended, *where)
                refusal = replace(refusal, stored=stored)
            self._found[written] = refusal

    async def _look(self) -> None:
        """Ask how far everything has been flushed, once for all who wait."""
        if self._looking.locked():
            async with self._looking:
                return
        async with self._looking:
            with self._asking():
                for partition, flushed in (await asyncio.to_thread(recorded.flushed_upto, self._store)).items():
                    known = self._of(partition)
                    known.flushed = max(known.flushed, flushed)
                self._changed.set()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let trouble with ClickHouse pass: whoever waits is told of it if it lasts too long."""
        try:
            yield
            self._trouble = ""
        except StoreError as error:
            self._trouble = f"; {error.code} {error.message}"

    # -- notices -----------------------------------------------------------------------------------------------------

    def _read(self, listening: threading.Event) -> None:
        """Read notices from now on, for ever; trouble with Kafka only makes them late. Runs in a thread of its own."""
        consumer = Consumer({
            **librdkafka_options(self._kafka),
            # librdkafka wants a group even from a reader that never joins or commits
            "group.id": "fqlstream-record-verdicts", "enable.auto.commit": False, "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 500, "fetch.min.bytes": 1, "allow.auto.create.topics": False,
        })  # fmt: skip
        try:
            self._begin(consumer)
            listening.set()
            while not self._stopping.is_set():
                self._take(consumer)
        finally:
            consumer.close()

    def _begin(self, consumer: Consumer) -> None:
        """Take the topic's end as it is now: what is told from here on is heard, however long it takes to connect."""
        topic = TopicPartition(RECORD_VERDICTS, 0)
        while not self._stopping.is_set():
            try:
                _, topic.offset = consumer.get_watermark_offsets(topic, timeout=_LISTENING_S)
            except KafkaException as error:
                log.debug("notices of verdicts cannot be read now: %s", error)
                self._stopping.wait(_POLL_S)
            else:
                consumer.assign([topic])
                return

    def _take(self, consumer: Consumer) -> None:
        try:
            first = consumer.poll(_POLL_S)
            messages = [] if first is None else [first, *consumer.consume(_NOTICES_PER_CALL, timeout=0)]
        except KafkaException as error:
            log.warning("notices of verdicts cannot be read now: %s", error)
            self._stopping.wait(_POLL_S)
            return
        told = []
        for message in messages:
            if message.error() is not None:
                log.debug("notices of verdicts cannot be read now: %s", message.error())
                continue
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # anybody may write to the topic: it is no notice
                told.append(_VERDICT.decode(message.value() or b""))
        if told:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._note, told)

    def _note(self, told: list[_Verdict]) -> None:
        for verdict in told:
            self._of(verdict.partition).take_in(verdict)
        self._changed.set()


def event_json(event: RecordedEvent) -> bytes:
    """Give an event as it travels. Raises UsageError SDK008 for what the record agent would refuse for its form."""
    match event:
        case PipelineMetric():
            return pipeline_metric_json(event.id, event.name, event.value, event.at)
        case ListMetric():
            return list_metric_json(event.id, event.name, event.values, event.at)
        case JobMetric():
            return job_metric_json(event.id, event.name, event.value, event.step, event.at)
        case Forget():
            return forget_json(event.kind, event.id)
