"""The Faust app of a worker: consumer group, assignment, one agent per source partition, timers, the worker process.

app = build_app(settings, source_topics=["inference-events"], data_dir=Path(".fqlstream"))
serve_source(app, "inference-events", lambda partition: Printer(partition))
raise SystemExit(run_worker(app))

@dataclass
class Printer:
    partition: SourcePartition

    async def take_over(self) -> int:            # claim the partition, load its state
        return await self.partition.log_start()  # the first offset to be given: the fence + 1

    async def on_fetch(self, fetch: Fetch) -> None:  # one at a time, in order, without gaps
        print(len(fetch), "records up to", fetch.next_offset)
        self.partition.ack(fetch.next_offset)    # once it is durable, here or later from a timer
        await self.partition.commit()

    async def release(self) -> None:             # perhaps losing it, or stopping: write, acknowledge
        ...

    def drop(self) -> None:                      # it is gone: forget everything about it
        ...
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import faust
import pyarrow as pa
from faust.worker import Worker
from mode.supervisors import CrashingSupervisor
from yarl import URL

from fqlstream.app import exit_codes
from fqlstream.app.ledger import Partition
from fqlstream.app.transport import SourcePartition, SourceTransport
from fqlstream.errors import FqlstreamError
from fqlstream.ops.kafka_options import bootstrap
from fqlstream.settings import Settings
from fqlstream.stream.batches import Fetch

LOG = logging.getLogger("fqlstream.app")

#: Messages that Faust may queue per agent. One is a whole fetch, and the ledger lets two of a partition be on their way.
_STREAM_BUFFER: Final = 16
#: New objects between two collections. Python's own 700 come together every few records, and hardly any is in a cycle.
_COLLECTED_AFTER: Final = 20_000


class PartitionOwner(Protocol):
    """Who works on one source partition, from its assignment to its loss.

    `on_fetch` and `release` never overlap. An exception in `take_over`, `on_fetch` or `release` ends the worker: what
    a record or a store may do wrong is the owner's to handle.
    """

    async def take_over(self) -> int:
        """Claim the partition; give the first offset to be delivered. May wait; cancelled if the partition goes."""
        ...

    async def on_fetch(self, fetch: Fetch) -> None:
        """Take in one fetch; the next comes when this returns. Cancelled if the partition is lost meanwhile."""
        ...

    async def release(self) -> None:
        """Write and acknowledge what is taken in: the partition may be given up, or the worker stops.

        Not called before the takeover is complete.
        Cancelled after `stream.release_wait_ms`. The partition may also stay; then fetches go on as before.
        """
        ...

    def drop(self) -> None:
        """Forget the partition: it is somebody else's, or the worker ends. Called once, last, and must not wait."""
        ...


class FetchSchema(faust.Schema):
    """Hands a fetch through: there is nothing to deserialise."""

    def loads_key(self, _app: Any, message: Any, **_: Any) -> Any:
        """Give the message's key."""
        return message.key

    def loads_value(self, _app: Any, message: Any, **_: Any) -> Any:
        """Give the message's value, a `Fetch`."""
        return message.value


@dataclass(slots=True)
class Desk:
    """An owner with the lock that keeps its fetches and its release apart."""

    owner: PartitionOwner
    lock: asyncio.Lock
    has_begun: bool = False

    async def release(self) -> None:
        """Let the owner write what it has; one that has not taken over yet has nothing."""
        async with self.lock:
            if self.has_begun:
                await self.owner.release()


