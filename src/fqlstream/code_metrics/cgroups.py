"""Control groups, versions 1 and 2: a sandbox's memory and processes counted and bounded by the kernel, where we may have one."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fqlstream.code_metrics.request import Limits

_MOUNT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Parents:
    """Groups that may be given children: of memory and of processes, in version 2 the same one. `why_not` says what is missing."""

    memory: Path | None
    pids: Path | None
    version: int
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """One sandbox's groups."""

    memory: Path | None
    pids: Path | None

    def add(self, process: int) -> None:
        """Take a process in; what it starts from then on is in too."""
        for path in self._paths():
            (path / "cgroup.procs").write_text(str(process), encoding="ascii")

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of this group for its memory."""
        if self.memory is None:
            return False
        for name in ("memory.events", "memory.oom_control"):  # version 2's file, version 1's
            lines = _text(self.memory / name).splitlines()
            if any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines):
                return True
        return False

    def remove(self) -> None:
        """Remove the groups; nothing runs in them any more."""
        for path in self._paths():
            with contextlib.suppress(OSError):
                path.rmdir()

    def _paths(self) -> set[Path]:
        return {path for path in (self.memory, self.pids) if path is not None}


def find_parents(configured: str | None, mount: Path = _MOUNT, own: Path = Path("/proc/self/cgroup")) -> Parents:
    """Look where children may be made: below the configured group, or else below our own where it is the root of what we see.

    Any other group is somebody's who counts and stops what runs in it, so it gets no children unasked.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="ascii").splitlines()]
    except OSError as error:
        return Parents(None, None, 0, f"no control groups: {error.strerror}")
    groups = {name: path for _, controllers, path in lines for name in controllers.split(",")}
    if (mount / "cgroup.controllers").is_file():
        name = configured or groups.get("", "")
        found = mount / name.lstrip("/")
        if configured is None and name != "/":
            return Parents(None, None, 2, f"the group {name} is not ours to divide")
        if not {"memory", "pids"} <= set(_text(found / "cgroup.subtree_control").split()):
            return Parents(None, None, 2, f"{found} does not hand memory and pids to its children")
        return Parents(found, found, 2) if _writable(found) else Parents(None, None, 2, f"{found} cannot be written")
    memory, pids = (
        _parent_v1(mount / name, configured or groups.get(name, ""), configured) for name in ("memory", "pids")
    )
    missing = [name for name, path in (("memory", memory), ("pids", pids)) if path is None]
    return Parents(memory, pids, 1, f"no group of ours for {' and '.join(missing)}" if missing else "")


def sweep(parents: Parents) -> None:
    """Remove groups that a killed process of ours has left: they are named after it, and empty."""
    for parent in {parents.memory, parents.pids}:
        for path in parent.glob("fqlstream-*-*") if parent is not None else ():
            owner = path.name.split("-")[1]
            if owner.isdecimal() and not Path("/proc", owner).exists():
                with contextlib.suppress(OSError):
                    path.rmdir()


def make(parents: Parents, name: str, limits: Limits) -> Group:
    """Make a sandbox's groups with its limits. Raises OSError."""
    memory = parents.memory / name if parents.memory is not None else None
    pids = parents.pids / name if parents.pids is not None else None
    group = Group(memory, pids)
    try:
        if memory is not None:
            memory.mkdir(exist_ok=True)
            # Files in the sandbox's memory count too, and have a bound of their own.
            bound = str(limits.memory_bytes + limits.disk_bytes)
            (memory / ("memory.max" if parents.version == 2 else "memory.limit_in_bytes")).write_text(
                bound, encoding="ascii"
            )
            for file, most in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", bound)):
                if (memory / file).exists():  # version 2's, version 1's; neither where the kernel counts no swap
                    (memory / file).write_text(most, encoding="ascii")
        if pids is not None:
            pids.mkdir(exist_ok=True)
            (pids / "pids.max").write_text(str(limits.processes), encoding="ascii")
    except OSError:
        group.remove()
        raise
    return group


def _parent_v1(controller: Path, name: str, configured: str | None) -> Path | None:
    found = controller / name.lstrip("/")
    return found if (configured is not None or name == "/") and _writable(found) else None


def _writable(group: Path) -> bool:
    child = group / f"fqlstream-{os.getpid()}-{secrets.token_hex(4)}"  # two runners may look at once
    try:
        child.mkdir()
        child.rmdir()
    except OSError:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
