"""What the chaos benchmark does to a running stack: kill, start, stop and freeze its processes, at moments drawn from a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from fqlstream.local.joining import StackFile
from fqlstream.local.processes import Child, ChildSpec

#: How often each trouble is drawn, beside the others.
WEIGHTS: Final[Mapping[str, int]] = MappingProxyType(
    {"kill_worker": 4, "kill_store": 2, "kill_broker": 2, "start_worker": 2, "stop_worker": 2, "freeze_worker": 3}
)
KILLS: Final = ("kill_worker", "kill_store", "kill_broker")
#: Workers beside those that are supervised: more than the partitions would have nothing to do.
_EXTRA_MAX: Final = 2


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happens `after_s` seconds into a round."""

    kind: str
    after_s: float


def draw(rng: random.Random, seconds: float) -> list[Trouble]:
    """Draw one to four troubles within a round, in the order in which they happen."""
    kinds = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rng.randint(1, 4))
    return sorted((Trouble(kind, rng.uniform(0.5, seconds)) for kind in kinds), key=lambda trouble: trouble.after_s)


@dataclass(slots=True)
class Troublemaker:
    """Hurts one stack. `frozen_s` is longer than the session time-out: a frozen worker loses its partitions meanwhile."""

    data: Path
    describe: Callable[[], StackFile]
    rng: random.Random
    frozen_s: float
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    _extra: list[Child] = field(default_factory=list)
    _frozen: list[threading.Timer] = field(default_factory=list)
    _started: int = 0

    def run(self, troubles: list[Trouble]) -> None:
        """Let the troubles of a round happen; returns when the last one has, and every frozen worker was woken."""
        begun_s = time.monotonic()
        for trouble in troubles:
            wait_s = begun_s + trouble.after_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            if _ACTS[trouble.kind](self):
                self.done[trouble.kind] += 1
                self.say(f"  {trouble.after_s:.1f} s: {trouble.kind}")
        for timer in self._frozen:
            timer.join()
        self._frozen.clear()

    def stop(self) -> None:
        """End the workers that were started here."""
        for child in self._extra:
            child.stop()

    @property
    def workers(self) -> list[int]:
        """Process ids of all workers that run."""
        started = [pid for child in self._extra if (pid := child.pid) is not None]
        return [*self.describe().pids.workers, *started]

    def _kill(self, pid: int | None) -> bool:
        return pid is not None and _sent(pid, signal.SIGKILL)

    def _kill_worker(self) -> bool:
        return self._kill(self.rng.choice(self.workers or [None]))

    def _kill_store(self) -> bool:
        return self._kill(self.describe().pids.store)

    def _kill_broker(self) -> bool:
        return self._kill(self.describe().pids.broker)

    def _start_worker(self) -> bool:
        self._extra = [child for child in self._extra if child.pid is not None]
        if len(self._extra) >= _EXTRA_MAX:
            return False
        self._started += 1
        name = f"extra-{self._started}"
        child = Child(
            ChildSpec(
                name=name,
                command=(sys.executable, "-m", "fqlstream.cli", "worker", "--data", str(self.data)),
                log=self.data / "logs" / f"{name}.log",
                ready=lambda: True,
                stop_timeout_s=30.0,
            )
        )
        child.start()
        self._extra.append(child)
        return True

    def _stop_worker(self) -> bool:
        pids = self.workers
        return bool(pids) and _sent(self.rng.choice(pids), signal.SIGTERM)

    def _freeze_worker(self) -> bool:
        pids = self.workers
        if not pids:
            return False
        pid = self.rng.choice(pids)
        if not _sent(pid, signal.SIGSTOP):
            return False
        timer = threading.Timer(self.frozen_s, lambda: _sent(pid, signal.SIGCONT))
        timer.start()
        self._frozen.append(timer)
        return True


_ACTS: Final[Mapping[str, Callable[[Troublemaker], bool]]] = MappingProxyType(
    {
        "kill_worker": Troublemaker._kill_worker,
        "kill_store": Troublemaker._kill_store,
        "kill_broker": Troublemaker._kill_broker,
        "start_worker": Troublemaker._start_worker,
        "stop_worker": Troublemaker._stop_worker,
        "freeze_worker": Troublemaker._freeze_worker,
    }
)


def _sent(pid: int, number: signal.Signals) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
