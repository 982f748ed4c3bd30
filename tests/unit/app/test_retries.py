from __future__ import annotations

import asyncio
import itertools

import pytest

from fqlstream.app import retries
from fqlstream.app.retries import patiently
from fqlstream.errors import StoreError


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


def test_it_tries_again_later_and_later_until_it_works(waits: list[float], caplog: pytest.LogCaptureFixture) -> None:
    call = Failing(9)
    assert asyncio.run(patiently("write states", call)) == "done"
    assert call.calls == 10
    longest = list(itertools.accumulate(range(8), lambda wait, _: min(2 * wait, 5.0), initial=0.1))
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True)), waits
    assert "works again after 9 failures" in caplog.text
    assert caplog.text.count("trying again") == 4, (
        "the first, second, fourth and eighth: a long outage does not fill the log"
    )


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
