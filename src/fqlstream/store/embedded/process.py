"""What makes a process the only owner of a directory, and ends it with its parent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from fqlstream.errors import UsageError

LOCK_FILE = "store.lock"
_PR_SET_PDEATHSIG = 1
_PARENT_POLL_S = 0.5


def lock_directory(directory: Path) -> TextIO:
    """Take a directory for this process; keep what is returned open. Raises UsageError where another process has it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / LOCK_FILE).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise UsageError(
            "STO010",
            f"the store in {directory} is in use by process {owner}",
            "stop that process, reach the store over HTTP, or give another --data directory",
        ) from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def end_with_parent() -> None:
    """Get SIGTERM when the parent dies, however it dies."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # the kernel's signal follows the thread that started us, and the parent may be gone already: look as well
    threading.Thread(target=_watch_parent, args=(parent,), name="parent-watch", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
