"""A directory for one owner alone that holds rows: where its process is killed, the next owner removes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "fqlstream-code-metrics-"


class Scratch:
    """A directory below `parent`, held by a lock that the kernel lets go when this process ends. None: the machine's own for temporary files."""

    def __init__(self, parent: Path | None = None, prefix: str = _PREFIX) -> None:
        parent = parent or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(parent, prefix)
        self.path, self._lock = _made(parent, prefix)

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _made(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        with contextlib.suppress(FileNotFoundError):  # another owner has swept it before it was locked
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def sweep(parent: Path, prefix: str) -> None:
    """Remove directories of owners whose process is gone."""
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # somebody else's, in use, or just removed
            if path.lstat().st_uid != os.getuid():
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
