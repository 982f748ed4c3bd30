from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

from fqlstream.code_metrics import failures, supervisor
from fqlstream.code_metrics.process import Usage
from fqlstream.code_metrics.request import Limits


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
    "line",
    [
        b"",
        b"x",
        b"\xff\x00",
        b"[" * 50_000,
        b'{"frame": 0, "value": NaN}',
        b'{"frame": 0, "value": 1e999}',
        b'{"frame": 0, "value": 1' + b"0" * 400 + b"}",
    ],
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


LITTLE = Usage(10, 5)
LIMITS = Limits(wall_s=30, memory_bytes=1_000, processes=100, output_bytes=50, disk_bytes=1)


@dataclass
class Pipes:
    """A sandbox that has said and printed something, and holds so much."""

    answers: IO[bytes]
    output: IO[bytes]
    held: Usage
    group: None = None
    running: bool = False
    status: int | None = 137

    def usage(self) -> Usage:
        return self.held


@pytest.fixture
def pipes() -> Iterator[Callable[..., Pipes]]:
    with contextlib.ExitStack() as opened:

        def make(said: bytes, printed: bytes = b"", held: Usage = LITTLE, *, ended: bool = True) -> Pipes:
            ends = []
            for text in (said, printed):
                out, into = os.pipe()
                os.write(into, text)
                if ended:
                    os.close(into)
                else:
                    opened.callback(os.close, into)
                ends.append(opened.enter_context(os.fdopen(out, "rb", buffering=0)))
            return Pipes(ends[0], ends[1], held)

        yield make


def watched(
    process: Any,
    limits: Limits = LIMITS,
    sample_s: float = 0.0,
    *,
    stopped: bool = False,
    spare_bytes_min: int = 0,
) -> supervisor.Watched:
    run, _ = run_of(0)
    return supervisor.watch(process, run, limits, sample_s, lambda: stopped, spare_bytes_min)


WHOLE = b'{"loaded": true}\n{"frame": 0, "value": 2.5}\n{"done": true}\n'


def test_a_whole_answer_is_a_value(pipes: Callable[..., Pipes]) -> None:
    found = watched(pipes(WHOLE, b"hello"))
    assert found.failure is None
    assert [answer.value for answer in found.computed] == [2.5]
    assert found.memory_bytes_peak == 10


def test_what_was_forged_stays_so_whatever_is_said_after_it(pipes: Callable[..., Pipes]) -> None:
    found = watched(
        pipes(b'{"loaded": true}\n{"frame": 0, "value": 666}\n{"frame": 0, "value": 1}\n{"done": true}\n', ended=False)
    )
    assert found.failure is not None
    assert found.failure.code == failures.PROTOCOL
    assert not found.computed


@pytest.mark.parametrize(
    ("printed", "held", "stopped", "code"),
    [
        (b"x" * 100, Usage(1, 1), False, failures.OUTPUT),
        (b"", Usage(2_000, 1), False, failures.MEMORY),
        (b"", Usage(1, 99), False, failures.PROCESSES),
        (b"", Usage(1, 1), True, failures.CLOSED),
        (b"", Usage(1, 1), False, failures.TIME),
    ],
)
def test_limits_end_a_run(pipes: Callable[..., Pipes], printed: bytes, held: Usage, stopped: bool, code: str) -> None:
    limits = Limits(0.2, LIMITS.memory_bytes, LIMITS.processes, LIMITS.output_bytes, LIMITS.disk_bytes)
    found = watched(pipes(b'{"loaded": true}\n', printed, held, ended=False), limits, stopped=stopped)
    assert found.failure is not None
    assert found.failure.code == code


def test_a_run_is_ended_before_the_machine_has_no_memory_left(pipes: Callable[..., Pipes]) -> None:
    found = watched(pipes(b'{"loaded": true}\n', ended=False), spare_bytes_min=2**60)
    assert found.failure is not None
    assert found.failure.code == failures.MACHINE


def test_an_end_before_the_results_is_told_with_its_status_and_last_words(pipes: Callable[..., Pipes]) -> None:
    process = pipes(b"", b"a fatal error\n\x1b[31mSIGSEGV")
    run, _ = run_of(0)
    found = supervisor.watch(process, run, LIMITS, 0.0, lambda: False, 0)
    assert found.failure is not None
    assert found.failure.code == failures.DIED
    assert "137" in found.failure.message
    assert "a fatal error \N{REPLACEMENT CHARACTER}[31mSIGSEGV" in found.failure.message


def test_the_wait_for_a_new_sandbox_ends_when_the_service_stops(pipes: Callable[..., Pipes]) -> None:
    began = time.monotonic()
    assert supervisor.wait_ready(pipes(b"", ended=False), 60, lambda: True) == "the service stops"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("said", "why_not"),
    [
        (b'{"ready": true}\n', None),
        (b'{"unready": "no \\u001b[31mJava"}\n', "no \N{REPLACEMENT CHARACTER}[31mJava"),
        (b"[]\n", "it answered what is no message"),
        (b"x\n", "it answered what is no message"),
    ],
)
def test_a_new_sandbox_says_whether_it_is_ready(pipes: Callable[..., Pipes], said: bytes, why_not: str | None) -> None:
    assert supervisor.wait_ready(pipes(said), 5, lambda: False) == why_not


def test_texts_of_a_sandbox_are_text() -> None:
    hostile = "x\ud800\x1b[31m\u202e\nfake"
    failure = supervisor.reported(FAILED | {"message": hostile, "traceback": hostile, "hint": hostile})
    no = "\N{REPLACEMENT CHARACTER}"
    assert failure.message == failure.hint == f"x{no}{no}[31m{no} fake"
    assert failure.traceback == f"x{no}{no}[31m{no}\nfake"


def test_a_limit_that_the_code_met_itself_is_named(pipes: Callable[..., Pipes]) -> None:
    parts = json.dumps({"code": failures.MEMORY, "message": "MemoryError", "traceback": "line 2", "hint": None})
    found = watched(pipes(b'{"loaded": true}\n{"frame": 0, "failure": ' + parts.encode() + b'}\n{"done": true}\n'))
    failure = found.computed[0].failure
    assert failure is not None
    assert failure.message == "the run used more than its 0 MiB of memory"
    assert failure.traceback == "line 2"
