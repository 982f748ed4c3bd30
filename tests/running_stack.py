"""`fqlstream up` as tests run it: a process of its own, in a directory of its own, on ports that are free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fqlstream.local.ports import find_free_port
from fqlstream.settings import StoreSettings
from fqlstream.store.client import Store

START_S = 120.0
#: What `up` promises is 30 s.
STOP_S = 35.0
COMMAND_S = 120.0


def environment_of_free_ports() -> dict[str, str]:
    """Give this process's environment, with ports for a stack that are free now: other stacks may run on this machine.

    Without a runner: few tests need one, and it is two seconds of a processor in each stack.
    """
    return {
        **os.environ,
        # blocks of the README say `fqlstream`
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FQLSTREAM_LOCAL__KAFKA_PORT": str(find_free_port()),
        "FQLSTREAM_STORE__PORT": str(find_free_port()),
        "FQLSTREAM_API__PORT": str(find_free_port()),
        "FQLSTREAM_LOCAL__RUNNERS": "0",
    }


@dataclass(slots=True)
class RunningStack:
    """A stack that has said it is ready. `said` is what it said, `directory` where its commands run."""

    directory: Path
    data: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]
    said: dict[str, Any]

    @classmethod
    def start(cls, directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> RunningStack:
        """Start it in this directory, with its data below it, and wait until it is ready."""
        environment = environment_of_free_ports() if environment is None else environment
        words = directory / "words"
        with words.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fqlstream.cli", "up", "--json", *arguments],
                cwd=directory,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        timer = threading.Timer(START_S, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        assert line, f"the stack ended before it was ready: {words.read_text()}"
        return cls(directory, directory / ".fqlstream", environment, process, json.loads(line))

    @property
    def bootstrap(self) -> str:
        """Where its broker listens."""
        return str(self.said["bootstrap"])

    @property
    def store_url(self) -> str:
        """Where its store listens."""
        return str(self.said["store_url"])

    @property
    def api_url(self) -> str:
        """Where its API listens."""
        return str(self.said["api_url"])

    @property
    def api_key(self) -> str:
        """An administrator's key of its API."""
        return str(self.said["api_key"])

    def store(self) -> Store:
        """Give a client that may write."""
        return Store.connect(StoreSettings(), url=self.store_url, key=str(self.said["store_key"]))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours beside it, which must succeed."""
        return self.run_for(COMMAND_S, *arguments)

    def run_for(self, seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours beside it, which must succeed within this time."""
        done = self._run([sys.executable, "-m", "fqlstream.cli", *arguments], seconds)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return done

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of Bash beside it."""
        return self._run(["bash", "-euo", "pipefail", "-c", script])

    def _run(self, command: list[str], seconds: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False, timeout=seconds
        )  # fmt: skip

    def stop(self) -> int:
        """Ask it to end, and wait until it has."""
        self.process.terminate()
        return self._ended(STOP_S)

    def kill(self) -> None:
        """End it at once; its parts end with it."""
        self.process.kill()
        self._ended(STOP_S)

    def _ended(self, seconds: float) -> int:
        code = self.process.wait(seconds)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code
