"""The last steps into a sandbox, taken by its own first process: user, capabilities, limits, Landlock, seccomp.

bubblewrap has made the namespaces and mounts before. As root the user is changed here and not before, because a virtual
environment below /root can only be mounted, and not read, by another user.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from dataclasses import dataclass
from typing import Final

from fqlstream.code_metrics.inside import landlock, seccomp

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_CAPABILITIES: Final = 64  # numbers a kernel may have; those it has not are refused, which is fine
_CAPABILITY_VERSION_3: Final = 0x2008_0522


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process takes away from itself. `uid` None: it stays who it is; `processes` None: as many as its user may have."""

    uid: int | None
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    memory_bytes: int
    file_bytes: int
    processes: int | None
    cpu_s: int


def enter(plan: Plan) -> None:
    """Give everything up that the plan says. Landlock and seccomp are left out where the kernel has none: the probe reports them."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    # Where there is no namespace, what a run leaves behind stays with this process, and ends with it.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if plan.uid is not None:
        for capability in range(_CAPABILITIES):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        os.setgroups([])
        os.setresgid(plan.uid, plan.uid, plan.uid)
        os.setresuid(plan.uid, plan.uid, plan.uid)
    # A user's change clears what is in force, not what a program could inherit.
    header, none = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(none))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")
    _limit(plan)
    # An old kernel, or a container's own filter, may refuse either; the probe looks at what holds.
    with contextlib.suppress(OSError):
        landlock.restrict(plan.readable, plan.writable)
    with contextlib.suppress(OSError):
        seccomp.install()


def _limit(plan: Plan) -> None:
    for what, value in (
        # Data, not address space: Java reserves far more than it uses.
        (resource.RLIMIT_DATA, plan.memory_bytes),
        (resource.RLIMIT_FSIZE, plan.file_bytes),
        (resource.RLIMIT_NPROC, plan.processes),
        (resource.RLIMIT_CPU, plan.cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 4096),
        (resource.RLIMIT_MEMLOCK, 2**16),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(what)
        if value is None:
            continue
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))
