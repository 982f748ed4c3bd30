"""The order in which recorded metrics become durable: the protocol of `stream.delivery`, for a topic without panes.

    FLUSH  1 dead letters, rows                      keyed by position: writing them again changes nothing
           2 what was forgotten, summaries of lists  with their fence and version; from here on they can be read, and that is told
           3 the flush row
           4 look for a higher epoch
           5 acknowledgement, commit

A row replaces what was recorded under its key before it in the log, so rows need no fence. What is forgotten is looked for after
the rows before it are durable, and only below its offset. A verdict is told as soon as it is taken: the log alone decides it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import numpy as np

from fqlstream.clock import Clock
from fqlstream.errors import FqlstreamError
from fqlstream.stream.batches import DeadLetter, Fetch
from fqlstream.stream.delivery import ClaimLog, ClaimStore, claim_partition, resume_offset
from fqlstream.stream.panes import LANES
from fqlstream.stream.protocol import FlushRow, Version
from fqlstream.stream.recorded import (
    ForgetRow,
    Limits,
    ListKey,
    ListState,
    Needs,
    RecordState,
    Refused,
    Row,
    Summary,
    bytes_of,
    letters_of,
    poison,
    read,
)
from fqlstream.stream.suspects import noted

#: Values that lists learn at once, about a microsecond each; fewer are not worth going aside for.
_ASIDE_VALUES_MIN: Final = 5_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Offsets `first` to `applied` are decided, `refused` are those that were not taken; up to `readable` all is in ClickHouse."""

    partition: int
    first: int
    applied: int
    readable: int
    refused: Mapping[int, Refused]


class RecordStore(ClaimStore, Protocol):
    """What the protocol asks of ClickHouse. Every call either has happened durably when it returns, or raises."""

    async def newest_flushes(self, topic: str) -> Sequence[FlushRow]:
        """Give every partition's row of the highest version, read in one query."""
        ...

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write what was refused, for SQL."""
        ...

    async def write_recorded(self, rows: Mapping[int, Sequence[Row]]) -> None:
        """Write rows of numbers, by partition; what is to be forgotten is not among them."""
        ...

    async def forget_recorded(self, partition: int, forgotten: Sequence[ForgetRow]) -> None:
        """Mark what was recorded below an offset as gone; what stands above it stays."""
        ...

    async def write_summaries(self, summaries: Mapping[int, tuple[Version, Sequence[Summary]]]) -> None:
        """Write summaries of lists with their version, by partition."""
        ...

    async def read_lists(self, partition: int, needs: Needs) -> Mapping[ListKey, ListState]:
        """Give lists as their newest summary has them, forgotten ones included, as far as there are any."""
        ...

    async def refused_from(self, partition: int, offset: int) -> Mapping[int, Refused]:
        """Give the records from an offset on that are dead letters already."""
        ...


class RecordLog(ClaimLog, Protocol):
    """What the protocol asks of Kafka."""

    async def topic_id(self, topic: str) -> str:
        """Identify the topic: a recreated one has another id."""
        ...

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write to the dead-letter topic; returns when acknowledged."""
        ...

    def send_verdict(self, verdict: Verdict) -> None:
        """Tell who waits; only a hint."""
        ...

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:
        """Let the commit follow."""
        ...


async def here(work: Callable[[], None]) -> None:
    """Do work at once."""
    work()


@dataclass(frozen=True, slots=True)
class RecordPorts:
    """Everything outside: one value, so that the simulator swaps it whole.

    `aside` does work that takes long, so that a process with an event loop goes on with other things meanwhile.
    """

    store: RecordStore
    log: RecordLog
    clock: Clock
    limits: Limits
    aside: Callable[[Callable[[], None]], Awaitable[None]] = here


@dataclass(frozen=True, slots=True)
class Cut:
    """A partition at one moment: everything that a flush writes of it."""

    rows: Sequence[Row]
    forgotten: Sequence[ForgetRow]
    dead_letters: Sequence[DeadLetter]
    summaries: Sequence[Summary]
    row: FlushRow
    next_offset: int


class _SupersededError(Exception):
    """Somebody who claimed a higher epoch has written what was to be loaded: it may lack what we have applied."""


