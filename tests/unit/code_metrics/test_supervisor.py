from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fqlstream.code_metrics import supervisor


def run_of(*frames: int) -> tuple[supervisor.Run, list[int | None]]:
    told: list[int | None] = []
    return supervisor.Run(frames, told.append), told


def say(run: supervisor.Run, *messages: Any) -> None:
    for message in messages:
        run.take(json.dumps(message).encode())


FAILED = {"code": "CBM010", "message": "ValueError: x", "traceback": "line 2", "hint": None}


def test_answers_in_order_are_taken_and_told() -> None:
    run, told = run_of(0, 2, 3)
    say(
        run,
        {"loaded": True},
        {"frame": 0, "value": 1.5},
        {"frame": 2, "flag": "nan"},
        {"frame": 3, "failure": FAILED},
        {"done": True},
    )
    assert run.done
    assert told == [None, 0, 2, 3]
    first, second, third = run.watched.computed
    assert first.value == 1.5
    assert second.value is not None
    assert math.isnan(second.value)
    assert third.value is None
    assert third.failure is not None
    assert third.failure.message == "ValueError: x"


def test_a_run_may_fail_before_it_is_loaded_only() -> None:
    run, _ = run_of(0)
    say(run, {"failed": FAILED})
    assert run.done
    assert run.watched.failure is not None
    later, _ = run_of(0)
    say(later, {"loaded": True})
    with pytest.raises(supervisor.ForgedError):
        say(later, {"failed": FAILED})


@pytest.mark.parametrize(
    "message",
    [
        {"done": True},
        {"loaded": True},
        {"ready": True},
        {"frame": 1, "value": 1.0},
        {"frame": 0, "value": "1"},
        {"frame": 0, "value": True},
        {"frame": 0, "value": None},
        {"frame": 0, "value": 1.0, "rows": 7},
        {"frame": 0, "flag": "666"},
        {"frame": 0},
        {"frame": 0, "failure": FAILED | {"code": "CBM020"}},
        {"frame": 0, "failure": FAILED | {"more": 1}, "x": 1},
        {"frame": 0, "failure": {"code": "CBM010"}},
        {"frame": True, "value": 1.0},
        [],
        "x",
        None,
    ],
)
def test_what_our_own_part_would_not_say_is_forged(message: Any) -> None:
    run, told = run_of(0, 1)
    say(run, {"loaded": True})
    with pytest.raises(supervisor.ForgedError):
        say(run, message)
    assert told == [None]


@pytest.mark.parametrize(
    "line", [b"", b"x", b"\xff\x00", b"[" * 50_000, b'{"frame": 0, "value": NaN}', b'{"frame": 0, "value": 1e999}']
)
def test_what_is_no_message_is_forged(line: bytes) -> None:
    run, _ = run_of(0)
    say(run, {"loaded": True})
    with pytest.raises(supervisor.ForgedError):
        run.take(line)


def test_nothing_comes_after_the_end() -> None:
    run, _ = run_of(0)
    say(run, {"loaded": True}, {"frame": 0, "value": 1}, {"done": True})
    with pytest.raises(supervisor.ForgedError):
        say(run, {"frame": 0, "value": 666.0})


def test_long_texts_are_cut() -> None:
    failure = supervisor.reported(
        FAILED | {"message": "x" * 100_000, "traceback": "y" * 100_000, "hint": "z" * 100_000}
    )
    assert (len(failure.message), len(failure.traceback), len(failure.hint or "")) == (4_000, 16_000, 4_000)
