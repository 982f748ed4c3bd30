"""When a worker is stuck, and when it only waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from fqlstream.app.exit_codes import FAILED, NEEDS_SOMEBODY, exit_code_of
from fqlstream.app.retries import Outside
from fqlstream.app.watchdog import Duties, Watchdog, _where
from fqlstream.errors import FqlstreamError, UsageError


@dataclass
class Watched:
    """A watchdog whose clock is turned by hand; it looks once a second."""

    at_s: float = 1_000.0
    outside: Outside = field(init=False)
    duties: Duties = field(init=False)
    dog: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self.outside, self.duties = Outside(lambda: self.at_s), Duties(lambda: self.at_s)
        self.dog = Watchdog(10_000, self.duties, self.outside, dict, lambda: False, lambda: self.at_s)

    def after(self, seconds: int) -> str | None:
        """Let time go by, and say what is stuck then."""
        found = None
        for _ in range(seconds):
            self.at_s += 1.0
            found = self.dog.look()
        return None if found is None else found[0]


def test_what_does_not_move_for_so_long_is_stuck_and_what_has_nothing_to_do_is_not() -> None:
    watched = Watched()
    assert watched.after(100) is None
    watched.duties.expect("applying t[0]")
    watched.duties.moved("flushing")
    assert watched.after(10) is None
    watched.duties.moved("flushing")
    watched.duties.expect("applying t[0]")  # known already: it counts from the first time
    assert watched.after(1) == "applying t[0]"
    watched.duties.done("applying t[0]")
    assert watched.after(9) is None
    assert watched.after(1) == "flushing"


def test_who_waits_for_something_outside_is_not_stuck_until_that_is_over() -> None:
    watched = Watched()
    watched.duties.expect("flushing")
    watched.outside.failed("ClickHouse", 1, "states", "away")
    assert watched.after(1_000) is None
    watched.outside.over("ClickHouse", 1)
    assert watched.after(10) is None
    assert watched.after(1) == "flushing"


def test_a_call_without_an_answer_is_waited_for() -> None:
    watched = Watched()
    watched.duties.expect("flushing")
    with watched.outside.asked("states"):
        assert watched.after(100) is None


def test_calls_that_are_answered_at_once_excuse_nobody() -> None:
    watched = Watched()
    watched.duties.expect("applying t[0]")
    for _ in range(11):
        with watched.outside.asked("states"):
            pass
        found = watched.after(1)
    assert found == "applying t[0]"


def test_a_blocked_event_loop_is_excused_by_nothing_as_it_takes_in_no_answer() -> None:
    loop = asyncio.new_event_loop()
    watched = Watched()
    watched.dog._loops = lambda: {"the event loop": loop}
    watched.duties.expect("the event loop")
    with watched.outside.asked("states"):
        assert watched.after(11) == "the event loop"
    loop.close()


def test_steps_of_long_work_excuse_those_who_wait_for_it() -> None:
    watched = Watched()
    watched.duties.expect("applying t[0]")
    for _ in range(10):
        assert watched.after(9) is None
        watched.duties.worked()
    assert watched.after(11) == "applying t[0]"


def test_a_process_that_was_stopped_or_a_machine_that_slept_was_not_stuck() -> None:
    watched = Watched()
    watched.duties.moved("flushing")
    watched.at_s += 3_600.0
    assert watched.dog.look() is None
    assert watched.after(10) is None
    assert watched.after(1) == "flushing"


def test_it_says_at_which_line_a_task_waits() -> None:
    async def deep() -> None:
        await asyncio.Event().wait()

    async def main() -> list[str]:
        task = asyncio.create_task(deep(), name="the one that waits")
        await asyncio.sleep(0)
        told = _where([task])
        task.cancel()
        return told

    (line,) = asyncio.run(main())
    assert line.startswith("the one that waits at ")
    assert "wait" in line.rpartition(" ")[2]


@pytest.mark.parametrize("code", ["DLV001", "DLV002", "DLV003", "KFK101", "KFK021", "DEF020"])
def test_what_another_start_would_only_meet_again_has_a_code_of_its_own(code: str) -> None:
    assert exit_code_of(FqlstreamError(code, "x")) == NEEDS_SOMEBODY
    assert exit_code_of(FqlstreamError("KFK110", "x")) == FAILED
    assert exit_code_of(UsageError("X", "x")) == 2
