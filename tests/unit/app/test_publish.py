"""Whose values this worker publishes, and when it looks; what it publishes is decided in stream/finalise.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tests.simulation.world import TOPIC
from tests.unit.stream.one_partition import Place, event, in_a_loop, place
from tests.waiting import wait_in_loop

from fqlstream.app.publish import FinaliseAgent
from fqlstream.errors import StoreError
from fqlstream.settings import Settings, StreamSettings
from fqlstream.stream.delivery import Owner
from fqlstream.stream.finalise import read_flushed
from fqlstream.stream.protocol import MetricValue


@dataclass
class Publisher:
    """An agent, and an owner that gives it something to publish; models are all in partition 3 of pane-updates."""

    there: Place
    owner: Owner
    agent: FinaliseAgent
    failures: list[BaseException]
    looks: list[str]

    async def look(self) -> None:
        """Have the running agent look at the model; returns when it has, for it begins the next look then."""
        for _ in range(2):
            goal = len(self.looks) + 1
            self.agent.notice("m")
            await self._looked(goal)

    async def _looked(self, times: int) -> None:
        await wait_in_loop(lambda: len(self.looks) >= times, "a look at the model")

    async def write(self, first: int, *records: bytes) -> None:
        await self.there.apply(self.owner, first, *records)
        await self.there.flush(self.owner)

    def sums(self) -> list[float | None]:
        return sorted(
            (
                v.value
                for v in self.there.world.values.values()
                if (v.metric, v.segment, v.version) == ("sum", "", "all")
            ),
            key=lambda value: value or 0.0,
        )


async def publisher() -> Publisher:
    there = place()
    failures: list[BaseException] = []
    looks: list[str] = []

    async def send_values(_values: Sequence[MetricValue]) -> None:
        return

    async def partition_of(model: str) -> int:
        looks.append(model)
        return 3

    log: Any = there.log
    log.send_values = send_values
    settings = Settings(stream=StreamSettings(flush_ms=10))
    store: Any = there.ports.store
    agent = FinaliseAgent(
        TOPIC, store, log, there.clock, settings, lambda: there.engines, partition_of, failures.append
    )  # fmt: skip
    return Publisher(there, await there.take(), agent, failures, looks)


@in_a_loop
async def test_a_model_is_published_by_whoever_holds_its_partition_and_by_nobody_else() -> None:
    mine = await publisher()
    running = asyncio.create_task(mine.agent.run())
    await mine.write(0, event("a", x=1))
    mine.agent.take([0, 1, 2])
    await mine.look()
    assert mine.sums() == []
    mine.agent.take([3])
    await mine.look()
    assert mine.sums() == [1.0]
    assert mine.agent.published("m") == {0: mine.owner.base.version.number}
    assert mine.agent.published("nobodys") == {}
    mine.agent.lose([3])
    assert mine.agent.published("m") == {}
    await mine.write(1, event("b", x=2))
    await mine.look()
    assert mine.sums() == [1.0]
    mine.agent.stop()
    await asyncio.wait_for(running, 5)


@in_a_loop
async def test_it_looks_without_a_notice_too() -> None:
    """Notices may be lost, and windows become final by time alone."""
    mine = await publisher()
    mine.agent.take([3])
    running = asyncio.create_task(mine.agent.run())
    await mine.write(0, event("a", x=1))
    await wait_in_loop(lambda: mine.sums() == [1.0], "the first value", saw=mine.sums)
    await mine.write(1, event("b", x=2))
    await wait_in_loop(lambda: mine.sums() == [3.0], "the second value", saw=mine.sums)
    mine.agent.stop()
    await asyncio.wait_for(running, 5)


@in_a_loop
async def test_a_superseded_finaliser_is_let_go_and_claims_again_where_the_model_is_still_ours() -> None:
    mine = await publisher()
    engines = mine.there.engines
    await mine.write(0, event("a", x=1))
    await mine.agent.refresh("m", engines)
    other = FinaliseAgent(
        TOPIC, mine.agent.store, mine.agent.log_port, mine.there.clock, mine.agent.settings, mine.agent.engines_of,
        mine.agent.partition_of, mine.failures.append,
    )  # fmt: skip
    await other.refresh("m", engines)
    await mine.write(1, event("b", x=2))
    for _ in range(3):  # notices that it was superseded, lets go, begins anew
        await mine.agent.refresh("m", engines)
    assert mine.sums() == [3.0]
    newest = max(mine.there.world.finalisers.values())
    await mine.write(2, event("c", x=4))
    await other.refresh("m", engines)
    assert mine.sums() == [3.0], "now the other one is superseded"
    await mine.agent.refresh("m", engines)
    assert mine.sums() == [7.0]
    assert max(mine.there.world.finalisers.values()) == newest


@in_a_loop
async def test_what_cannot_go_on_ends_the_worker() -> None:
    mine = await publisher()
    mine.agent.take([3])

    async def refused(_topic: str) -> Any:
        raise StoreError("STO002", "refused")

    store: Any = mine.there.ports.store
    store.newest_flushes = refused
    running = asyncio.create_task(mine.agent.run())
    await asyncio.wait([running], timeout=5)
    assert isinstance(running.exception(), StoreError)
    assert len(mine.failures) == 1


@in_a_loop
async def test_a_deleted_model_is_forgotten_at_the_next_look_at_all() -> None:
    mine = await publisher()
    agent: Any = mine.agent
    agent.take([3])
    running = asyncio.create_task(agent.run())
    await mine.write(0, event("a", x=1))
    await wait_in_loop(lambda: "m" in agent.finalisers, "the first look")
    agent.engines_of = lambda: SimpleNamespace(catalogue=SimpleNamespace(models={}))
    await wait_in_loop(lambda: not agent.finalisers, "a look without the model")
    agent.stop()
    await asyncio.wait_for(running, 5)


@in_a_loop
async def test_flush_rows_are_read_once_for_all_models_and_anew_by_who_has_just_claimed_one() -> None:
    mine = await publisher()
    engines = mine.there.engines
    await mine.write(0, event("a", x=1))
    store: Any = mine.there.ports.store
    old = await read_flushed(store, TOPIC, mine.there.clock)
    await mine.write(1, event("b", x=2))
    mine.there.world.taken.clear()
    await mine.agent.refresh("m", engines, old)
    assert mine.there.world.taken.count("read all flush rows") == 1, "what was read before the claim may be too old"
    assert mine.sums() == [3.0]
    await mine.write(2, event("c", x=4))
    mine.there.world.taken.clear()
    await mine.agent.refresh("m", engines, await read_flushed(store, TOPIC, mine.there.clock))
    assert mine.there.world.taken.count("read all flush rows") == 1, "ours"
    assert mine.sums() == [7.0]


@in_a_loop
async def test_a_model_whose_partition_goes_while_another_is_published_is_left_alone() -> None:
    """Claiming it would take it from its new owner."""
    mine = await publisher()
    published: list[str] = []

    async def refresh(model: str, *_: object) -> None:
        published.append(model)
        mine.agent.lose([3])

    agent: Any = mine.agent
    agent.refresh = refresh
    agent.engines_of = lambda: SimpleNamespace(catalogue=SimpleNamespace(models={"a": None, "b": None}))
    running = asyncio.create_task(mine.agent.run())
    mine.agent.take([3])
    await wait_in_loop(lambda: mine.looks.count("b") >= 2, "a second look at the models")
    assert published == ["a"]
    mine.agent.stop()
    await asyncio.wait_for(running, 5)
