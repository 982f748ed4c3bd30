"""The record agent: owns partitions of metric-events, applies metric events, flushes as soon as it has nothing more to apply.

All waiting, timing and locking is here; what becomes of a record, and in which order it becomes durable, is in `stream/`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fqlstream.app.retries import OUTSIDE
from fqlstream.app.transport import SourcePartition
from fqlstream.app.unbroken import Unbroken
from fqlstream.app.watchdog import Duties
from fqlstream.errors import BrokerError
from fqlstream.settings import Settings
from fqlstream.stream.batches import Fetch
from fqlstream.stream.record_delivery import RecordOwner, RecordPorts, flush_recorded, take_over_recorded

log = logging.getLogger("fqlstream.record")

_FLUSHING = "writing recorded metrics"
#: Offsets are committed so often, and without anything to write the loop turns so often. They serve lag tools: whoever waits for
#: what is recorded must not wait for a commit.
_COMMIT_S = 0.5


@dataclass(slots=True)
class _Held:
    owner: RecordOwner
    lock: asyncio.Lock
    source: SourcePartition
    reading: bool = True  # False from when it is known that the partition must be taken over again
    applied_s: float = field(default_factory=time.monotonic)

    @property
    def duty(self) -> str:
        """How the watchdog calls it."""
        return f"applying {self.owner.base.topic}[{self.owner.partition}]"


class RecordAgent:
    """One worker's partitions of metric-events."""

    def __init__(
        self,
        topic: str,
        owner_id: str,
        settings: Settings,
        ports: RecordPorts,
        commit: Callable[[], Awaitable[None]],
        on_failure: Callable[[BaseException], None],
        duties: Duties | None = None,
    ) -> None:
        self.topic = topic
        self.owner_id = owner_id
        self.settings = settings
        self.ports = ports
        self.commit = commit
        self.on_failure = on_failure
        self.duties = duties or Duties()
        self._held: dict[int, _Held] = {}
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._flushed = asyncio.Condition()
        self._unbroken = Unbroken(on_failure)
        self._pause_said = False
        self._committed_s = 0.0

    @property
    def owners(self) -> list[RecordOwner]:
        """The partitions held now."""
        return [held.owner for held in self._held.values()]

    # -- assignment ------------------------------------------------------------------------------------------------

    async def take(self, source: SourcePartition) -> int:
        """Take a partition over; gives the first offset to read."""
        duty = f"taking over {self.topic}[{source.partition}]"
        self.duties.moved(duty)
        try:
            return await self._take(source)
        finally:
            self.duties.done(duty)

    async def _take(self, source: SourcePartition) -> int:
        lock = asyncio.Lock()
        owner = await take_over_recorded(self.topic, source.partition, self.owner_id, self.ports, lock)
        if not source.lost:  # else it is another takeover's, even if it was assigned anew meanwhile
            self._held[source.partition] = _Held(owner, lock, source)
            log.info(
                "took over %s[%d] at offset %d as epoch %d",
                self.topic,
                source.partition,
                owner.state.next_offset,
                owner.base.version.epoch,
            )
        return owner.state.next_offset

    async def _take_again(self, held: _Held) -> None:
        """Take a partition over anew, from what is durable, because somebody claimed it while it stayed ours."""
        source = held.source
        log.warning("%s[%d] was claimed by another worker: taking it over again", self.topic, source.partition)
        # whoever claimed it in error is told by the group in the meantime
        await asyncio.sleep(random.uniform(0.2, 2.0))  # noqa: S311  # jitter, not a secret
        if source.lost or self._held.get(source.partition) is not held:
            return
        try:
            await source.begin(await self.take(source))
        except Exception:
            if not source.lost:  # else it is another worker's, and what was asked for it has no answer here
                raise

    async def release(self, source: SourcePartition) -> None:
        """Write what there is, and that the partition may be left."""
        held = self._held.get(source.partition)
        if held is not None and held.source is source:
            held.owner.leaving = True
        await self.flush()
        await self._unbroken.await_to_its_end(self._commit())

    def lose(self, source: SourcePartition) -> None:
        """Forget a partition at once: its next owner goes on from what is durable."""
        held = self._held.get(source.partition)
        if held is not None and held.source is source:
            del self._held[source.partition]
            self.duties.done(held.duty)
            log.info("gave up %s[%d]", self.topic, source.partition)

    # -- fetches ---------------------------------------------------------------------------------------------------

    async def apply(self, fetch: Fetch) -> None:
        """Apply one fetch; returns when it is in memory and its verdicts are told. Waits while too much is unwritten."""
        await self._room()
        held = self._held.get(fetch.partition)
        if held is None or not held.reading or fetch.start > held.owner.state.next_offset:
            return  # lost, or to be read again from an earlier offset: what lies before would be missing
        async with held.lock:
            await held.owner.apply(fetch)
        held.applied_s = time.monotonic()
        self.duties.done(held.duty)
        self._wake.set()

    async def _room(self) -> None:
        """Wait until the store has taken enough of what is unwritten: consumption pauses, nothing is lost."""
        if not self._is_full():
            return
        if not self._pause_said and OUTSIDE.trouble_s() > time.monotonic() - 1:
            self._pause_said = True
            log.warning(
                "%.0f MB of recorded metrics wait for ClickHouse: reading pauses", self._unwritten_bytes() / 1e6
            )
        async with self._flushed:
            while self._is_full():
                self._wake.set()
                await self._flushed.wait()
        if self._pause_said:
            self._pause_said = False
            log.warning("ClickHouse has taken the recorded metrics that waited: reading goes on")

    def _is_full(self) -> bool:
        return self._unwritten_bytes() >= self.settings.record.backlog_bytes_max

    def _unwritten_bytes(self) -> int:
        # one that was superseded is not flushed any more: it is about to be taken over again
        return sum(owner.unwritten_bytes for owner in self.owners if not owner.superseded)

    # -- flushes ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Flush for ever, whenever something was applied; ends the worker where that cannot go on."""
        try:
            while True:
                self.duties.moved(_FLUSHING)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_COMMIT_S):  # wait_for may swallow a cancellation
                        await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(self.settings.record.flush_ms / 1000)
                await self.flush()
                if time.monotonic() - self._committed_s >= _COMMIT_S:
                    await self._unbroken.await_to_its_end(self._commit())
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.on_failure(error)
            raise

    async def flush(self) -> None:
        """Make everything applied so far durable."""
        await self._unbroken.await_to_its_end(self._flush())

    async def _flush(self) -> None:
        async with self._flushing:
            parts = list(self._held.values())
            await flush_recorded([held.owner for held in parts], self.ports)
            self._take_superseded_again(parts)
        async with self._flushed:
            self._flushed.notify_all()

    async def _commit(self) -> None:
        self._committed_s = time.monotonic()
        await self.commit()

    def _take_superseded_again(self, parts: Sequence[_Held]) -> None:
        for held in parts:
            if held.owner.superseded and held.reading:
                held.reading = False
                self._unbroken.start(self._take_again(held))

    # -- what the watchdog is told ---------------------------------------------------------------------------------

    async def look_for_lag(self, quiet_s: float) -> None:
        """Expect progress of every partition that has applied nothing for a while though its log, asked now, holds more."""
        for held in list(self._held.values()):
            if time.monotonic() - held.applied_s < quiet_s or not self._is_current(held):
                continue
            next_offset = held.owner.state.next_offset
            try:
                lags = await held.source.log_end_now() > next_offset
            except BrokerError:
                lags = False
            if not lags:
                self.duties.done(held.duty)
            elif held.owner.state.next_offset == next_offset and self._is_current(held):
                self.duties.expect(held.duty)

    def _is_current(self, held: _Held) -> bool:
        return self._held.get(held.owner.partition) is held and held.reading
