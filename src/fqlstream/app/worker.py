"""One worker process: a Faust app with an agent each on inference-events (aggregate), pane-updates (finalise), metric-events (record)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fqlstream.app.aggregate import DELETING, AggregateAgent
from fqlstream.app.allocator import bound_arenas, give_back
from fqlstream.app.definitions import DefinitionsFollower
from fqlstream.app.faust_app import SourceApp, build_app, run_worker, serve_source
from fqlstream.app.kafka_log import PANE_UPDATES, KafkaLog
from fqlstream.app.logs import configure_logging
from fqlstream.app.numbers import Numbers, Reading
from fqlstream.app.observed import (
    Health,
    health_of,
    held_partitions,
    readings_of_owners,
    readings_of_process,
    readings_of_publishing,
    readings_of_record_owners,
    readings_of_source,
)
from fqlstream.app.publish import FinaliseAgent
from fqlstream.app.record import RecordAgent
from fqlstream.app.retries import OUTSIDE, SLOW_S
from fqlstream.app.serving import Served, asked_in, require_key
from fqlstream.app.store_port import StoreAdapter
from fqlstream.app.transport import SourcePartition
from fqlstream.app.watchdog import Duties, Watchdog
from fqlstream.clock import SteadyClock
from fqlstream.errors import FqlstreamError
from fqlstream.events.catalogue import Catalogue
from fqlstream.ops import numbers as rows
from fqlstream.ops.definition_log import DefinitionsReader
from fqlstream.ops.outbox import OutboxProducer
from fqlstream.settings import Settings, StreamSettings
from fqlstream.store.client import Store
from fqlstream.stream.batches import DeadLetter, Decoded, Fetch
from fqlstream.stream.decode import decode
from fqlstream.stream.delivery import Owner, Ports
from fqlstream.stream.record_delivery import RecordOwner, RecordPorts
from fqlstream.stream.recorded import Limits

log = logging.getLogger("fqlstream.worker")

INFERENCE_EVENTS = "inference-events"
METRIC_EVENTS = "metric-events"
#: Definitions and repair requests are looked for so often.
_POLL_S = 1.0
#: Looks for lag per stuck_ms: a partition that stands still is noticed soon, and asking costs nothing to speak of.
_LAG_LOOKS = 8
_UPKEEP = "upkeep"


class Worker:
    """Puts the parts of a worker together and runs them."""

    def __init__(self, settings: Settings) -> None:
        bound_arenas()
        require_key(settings.worker)
        self.settings = settings
        self.numbers = Numbers()
        self.owner_id = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.store = Store.connect(settings.store)
        self.app: SourceApp = build_app(
            settings,
            source_topics=[INFERENCE_EVENTS, PANE_UPDATES, METRIC_EVENTS],
            data_dir=settings.data / "faust",
            prompt_topics=[METRIC_EVENTS],
        )
        self.outbox = OutboxProducer(settings.kafka)
        self.log = KafkaLog(settings.kafka, self.outbox, on_refused=self._refused, sharing=self.app.transport.sharing)
        self.duties = Duties()
        self.watchdog = Watchdog(
            settings.stream.stuck_ms, self.duties, OUTSIDE, self._loops, lambda: self.app.should_stop
        )
        self.clock = clock = SteadyClock(leap_ms_min=settings.stream.clock_leap_ms)
        self.adapter = StoreAdapter(self.store, clock, lambda: self.aggregate.engines.catalogue, self.duties.worked)
        self.ports = Ports(self.adapter, self.log, clock, self._decode, settings.stream, self._evaluated)
        self.definitions = DefinitionsFollower(
            DefinitionsReader(settings, keeps_registry=False), self.store, self.adapter, self.log
        )
        self.ready = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that this worker runs on, once it is ready
        self.aggregate = AggregateAgent(
            INFERENCE_EVENTS,
            self.owner_id,
            settings,
            self.ports,
            self.adapter,
            self.definitions,
            self.log.commit,
            self._fail,
            self.duties,
            self.adapter,
            self.numbers,
        )
        self.finalise = FinaliseAgent(
            INFERENCE_EVENTS,
            self.adapter,
            self.log,
            clock,
            settings,
            lambda: self.aggregate.engines,
            self.log.model_partition,
            self._fail,
            self.duties,
            self.numbers,
        )
        self.metric_log = KafkaLog(settings.kafka, self.outbox, on_refused=self._refused)
        limits = Limits(settings.record, settings.stream, settings.kafka.record_bytes_max)
        self.record = RecordAgent(
            METRIC_EVENTS,
            self.owner_id,
            settings,
            RecordPorts(self.adapter, self.metric_log, clock, limits, asyncio.to_thread),
            self.metric_log.commit,
            self._fail,
            self.duties,
            self.numbers,
        )
        serve_source(self.app, INFERENCE_EVENTS, lambda source: _Owning(self, self.aggregate, self.log, source))
        serve_source(self.app, PANE_UPDATES, lambda source: _Finalising(self, source))
        serve_source(self.app, METRIC_EVENTS, lambda source: _Owning(self, self.record, self.metric_log, source))
        self.app.task(self._start)

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or a failure; gives the exit code."""
        stream = self.settings.stream
        OUTSIDE.said_every_s = stream.trouble_said_ms / 1000
        OUTSIDE.slow_s = min(SLOW_S, stream.stuck_ms / 10_000)
        OUTSIDE.on_answer = lambda what, seconds: self.numbers.took(rows.OUTSIDE_SECONDS, seconds, what)
        OUTSIDE.on_failure = lambda part: self.numbers.add(rows.OUTSIDE_FAILURES, 1, part)
        self.watchdog.start()
        served = Served(self.settings.worker, self)
        served.start()
        try:
            return run_worker(self.app)
        finally:
            served.stop()
            self.store.close()

    # -- what it tells of itself -----------------------------------------------------------------------------------

    def health(self) -> Health:
        """Say whether this worker does its work. Safe from any thread."""
        consumer = self.app._consumer
        partitions = held_partitions(consumer.ledger) if consumer is not None and self.ready.is_set() else None
        return health_of(partitions, OUTSIDE.troubles(), self.watchdog.slowest(), self.settings.stream.stuck_ms / 1000)

    async def metrics(self) -> bytes:
        """Give this worker's numbers, from a thread that is not its own. Raises TimeoutError where it starts, or its event loop is busy."""
        loop = self._loop
        if loop is None:  # not app.loop: that would be the asking thread's, for good
            raise TimeoutError
        asked_s = time.monotonic()
        return await asked_in(
            loop,
            self.settings.worker.answer_wait_s,
            lambda: self.numbers.text(self._readings(time.monotonic() - asked_s)),
        )

    def _readings(self, loop_delay_s: float) -> Iterator[Reading]:
        """Read all gauges, on the event loop."""
        owners: list[Owner | RecordOwner] = [*self.aggregate.owners, *self.record.owners]
        durable = {(owner.base.topic, owner.partition): owner.flushed_offset for owner in owners}
        if self.app._consumer is not None:
            yield from readings_of_source(self.app._consumer, durable)
        yield from readings_of_owners(INFERENCE_EVENTS, self.aggregate.owners, self.aggregate.holding.flushed_s)
        yield from readings_of_record_owners(METRIC_EVENTS, self.record.owners, self.record.holding.flushed_s)
        yield from readings_of_publishing(
            self.finalise.finalisers, self.finalise.memory, self.clock.now_ms(), self.settings.worker.models_max
        )
        yield from readings_of_process(len(self.definitions.catalogue.models), self.health(), loop_delay_s)

    def _decode(self, fetch: Fetch, catalogue: Catalogue, settings: StreamSettings) -> Decoded:
        with self.numbers.timed(rows.DECODE_SECONDS):
            return decode(fetch, catalogue, settings, record_bytes_max=self.settings.kafka.record_bytes_max)

    def _evaluated(self, seconds: float) -> None:
        self.numbers.took(rows.EVALUATE_SECONDS, seconds)

    def _refused(self, letters: Sequence[DeadLetter]) -> None:
        for code, count in Counter(letter.code for letter in letters).items():
            self.numbers.add(rows.DEAD_LETTERS, count, code)

    async def apply(self, agent: AggregateAgent | RecordAgent, fetch: Fetch) -> None:
        """Have a fetch applied, and count what was in it."""
        held = agent.holding.following(fetch)
        before = {} if held is None else dict(_diagnostics(held.owner))
        with self.numbers.timed(rows.APPLY_SECONDS, fetch.topic):
            await agent.apply(fetch)
        if held is None:
            return  # it was lost, and is another's to apply
        self.numbers.moved(before, _diagnostics(held.owner))
        self.numbers.add(rows.FETCHES, 1, fetch.topic)
        self.numbers.add(rows.RECORDS, len(fetch), fetch.topic)
        self.numbers.add(rows.FETCHED_BYTES, fetch.bytes_count, fetch.topic)

    # -- its parts -------------------------------------------------------------------------------------------------

    def _loops(self) -> dict[str, asyncio.AbstractEventLoop]:
        """Name the event loops of this process, as far as they run."""
        loops = {"the event loop": self._loop} if self._loop is not None else {}
        thread = self.app._consumer._thread if self.app._consumer is not None else None
        if thread is not None and thread.thread_loop.is_running():
            loops["the Kafka thread's event loop"] = thread.thread_loop
        return loops

    async def _start(self) -> None:
        await self.outbox.start()
        await self.aggregate.adopt(await self.definitions.refresh())
        self._loop = asyncio.get_running_loop()
        self.ready.set()
        log.info("ready: %d models known", len(self.definitions.catalogue.models))
        self.app.add_future(self.aggregate.run())
        self.app.add_future(self.finalise.run())
        self.app.add_future(self.record.run())
        self.app.add_future(self._go_on(_UPKEEP, self._keep_up))
        # on its own: it waits for ClickHouse to write parts anew, and definitions and repairs must not wait for that
        self.app.add_future(self._go_on(DELETING, self.aggregate.delete))
        self.app.add_future(self._look_for_lag())
        self.app.add_future(self._give_back_memory())

    async def _go_on(self, duty: str, look: Callable[[], Awaitable[None]]) -> None:
        """Look for something to do, for ever; ends the worker where that cannot go on."""
        try:
            while not self.app.should_stop:
                self.duties.moved(duty)
                await asyncio.sleep(_POLL_S)
                await look()
        except Exception as error:  # whatever ends a part of the worker ends the worker, with its reason
            self._fail(error)
            raise

    async def _keep_up(self) -> None:
        """Follow definitions and keep states whole."""
        catalogue = await self.definitions.poll()
        if catalogue is not self.aggregate.engines.catalogue:
            await self.aggregate.adopt(catalogue)
        await self.aggregate.maintain()

    async def _look_for_lag(self) -> None:
        """See now and then which partitions stand still though their log goes on."""
        quiet_s = self.settings.stream.stuck_ms / 1000 / _LAG_LOOKS
        while not self.app.should_stop:
            await asyncio.sleep(quiet_s)
            await self.aggregate.look_for_lag(quiet_s)
            await self.record.look_for_lag(quiet_s)

    async def _give_back_memory(self) -> None:
        """Let the process be as small as what it holds, soon after it held more."""
        while not self.app.should_stop:
            await asyncio.sleep(self.settings.stream.give_back_ms / 1000)
            await asyncio.to_thread(give_back)

    def _fail(self, error: BaseException) -> None:
        """End the process with the error: a worker that cannot keep its promise must not go on."""
        self.app.failure = self.app.failure or error
        if isinstance(error, FqlstreamError):
            log.critical("%s", error)
        else:
            log.critical("unexpected failure", exc_info=error)
        asyncio.get_running_loop().create_task(self.app.crash(error))  # the app ends with it


