"""The embedded store as tests run it: a process of its own, as in production."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from fqlstream.settings import StoreSettings
from fqlstream.store.client import Store

READY_S = 60


@dataclass(slots=True)
class StoreProcess:
    """A running store."""

    data: Path
    url: str
    key: str
    process: subprocess.Popen[str]
    settings: StoreSettings = field(default_factory=StoreSettings)

    @classmethod
    def start(cls, data: Path, *, environment: dict[str, str] | None = None) -> StoreProcess:
        """Start it on a free port and wait until it listens."""
        process = subprocess.Popen(
            [sys.executable, "-m", "fqlstream.store.embedded", "--data", str(data), "--port", "0", "--with-parent"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert process.stdout is not None
        timer = threading.Timer(READY_S, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        assert line, f"the store ended before it listened: exit code {process.wait()}"
        return cls(data, json.loads(line)["url"], (data / "store.key").read_text().strip(), process)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").rsplit(":", 1)[0]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def connect(self, database: str = "default") -> Store:
        """Give a client that may write."""
        return Store.connect(self.settings, url=f"{self.url}/{database}", key=self.key)

    def kill(self) -> None:
        """End it as a power failure of one process would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._close()

    def stop(self) -> int:
        """Ask it to end."""
        self.process.terminate()
        code = self.process.wait(15)
        self._close()
        return code

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()
