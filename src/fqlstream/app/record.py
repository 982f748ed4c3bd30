"""The record agent: owns partitions of metric-events, applies metric events, flushes as soon as it has nothing more to apply.

All waiting, timing and locking is here; what becomes of a record, and in which order it becomes durable, is in `stream/`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from fqlstream.app.holding import Held, Holding
from fqlstream.app.numbers import Numbers
from fqlstream.app.rounds import Room, Rounds
from fqlstream.app.transport import SourcePartition
from fqlstream.app.unbroken import Unbroken
from fqlstream.app.watchdog import Duties
from fqlstream.settings import Settings
from fqlstream.stream.batches import Fetch
from fqlstream.stream.record_delivery import RecordOwner, RecordPorts, flush_recorded, take_over_recorded

log = logging.getLogger("fqlstream.record")

_FLUSHING = "writing recorded metrics"
#: Offsets are committed so often, and without anything to write the loop turns so often. They serve lag tools: whoever waits for
#: what is recorded must not wait for a commit.
_COMMIT_S = 0.5


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
        numbers: Numbers | None = None,
    ) -> None:
        self.topic = topic
        self.owner_id = owner_id
        self.settings = settings
        self.ports = ports
        self.commit = commit
        duties = duties or Duties()
        self._unbroken = Unbroken(on_failure)
        self.holding: Holding[RecordOwner, None] = Holding(
            topic, self._take, self._unbroken, duties, log, numbers or Numbers()
        )
        self._rounds = Rounds(_FLUSHING, duties, on_failure)
        self._room = Room(self._rounds, self._is_full, self._what_waits, log)
        self._flushing = asyncio.Lock()
        self._committed_s = 0.0

    @property
    def owners(self) -> list[RecordOwner]:
        """The partitions held now."""
        return self.holding.owners

    # -- assignment ------------------------------------------------------------------------------------------------

    async def take(self, source: SourcePartition) -> int:
        """Take a partition over; gives the first offset to read."""
        return await self.holding.take(source)

    async def _take(self, source: SourcePartition) -> int:
        started_s = time.monotonic()
        lock = asyncio.Lock()
        owner = await take_over_recorded(self.topic, source.partition, self.owner_id, self.ports, lock)
        self.holding.add(source, owner, lock, None, time.monotonic() - started_s)
        return owner.state.next_offset

    async def release(self, source: SourcePartition) -> None:
        """Write what there is, and that the partition may be left."""
        self.holding.leave(source)
        await self.flush()
        await self._unbroken.await_to_its_end(self._commit())

    def lose(self, source: SourcePartition) -> None:
        """Forget a partition at once: its next owner goes on from what is durable."""
        self.holding.lose(source)

    # -- fetches ---------------------------------------------------------------------------------------------------

    async def apply(self, fetch: Fetch) -> None:
        """Apply one fetch; returns when it is in memory and its verdicts are told. Waits while too much is unwritten."""
        await self._room.wait()
        held = self.holding.following(fetch)
        if held is None:
            return
        # cancelling it would leave a list that has learned what no row says
        await self._unbroken.await_to_its_end(self._apply(held, fetch))
        self.holding.moved(held)
        self._rounds.ask()

    async def _apply(self, held: Held[RecordOwner, None], fetch: Fetch) -> None:
        async with held.lock:
            await held.owner.apply(fetch)

    def _is_full(self) -> bool:
        return self._unwritten_bytes() >= self.settings.record.backlog_bytes_max

    def _what_waits(self) -> str:
        return f"{self._unwritten_bytes() / 1e6:.0f} MB of recorded metrics wait for ClickHouse"

    def _unwritten_bytes(self) -> int:
        # one that was superseded is not flushed any more: it is about to be taken over again
        return sum(owner.unwritten_bytes for owner in self.owners if not owner.superseded)

    # -- flushes ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Flush for ever, whenever something was applied; ends the worker where that cannot go on."""
        await self._rounds.run(self._write, _COMMIT_S)

    async def _write(self) -> None:
        await asyncio.sleep(self.settings.record.flush_ms / 1000)
        await self.flush()
        if time.monotonic() - self._committed_s >= _COMMIT_S:
            await self._unbroken.await_to_its_end(self._commit())

    async def flush(self) -> None:
        """Make everything applied so far durable."""
        await self._unbroken.await_to_its_end(self._flush())

    async def _flush(self) -> None:
        async with self._flushing:
            with self.holding.flushing() as parts:
                await flush_recorded([held.owner for held in parts], self.ports)
            self.holding.take_superseded_again(parts)
        await self._room.written()

    async def _commit(self) -> None:
        self._committed_s = time.monotonic()
        await self.commit()

    async def look_for_lag(self, quiet_s: float) -> None:
        """Expect progress of every partition that has applied nothing for a while though its log, asked now, holds more."""
        await self.holding.look_for_lag(quiet_s)
