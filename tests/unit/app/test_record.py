"""Waiting and giving up, of a worker's partitions of recorded metrics; what becomes of a record is tested in stream/."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.simulation.recorded_world import World, fetch_of
from tests.waiting import let_others_run

from fqlstream.app.record import RecordAgent
from fqlstream.settings import Settings
from fqlstream.stream.record_delivery import RecordPorts
from fqlstream.stream.recorded import Limits, ListKey

LIMITS = Limits()


@dataclass
class Source:
    """A partition as the transport hands it over."""

    partition: int = 0
    lost: bool = False


@dataclass
class Aside:
    """Where long work is done: it waits until it may."""

    may: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0

    async def __call__(self, work: Callable[[], None]) -> None:
        self.count += 1
        await self.may.wait()
        work()


def appended(count: int) -> bytes:
    return json.dumps({"type": "list_metric", "id": "e", "name": "x", "values": [1.5] * count}).encode()


async def agent_of(world: World, aside: Aside) -> RecordAgent:
    async def commit() -> None: ...

    ports = RecordPorts(world, world, world, LIMITS, aside)
    agent = RecordAgent("metric-events", "me", Settings(), ports, commit, pytest.fail)
    source: Any = Source()
    assert await agent.take(source) == 0
    return agent


def test_long_lists_are_learnt_aside_and_a_caller_that_is_cancelled_leaves_nothing_half_done() -> None:
    async def main() -> None:
        world, aside = World([appended(10), appended(6_000)], wanted=Nothing()), Aside()
        agent = await agent_of(world, aside)
        (owner,) = agent.owners
        await agent.apply(fetch_of(world.log, 0, 1))
        assert aside.count == 0
        applying = asyncio.create_task(agent.apply(fetch_of(world.log, 1, 2)))
        await let_others_run()
        assert (aside.count, len(owner.rows)) == (1, 1)
        applying.cancel()
        flushing = asyncio.create_task(agent.flush())
        await let_others_run()
        assert applying.cancelled()
        assert not flushing.done(), "a flush waits for what is applied"
        aside.may.set()
        await flushing
        assert owner.state.lists[ListKey("e", "x")].summary.count == 6_010
        assert (owner.flushed_offset, owner.rows) == (2, [])
        written = [len(row.values) for row in world.lists.visible().values()]
        assert written == [10, 6_000]

    asyncio.run(main())


@dataclass(frozen=True)
class Nothing:
    """What nobody compares with anything."""

    outcomes: tuple[Any, ...] = ()
