from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import pytest

from fqlstream.app import retries
from fqlstream.app.retries import Outside, patiently, persist
from fqlstream.errors import BrokerError, StoreError


class Failing:
    """A call that fails so often, then works."""

    def __init__(self, failures: int, *, retryable: bool = True) -> None:
        self.left = failures
        self.calls = 0
        self.retryable = retryable

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise StoreError("STO001", "nothing answers", retryable=self.retryable)
        return "done"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Wait in no time, and write down how long it would have been."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(retries.asyncio, "sleep", sleep)
    return found


def test_it_tries_again_later_and_later_until_it_works(waits: list[float]) -> None:
    call = Failing(9)
    assert asyncio.run(patiently("write states", call)) == "done"
    assert call.calls == 10
    longest = list(itertools.accumulate(range(8), lambda wait, _: min(2 * wait, 5.0), initial=0.1))
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True)), waits
    assert len(set(waits)) == 9, "with jitter"


# -- what the log says ---------------------------------------------------------------------------------------------------


@dataclass
class Hand:
    """A clock's hand."""

    at_s: float = 0.0

    def __call__(self) -> float:
        return self.at_s


def test_an_outage_is_said_at_once_again_now_and_then_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    outside = Outside(hand)
    for second in range(0, 100, 2):  # two calls fail every two seconds
        hand.at_s = second
        outside.failed("ClickHouse", 1, "states", "STO001 nothing answers")
        outside.failed("ClickHouse", 2, "values", "STO001 nothing answers")
    outside.over("ClickHouse", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert (
        lines[0]
        == "ClickHouse is in trouble (states): STO001 nothing answers; trying again until it works, nothing is lost"
    )
    assert "still in trouble after 30 s and 31 failures; waiting: states, values" in lines[1]
    outside.over("ClickHouse", 2)
    assert caplog.records[-1].getMessage() == "ClickHouse works again after 98.0 s and 100 failures"


def test_what_comes_and_goes_is_not_said_each_time(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    outside = Outside(hand)
    for number in range(600):
        hand.at_s = number / 10
        outside.failed("Kafka", number, "definitions", "DEF021 away")
        outside.over("Kafka", number)
    assert len(caplog.records) == 4, "a minute: said at 0 and at 30 s, and that it was over"


def test_each_part_is_said_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    outside = Outside(Hand())
    outside.failed("Kafka", 1, "definitions", "away")
    outside.failed("ClickHouse", 2, "states", "away")
    assert len(caplog.records) == 2


def test_trouble_is_what_fails_and_what_is_slow_to_answer_and_nothing_else() -> None:
    hand = Hand(100.0)
    outside = Outside(hand)
    with outside.asked("states"):
        assert outside.trouble_s() < 0, "a call that was made a moment ago"
        hand.at_s = 101.5
        assert outside.trouble_s() == 101.5, "a call without an answer"
    hand.at_s = 110.0
    assert outside.trouble_s() == 101.5
    outside.failed("Kafka", 1, "definitions", "away")
    hand.at_s = 150.0
    assert outside.trouble_s() == 150.0
    outside.over("Kafka", 1)
    hand.at_s = 200.0
    assert outside.trouble_s() == 150.0


def test_who_gives_up_waiting_no_longer_counts() -> None:
    outside = Outside(hand := Hand(1.0))

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await patiently("write states", Failing(1_000_000), outside=outside)

    asyncio.run(main())
    hand.at_s = 9.0
    assert outside.trouble_s() == 1.0


def test_kafka_is_waited_out_as_clickhouse_is(waits: list[float]) -> None:
    tries = iter([BrokerError("DEF021", "away", retryable=True), BrokerError("DEF020", "no such topic")])

    async def attempt() -> None:
        raise next(tries)

    with pytest.raises(BrokerError, match="no such topic"):
        asyncio.run(persist("definitions", attempt))
    assert len(waits) == 1


def test_what_cannot_work_later_is_raised_at_once(waits: list[float]) -> None:
    call = Failing(1, retryable=False)
    with pytest.raises(StoreError):
        asyncio.run(patiently("write states", call))
    assert (call.calls, waits) == (1, [])


def test_another_error_is_not_waited_out(waits: list[float]) -> None:
    def wrong() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        asyncio.run(patiently("write states", wrong))
    assert waits == []


def test_cancelling_ends_the_waiting() -> None:
    async def main() -> int:
        call = Failing(1_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await patiently("write states", call)
        return call.calls

    assert asyncio.run(main()) >= 1
