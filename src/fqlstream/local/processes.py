"""Processes of the local stack: each tied to this one's life, with its log in a file; and their supervision."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from fqlstream.app import exit_codes
from fqlstream.errors import FqlstreamError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_POLL_S = 0.05
#: The first restart is at once, as most deaths are single; then the wait doubles up to this bound.
_BACKOFF_MAX_S = 30.0
#: As many deaths as the longest wait comes after.
_HOPELESS_DEATHS = 7
#: A child that lived for so long was well: its next death is a first one again.
_WELL_AFTER_S = 60.0
_TAIL_LINES = 12


class ProcessError(FqlstreamError):
    """A process of the local stack did not start or did not stay."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run. `ready` is asked again and again until it says yes; `environment` is added to ours.

    `choose` is asked at each start for more of it: what may have to be another one then, as a port.
    `stop_timeout_s`: from SIGTERM to SIGKILL in an orderly stop; `orphan_timeout_s`: the same when we were killed.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    choose: Callable[[], Mapping[str, str]] = dict
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 10.0
    orphan_timeout_s: float = 30.0


class Child:
    """One running process of ours. Ends with this process, whatever ends it."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.started_s = 0.0

    @property
    def pid(self) -> int | None:
        """The process itself, not a wrapper; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal); None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it; returns before it is ready."""
        self.spec.log.parent.mkdir(parents=True, exist_ok=True)
        with self.spec.log.open("ab") as log:
            log.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} starting {self.spec.name}\n".encode())
            log.flush()
            self._log_start = log.tell()
            self._process = _spawner().submit(self._spawn, log.fileno()).result()
        self.started_s = time.monotonic()

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        lifeline = _lifeline()
        ties = (str(os.getpid()), str(lifeline), str(self.spec.orphan_timeout_s))
        launch = (sys.executable, "-I", "-S", str(_LAUNCHER), *ties, *self.spec.command)
        return subprocess.Popen(  # noqa: S603  # our own commands
            launch,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **self.spec.environment, **self.spec.choose()},
            pass_fds=(lifeline,),
            # Ctrl-C reaches the whole foreground group; our children are stopped in order, by us
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Wait until it is ready.

        Raises ProcessError with the end of its log when it dies first or takes too long.
        """
        deadline = time.monotonic() + self.spec.start_timeout_s
        while not self.spec.ready():
            if self.exit_code is not None:
                raise self.failure(f"{self.spec.name} ended with code {self.exit_code} while starting")
            if time.monotonic() > deadline:
                raise self.failure(f"{self.spec.name} was not ready after {self.spec.start_timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def failure(self, what: str) -> ProcessError:
        """Give an error that ends with what the process wrote last."""
        tail = self.tail()
        text = f"{what}; its last lines in {self.spec.log}:\n" + "\n".join(f"  | {line}" for line in tail)
        return ProcessError("LOC001", text if tail else f"{what}; it wrote nothing to {self.spec.log}")

    def tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """Give the last lines it wrote since it was started."""
        with contextlib.suppress(OSError), self.spec.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            start = self._log_start if self._log_start <= size else 0
            log.seek(max(start, size - 32_768))
            return log.read().decode(errors="replace").splitlines()[-lines:]
        return []

    def terminate(self) -> None:
        """Ask it to end."""
        if self.pid is not None and self._process is not None:
            self._process.terminate()

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask it to end, wait, and kill it if it does not."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(self.spec.stop_timeout_s if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def bound_log(self, bytes_max: int) -> None:
        """Move a log that has grown too long aside, keeping one older piece; the process goes on writing to the same file."""
        with contextlib.suppress(FileNotFoundError):
            if self.spec.log.stat().st_size > bytes_max:
                shutil.copyfile(self.spec.log, self.spec.log.with_suffix(".1.log"))
                os.truncate(self.spec.log, 0)


class Phase(StrEnum):
    """Where a supervised child is."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # for its next start


@dataclass(slots=True)
class _Supervised:
    child: Child
    phase: Phase
    since_s: float
    deaths: int = 0


class Supervisor:
    """Keeps children running until they are stopped. Call `tick` a few times a second."""

    def __init__(self, *, log_bytes_max: int, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._log_bytes_max = log_bytes_max
        self._say = say
        self._changed = changed
        self._supervised: dict[str, _Supervised] = {}

    def adopt(self, child: Child) -> None:
        """Watch over a child that is ready."""
        self._supervised[child.spec.name] = _Supervised(child, Phase.READY, time.monotonic())

    def pid(self, name: str) -> int | None:
        """Give the process id of a child; None when it does not run."""
        watched = self._supervised.get(name)
        return watched.child.pid if watched else None

    def tick(self) -> None:
        """Look at every child once: note deaths, start what is due, bound logs. Never waits."""
        for watched in self._supervised.values():
            watched.child.bound_log(self._log_bytes_max)
            match watched.phase:
                case Phase.WAITING:
                    self._start_if_due(watched)
                case Phase.STARTING | Phase.READY if watched.child.exit_code is not None:
                    self._note_death(watched)
                case Phase.STARTING:
                    self._check_ready(watched)
                case Phase.READY:
                    pass

    def _note_death(self, watched: _Supervised) -> None:
        lived_s = time.monotonic() - watched.child.started_s
        watched.deaths = 1 if lived_s > _WELL_AFTER_S else watched.deaths + 1
        watched.phase, watched.since_s = Phase.WAITING, time.monotonic()
        name, code = watched.child.spec.name, watched.child.exit_code
        if (
            code == exit_codes.NEEDS_SOMEBODY
        ):  # the next start meets the same, until somebody has done something about it
            watched.deaths = max(watched.deaths, _HOPELESS_DEATHS)
        wait_s = _backoff_s(watched.deaths)
        self._say(f"{name} ended ({_ending(code)}) after {lived_s:.0f} s; starting it again in {wait_s:.0f} s")
        for line in watched.child.tail(3):
            self._say(f"  | {line}")
        self._changed()

    def _start_if_due(self, watched: _Supervised) -> None:
        if time.monotonic() - watched.since_s < _backoff_s(watched.deaths):
            return
        watched.child.start()
        watched.phase, watched.since_s = Phase.STARTING, time.monotonic()
        self._changed()

    def _check_ready(self, watched: _Supervised) -> None:
        spec = watched.child.spec
        if spec.ready():
            watched.phase = Phase.READY
            self._say(f"{spec.name} runs again")
        elif time.monotonic() - watched.since_s > spec.start_timeout_s:
            self._say(f"{spec.name} was not ready after {spec.start_timeout_s:.0f} s; ending it")
            watched.child.stop(timeout_s=1.0)

    def stop(self, order: Sequence[Sequence[str]], timeout_s: float) -> None:
        """End everything: group after group, each group at once, all within the time; what does not end is killed."""
        deadline = time.monotonic() + timeout_s
        for names in order:
            children = [self._supervised.pop(name).child for name in names if name in self._supervised]
            for child in children:
                child.terminate()
            for child in children:
                child.stop(min(child.spec.stop_timeout_s, max(0.1, deadline - time.monotonic())))


def _backoff_s(deaths: int) -> float:
    return 0.0 if deaths <= 1 else min(_BACKOFF_MAX_S, 2.0 ** (deaths - 2))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


@lru_cache(maxsize=1)
def _spawner() -> ThreadPoolExecutor:
    """Give the one thread that starts processes.

    Linux ties a child to the *thread* that started it: this one lives as long as the process does.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@lru_cache(maxsize=1)
def _lifeline() -> int:
    """Give the reading end of a pipe whose writing end closes with this process, and only then."""
    reading, _writing = os.pipe()
    return reading
