"""Runs a command that ends when its parent does, even a parent that was killed.

Called as `python -I -S launcher.py PARENT_PID LIFELINE COMMAND...`, and becomes the command: its process id is the
command's. LIFELINE is the reading end of a pipe that only the parent writes to: at the parent's death it reads empty.
Imports nothing of fqlstream: it must start in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
#: After the parent's death a child may finish its work for so long; the same bound as an orderly stop.
GRACE_S = 30.0


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    parent, lifeline, command = int(argv[1]), int(argv[2]), argv[3:]
    os.set_inheritable(lifeline, False)
    if not _ask_kernel():
        _fork_watcher(lifeline)
    if os.getppid() != parent:
        sys.exit(0)  # the parent died before the tie was made
    os.execvp(command[0], command)  # noqa: S606  # the command is the supervisor's own


def _ask_kernel() -> bool:
    """Have Linux send SIGTERM when the parent dies; False where that does not exist."""
    if sys.platform != "linux" or os.environ.get("FQLSTREAM_LAUNCHER_WATCH") == "1":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0)


def _fork_watcher(lifeline: int) -> None:
    """Leave a process behind that ends the command when the lifeline breaks."""
    command_pid = os.getpid()
    if os.fork() != 0:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.getppid() == command_pid:
        broken, _, _ = select.select([lifeline], [], [], 0.5)
        if broken:
            _end(command_pid)
            break
    os._exit(0)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while os.getppid() == pid and time.monotonic() < deadline:
        time.sleep(0.1)
    if os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv)
