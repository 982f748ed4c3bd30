"""Time is injected: production reads the system, tests turn the hand themselves."""

from __future__ import annotations

import time
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
