"""Time is injected: production reads the system, tests turn the hand themselves."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, for measuring how long something takes."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


def even_s() -> float:
    """Seconds since some moment, evenly, also while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class SteadyClock:
    """The machine's clock without its jumps, for a process that measures time with it.

    It begins with the machine's time and goes on evenly. Where that is set, by hand or by a time service, it follows slowly:
    at twice the pace while it is behind, at half the pace while it is ahead. So whatever is due in ten minutes is due in five
    to twenty. It never goes back. It leaps only where it is behind by more than `leap_ms_min`: then it began with a wrong time.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        even_s: Callable[[], float] = even_s,
        *,
        leap_ms_min: int,
    ) -> None:
        self._wall_ms, self._even_s = wall_ms, even_s
        self._leap_ms_min = leap_ms_min
        self._at_ms, self._read_s = float(wall_ms()), even_s()
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC, as far as they have been followed. Safe from any thread."""
        with self._lock:
            wall_ms, even_s = self._wall_ms(), self._even_s()
            passed_ms = (even_s - self._read_s) * 1000
            self._read_s = even_s
            ahead_ms = self._at_ms + passed_ms - wall_ms
            # what is missing or too much, by at most as much as has passed, or half of it
            self._at_ms += passed_ms + min(passed_ms, max(-passed_ms / 2, -ahead_ms))
            if -ahead_ms > self._leap_ms_min:
                self._at_ms = float(wall_ms)
            return int(self._at_ms)

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return self._even_s()


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until it is told otherwise."""

    at_ms: int = 0

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch, as last set."""
        return self.at_ms

    def monotonic_s(self) -> float:
        """Seconds, as last set."""
        return self.at_ms / 1000

    def advance(self, ms: int) -> None:
        """Turn the hand; a negative step is a clock that jumped back."""
        self.at_ms += ms
