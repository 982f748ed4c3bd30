"""How tests drive the vendors' clients, which live in a process of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vendor_clients.packages import vendor_python

CALL_S = 120.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a call came to: `error` None where it succeeded. `sent` are the requests that left, `warned` the warnings."""

    result: Any
    error: dict[str, Any] | None
    sent: list[dict[str, Any]]
    warned: list[str]


class VendorProcess:
    """A Python with the vendors' packages, that does one call after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [vendor_python(), Path(__file__).with_name("driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("CRAFT_AI", "PYTHON"))},
        )

    def stop(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(20)

    def tell(self, do: str, *args: Any, on: str | None = None, **kwargs: Any) -> Told:
        """Have something done, whatever comes of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = {"do": do, "on": on, "args": _plain(args), "kwargs": _plain(kwargs)}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        # a client that asks for pages for ever is a failure, and no wait for ever
        timer = threading.Timer(CALL_S, self._process.kill)
        timer.start()
        answer = self._process.stdout.readline()
        timer.cancel()
        assert answer, f"{do} did not come back within {CALL_S} s, or ended the process"
        told = json.loads(answer)
        return Told(told.get("result"), told.get("error"), told["sent"], told["warned"])

    def do(self, do: str, *args: Any, on: str | None = None, **kwargs: Any) -> Any:
        """Have something done that must succeed; gives its result."""
        told = self.tell(do, *args, on=on, **kwargs)
        assert told.error is None, told.error
        return told.result

    def fail(self, do: str, *args: Any, on: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Have something done that must fail; gives its error."""
        told = self.tell(do, *args, on=on, **kwargs)
        assert told.error is not None, told.result
        return told.error


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
