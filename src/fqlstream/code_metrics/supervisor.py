"""Watches one run from outside: reads its answers, believes what a metric may say and nothing else, and keeps it within its limits."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fqlstream.code_metrics import failures
from fqlstream.code_metrics.process import SandboxProcess, available_bytes
from fqlstream.code_metrics.request import Failure, Limits

_MESSAGE_BYTES_MAX: Final = 2**17  # a failure with its texts; a longer line is none of ours
_PIECE_BYTES: Final = 2**16
_SAID_BYTES: Final = 2_000  # of what a process printed last, to say with its end
_LOOK_S: Final = 0.2  # how soon the wait for a new sandbox sees that the service stops
_FLAGS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
#: So near to the limit of processes the next one would be refused: the run has come to its bound.
_TASKS_SPARE: Final = 2


@dataclass(frozen=True, slots=True)
class Computed:
    """One frame's answer: a value or a failure."""

    value: float | None
    failure: Failure | None
    seconds: float


@dataclass(slots=True)
class Watched:
    """What became of a run: answers in the order they were asked, and why it ended early if it did."""

    computed: list[Computed] = field(default_factory=list)
    failure: Failure | None = None
    load_s: float = 0.0
    compute_s: float = 0.0
    memory_bytes_peak: int = 0


class ForgedError(Exception):
    """A line that our own part of the sandbox would not have written."""


class Run:
    """Follows the answers of one job along the only order they can come in: loaded or failed, each frame, done."""

    def __init__(self, frames: Sequence[int], on_stage: Callable[[int | None], None]) -> None:
        self._waiting = list(frames)
        self._on_stage = on_stage
        self._started = self._stage_began = time.monotonic()
        self.loaded = False
        self.done = False
        self.watched = Watched()

    @property
    def doing(self) -> str:
        """What the run is at, for its author."""
        if not self.loaded:
            return "loading the rows and the code"
        return f"computing frame {self._waiting[0] + 1}" if self._waiting else "ending"

    def take(self, line: bytes) -> None:
        """Take one message. Raises ForgedError for anything else."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise ForgedError("a line that is no message") from None
        if self.done or not isinstance(message, dict):
            raise ForgedError("a message out of turn")
        now = time.monotonic()
        took, self._stage_began = now - self._stage_began, now
        match message:
            case {"failed": parts} if not self.loaded and len(message) == 1:
                self.watched.failure, self.done = reported(parts), True
            case {"loaded": True} if not self.loaded and len(message) == 1:
                self.loaded, self.watched.load_s = True, took
                self._on_stage(None)
            case {"frame": int(index)} if (
                self.loaded and self._waiting and index == self._waiting[0] and len(message) == 2
            ):
                self.watched.computed.append(_computed(message, took))
                self.watched.compute_s += took
                self._waiting.pop(0)
                self._on_stage(index)
            case {"done": True} if self.loaded and not self._waiting and len(message) == 1:
                self.done = True
            case _:
                raise ForgedError("a message out of turn")


def reported(parts: object) -> Failure:
    """Read a failure that a sandbox reports. Raises ForgedError for what it cannot know."""
    match parts:
        case {"code": str(code), "message": str(message), "traceback": str(traceback), "hint": str() | None as hint}:
            if code in failures.REPORTED:
                return failures.bounded(Failure(code, message, traceback, hint))
    raise ForgedError("a failure of a kind that is found from outside")


def _computed(message: dict[str, Any], seconds: float) -> Computed:
    match message:
        case {"value": float() | int() as value} if not isinstance(value, bool) and _fits(value):
            return Computed(float(value), None, seconds)
        case {"flag": str(flag)} if flag in _FLAGS:
            return Computed(_FLAGS[flag], None, seconds)
        case {"failure": parts}:
            return Computed(None, reported(parts), seconds)
    raise ForgedError("a frame's answer without a number")


def _fits(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of so many digits
        return False


def watch(
    process: SandboxProcess,
    run: Run,
    limits: Limits,
    sample_s: float,
    stopped: Callable[[], bool],
    spare_bytes_min: int,
) -> Watched:
    """Follow a job that was just handed over until it is done or must be ended; the caller ends the sandbox then.

    It must be ended, too, when the machine has less than `spare_bytes_min` of memory left: buffers of sockets and pipes, and
    the kernel's own part of many small files, are in no process's count.
    """
    deadline = time.monotonic() + limits.wall_s
    watched, partial, printed, said = run.watched, b"", 0, b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.answers, selectors.EVENT_READ)
        ready.register(process.output, selectors.EVENT_READ)
        next_sample = time.monotonic()
        while not run.done and watched.failure is None:
            now = time.monotonic()
            if now >= deadline:
                watched.failure = failures.reached(failures.TIME, limits, run.doing)
            elif now >= next_sample:
                next_sample = now + sample_s
                watched.failure = failures.closed() if stopped() else _over(process, watched, limits, spare_bytes_min)
            if watched.failure is not None:
                break
            for key, _ in ready.select(min(deadline, next_sample) - now):
                piece = os.read(key.fd, _PIECE_BYTES)
                if key.fileobj is process.output:
                    printed, said = printed + len(piece), (said + piece)[-_SAID_BYTES:]
                    if not piece:
                        ready.unregister(process.output)
                    elif printed > limits.output_bytes:
                        watched.failure = watched.failure or failures.reached(failures.OUTPUT, limits)
                elif piece:
                    partial = _take(run, partial + piece)
                elif not run.done:
                    watched.failure = watched.failure or _ended(process, limits, said)
    return _with_limits(watched, limits)


def wait_ready(process: SandboxProcess, wait_s: float, stopped: Callable[[], bool]) -> str | None:
    """Wait until a new sandbox can take a job; give what kept it from that, or None. Ends soon once `stopped`."""
    deadline = time.monotonic() + wait_s
    answer, printed = b"", b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.answers, selectors.EVENT_READ)
        ready.register(process.output, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if stopped():
                return "the service stops"
            for key, _ in ready.select(min(left, _LOOK_S)):
                piece = os.read(key.fd, _PIECE_BYTES)
                if key.fileobj is process.output:
                    printed = (printed + piece)[-_PIECE_BYTES:]
                    if not piece:
                        ready.unregister(process.output)
                    continue
                answer += piece
                if answer.endswith(b"\n"):
                    return _unready(answer)
                if not piece:
                    with contextlib.suppress(OSError):
                        printed += os.read(process.output.fileno(), _PIECE_BYTES)
                    return "it ended: " + _tail(printed)
    return f"it was not ready after {wait_s:g} s: " + _tail(printed)


def _unready(answer: bytes) -> str | None:
    """Nobody's code has run there yet, but a start that went wrong may say anything."""
    try:
        message = json.loads(answer)
    except ValueError:
        message = None
    match message:
        case {"ready": True}:
            return None
        case {"unready": str(why_not)}:
            return failures.cleaned(why_not)
    return "it answered what is no message"


