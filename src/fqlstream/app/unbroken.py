"""Work that must not be cut short when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Unbroken:
    """Runs such work; a failure that nobody waits for any more is reported.

    What a flush has taken out of memory would be in no state and in no row if it were cut short. And callers are cancelled all
    the time: by a partition that goes, by a release that takes too long.
    """

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    async def await_to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Await work; cancelling the caller leaves it running."""
        task = self._begin(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._report)
            raise

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work that nobody waits for."""
        self._begin(work).add_done_callback(self._report)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _report(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_failure(error)
