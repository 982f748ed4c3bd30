"""One sandbox as a process of ours: started, fed, counted, and ended with everything in it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fqlstream.code_metrics.cgroups import Group
from fqlstream.code_metrics.inside import seccomp

_END_WAIT_S: Final = (
    10.0  # the kernel ends a killed namespace in milliseconds; a process in a disk's queue takes longer
)
#: Lines of a process's status that add up to the memory it holds, swapped out or not; pages of files are the machine's to drop.
_HELD: Final = frozenset({"RssAnon", "RssShmem", "VmSwap", "HugetlbPages"})
_INFO_WAIT_S: Final = 10.0  # bubblewrap makes its namespaces in milliseconds


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox holds at one moment: memory of its own, and processes with their threads."""

    memory_bytes: int
    tasks: int


class SandboxProcess:
    """A started sandbox: `answers` and `output` are read ends, `orders` is its standard input.

    `command` is given bubblewrap's descriptors by option and the number of the answers' pipe, and gives the command line.
    `contained`: bubblewrap is used; `filtered`: its own first process gets our filter of system calls too.
    `counted` says whether the kernel counts it: only what bubblewrap names can be taken into a control group.
    Must be called by a thread that outlives the sandbox: the kernel ends it with the thread that started it.
    Raises OSError where it cannot be started.
    """

    def __init__(
        self,
        command: Callable[[Mapping[str, int], int], Sequence[str]],
        environment: Mapping[str, str],
        group: Group | None,
        *,
        contained: bool,
        filtered: bool = False,
    ) -> None:
        self.group = group
        self.contained = contained
        self.counted = False
        info, info_in = os.pipe()
        block_out, block = os.pipe()
        answers, answers_in = os.pipe()
        fds = {"--info-fd": info_in, "--block-fd": block_out} if contained else {}
        try:
            if filtered:
                fds["--seccomp"] = filter_pipe()
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                list(command(fds, answers_in)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd="/",
                pass_fds=(*fds.values(), answers_in),
                start_new_session=True,
            )
        except BaseException:
            for fd in (answers, info, block):
                os.close(fd)
            if group is not None:
                group.remove()
            raise
        finally:
            for fd in {info_in, block_out, answers_in, *fds.values()}:
                os.close(fd)
        self.answers: IO[bytes] = os.fdopen(answers, "rb", buffering=0)
        self.orders = _given(self._process.stdin)
        self.output = _given(self._process.stdout)
        first = self._first_process(info) if contained else self._process.pid
        self._first: int | None = None
        with contextlib.suppress(OSError):  # it has died already, which its reader finds
            if first is not None:
                # a descriptor, because numbers are used again
                self._first = os.pidfd_open(first)
                if group is not None:
                    group.add(first)
                    self.counted = True
        with contextlib.suppress(OSError):
            os.write(block, b"go")
        os.close(block)

    def _first_process(self, info: int) -> int | None:
        """Read which process is the first of the sandbox's namespace; it waits for us before it goes on."""
        text = b""
        with os.fdopen(info, "rb", buffering=0) as pipe:
            while select.select([pipe], [], [], _INFO_WAIT_S)[0]:
                piece = pipe.read(4096)
                text += piece or b""
                with contextlib.suppress(ValueError):
                    return int(json.loads(text)["child-pid"])
                if not piece:
                    break
        return None

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status once it has ended; a signal's is negative or above 128."""
        return self._process.poll()

    def usage(self) -> Usage:
        """Count the memory and tasks of everything that runs in it."""
        memory, tasks = 0, 0
        for process in descendants(self._process.pid):
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
                for line in status.splitlines():
                    name, _, value = line.partition(":")
                    if name in _HELD:
                        memory += int(value.split()[0]) * 1024
                    elif name == "Threads":
                        tasks += int(value)
        return Usage(memory, tasks)

    def end(self) -> None:
        """End everything in it at once and wait until it is gone. May be called again."""
        if not self.contained:
            _end_descendants(self._process.pid)
        if self._first is not None:
            # The first process of a namespace takes all others with it.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            os.close(self._first)
            self._first = None
        deadline = time.monotonic() + _END_WAIT_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_WAIT_S if self.contained else 0.1)
        if self.running:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.1, deadline - time.monotonic()))
        for pipe in (self.answers, self.output, self.orders):
            with contextlib.suppress(OSError):  # an order that nobody read
                pipe.close()
        if self.group is not None:
            self.group.remove()


def filter_pipe() -> int:
    """Give the read end of a pipe that holds our filter of system calls, as bubblewrap takes it. Raises OSError."""
    code = seccomp.program(platform.machine())
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(code)  # a few KiB: a pipe holds that unread
    return read


def _end_descendants(root: int) -> None:
    """End all that comes from `root`, while it lives: they are its children then, and are found."""
    known: set[int] = set()
    deadline = time.monotonic() + _END_WAIT_S
    while (found := set(descendants(root)) - {root} - known) and time.monotonic() < deadline:
        known |= found
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def available_bytes(table: Path = Path("/proc/meminfo")) -> int:
    """Read how much memory the machine can still give without swapping, by its kernel's own estimate."""
    for line in table.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{table} names no MemAvailable")


def _given(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101  # Popen was asked for it
    return pipe


def descendants(root: int) -> list[int]:
    """Every process that comes from `root`, itself included. In a namespace orphans stay with its first process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the program's name, in parentheses, may hold anything
            parent = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found
