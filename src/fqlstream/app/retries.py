"""Trouble outside is waited out: the same call again, later and later, until it works or nobody wants it any more.

What is in trouble is said once for all that waits for it, again every half minute, and when it is over. The watchdog asks here
too: whoever waits for something outside is patient, not stuck.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fqlstream.errors import BrokerError, StoreError

T = TypeVar("T")

log = logging.getLogger("fqlstream.outside")

_FIRST_WAIT_S: Final = 0.1
#: Longer waits would only delay the recovery; shorter ones would hammer what is down.
_WAIT_MAX_S: Final = 5.0
#: A call without an answer for so long is trouble, though it may still come; shorter where being stuck is said sooner.
SLOW_S: Final = 1.0


@dataclass(slots=True)
class _Outage:
    since_s: float
    failures: int = 0
    said: bool = False
    waiting: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A part that is in trouble: for how long, how many calls failed meanwhile, and what waits for it."""

    part: str
    for_s: float
    failures: int
    waiting: tuple[str, ...]


class Outside:
    """What this process waits for outside: which parts are in trouble, since when, and when that was last so."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, *, said_every_s: float = 30.0) -> None:
        self._now_s = now_s
        #: What stays down is said so often, and what comes and goes no more often (`stream.trouble_said_ms`).
        self.said_every_s = said_every_s
        self.slow_s = SLOW_S
        self._outages: dict[str, _Outage] = {}
        self._next_line_s: dict[str, float] = {}
        self._running: dict[int, float] = {}  # calls that have no answer yet, and when they began
        self._calls = 0
        self._trouble_s = -1e9
        #: Told how long each call took, and of each that failed and is made again (`numbers`).
        self.on_answer: Callable[[str, float], None] = lambda _what, _seconds: None
        self.on_failure: Callable[[str], None] = lambda _part: None

    def troubles(self) -> tuple[Trouble, ...]:
        """Say what is in trouble now. Safe from any thread."""
        now_s = self._now_s()
        return tuple(
            Trouble(part, now_s - outage.since_s, outage.failures, tuple(sorted(set(outage.waiting.copy().values()))))
            for part, outage in self._outages.copy().items()
        )

    def trouble_s(self) -> float:
        """Say when something outside was last in trouble, as a monotonic time: failing, or slow to answer. Safe from any thread."""
        now_s = self._now_s()
        slow = any(now_s - since_s > self.slow_s for since_s in list(self._running.values()))
        return now_s if self._outages or slow else self._trouble_s

    @contextmanager
    def asked(self, what: str) -> Iterator[int]:
        """Mark a call as under way; gives its number."""
        self._calls += 1
        number = self._calls
        self._running[number] = self._now_s()
        try:
            yield number
        finally:
            took_s = self._now_s() - self._running.pop(number)
            self.on_answer(what, took_s)
            if took_s > self.slow_s:
                self._trouble_s = self._now_s()

    def failed(self, part: str, call: int, what: str, error: str) -> None:
        """Note that a call failed and is made again; says so, not too often."""
        now_s = self._now_s()
        outage = self._outages.setdefault(part, _Outage(now_s))
        outage.failures += 1
        outage.waiting[call] = what
        self.on_failure(part)
        if now_s < self._next_line_s.get(part, now_s):
            return
        self._next_line_s[part] = now_s + self.said_every_s
        waiting = ", ".join(sorted(set(outage.waiting.values())))
        if not outage.said:
            outage.said = True
            log.warning(
                "%s is in trouble (%s): %s; trying again until it works, nothing is lost",
                part,
                waiting,
                error,
                extra={"fields": {"part": part, "error": error, "waiting": waiting}},
            )
        else:
            away_s = now_s - outage.since_s
            log.warning(
                "%s is still in trouble after %.0f s and %d failures; waiting: %s; last: %s",
                part,
                away_s,
                outage.failures,
                waiting,
                error,
                extra={"fields": {"part": part, "error": error, "waiting": waiting, "away_s": round(away_s, 1)}},
            )

    def over(self, part: str, call: int) -> None:
        """Note that a call that had failed needs no more tries; the trouble is over with the last of them."""
        outage = self._outages.get(part)
        if outage is None or outage.waiting.pop(call, None) is None or outage.waiting:
            return
        del self._outages[part]
        now_s = self._trouble_s = self._now_s()
        if outage.said:
            away_s = now_s - outage.since_s
            log.warning(
                "%s works again after %.1f s and %d failures",
                part,
                away_s,
                outage.failures,
                extra={"fields": {"part": part, "away_s": round(away_s, 1), "failures": outage.failures}},
            )


#: One for the process: messages are bounded for all of its parts together.
OUTSIDE: Final = Outside()


async def persist(what: str, attempt: Callable[[], Awaitable[T]], *, outside: Outside = OUTSIDE) -> T:
    """Await an attempt at something outside, a new one again and again while the failure may pass.

    Raises StoreError or BrokerError at once where trying again cannot help. Cancelling ends the waiting.
    """
    wait_s = _FIRST_WAIT_S
    failed: tuple[str, int] | None = None
    try:
        while True:
            with outside.asked(what) as number:
                call = number if failed is None else failed[1]
                try:
                    return await attempt()
                except (StoreError, BrokerError) as error:
                    if not error.retryable:
                        raise
                    part = "ClickHouse" if isinstance(error, StoreError) else "Kafka"
                    failed = part, call
                    hint = f" ({error.hint})" if error.hint else ""
                    outside.failed(part, call, what, f"{error.code} {error.message}{hint}")
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            wait_s = min(2 * wait_s, _WAIT_MAX_S)
    finally:
        if failed is not None:
            outside.over(*failed)


async def patiently(what: str, call: Callable[[], T], *, outside: Outside = OUTSIDE) -> T:
    """Run a blocking call in a thread, again and again while the failure may pass; as `persist`."""
    return await persist(what, lambda: asyncio.to_thread(call), outside=outside)
