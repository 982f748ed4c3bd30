from __future__ import annotations

import errno
import platform
import struct
import subprocess
import sys

import pytest

from fqlstream.code_metrics.inside import seccomp

ENTER = "import ctypes\nctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\nfrom fqlstream.code_metrics.inside import seccomp\nseccomp.install()\n"


def within(code: str) -> str:
    """Run code behind the filter, in a process of its own; give what it prints."""
    done = subprocess.run([sys.executable, "-c", ENTER + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_refused_call_is_refused() -> None:
    column = {"x86_64": 1, "aarch64": 2}[platform.machine()]
    numbers = [row[column] for row in seccomp.REFUSED if row[column] is not None]
    code = f"libc = ctypes.CDLL(None, use_errno=True)\nprint({{ctypes.get_errno() for n in {numbers} if libc.syscall(n, -1, -1, -1, -1, -1) < 0}}, sum(1 for n in {numbers} if libc.syscall(n, -1, -1, -1, -1, -1) < 0))"
    assert within(code) == f"{{{errno.EPERM}}} {len(numbers)}"


def test_sockets_are_loopback_and_unix_only() -> None:
    code = """
import socket
for family in (1, 2, 10, 16, 17, 38, 40):
    try:
        socket.socket(family, socket.SOCK_RAW if family in (16, 17) else socket.SOCK_STREAM).close()
        print(family, end=' ')
    except OSError as error:
        assert error.errno == 97, error
"""
    assert within(code) == "1 2 10"


def test_sockets_speak_tcp_and_udp_only() -> None:
    code = """
import socket
for kind, protocol in ((1, 0), (1, 6), (2, 17), (1, 132), (1, 262), (2, 136), (2, 1)):
    try:
        socket.socket(socket.AF_INET, kind, protocol).close()
        print(protocol, end=' ')
    except OSError as error:
        assert error.errno == 93, error
"""
    assert within(code) == "0 6 17"


def test_memory_that_would_be_in_no_processs_count_is_refused() -> None:
    code = """
import mmap, tempfile
for flags in (mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, 0x03 | mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
    try:
        mmap.mmap(-1, 4096, flags=flags).close()
        print('had', end=' ')
    except OSError as error:
        print(error.errno, end=' ')
with tempfile.TemporaryFile() as file:
    file.truncate(4096)
    mmap.mmap(file.fileno(), 4096).close()
"""
    assert within(code) == f"{errno.EPERM} {errno.EPERM} had"


def test_threads_and_processes_start_and_namespaces_do_not() -> None:
    code = """
import os, threading, subprocess
thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
print(subprocess.run(['echo', 'process'], capture_output=True, text=True).stdout.strip())
print(ctypes.CDLL(None, use_errno=True).syscall(56 if os.uname().machine == 'x86_64' else 220, 0x10000000 | 17, 0, 0, 0, 0))
"""
    assert within(code).split() == ["thread", "process", "-1"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_jumps_stay_inside_the_program(machine: str) -> None:
    steps = [
        struct.unpack("<HBBI", step) for step in struct.iter_unpack("8s", seccomp.program(machine)) for step in step
    ]
    assert len(steps) < 4_096
    for place, (code, if_true, if_false, _) in enumerate(steps):
        if code & 0x07 == 0x05:  # a jump
            assert place + 1 + max(if_true, if_false) < len(steps)
    assert steps[-1][0] == 0x06


def test_a_machine_without_numbers_is_told() -> None:
    with pytest.raises(OSError, match="no system call numbers for riscv64"):
        seccomp.program("riscv64")
