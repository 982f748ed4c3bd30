"""Definitions are followed: whoever asks after something was applied sees it, and many who ask at once share a look."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from tests.waiting import wait_in_loop

from fqlstream.api.following import DefinitionsFollower
from fqlstream.clock import SystemClock
from fqlstream.errors import BrokerError
from fqlstream.settings import ApiSettings, Settings


class Reader:
    """Reads a log that is a number; counts how often, and stops where it is told to."""

    def __init__(self) -> None:
        self.log_end = 0
        self.catalogue = 0
        self.looks = 0
        self.polls = 0
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def read_to_end(self) -> None:
        self.looks += 1
        end = self.log_end
        self.gate.wait(10)
        if self.failure:
            raise self.failure
        self.catalogue = end

    def poll(self) -> None:
        self.polls += 1
        if self.failure:
            raise self.failure
        self.catalogue = self.log_end

    def close(self) -> None:
        self.closed = True


def play(reader: Reader, scene: Callable[[DefinitionsFollower], Awaitable[None]], follow_ms: int = 60_000) -> None:
    async def playing() -> None:
        settings = Settings(api=ApiSettings(follow_ms=follow_ms))
        follower = DefinitionsFollower(settings, SystemClock(), reader=cast("Any", reader))
        await follower.start()
        try:
            await scene(follower)
        finally:
            reader.gate.set()
            await follower.close()
        assert reader.closed

    asyncio.run(playing())


def test_many_who_ask_at_once_share_looks_and_each_sees_what_stood_when_it_asked() -> None:
    reader = Reader()

    async def scene(follower: DefinitionsFollower) -> None:
        reader.gate.clear()
        first = asyncio.create_task(follower.refresh())
        await wait_in_loop(lambda: reader.looks == 2, "the first look has begun")
        reader.log_end = 7  # applied after that look asked for the end
        later = [asyncio.create_task(follower.refresh()) for _ in range(50)]
        await asyncio.sleep(0)
        reader.gate.set()
        await first
        assert [await each for each in later] == [7] * 50
        assert reader.looks == 3, "one look for all of them"

    play(reader, scene)


def test_following_outlives_what_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader()

    async def scene(follower: DefinitionsFollower) -> None:
        reader.failure = OverflowError("of a record that anybody wrote")
        await wait_in_loop(lambda: reader.polls > 3, "polls go on")
        reader.failure, reader.log_end = None, 5
        await wait_in_loop(lambda: follower.catalogue == 5, "it has caught up")
        assert [r.exc_info is not None for r in caplog.records if "cannot be followed" in r.getMessage()] == [True]

    play(reader, scene, follow_ms=10)


def test_it_follows_by_itself_and_outlives_trouble(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader()

    async def scene(follower: DefinitionsFollower) -> None:
        reader.failure = BrokerError("KFK001", "away", retryable=True)
        await wait_in_loop(lambda: reader.polls > 3, "polls go on")
        assert len([r for r in caplog.records if "cannot be followed" in r.getMessage()]) == 1, (
            "said once, not each time"
        )
        with pytest.raises(BrokerError):
            await follower.refresh()
        reader.failure, reader.log_end = None, 5
        await wait_in_loop(lambda: follower.catalogue == 5, "it has caught up")

    play(reader, scene, follow_ms=10)
