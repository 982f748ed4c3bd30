"""The description of a running stack, `stack.json`, and how other processes join it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from fqlstream.errors import UsageError
from fqlstream.settings import Settings

_LOCK_TRIES: Final = 10
_LOCK_WAIT_S: Final = 0.03


@dataclass(frozen=True, slots=True)
class Pids:
    """The processes of a stack themselves; None where a part is not ours or not running."""

    broker: int | None
    store: int | None
    api: int | None
    workers: tuple[int, ...]
    runner: int | None = None


@dataclass(frozen=True, slots=True)
class StackFile:
    """What `stack.json` holds; its keys are a contract."""

    bootstrap: str
    broker: str
    store_url: str | None
    store_key: str | None
    api_url: str | None
    api_key: str | None
    pids: Pids

    def __repr__(self) -> str:
        return f"StackFile(bootstrap={self.bootstrap!r}, store_url={self.store_url!r}, api_url={self.api_url!r})"


def stack_path(data: Path) -> Path:
    """Say where the description of a directory's stack is."""
    return data / "stack.json"


def write_stack(data: Path, stack: StackFile) -> None:
    """Write the description, readable by its owner only (it holds keys), whole or not at all."""
    path = stack_path(data)
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(asdict(stack)) + "\n")
    temporary.replace(path)


def read_stack(data: Path) -> StackFile:
    """Read the description of the stack that runs in a directory.

    Raises UsageError where none runs.
    """
    path = stack_path(data)
    if not path.exists() or not is_locked(data):
        start = f"fqlstream up --data {data}" if data != Path(".fqlstream") else "fqlstream up"
        raise UsageError(
            "LOC010", f"no stack runs in {data}", f"start one with: {start}; or name the parts in settings"
        )
    content = json.loads(path.read_text())
    pids = content.pop("pids")
    return StackFile(**content, pids=Pids(**{**pids, "workers": tuple(pids["workers"])}))


def join(data: Path, settings: Settings) -> Settings:
    """Give settings that name the broker and the store of the stack that runs in `data`.

    Raises UsageError where none runs.
    """
    stack = read_stack(data)
    kafka = settings.kafka.model_copy(update={"bootstrap": stack.bootstrap})
    store = settings.store
    if stack.store_url is not None:
        store = store.model_copy(update={"url": stack.store_url})
    if stack.store_key is not None:
        # the store of the stack knows one user; a ClickHouse of yours keeps the user and password that settings name
        store = store.model_copy(update={"user": "default", "password": SecretStr(stack.store_key)})
    return settings.model_copy(update={"data": data, "kafka": kafka, "store": store})


@contextmanager
def hold(data: Path) -> Iterator[None]:
    """Own a data directory. The lock goes with the process, however it ends.

    Raises UsageError where another process owns it.
    """
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("a") as file:
        if not _locks(file.fileno()):
            raise UsageError(
                "LOC011",
                f"a stack already runs in {data}",
                f"its addresses are in {stack_path(data)}; use it, stop it, or give another directory with --data",
            )
        yield


def _locks(descriptor: int) -> bool:
    """Take the lock. Who only looks whether it is taken (`is_locked`) holds it for a moment: then try again."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_WAIT_S)
        else:
            return True
    return False


def is_locked(data: Path) -> bool:
    """Say whether a process owns the directory."""
    path = data / "lock"
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