@dataclass(frozen=True, slots=True)
class _Owning:
    """A partition of inference-events or metric-events: its agent, and the log that acknowledges for it."""

    worker: Worker
    agent: AggregateAgent | RecordAgent
    log: KafkaLog
    source: SourcePartition

    async def take_over(self) -> int:
        await self.worker.ready.wait()
        self.log.sources[self.source.partition] = self.source
        return await self.agent.take(self.source)

    async def on_fetch(self, fetch: Fetch) -> None:
        await self.worker.apply(self.agent, fetch)

    async def release(self) -> None:
        await self.agent.release(self.source)

    def drop(self) -> None:
        self.agent.lose(self.source)
        self.log.forget(self.source)


@dataclass(frozen=True, slots=True)
class _Finalising:
    """A partition of pane-updates: whoever holds it publishes the models whose notices go there."""

    worker: Worker
    source: SourcePartition

    async def take_over(self) -> int:
        await self.worker.ready.wait()
        self.worker.finalise.take([self.source.partition])
        return await self.source.log_end()  # older notices say nothing that a first look does not

    async def on_fetch(self, fetch: Fetch) -> None:
        for key in fetch.keys:
            if key is not None:
                self.worker.finalise.notice(key.decode(errors="replace"))
        self.source.ack(fetch.next_offset)

    async def release(self) -> None:
        return

    def drop(self) -> None:
        self.worker.finalise.lose([self.source.partition])


def _diagnostics(owner: Owner | RecordOwner) -> Mapping[str, int]:
    return owner.state.counters if isinstance(owner, Owner) else {}


def main(settings: Settings) -> int:
    """Run one worker; gives the process's exit code."""
    configure_logging(settings.worker.log_format)
    return Worker(settings).run()


__all__ = ["Worker", "configure_logging", "main"]
