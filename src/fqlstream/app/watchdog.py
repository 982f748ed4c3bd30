"""Ends a worker that is stuck: a task that waits for ever, an event loop that does not turn. A supervisor starts it again.

Whoever waits for ClickHouse or Kafka is not stuck, however long that takes: `retries.Outside` knows. The watching is done by a
thread, because an event loop that is blocked runs no timer. A call that keeps even this thread from running, in native code
that holds Python's lock, is ended by `faulthandler`, whose exit code is 1.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fqlstream.app import exit_codes
from fqlstream.app.retries import Outside

#: Looks per stuck_ms.
_LOOKS: Final = 10
_LOOK_MAX_S: Final = 1.0
#: Somewhat later than the thread would have ended the process by itself.
_LOCKED_RATIO: Final = 1.5
_TASKS_MAX: Final = 50


class Duties:
    """What has to move on, each with the time at which it last did. Written on the event loop, read by the watchdog."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._moved_s: dict[str, float] = {}
        self.worked_s = now_s()

    def expect(self, name: str) -> None:
        """From now on, unless it was before, something has to move."""
        self._moved_s.setdefault(name, self._now_s())

    def moved(self, name: str) -> None:
        """Note that it moved, and has to go on moving."""
        self._moved_s[name] = self._now_s()

    def done(self, name: str) -> None:
        """There is nothing to do."""
        self._moved_s.pop(name, None)

    def worked(self) -> None:
        """Note that a step of long work is done, as a pane that was rebuilt: others may have waited for it."""
        self.worked_s = self._now_s()

    def renew(self) -> None:
        """Begin to count anew."""
        for name in list(self._moved_s):
            self.moved(name)

    def since(self) -> Mapping[str, float]:
        """Give everything that has to move, with the time at which it last did."""
        return dict(self._moved_s)


class Watchdog:
    """Looks at the duties and at the event loops, from a thread of its own."""

    def __init__(
        self,
        stuck_ms: int,
        duties: Duties,
        outside: Outside,
        loops: Callable[[], Mapping[str, asyncio.AbstractEventLoop]],
        is_over: Callable[[], bool],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stuck_s = stuck_ms / 1000
        self._look_s = min(_LOOK_MAX_S, self._stuck_s / _LOOKS)
        self._duties = duties
        self._outside = outside
        self._loops = loops
        self._is_over = is_over
        self._now_s = now_s
        self._looked_s = now_s()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while not self._is_over():
            faulthandler.dump_traceback_later(self._stuck_s * _LOCKED_RATIO, exit=True)
            time.sleep(self._look_s)
            self._beat()
            stuck = self.look()
            if stuck is not None and not self._is_over():
                self._end(*stuck)
        faulthandler.cancel_dump_traceback_later()

    def _beat(self) -> None:
        """Ask every event loop for a sign of life."""
        for name, loop in self._loops().items():
            self._duties.expect(name)
            try:
                loop.call_soon_threadsafe(self._duties.moved, name)
            except RuntimeError:  # closed: the worker stops
                self._duties.done(name)

    def look(self) -> tuple[str, float] | None:
        """Name what is stuck, and for how many seconds; None where everything moves, waits for something outside, or slept."""
        now_s = self._now_s()
        late_s, self._looked_s = now_s - self._looked_s, now_s
        if late_s > self._look_s + self._stuck_s / 2:
            self._duties.renew()  # the whole process was stopped, or the machine slept
            return None
        slowest = self.slowest()
        return slowest if slowest is not None and slowest[1] > self._stuck_s else None

    def slowest(self) -> tuple[str, float] | None:
        """Name what has not moved for longest, and for how many seconds; None where nothing has to. Safe from any thread."""
        now_s = self._now_s()
        excused_s = max(self._outside.trouble_s(), self._duties.worked_s)
        # an event loop turns whatever is outside; and while it does not, what it has asked for seems to have no answer
        loops = self._loops()
        since_s = {name: at_s if name in loops else max(at_s, excused_s) for name, at_s in self._duties.since().items()}
        if not since_s:
            return None
        name = min(since_s, key=lambda name: since_s[name])
        # what does not turn keeps everything on it from moving: it is the one to name
        still = [loop for loop in loops if now_s - since_s.get(loop, now_s) > self._stuck_s / 2]
        if still and now_s - since_s[name] > self._stuck_s:
            name = still[0]
        return name, now_s - since_s[name]

    def _end(self, name: str, stuck_s: float) -> None:
        """Say what is stuck and where everybody stands, then end. Without the logging that a stuck thread may hold."""
        lines = [
            f"APP001 {name} has not moved for {stuck_s:.0f} s, and neither Kafka nor ClickHouse is in trouble: this worker is ended",
            "  hint: a supervisor starts it again, from what is durable; what follows says where it was stuck",
        ]
        for loop_name, loop in self._loops().items():
            lines += [f"  task of {loop_name}: {line}" for line in _where(asyncio.all_tasks(loop))]
        os.write(2, ("\n".join(lines) + "\n").encode())
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        os._exit(exit_codes.STUCK)


def _where(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """Say of each task at which line it waits."""
    lines = []
    for task in list(tasks)[:_TASKS_MAX]:
        at: Any = task.get_coro()
        frame = None
        while at is not None:
            frame = (
                getattr(at, "cr_frame", None) or getattr(at, "ag_frame", None) or getattr(at, "gi_frame", None) or frame
            )
            at = getattr(at, "cr_await", None) or getattr(at, "ag_await", None) or getattr(at, "gi_yieldfrom", None)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}" if frame is not None else "?"
        lines.append(f"{task.get_name()} at {place}")
    return sorted(lines)