class RecordOwner:
    """The owner of one partition of metric-events: its lists, what waits to be written, and under which version."""

    def __init__(
        self, state: RecordState, base: FlushRow, ports: RecordPorts, lock: AbstractAsyncContextManager[object]
    ) -> None:
        self.state = state
        self.base = base  # the newest flush row that is, or is about to be, durable
        self.ports = ports
        self.lock = lock
        self.rows: list[Row] = []
        self.dead_letters: list[DeadLetter] = []
        self.unwritten_bytes = 0
        self.flushed_offset = state.next_offset  # below it everything is durable, and a flush row says so
        self._readable_offset = state.next_offset  # rows and summaries below it are durable
        self.told_offset = state.next_offset  # verdicts below it were told
        self.superseded = False  # somebody claimed a higher epoch: this memory must not be written any more
        self.leaving = False  # the partition may be given up after the next flush
        self._said_something = False  # the first flush of an owner always speaks: a predecessor's commit may be missing

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self.state.partition

    async def apply(self, fetch: Fetch) -> None:
        """Apply a fetch and tell the verdicts. A record that our own code cannot take becomes a dead letter alone.

        Applies nothing, and is `superseded`, where it meets what a later owner has written: its verdicts would be no function of
        the log any more.
        """
        self.leaving = False
        fetch = (
            fetch.part(int(np.searchsorted(fetch.offsets, self.state.next_offset)), len(fetch)) if len(fetch) else fetch
        )
        refused: dict[int, Refused] = {}
        try:
            if len(fetch) and not self.superseded:
                await self._apply_or_halve(fetch, refused)
        except _SupersededError:
            self.superseded = True
        if self.superseded:
            return
        self.state.next_offset = max(self.state.next_offset, fetch.next_offset)
        self._tell(refused)

    async def _apply_or_halve(self, fetch: Fetch, refused: dict[int, Refused]) -> None:
        try:
            batch = read(fetch, self.ports.limits)
            if needs := self.state.needs(batch):
                await self._load(needs, int(fetch.offsets[0]))
            update = self.state.compute(batch)
        except (FqlstreamError, _SupersededError):
            raise  # ClickHouse is away, or a newer release wrote its states: no record's fault
        except Exception as error:  # whatever one record makes our code raise, the others count
            if len(fetch) > 1:
                middle = len(fetch) // 2
                await self._apply_or_halve(fetch.part(0, middle), refused)
                await self._apply_or_halve(fetch.part(middle, len(fetch)), refused)
                return
            self._refuse(fetch, [poison(error)], refused)
            return
        commit = here if update.list_values_count < _ASIDE_VALUES_MIN else self.ports.aside
        await commit(partial(self.state.commit, update))
        self.rows.extend(update.rows)
        self.unwritten_bytes += sum(map(bytes_of, update.rows))
        self._refuse(fetch, update.refused, refused)

    async def _load(self, needs: Needs, offset: int) -> None:
        """Load lists, and where somebody before us has written further than we are, the refusals that it took.

        In this order: letters are durable before the summaries beyond them. Somebody who was taken for dead may write both at any
        time. What memory has let go of was flushed before: the store has it.
        """
        loaded = await self.ports.store.read_lists(self.partition, needs)
        if any(state.epoch > self.base.version.epoch for state in loaded.values()):
            raise _SupersededError
        if any(state.fence >= offset for state in loaded.values()):
            self.state.refused_before = await self.ports.store.refused_from(self.partition, offset)
        self.state.absorb(needs, loaded)

    def _refuse(self, fetch: Fetch, found: Sequence[Refused], refused: dict[int, Refused]) -> None:
        letters = letters_of(fetch, found)
        self.dead_letters.extend(letters)
        self.unwritten_bytes += sum(len(letter.value or b"") for letter in letters)
        refused.update({letter.offset: one for letter, one in zip(letters, found, strict=True)})

    def _tell(self, refused: Mapping[int, Refused]) -> None:
        """Tell what was decided since the last time, and how far everything is durable."""
        first, self.told_offset = self.told_offset, max(self.told_offset, self.state.next_offset)
        self.ports.log.send_verdict(
            Verdict(self.partition, first, self.told_offset - 1, self._readable_offset - 1, refused)
        )

    # -- FLUSH -----------------------------------------------------------------------------------------------------

    async def cut(self) -> Cut | None:
        """Take everything that waits out of memory, as of now; None where there is nothing new to say."""
        async with self.lock:
            is_leaving = self.leaving and not self.base.suspicion.has_left
            nothing = not self.rows and not self.dead_letters and not self.state.dirty
            if nothing and self.state.next_offset == self.flushed_offset and self._said_something and not is_leaving:
                return None
            self._said_something = True
            self.state.evict()  # what is not dirty now is durable
            return self._cut()

    def _cut(self) -> Cut:
        state = self.state
        version = Version(self.base.version.epoch, self.base.version.flush + 1)
        fence = state.next_offset - 1
        # lists go on to grow while they are written: what is written is what they are now
        summaries = [state.lists[key].summarised(key) for key in sorted(state.dirty)]
        self.base = replace(
            self.base,
            version=version,
            fences=dict.fromkeys(LANES, fence),  # recorded metrics have no lanes: all of them are one
            written_at_ms=self.ports.clock.now_ms(),
            suspicion=noted(self.base, fence, has_left=self.leaving),
        )
        numbers: list[Row] = [row for row in self.rows if not isinstance(row, ForgetRow)]
        forgotten = [row for row in self.rows if isinstance(row, ForgetRow)]
        cut = Cut(numbers, forgotten, self.dead_letters, summaries, self.base, state.next_offset)
        self.rows, self.dead_letters, self.unwritten_bytes = [], [], 0
        state.dirty = set()
        return cut

    def written(self, cut: Cut) -> None:
        """Note that what a cut holds can be read, and tell it to who waits for it."""
        self._readable_offset = max(self._readable_offset, cut.next_offset)
        self._tell({})

    def flushed(self, cut: Cut) -> None:
        """Note that a cut is durable and its flush row is."""
        self.flushed_offset = max(self.flushed_offset, cut.next_offset)


