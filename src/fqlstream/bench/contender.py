"""One contender of a comparison: a process of its own that reads a filled topic once, and what it cost.

Its module is run as `python -m MODULE TASK`, the task as JSON, and prints one `Measurement` as JSON in its last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from fqlstream.errors import FqlstreamError


@dataclass(frozen=True, slots=True)
class Task:
    """What to read: the first `events_count` events of a workload, in a topic of a broker."""

    bootstrap: str
    topic: str
    partitions: int
    events_count: int
    bytes_count: int
    data_dir: str

    @classmethod
    def from_arguments(cls) -> Self:
        """Read the task that this process was started with."""
        return cls(**json.loads(sys.argv[1]))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What reading it cost this process; `checked`: the answer was the right one."""

    events_count: int
    cpu_s: float
    wall_s: float
    checked: bool

    @property
    def events_per_s_core(self) -> float:
        """Events per second of processor time."""
        return self.events_count / self.cpu_s

    def hand_in(self) -> None:
        """Print it for the process that asked."""
        sys.stdout.write(f"\n{json.dumps(asdict(self))}\n")
        sys.stdout.flush()


class Meter:
    """Processor and wall time since it was made, both of this process."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()
        self._wall_s = time.perf_counter()

    def measurement(self, events_count: int, *, checked: bool) -> Measurement:
        """Say what it took up to now."""
        cpu_s = time.process_time() - self._cpu_s
        return Measurement(events_count, cpu_s, time.perf_counter() - self._wall_s, checked)


def run_contender(
    module: str, task: Task, timeout_s: float, environment: Sequence[tuple[str, str]] = ()
) -> Measurement:
    """Run a contender to its end. Raises FqlstreamError where it fails, with the last it said."""
    command = [sys.executable, "-m", module, json.dumps(asdict(task))]
    try:
        ended = subprocess.run(  # noqa: S603  # this Python and a module of ours
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, **dict(environment)},
        )
    except subprocess.TimeoutExpired as error:
        raise FqlstreamError("BEN002", f"{module} did not end within {timeout_s:.0f} s", _last(error.stderr)) from error
    if ended.returncode != 0 or not ended.stdout.strip():
        raise FqlstreamError("BEN003", f"{module} ended with {ended.returncode}", _last(ended.stderr))
    return Measurement(**json.loads(ended.stdout.strip().splitlines()[-1]))


def _last(text: str | bytes | None) -> str | None:
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    return "\n".join(said.strip().splitlines()[-8:]) if said else None
