"""The partitions of one source topic that this worker holds: taking them, losing them, taking them again.

What is done with a partition is its agent's, as is the owner that keeps its state.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from fqlstream.app.numbers import Numbers
from fqlstream.app.transport import SourcePartition
from fqlstream.app.unbroken import Unbroken
from fqlstream.app.watchdog import Duties
from fqlstream.errors import BrokerError
from fqlstream.ops.numbers import FLUSH_SECONDS, FLUSHES, TAKEOVER_SECONDS, TAKEOVERS
from fqlstream.stream.batches import Fetch
from fqlstream.stream.protocol import FlushRow

#: Seconds before a partition that somebody else claimed is taken again: whoever claimed it in error is told by the group meanwhile.
_TAKEN_AGAIN_S = (0.2, 2.0)


class Applied(Protocol):
    """How far a partition was applied."""

    @property
    def next_offset(self) -> int:
        """What is before it was applied."""
        ...


class Owning(Protocol):
    """What is asked of an owner here."""

    leaving: bool
    superseded: bool
    flushed_offset: int

    @property
    def base(self) -> FlushRow:
        """The newest flush row, with the epoch that was claimed."""
        ...

    @property
    def state(self) -> Applied:
        """What was applied."""
        ...


OwnerT = TypeVar("OwnerT", bound=Owning)
NotesT = TypeVar("NotesT")


@dataclass(slots=True, eq=False)
class Held(Generic[OwnerT, NotesT]):
    """A partition from one takeover to its loss; taken over again it is another one."""

    source: SourcePartition
    owner: OwnerT
    lock: asyncio.Lock  # held by whoever applies records or reads what was applied
    notes: NotesT  # what its agent keeps of it
    reading: bool = True  # False from when it is known that the partition must be taken over again
    applied_s: float = field(default_factory=time.monotonic)

    @property
    def duty(self) -> str:
        """How the watchdog calls it."""
        return f"applying {self.owner.base.topic}[{self.source.partition}]"


class Holding(Generic[OwnerT, NotesT]):
    """The partitions held now. Iterating gives those of that moment: they may go whenever something is awaited."""

    def __init__(
        self,
        topic: str,
        take_over: Callable[[SourcePartition], Awaitable[int]],
        unbroken: Unbroken,
        duties: Duties,
        log: logging.Logger,
        numbers: Numbers,
    ) -> None:
        self.topic = topic
        self.flushed_s = time.monotonic()  # when the last flush ended
        self._numbers = numbers
        self._take_over = take_over  # becomes the owner, calls `add`, and gives the first offset to read
        self._unbroken = unbroken
        self._duties = duties
        self._log = log
        self._held: dict[int, Held[OwnerT, NotesT]] = {}

    @property
    def parts(self) -> list[Held[OwnerT, NotesT]]:
        """Those held now."""
        return list(self._held.values())

    @property
    def owners(self) -> list[OwnerT]:
        """Their owners."""
        return [held.owner for held in self._held.values()]

    def of(self, partition: int) -> Held[OwnerT, NotesT] | None:
        """Give a partition; None where it is not held."""
        return self._held.get(partition)

    def of_source(self, source: SourcePartition) -> Held[OwnerT, NotesT] | None:
        """Give a partition as it was assigned then; None where it is not held, or was lost and assigned anew."""
        held = self._held.get(source.partition)
        return held if held is not None and held.source is source else None

    def following(self, fetch: Fetch) -> Held[OwnerT, NotesT] | None:
        """Give the partition that a fetch may be applied to; None where it was lost, or will be read from an earlier offset.

        Of such a fetch, what lies before it would be missing.
        """
        held = self._held.get(fetch.partition)
        if held is None or not held.reading or fetch.start > held.owner.state.next_offset:
            return None
        return held

    def is_current(self, held: Held[OwnerT, NotesT]) -> bool:
        """Say whether it is held still, and is not to be taken over again."""
        return self._held.get(held.source.partition) is held and held.reading

    # -- from its assignment to its loss -----------------------------------------------------------------------------

    async def take(self, source: SourcePartition) -> int:
        """Take a partition over; gives the first offset to read."""
        duty = f"taking over {self.topic}[{source.partition}]"
        self._duties.moved(duty)
        try:
            return await self._take_over(source)
        finally:
            self._duties.done(duty)

    def add(self, source: SourcePartition, owner: OwnerT, lock: asyncio.Lock, notes: NotesT, took_s: float) -> bool:
        """Hold what was taken over, in so many seconds. False where it was lost, and perhaps assigned anew, meanwhile."""
        if source.lost:
            return False
        self._held[source.partition] = Held(source, owner, lock, notes)
        offset, epoch = owner.state.next_offset, owner.base.version.epoch
        place = f"{self.topic}[{source.partition}]"
        fields = {
            "topic": self.topic,
            "partition": source.partition,
            "offset": offset,
            "epoch": epoch,
            "took_s": took_s,
        }
        self._log.info(
            "took over %s at offset %d as epoch %d in %.2f s", place, offset, epoch, took_s, extra={"fields": fields}
        )
        self._numbers.add(TAKEOVERS, 1, self.topic)
        self._numbers.took(TAKEOVER_SECONDS, took_s, self.topic)
        return True

    def leave(self, source: SourcePartition) -> None:
        """Have the next flush say that the partition is left on purpose."""
        held = self.of_source(source)
        if held is not None:
            held.owner.leaving = True

    def lose(self, source: SourcePartition) -> bool:
        """Forget a partition at once: its next owner goes on from what is durable. False where it was not held."""
        held = self.of_source(source)
        if held is None:
            return False
        del self._held[source.partition]
        self._duties.done(held.duty)
        fields = {"topic": self.topic, "partition": source.partition}
        self._log.info("gave up %s[%d]", self.topic, source.partition, extra={"fields": fields})
        return True

    def take_superseded_again(self, parts: Sequence[Held[OwnerT, NotesT]]) -> None:
        """Begin to take those over anew that somebody claimed while they stayed ours."""
        for held in parts:
            if held.owner.superseded and held.reading:
                held.reading = False
                self._unbroken.start(self.take_again(held))

    async def take_again(self, held: Held[OwnerT, NotesT]) -> None:
        """Take a partition over anew, from what is durable."""
        source = held.source
        self._log.warning("%s[%d] was claimed by another worker: taking it over again", self.topic, source.partition)
        await asyncio.sleep(random.uniform(*_TAKEN_AGAIN_S))  # noqa: S311  # jitter, not a secret
        if source.lost or self._held.get(source.partition) is not held:
            return
        try:
            await source.begin(await self.take(source))
        except Exception:  # any, raised again where the partition is still ours
            if not source.lost:  # else it is another worker's, and what was asked for it has no answer here
                raise

    @contextmanager
    def flushing(self) -> Iterator[list[Held[OwnerT, NotesT]]]:
        """Give the partitions for a flush, and note how long it takes where there is something to write."""
        parts = self.parts
        began_s, waits = time.monotonic(), any(o.state.next_offset > o.flushed_offset for o in self.owners)
        yield parts
        self.flushed_s = time.monotonic()
        if waits:
            self._numbers.add(FLUSHES, 1, self.topic)
            self._numbers.took(FLUSH_SECONDS, self.flushed_s - began_s, self.topic)

    # -- what the watchdog is told -------------------------------------------------------------------------------------

    def moved(self, held: Held[OwnerT, NotesT]) -> None:
        """Note that something was applied."""
        held.applied_s = time.monotonic()
        self._duties.done(held.duty)

    async def look_for_lag(self, quiet_s: float) -> None:
        """Expect progress of every partition that has applied nothing for a while though its log, asked now, holds more.

        A Kafka that does not answer is no reason to expect any.
        """
        for held in self.parts:
            if time.monotonic() - held.applied_s < quiet_s or not self.is_current(held):
                continue
            next_offset = held.owner.state.next_offset
            try:
                lags = await held.source.log_end_now() > next_offset
            except BrokerError:
                lags = False
            if not lags:
                self._duties.done(held.duty)
            elif held.owner.state.next_offset == next_offset and self.is_current(held):
                self._duties.expect(held.duty)
