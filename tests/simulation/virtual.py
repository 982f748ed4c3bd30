"""An event loop whose time passes only when everybody waits: a simulated hour costs nothing, and every run is the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

#: A task that is told to end may begin others, or write what it has.
_ENDINGS_MAX = 20

#: Whose work a task does; a task inherits it from the one that made it.
OWNER: ContextVar[object | None] = ContextVar("OWNER", default=None)


class _Selector(selectors.SelectSelector):
    """Never waits: hands the time it was asked to wait to the loop."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits and nothing will ever happen"
        self.loop.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs in virtual time; knows whose task each one is."""

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self
        self.now_s = 0.0
        self.tasks_of: dict[object, set[asyncio.Task[Any]]] = {}
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self.now_s

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        task = asyncio.Task(work, loop=self, **options)
        owner = OWNER.get()
        if owner is not None:
            tasks = self.tasks_of.setdefault(owner, set())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    async def quiet(self) -> None:
        """Let everybody run until they all wait for something."""
        while True:
            await asyncio.sleep(0)
            if not self._ready:
                return


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, then drop whatever else is still there."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        for _ in range(_ENDINGS_MAX):
            left = asyncio.all_tasks(loop)
            if not left:
                break
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=1))
        loop.close()
