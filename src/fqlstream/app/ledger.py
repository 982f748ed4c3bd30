"""Who is where in which source partition: the bookkeeping between Kafka's consumer group and the owners of partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from fqlstream.stream.batches import Fetch

#: Fetches of one partition that may wait for its owner: one is processed while the next is ready, more only cost memory.
WAITING_MAX: Final = 2


class Partition(NamedTuple):
    """A topic and a partition number; equal to Faust's and aiokafka's own pairs."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Verdict(Enum):
    """What to do with a fetch that arrives for a partition."""

    NEXT = "next"  # it continues where the owner is
    STALE = "stale"  # meant for an earlier owner, or for before a rebalance: forget it
    ASTRAY = "astray"  # something before it was dropped, or given already: fetch again from the owner's position


@dataclass(slots=True)
class Held:
    """One partition that this worker holds.

    `position` is the next offset its owner has not been given (None until the owner says where to begin), `acked` the
    offset its owner is done with, `committed` what Kafka knows of that. `waiting` are the fetches that were sent to the
    owner and are not finished.
    """

    partition: Partition
    position: int | None = None
    acked: int | None = None
    committed: int | None = None
    paused: bool = False
    lost: bool = False
    waiting: dict[int, Fetch] = field(default_factory=dict)


class Ledger:
    """Positions, acknowledgements and queued bytes of all held partitions; knows no Kafka and no event loop.

    `on_change` is called when the partitions that may be fetched can have changed.
    """

    def __init__(self, queued_bytes_max: int, on_change: Callable[[], None] = lambda: None) -> None:
        self._queued_bytes_max = queued_bytes_max
        self._on_change = on_change
        self._held: dict[Partition, Held] = {}
        self.generation: int | None = None
        self.queued_bytes = 0

    def held(self, partition: Partition) -> Held | None:
        """Give the partition's entry, if this worker holds it."""
        return self._held.get(partition)

    def all_held(self) -> list[Held]:
        """Give every held partition's entry."""
        return list(self._held.values())

    def is_continued_by(self, generation: int) -> bool:
        """Say whether nobody else can have held our partitions between our last assignment and this one.

        Generations of a group are numbered without gaps: a number we never saw is an assignment that left us out.
        """
        return self.generation is not None and generation - self.generation in (0, 1)

    def assign(self, partitions: Iterable[Partition], generation: int) -> None:
        """Take on a new assignment: what is not in it is lost, what stays keeps its position, the rest is new."""
        wanted = set(partitions)
        kept = wanted if self.is_continued_by(generation) else set()
        for partition in [each for each in self._held if each not in kept]:
            self._held.pop(partition).lost = True
        for partition in wanted:
            self._held.setdefault(partition, Held(partition))
        self.generation = generation
        self.forget_waiting()

    def begin(self, held: Held, offset: int) -> None:
        """Say that the owner reads on at `offset`. What was on its way from elsewhere becomes stale."""
        held.position = offset
        held.acked = held.committed = None
        self._on_change()

    def pause(self, held: Held, *, paused: bool) -> None:
        """Stop or go on fetching one partition."""
        held.paused = paused
        self._on_change()

    def fetchable(self) -> frozenset[Partition]:
        """Give the partitions whose owners have begun, are not paused and have room; none while all queues are full."""
        if self.queued_bytes >= self._queued_bytes_max:
            return frozenset()
        return frozenset(
            held.partition
            for held in self._held.values()
            if held.position is not None and not held.paused and len(held.waiting) < WAITING_MAX
        )

    def sent(self, held: Held, fetch: Fetch) -> None:
        """Count a fetch that is on its way to the owner."""
        held.waiting[id(fetch)] = fetch
        self.queued_bytes += fetch.bytes_count
        self._on_change()

    def accept(self, held: Held, start: int, fetch: Fetch) -> Verdict:
        """Judge a fetch of the offsets from `start` to its `next_offset`, and move on if it is the next one."""
        if held.lost or held.position is None or id(fetch) not in held.waiting:
            return Verdict.STALE
        if start != held.position:
            return Verdict.ASTRAY
        held.position = fetch.next_offset
        return Verdict.NEXT

    def finished(self, held: Held, fetch: Fetch) -> None:
        """Count a fetch as gone: processed or dropped. Doing it twice does nothing."""
        if held.waiting.pop(id(fetch), None) is not None:
            self.queued_bytes -= fetch.bytes_count
            self._on_change()

    def forget_waiting(self) -> None:
        """Count everything on its way as gone: Faust empties its queues when the group rebalances."""
        for held in self._held.values():
            held.waiting.clear()
        self.queued_bytes = 0
        self._on_change()

    def ack(self, held: Held, next_offset: int) -> None:
        """Note that the owner is done with everything before `next_offset`.

        Acknowledging less than before does nothing, and so does acknowledging a lost partition. Raises ValueError for
        an offset that the owner was never given: committing it would lose records.
        """
        if held.lost:
            return
        if held.position is None or next_offset > held.position:
            raise ValueError(f"{held.partition}: acknowledged {next_offset}, but read only up to {held.position}")
        if held.acked is None or next_offset > held.acked:
            held.acked = next_offset

    def to_commit(self) -> dict[Partition, int]:
        """Give what is acknowledged and not yet committed."""
        return {
            held.partition: held.acked
            for held in self._held.values()
            if held.acked is not None and held.acked != held.committed
        }

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Note what Kafka took."""
        for partition, offset in offsets.items():
            held = self._held.get(partition)
            if held is not None:
                held.committed = offset