def _take(run: Run, text: bytes) -> bytes:
    """Take every whole line; give what is left of the last one."""
    *lines, rest = text.split(b"\n")
    try:
        for line in [*lines, rest]:
            _bounded(line)
        for line in lines:
            run.take(line)
    except ForgedError as error:
        # Whoever writes here may have written the answers before this one.
        run.watched.computed.clear()
        run.watched.failure = failures.broke_protocol(str(error))
        return b""
    return rest


def _bounded(line: bytes) -> None:
    if len(line) > _MESSAGE_BYTES_MAX:
        raise ForgedError("a line longer than any message")


def _over(process: SandboxProcess, watched: Watched, limits: Limits, spare_bytes_min: int) -> Failure | None:
    usage = process.usage()
    watched.memory_bytes_peak = max(watched.memory_bytes_peak, usage.memory_bytes)
    if usage.memory_bytes > limits.memory_bytes:
        return failures.reached(failures.MEMORY, limits)
    if usage.tasks >= limits.processes - _TASKS_SPARE:
        return failures.reached(failures.PROCESSES, limits)
    if available_bytes() < spare_bytes_min:
        return failures.machine_full(spare_bytes_min)
    return None


def _ended(process: SandboxProcess, limits: Limits, said: bytes) -> Failure:
    if process.group is not None and process.group.out_of_memory():
        return failures.reached(failures.MEMORY, limits)
    deadline = time.monotonic() + 1.0  # bubblewrap passes the status on a moment later
    while process.running and time.monotonic() < deadline:
        time.sleep(0.01)
    if select.select([process.output], [], [], 0)[0]:
        said += os.read(process.output.fileno(), _PIECE_BYTES)
    return failures.died(process.status, said[-_SAID_BYTES:].decode("utf-8", "replace"))


def _with_limits(watched: Watched, limits: Limits) -> Watched:
    """Where the code itself ran into a limit, say which one and how large it is, as where we did."""
    if watched.failure is not None:
        watched.failure = _named_limit(watched.failure, limits)
    watched.computed = [
        answer if answer.failure is None else Computed(None, _named_limit(answer.failure, limits), answer.seconds)
        for answer in watched.computed
    ]
    return watched


def _named_limit(failure: Failure, limits: Limits) -> Failure:
    if failure.code not in failures.MET_INSIDE:
        return failure
    return replace(failures.reached(failure.code, limits), traceback=failure.traceback)


def _tail(text: bytes) -> str:
    return failures.cleaned(text.decode("utf-8", "replace").strip()[-1_000:]) or "it printed nothing"