async def flush_recorded(owners: Sequence[RecordOwner], ports: RecordPorts) -> None:
    """Make everything that these owners applied durable, in the order that the promise needs.

    An owner that is `superseded` afterwards must be dropped, and the partition taken over again if it is still ours; after a
    failure all of them are, as in `delivery.flush`.
    """
    try:
        await _flush(owners, ports)
    except BaseException:
        for owner in owners:
            owner.superseded = True
        raise


async def _flush(owners: Sequence[RecordOwner], ports: RecordPorts) -> None:
    taken = [(owner, await owner.cut()) for owner in owners if not owner.superseded]
    cuts = [(owner, cut) for owner, cut in taken if cut is not None]
    if not cuts:
        return
    letters = [letter for _, cut in cuts for letter in cut.dead_letters]
    if letters:
        await ports.log.send_dead_letters(letters)
        await ports.store.write_dead_letters(letters)
    await ports.store.write_recorded({owner.partition: cut.rows for owner, cut in cuts})
    for owner, cut in cuts:
        await ports.store.forget_recorded(owner.partition, cut.forgotten)
    await ports.store.write_summaries({owner.partition: (cut.row.version, cut.summaries) for owner, cut in cuts})
    for owner, cut in cuts:
        owner.written(cut)
    await ports.store.write_flushes([cut.row for _, cut in cuts])
    epochs = {row.partition: row.version.epoch for row in await ports.store.newest_flushes(cuts[0][1].row.topic)}
    for owner, cut in cuts:
        # whoever has found out meanwhile, by what a successor wrote, is not to forget it
        owner.superseded = owner.superseded or epochs.get(owner.partition, 0) > cut.row.version.epoch
        owner.flushed(cut)
        if not owner.superseded:
            ports.log.acknowledge(cut.row.topic, cut.row.partition, cut.next_offset)


async def take_over_recorded(
    topic: str, partition: int, owner_id: str, ports: RecordPorts, lock: AbstractAsyncContextManager[object]
) -> RecordOwner:
    """Become the owner of a partition: claim a higher epoch, find the place to go on from. Lists are loaded when they grow.

    Raises FqlstreamError DLV001, DLV002 or DLV003 where going on would lose or double rows.
    """
    topic_id = await ports.log.topic_id(topic)
    claim, _ = await claim_partition(topic, partition, owner_id, topic_id, ports)
    begin, end = await ports.log.offset_range(topic, partition)
    next_offset = resume_offset(claim, topic_id, begin, end)
    state = RecordState(partition, ports.limits, next_offset)
    return RecordOwner(state, replace(claim, topic_id=topic_id), ports, lock)
