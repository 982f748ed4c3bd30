"""How tests wait: for a condition, up to a deadline, and not for a length of time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
WAIT_S = 40.0
#: Long enough to leave a busy machine to those that are waited for.
LOOK_S = 0.02


def wait_until(
    condition: Callable[[], T],
    what: str,
    seconds: float = WAIT_S,
    *,
    saw: Callable[[], object] | None = None,
    look_s: float = LOOK_S,
) -> T:
    """Ask until the answer is true, and give it. `look_s` is for conditions that are themselves work for the machine.

    Raises AssertionError after so many seconds, which says what was awaited and what was seen last: the answer, or what
    `saw` makes of it.
    """
    end_s = time.monotonic() + seconds
    while not (answer := condition()):
        _assert_before(end_s, f"not within {seconds:g} s: {what}", answer, saw)
        threading.Event().wait(look_s)
    return answer


async def wait_in_loop(
    condition: Callable[[], T], what: str, seconds: float = WAIT_S, *, saw: Callable[[], object] | None = None
) -> T:
    """Wait as `wait_until` does, while the event loop goes on."""
    end_s = time.monotonic() + seconds
    while not (answer := condition()):
        _assert_before(end_s, f"not within {seconds:g} s: {what}", answer, saw)
        await asyncio.sleep(LOOK_S)
    return answer


async def let_others_run(turns: int = 100) -> None:
    """Let every task go on as far as it can without anything from outside: what has not happened then, waits for a cause."""
    for _ in range(turns):
        await asyncio.sleep(0)


def pause(seconds: float) -> None:
    """Let time pass, for tests of what time alone brings about: a time-out that runs out, on another clock than ours."""
    threading.Event().wait(seconds)


def wait_equal(read: Callable[[], T], wanted: T, what: str, seconds: float = WAIT_S, *, look_s: float = LOOK_S) -> None:
    """Read until what is read is what is wanted. The failure says what differs; of two dicts, by their keys."""
    found: list[T] = []

    def equal() -> bool:
        found[:] = [read()]
        return found == [wanted]

    wait_until(equal, what, seconds, saw=lambda: difference(found[0], wanted), look_s=look_s)


def difference(found: object, wanted: object) -> object:
    """Give what two values differ in, for a message: of dicts, the pairs (found, wanted) by key."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return found
    nothing = "<nothing>"
    pairs = {key: (found.get(key, nothing), wanted.get(key, nothing)) for key in {**wanted, **found}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _assert_before(end_s: float, message: str, answer: object, saw: Callable[[], object] | None) -> None:
    if time.monotonic() >= end_s:
        raise AssertionError(f"{message}; last seen: {answer if saw is None else saw()!r}")
