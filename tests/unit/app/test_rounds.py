"""Rounds, and reading that waits for one."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.waiting import let_others_run

from fqlstream.app.retries import OUTSIDE
from fqlstream.app.rounds import Room, Rounds
from fqlstream.app.watchdog import Duties

NEVER_S = 3600.0


def test_a_round_begins_when_it_is_asked_for_and_one_more_at_the_end() -> None:
    async def main() -> None:
        duties, done = Duties(), []
        rounds = Rounds("working", duties, pytest.fail)

        async def work() -> None:
            done.append(len(done))

        running = asyncio.create_task(rounds.run(work, NEVER_S))
        await let_others_run()
        assert (done, duties.since().keys()) == ([], {"working"})
        rounds.ask()
        rounds.ask()  # before it began: one round serves both
        await let_others_run()
        assert done == [0]
        rounds.end()
        await running
        assert (done, duties.since()) == ([0, 1], {})

    asyncio.run(main())


def test_a_round_comes_by_itself() -> None:
    async def main() -> None:
        rounds = Rounds("working", Duties(), pytest.fail)
        count = 0

        async def work() -> None:
            nonlocal count
            count += 1
            if count == 3:
                rounds.end()

        await asyncio.wait_for(rounds.run(work, 0.001), 30)
        assert count == 3

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError()])
def test_a_failure_is_told_and_a_cancellation_is_none(error: BaseException) -> None:
    async def main() -> None:
        failures: list[BaseException] = []
        rounds = Rounds("working", Duties(), failures.append)

        async def work() -> None:
            raise error

        with pytest.raises(type(error)):
            await rounds.run(work, 0.0)
        assert failures == ([error] if isinstance(error, ValueError) else [])

    asyncio.run(main())


@pytest.mark.parametrize("in_trouble", [True, False])
def test_reading_waits_until_a_round_has_made_room(
    in_trouble: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OUTSIDE, "trouble_s", lambda: float("inf") if in_trouble else 0.0)

    async def main() -> None:
        rounds, waiting = Rounds("working", Duties(), pytest.fail), [b"row"]
        room = Room(rounds, lambda: bool(waiting), lambda: f"{len(waiting)} rows wait", logging.getLogger("test"))
        readers = [asyncio.create_task(room.wait()) for _ in range(2)]
        await let_others_run()
        await room.written()  # of something else
        await let_others_run()
        assert not any(reader.done() for reader in readers)

        async def work() -> None:
            waiting.clear()
            await room.written()
            rounds.end()

        await rounds.run(work, NEVER_S)  # was asked for
        await asyncio.gather(*readers)
        await room.wait()  # there is room

    asyncio.run(main())
    said = ["1 rows wait: reading pauses until it has taken them", "what waited is written: reading goes on"]
    assert [record.message for record in caplog.records] == (said if in_trouble else [])
