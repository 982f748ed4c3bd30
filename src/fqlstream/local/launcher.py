"""Runs a command that ends when its parent does, even a parent that was killed: SIGTERM, and SIGKILL if that does not help.

Called as `python -I -S launcher.py PARENT_PID LIFELINE GRACE_S COMMAND...`, and becomes the command: its process id is the
command's. LIFELINE is the reading end of a pipe that only the parent writes to: at the parent's death it reads empty.
GRACE_S is how long the command may then go on, to finish its work. Imports nothing of fqlstream: it must start in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    parent, lifeline, grace_s, command = int(argv[1]), int(argv[2]), float(argv[3]), argv[4:]
    os.set_inheritable(lifeline, False)
    _fork_watcher(lifeline, grace_s)
    _signal_at_parents_death(signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)  # the parent died before the tie was made
    os.execvp(command[0], command)  # noqa: S606  # the command is the supervisor's own


def _signal_at_parents_death(number: int) -> None:
    """Have the kernel send this process a signal the moment its parent dies; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def _fork_watcher(lifeline: int, grace_s: float) -> None:
    """Leave a process behind that ends the command when the lifeline breaks, at the latest after the grace time.

    The kernel's signal alone would leave a command that hangs while it stops, and other systems have no such signal.
    """
    command_pid = os.getpid()
    if os.fork() != 0:
        return
    _signal_at_parents_death(signal.SIGKILL)  # our parent is the command
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.getppid() == command_pid:
        broken, _, _ = select.select([lifeline], [], [], 0.5)
        if broken:
            _end(command_pid, grace_s)
            break
    os._exit(0)


def _end(pid: int, grace_s: float) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while os.getppid() == pid and time.monotonic() < deadline:
        time.sleep(0.1)
    if os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv)
