"""Equal questions share an answer that was begun after each of them was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.waiting import let_others_run

from fqlstream.api.sharing import Sharing


@dataclass
class World:
    """A number that changes, and readings of it that each end when they are let."""

    number: int = 0
    readings: list[asyncio.Event] = field(default_factory=list)
    failure: Exception | None = None

    async def read(self) -> int:
        seen, go = self.number, asyncio.Event()
        self.readings.append(go)
        await go.wait()
        if self.failure is not None:
            raise self.failure
        return seen

    def ask(self, sharing: Sharing, key: str = "k") -> asyncio.Task[int]:
        return asyncio.create_task(sharing.ask(key, self.read))


def play(scene: Callable[[World, Sharing], Awaitable[None]]) -> None:
    async def playing() -> None:
        sharing = Sharing()
        await scene(World(), sharing)
        await let_others_run()
        assert (sharing._running, sharing._next) == ({}, {}), "nothing is kept"

    asyncio.run(playing())


async def end_next(world: World) -> None:
    await let_others_run()
    world.readings.pop(0).set()
    await let_others_run()


def test_who_comes_while_a_question_is_under_way_shares_the_next() -> None:
    async def scene(world: World, sharing: Sharing) -> None:
        first = world.ask(sharing)
        await let_others_run()
        world.number = 1  # the first reading has missed it
        later = [world.ask(sharing) for _ in range(20)]
        await end_next(world)
        assert await first == 0
        world.number = 2
        last = world.ask(sharing)  # the second reading has begun
        await end_next(world)
        assert [await each for each in later] == [1] * 20
        await end_next(world)
        assert await last == 2
        assert world.readings == [], "three readings"

    play(scene)


def test_other_questions_are_asked_on_their_own() -> None:
    async def scene(world: World, sharing: Sharing) -> None:
        asked = [world.ask(sharing, key) for key in "ab"]
        await let_others_run()
        assert len(world.readings) == 2
        for reading in world.readings:
            reading.set()
        await asyncio.gather(*asked)

    play(scene)


def test_a_failure_is_everybodys_and_the_next_question_is_asked_all_the_same() -> None:
    async def scene(world: World, sharing: Sharing) -> None:
        world.failure = ValueError("away")
        first = world.ask(sharing)
        await let_others_run()
        later = [world.ask(sharing) for _ in range(2)]
        await end_next(world)
        with pytest.raises(ValueError, match="away"):
            await first
        await end_next(world)
        for each in later:
            with pytest.raises(ValueError, match="away"):
                await each

    play(scene)


def test_who_gives_up_takes_the_answer_from_nobody() -> None:
    async def scene(world: World, sharing: Sharing) -> None:
        first = world.ask(sharing)
        await let_others_run()
        impatient, patient = world.ask(sharing), world.ask(sharing)
        await let_others_run()
        first.cancel()
        impatient.cancel()
        await end_next(world)
        await end_next(world)
        assert await patient == 0
        ended: Any = await asyncio.gather(first, impatient, return_exceptions=True)
        assert [type(each) for each in ended] == [asyncio.CancelledError] * 2

    play(scene)
