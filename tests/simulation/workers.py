"""Workers of the simulation: the production agents, one process each, that the scheduler may pause, stop or kill."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from tests.simulation.virtual import OWNER
from tests.simulation.world import KILLER, MODEL, TOPIC, MemoryLog, MemoryStore, World

from fqlstream.app.aggregate import AggregateAgent
from fqlstream.app.ledger import Partition
from fqlstream.app.publish import FinaliseAgent
from fqlstream.app.transport import Progress
from fqlstream.events.catalogue import Catalogue
from fqlstream.settings import Settings, StreamSettings
from fqlstream.stream.batches import Decoded, Fetch
from fqlstream.stream.decode import decode
from fqlstream.stream.delivery import Ports
from fqlstream.stream.protocol import FlushRow

FETCHED_MAX = 12
#: How often what is done with a lost partition ends only some time after it was lost.
LEFT_LATE = 0.3
#: A record that holds this ends its worker too, but later: when everything of it is written but for the flush row.
LATE = b"killer-late"


class PoisonError(Exception):
    """What a record that nobody thought of makes the decoder raise."""


def decode_or_fail(fetch: Fetch, catalogue: Catalogue, settings: StreamSettings) -> Decoded:
    """The production decoder, with a weakness."""
    if any(value is not None and b"poison" in value for value in fetch.values):
        raise PoisonError("a record that nobody thought of")
    return decode(fetch, catalogue, settings)


class Store(MemoryStore):
    """The store of a worker that may have applied a record that ends it before the flush row."""

    async def write_flushes(self, rows: Sequence[FlushRow]) -> None:
        worker = self.actor
        if isinstance(worker, Worker) and worker.doomed.intersection(row.partition for row in rows):
            worker.kill()
        await super().write_flushes(rows)


class Source:
    """A partition as the transport hands it to a worker."""

    def __init__(self, world: World, partition: int, worker: Worker) -> None:
        self.world = world
        self.worker = worker
        self.key = Partition(TOPIC, partition)
        self.partition = partition
        self.position: int | None = None
        self.lost = False

    def progress(self) -> Progress | None:
        if self.position is None:
            return None
        return Progress(self.position, len(self.world.log.get(self.partition, [])), self.world.clock.now_ms())

    async def begin(self, offset: int) -> None:
        await self.world.step(self.worker, "look where the log begins and ends")
        self.position = offset
        await self.world.step(self.worker, "seek")


class Definitions:
    """A worker's view of the definitions: as of when it last looked."""

    def __init__(self, world: World, worker: Worker) -> None:
        self.world = world
        self.worker = worker
        self.catalogue = Catalogue()

    async def refresh(self) -> Catalogue:
        await self.world.step(self.worker, "read definitions")
        self.catalogue = self.world.catalogue
        return self.catalogue


