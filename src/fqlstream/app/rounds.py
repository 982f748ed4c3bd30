"""Rounds: work that is done again and again, and reading that pauses until a round has made room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fqlstream.app.retries import OUTSIDE
from fqlstream.app.watchdog import Duties


class Rounds:
    """Does a piece of work whenever it is asked for, and anyhow after a while."""

    def __init__(self, duty: str, duties: Duties, on_failure: Callable[[BaseException], None]) -> None:
        self._duty = duty
        self._duties = duties
        self._on_failure = on_failure
        self._asked = asyncio.Event()
        self._ended = False

    def ask(self) -> None:
        """Have the next round begin now."""
        self._asked.set()

    def end(self) -> None:
        """Let the round that is under way, or one more, be the last."""
        self._ended = True
        self._duties.done(self._duty)
        self._asked.set()

    async def run(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Go on until `end`; a failure is told to `on_failure`, which ends the worker, and raised."""
        try:
            while not self._ended:
                self._duties.moved(self._duty)
                with suppress(TimeoutError):
                    async with asyncio.timeout(every_s):  # wait_for may swallow a cancellation
                        await self._asked.wait()
                self._asked.clear()
                await work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._on_failure(error)
            raise


class Room:
    """Lets reading pause while too much is unwritten: nothing is lost, the log keeps it."""

    def __init__(
        self, rounds: Rounds, is_full: Callable[[], bool], what_waits: Callable[[], str], log: logging.Logger
    ) -> None:
        self._rounds = rounds
        self._is_full = is_full
        self._what_waits = what_waits
        self._log = log
        self._written = asyncio.Condition()
        self._pause_said = False

    async def wait(self) -> None:
        """Wait until there is room; says so in the log where something outside is in trouble."""
        if not self._is_full():
            return
        if not self._pause_said and OUTSIDE.trouble_s() > time.monotonic() - 1:
            self._pause_said = True
            self._log.warning("%s: reading pauses until it has taken them", self._what_waits())
        async with self._written:
            while self._is_full():
                self._rounds.ask()
                await self._written.wait()
        if self._pause_said:
            self._pause_said = False
            self._log.warning("what waited is written: reading goes on")

    async def written(self) -> None:
        """Have those that wait look again."""
        async with self._written:
            self._written.notify_all()
