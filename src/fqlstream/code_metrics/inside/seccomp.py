"""A seccomp filter in the kernel's own form: what no metric needs and a way out of a sandbox might.

It refuses single system calls and lets the rest pass: Java, Python and their libraries change what they use from release
to release, and a list of everything allowed would break with one of them. What each refusal is for stands beside it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: Refused system calls: name, number on x86_64, number on aarch64 (None: it does not exist there).
REFUSED: Final = (
    # other processes' memory and state
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("process_madvise", 440, 440),
    ("kcmp", 312, 272),
    ("pidfd_getfd", 438, 438),
    # the file system's shape, and files by handle, which go past mounts
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fspick", 433, 433),
    ("mount_setattr", 442, 442),
    ("name_to_handle_at", 303, 264),
    ("open_by_handle_at", 304, 265),
    ("fanotify_init", 300, 262),
    ("quotactl", 179, 60),
    ("quotactl_fd", 443, 443),
    ("swapon", 167, 224),
    ("swapoff", 168, 225),
    ("acct", 163, 89),
    # new namespaces, in which one is root and reaches more of the kernel
    ("unshare", 272, 97),
    ("setns", 308, 268),
    # keys are in no namespace
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    # large parts of the kernel that no metric needs
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("userfaultfd", 323, 282),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
    ("modify_ldt", 154, None),
    ("personality", 135, 92),
    ("move_pages", 279, 239),
    ("migrate_pages", 256, 238),
    ("mbind", 237, 235),
    ("set_mempolicy", 238, 237),
    ("syslog", 103, 116),
    # the machine itself
    ("reboot", 169, 142),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("iopl", 172, None),
    ("ioperm", 173, None),
    ("settimeofday", 164, 170),
    ("clock_settime", 227, 112),
    ("adjtimex", 159, 171),
    ("clock_adjtime", 305, 266),
    ("sethostname", 170, 161),
    ("setdomainname", 171, 162),
    ("vhangup", 153, 58),
    # memory that belongs to no process, so that nobody would count it
    ("memfd_create", 319, 279),
    ("memfd_secret", 447, 447),
    ("shmget", 29, 194),
    ("msgget", 68, 186),
    ("mq_open", 240, 180),
)

#: Of one architecture: its audit number, which column of REFUSED is its own, and the five calls that are looked at more closely.
_ARCHITECTURES: Final = {
    "x86_64": (0xC000003E, 1, {"clone": 56, "clone3": 435, "socket": 41, "ioctl": 16, "mmap": 9}),
    "aarch64": (0xC00000B7, 2, {"clone": 220, "clone3": 435, "socket": 198, "ioctl": 29, "mmap": 222}),
}

#: Addresses a metric's own engine needs: Unix sockets, and loopback over IPv4 and IPv6. Not VSOCK, for one: no namespace holds it.
_FAMILIES_ALLOWED: Final = (1, 2, 10)
_PROTOCOLS_ALLOWED: Final = (
    0,
    6,
    17,
)  # the family's own, TCP, UDP: others are code of the kernel that nobody else runs
_CLONE_NEW: Final = 0x7E02_0000  # every CLONE_NEW* flag
_TERMINAL_INPUT: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into somebody's terminal
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20  # MAP_SHARED_VALIDATE has MAP_SHARED's bit too
_X32_BIT: Final = 0x4000_0000  # x86_64's second set of numbers, which would go past the list

_ALLOW: Final = 0x7FFF_0000
_KILL: Final = 0x8000_0000
_ERRNO: Final = 0x0005_0000
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_PLACE_NUMBER, _PLACE_ARCHITECTURE, _PLACE_ARGUMENT = 0, 4, 16  # in struct seccomp_data; low halves, little-endian

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install() -> None:
    """Put the filter on this thread and all that come from it. Needs no_new_privs. Raises OSError where the kernel has none."""
    code = program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(argument), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def is_known() -> bool:
    """Say whether this kernel takes filters at all, and we have its machine's numbers."""
    return Path("/proc/sys/kernel/seccomp/actions_avail").exists() and platform.machine() in _ARCHITECTURES


def program(machine: str) -> bytes:
    """Write the filter for a machine as the kernel reads it, 8 bytes an instruction. Raises OSError for one we have no numbers of."""
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"seccomp: no system call numbers for {machine}")
    audit, column, looked_at = _ARCHITECTURES[machine]
    steps = [
        _step(_LOAD, _PLACE_ARCHITECTURE),
        _step(_EQUAL, audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _PLACE_NUMBER),
        *_when(_AT_LEAST, _X32_BIT, errno.ENOSYS),
        # the C library falls back to clone, whose flags can be looked at
        *_when(_EQUAL, looked_at["clone3"], errno.ENOSYS),
    ]
    for row in REFUSED:
        number = row[column]
        if isinstance(number, int):
            steps += _when(_EQUAL, number, errno.EPERM)
    steps += _argument(looked_at["clone"], [*_when(_ANY_BIT, _CLONE_NEW, errno.EPERM), _step(_RETURN, _ALLOW)])
    allowed = _FAMILIES_ALLOWED
    families = [_step(_EQUAL, family, len(allowed) - index, 0) for index, family in enumerate(allowed)]
    protocols = [
        _step(_EQUAL, number, len(_PROTOCOLS_ALLOWED) - place, 0) for place, number in enumerate(_PROTOCOLS_ALLOWED)
    ]
    refused = _step(_RETURN, _ERRNO | errno.EPROTONOSUPPORT)
    second = [_step(_LOAD, _PLACE_ARGUMENT + 8 * 2), *protocols, refused, _step(_RETURN, _ALLOW)]
    steps += _argument(looked_at["socket"], [*families, _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT), *second])
    typing = [step for value in _TERMINAL_INPUT for step in _when(_EQUAL, value, errno.EPERM)]
    steps += _argument(looked_at["ioctl"], [*typing, _step(_RETURN, _ALLOW)], index=1)
    # Such memory stays when every process has forgotten it, and is then in nobody's count.
    shared = [_step(_ANY_BIT, _MAP_ANONYMOUS, 0, 2), *_when(_ANY_BIT, _MAP_SHARED, errno.EPERM)]
    steps += _argument(looked_at["mmap"], [*shared, _step(_RETURN, _ALLOW)], index=3)
    steps.append(_step(_RETURN, _ALLOW))
    return b"".join(steps)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _when(test: int, value: int, error: int) -> list[bytes]:
    return [_step(test, value, 0, 1), _step(_RETURN, _ERRNO | error)]


def _argument(number: int, body: Sequence[bytes], index: int = 0) -> list[bytes]:
    """For the call `number`: load an argument and go through `body`, which always returns."""
    place = _PLACE_ARGUMENT + 8 * index
    return [_step(_EQUAL, number, 0, len(body) + 1), _step(_LOAD, place), *body]