class Worker:
    """One worker process."""

    def __init__(self, world: World, name: str, settings: Settings, rng: random.Random, look_s: float) -> None:
        self.world = world
        self.name = name
        self.rng = rng
        self.look_s = look_s
        self.dead = False
        self.doomed: set[int] = set()  # partitions of which a record has been applied that ends their flush
        self.paused = False
        self.fetching = True
        self.failure: BaseException | None = None
        self.sources: dict[int, Source] = {}
        self._owning: dict[int, asyncio.Task[None]] = {}
        self._leaving: set[Source] = set()  # lost, and what was done with them has not ended yet
        self._ready = asyncio.Event()
        store = Store(world, self)
        log = MemoryLog(world, self, lambda p: p in self.sources and self.sources[p].position is not None)
        ports = Ports(store, log, world.clock, self._decode, settings.stream)
        self.definitions = Definitions(world, self)
        self.agent = AggregateAgent(
            TOPIC, name, settings, ports, store, self.definitions, log.commit, self._fail
        )  # fmt: skip
        self.finaliser = FinaliseAgent(
            TOPIC, store, log, world.clock, settings, lambda: self.agent.engines, self._partition_of, self._fail
        )

    def _decode(self, fetch: Fetch, catalogue: Catalogue, settings: StreamSettings) -> Decoded:
        """Decode, unless a record ends the whole process."""
        for value in fetch.values:
            if value is not None and LATE in value:
                self.doomed.add(fetch.partition)
            elif value is not None and KILLER in value:
                self.kill()
                raise asyncio.CancelledError
        return decode_or_fail(fetch, catalogue, settings)

    async def _partition_of(self, _model: str) -> int:
        return 0

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._spawn(self._run())

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        token = OWNER.set(self)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            OWNER.reset(token)

    async def _run(self) -> None:
        await self.agent.adopt(await self.definitions.refresh())
        self._ready.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.agent.run())
            tasks.create_task(self.finaliser.run())
            tasks.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self.look_s)
            catalogue = await self.definitions.refresh()
            if catalogue is not self.agent.engines.catalogue:
                await self.agent.adopt(catalogue)
            await self.agent.maintain()
            self.finaliser.notice(MODEL)

    def kill(self) -> None:
        """End as kill -9 does: nothing that was begun goes on."""
        self.dead = True
        for task in list(asyncio.get_running_loop().tasks_of.get(self, ())):
            task.cancel()

    # -- partitions ------------------------------------------------------------------------------------------------

    def assign(self, partition: int) -> None:
        self.lose(partition)  # what it held of it before, it has lost meanwhile
        source = self.sources[partition] = Source(self.world, partition, self)
        self._owning[partition] = self._spawn(self._own(source))

    def lose(self, partition: int) -> None:
        """Learn that a partition is gone. What was done with it ends a little later, as Faust ends its agents."""
        source = self.sources.pop(partition, None)
        if source is not None:
            source.lost = True
            if self.agent.holding.of_source(source) is not None:
                self._leaving.add(source)
            self._spawn(self._leave(source, self._owning.pop(partition)))

    async def _leave(self, source: Source, owning: asyncio.Task[None]) -> None:
        if self.rng.random() < LEFT_LATE:
            await asyncio.sleep(self.rng.random() * 0.1)
        owning.cancel()
        self.agent.lose(source)
        self._leaving.discard(source)

    def release(self, patience_s: float) -> asyncio.Task[None]:
        """Write what there is before partitions may go, for so long."""

        async def work() -> None:
            self.fetching = False
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await asyncio.gather(*(self.agent.release(source) for source in self.sources.values()))
            self.fetching = True

        return self._spawn(work())

    async def _own(self, source: Source) -> None:
        try:
            await self._ready.wait()
            source.position = await self.agent.take(source)
            while True:
                await self.world.step(self, "fetch")
                fetch = self._fetch(source)
                if fetch is None:
                    await asyncio.sleep(0.2)
                else:
                    if source.lost:
                        return
                    source.position = fetch.next_offset
                    await self.agent.apply(fetch)  # one at a time, as `hand_over` does
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)

    def _fetch(self, source: Source) -> Fetch | None:
        """Give the next few records: a fetch is cut anywhere."""
        assert source.position is not None
        log = self.world.log.get(source.partition, [])
        records = log[source.position :][: self.rng.randint(1, FETCHED_MAX)]
        if not records or not self.fetching:
            return None
        return Fetch(
            TOPIC,
            source.partition,
            np.array([record.offset for record in records], np.int64),
            np.array([record.at_ms for record in records], np.int64),
            [None] * len(records),
            [record.value for record in records],
            {},
            records[-1].offset + 1,
            sum(len(record.value) for record in records),
            source.position,
        )

    def stakes(self, partition: int) -> bool:
        """Whether one more end of this process would blame a record that is not to blame."""
        newest = self.world.newest_flush(partition)
        if newest is None or newest.owner != self.name or newest.suspicion.trying is None:
            return False
        known = newest.suspicion
        first, last = newest.suspicion.trying
        again = known.deaths + 1 if known.trying == known.suspects else 1
        is_last = first == last and again >= self.agent.settings.stream.deaths_alone
        return is_last and KILLER not in self.world.log[partition][first].value

    @property
    def holds_only_its_own(self) -> bool:
        """Whether nothing was taken over that had been lost by then."""
        return all(not held.source.lost or held.source in self._leaving for held in self.agent.holding.parts)

    @property
    def at_rest(self) -> bool:
        """Whether everything in the log is applied and written."""
        return all(
            source.position == len(self.world.log.get(p, []))
            and any(
                owner.partition == p
                and owner.flushed_offset == source.position
                and not owner.superseded
                and not owner.backlog
                and not any(owner.state.panes.dirty.values())
                for owner in self.agent.owners
            )
            for p, source in self.sources.items()
        )
