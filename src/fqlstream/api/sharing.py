"""Questions that several requests ask at once: asked once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Sharing:
    """Shares the answers of equal questions.

    A question that is under way may miss what its asker has just written, so whoever comes while it is shares the next one: every
    answer was begun after it was asked for. Equal keys mean the same question, and nobody may change an answer.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._next: dict[Hashable, tuple[asyncio.Task[Any], asyncio.Event]] = {}

    async def ask(self, key: Hashable, find_out: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Find something out, or wait for who does. Cancelling a caller leaves the others their answer."""
        if key not in self._running:
            task = self._running[key] = self._begin(key, find_out())
        elif key in self._next:
            task, _ = self._next[key]
        else:
            turn = asyncio.Event()
            task = self._begin(key, _in_turn(turn, find_out))
            self._next[key] = task, turn
        return cast("T", await asyncio.shield(task))

    def _begin(self, key: Hashable, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda ended: self._ended(key, ended))
        return task

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # whoever still waits is told
        if self._running.get(key) is not task:
            return  # it was cancelled before its turn: the loop ends
        del self._running[key]
        if key in self._next:
            following, turn = self._next.pop(key)
            self._running[key] = following
            turn.set()


async def _in_turn(turn: asyncio.Event, find_out: Callable[[], Coroutine[Any, Any, T]]) -> T:
    await turn.wait()
    return await find_out()
