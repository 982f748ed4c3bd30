"""What the chaos benchmark does to processes: drawn from a seed, and counted only where somebody was hit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fqlstream.bench.troubles import WEIGHTS, Trouble, Troublemaker, draw
from fqlstream.local.joining import Pids, StackFile


def test_the_same_seed_draws_the_same_troubles_in_the_order_in_which_they_happen() -> None:
    drawn = [draw(random.Random(seed), 6.0) for seed in range(200)]
    assert drawn == [draw(random.Random(seed), 6.0) for seed in range(200)]
    assert all(troubles == sorted(troubles, key=lambda trouble: trouble.after_s) for troubles in drawn)
    assert {trouble.kind for troubles in drawn for trouble in troubles} == set(WEIGHTS)
    assert {len(troubles) for troubles in drawn} == {1, 2, 3, 4}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def maker(tmp_path: Path, *, worker: int | None = None, store: int | None = None) -> Troublemaker:
    workers = () if worker is None else (worker,)
    stack = StackFile("localhost:1", "yours", None, None, None, None, Pids(None, store, None, workers))
    return Troublemaker(tmp_path, lambda: stack, random.Random(1), 0.2, lambda _: None)


def test_a_kill_is_a_kill(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    hurting = maker(tmp_path, store=sleeper.pid)
    hurting.run([Trouble("kill_store", 0.0), Trouble("kill_broker", 0.0), Trouble("kill_worker", 0.0)])
    assert sleeper.wait(10) == -signal.SIGKILL
    assert hurting.done == {"kill_store": 1}


def test_a_frozen_worker_is_awake_when_the_troubles_are_over(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    hurting = maker(tmp_path, worker=sleeper.pid)
    hurting.run([Trouble("freeze_worker", 0.0)])
    assert hurting.done == {"freeze_worker": 1}
    stopped, _ = os.waitpid(sleeper.pid, os.WNOHANG | os.WUNTRACED)  # it was stopped once ...
    assert stopped in (0, sleeper.pid)
    sleeper.terminate()
    assert sleeper.wait(10) == -signal.SIGTERM  # ... and acts on signals again