class SourceApp(faust.App):
    """A Faust app whose source topics arrive as whole fetches."""

    def __init__(
        self,
        app_id: str,
        *,
        settings: Settings,
        source_topics: Sequence[str],
        prompt_topics: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(app_id, **options)
        self.source_topics = frozenset(source_topics)
        #: Seconds that stopping may take before the process is ended; None: the process is not ours to end.
        self.stop_wait_s: float | None = None
        #: What has ended the app first. What fails while it stops fails because of that, and says less.
        self.failure: BaseException | None = None
        self.desks: dict[Partition, Desk] = {}
        self.transport = SourceTransport(
            [URL(f"kafka://{bootstrap(settings.kafka)}")],
            self,
            settings=settings,
            source_topics=source_topics,
            prompt_topics=prompt_topics,
        )
        self.producer_transport = self.transport

    async def release_owners(self) -> None:
        """Let every owner write what it has, each after the fetch in its hands. Raises the first error."""
        ended = await asyncio.gather(*(desk.release() for desk in self.desks.values()), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def on_stop(self) -> None:
        """Release the partitions, then leave the group. A crashed worker releases nothing: what it holds is in doubt."""
        if self.stop_wait_s is not None:
            _end_process_after(self.stop_wait_s)
        if self._consumer is not None and self._consumer.started and not self.crashed:
            await self._consumer.release()
        await super().on_stop()


def _end_process_after(wait_s: float) -> None:
    """End the process if it is still there then: one service that waits for ever must not keep a worker half alive."""

    def end() -> None:
        LOG.critical("the worker has not stopped within %.0f s; it is ended", wait_s)
        os._exit(exit_codes.FAILED)

    timer = threading.Timer(wait_s, end)
    timer.daemon = True
    timer.start()


def build_app(
    settings: Settings, *, source_topics: Sequence[str], data_dir: Path, prompt_topics: Sequence[str] = ()
) -> SourceApp:
    """Build the app of one worker; `serve_source` then says who works on each source topic.

    Records of `prompt_topics`, some of the source topics, are fetched as soon as they are there: somebody waits for them.

    No Tables, no web server, no leader, no topic creation. Raises BrokerError where the settings name no broker.
    """
    bootstrap(settings.kafka)
    app = SourceApp(
        settings.kafka.group,
        settings=settings,
        source_topics=source_topics,
        prompt_topics=prompt_topics,
        broker="kafka://",  # unused: the transport connects by the settings
        datadir=str(data_dir),
        store="memory://",
        cache="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_buffer_maxsize=_STREAM_BUFFER,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        broker_session_timeout=settings.kafka.session_timeout_ms / 1000,
        broker_request_timeout=settings.kafka.request_timeout_ms / 1000,
        broker_commit_interval=2.0,
        worker_redirect_stdouts=False,
        agent_supervisor=CrashingSupervisor,
    )
    app.finalize()
    return app


def serve_source(app: SourceApp, topic: str, own: Callable[[SourcePartition], PartitionOwner]) -> None:
    """Have each assigned partition of a source topic worked on by an owner of its own, made by `own`."""
    if topic not in app.source_topics:
        raise ValueError(f"{topic} is not among the app's source topics {sorted(app.source_topics)}")

    async def source(stream: Any) -> None:
        await _serve(app, stream, own)

    app.agent(app.topic(topic, schema=FetchSchema()), name=f"source-{topic}", isolated_partitions=True, concurrency=1)(
        source
    )


async def _serve(app: SourceApp, stream: Any, own: Callable[[SourcePartition], PartitionOwner]) -> None:
    partition: SourcePartition | None = None
    channel = stream.channel
    try:
        partition = await app.consumer.partition_of(stream.active_partitions)
        if partition is None:
            return
        desk = app.desks[partition.key] = Desk(own(partition), asyncio.Lock())
        await partition.begin(await desk.owner.take_over())
        desk.has_begun = True
        stream = stream.noack()
        # Closed here and now, not when it is collected: Faust still counts the partition's channel in until then.
        async with aclosing(aiter(stream)) as fetches:
            async for fetch in fetches:
                await partition.hand_over(stream.current_event.message.offset, fetch, desk.lock, desk.owner.on_fetch)
    except asyncio.CancelledError:
        # The partition is lost or the worker stops. Passing it on would make Faust start the agent again.
        LOG.debug("%r: agent cancelled", partition)
    except Exception as error:  # any: an agent that ends quietly would leave its partitions uncounted
        if app.failure is not None or app.should_stop or (partition is not None and partition.lost):
            LOG.debug("%r: failed while the worker stops or when it was lost", partition, exc_info=error)
            return
        app.failure = error
        raise
    finally:
        # Faust takes the channel out when reading from it ends. One that was lost during its takeover was never read from, and
        # the next assignment would end the worker: it asserts that every channel's partition is among those assigned.
        if channel in app.topics:
            app.topics.discard(channel)
        gone = app.desks.pop(partition.key, None) if partition is not None else None
        if gone is not None:
            gone.owner.drop()


def _keep_house() -> None:
    """Set how this process keeps memory: what one fetch needed is there for the next."""
    # Modules and the app stay for ever: a collection need not walk them again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER, *gc.get_threshold()[1:])
    # Arrow's own allocator gives pages back within milliseconds, and every fetch would pay for fresh ones: a tenth of its
    # time. The system's keeps what the engine told it to keep.
    pa.set_memory_pool(pa.system_memory_pool())


def run_worker(app: SourceApp) -> int:
    """Run the worker process until SIGTERM, SIGINT or a crash; give its exit code.

    Logging is the caller's to set up. Blocks; call it in the main thread, for the signals.
    """
    worker = Worker(app, quiet=True, redirect_stdouts=False, override_logging=False, loop=asyncio.new_event_loop())
    worker.spinner = None
    app.stop_wait_s = app.transport.settings.stream.stop_wait_ms / 1000
    _keep_house()
    try:
        worker.execute_from_commandline()  # always ends in SystemExit
    except SystemExit as end:
        reason = app.failure or worker.crash_reason
        if isinstance(reason, FqlstreamError):
            LOG.critical("%s", reason)
            return exit_codes.exit_code_of(reason)
        return end.code if isinstance(end.code, int) else exit_codes.FAILED
    return 0
