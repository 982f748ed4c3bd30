"""How many arenas a process of many threads ends up with, as glibc itself tells, and what it holds of what is free, as Linux tells."""

from __future__ import annotations

import subprocess
import sys

import pytest

# There is nothing to see elsewhere: without glibc both calls do nothing, and what is looked at is /proc.
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="glibc is Linux's: elsewhere the calls do nothing"
)

PROGRAM = """
import ctypes, sys, tempfile, threading
from fqlstream.app.allocator import bound_arenas
if sys.argv[1] == "bound":
    bound_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
together = threading.Barrier(12)
def take():
    together.wait()
    libc.malloc(50_000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
name = tempfile.mkstemp()[1]
file = libc.fopen(name.encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(open(name).read().count("<heap nr="))
"""


GAPS = """
from pathlib import Path
from fqlstream.app.allocator import give_back

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

# what is freed between blocks that stay; below 128 KiB glibc takes it from its heap
large, small = [], []
for number in range(2_000):
    large.append(bytearray(100_000))
    small.append(bytearray(600))
held = resident_mib()
large.clear()
freed = resident_mib()
give_back()
print(held, freed, resident_mib())
"""


def test_threads_share_their_memory() -> None:
    def arenas(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert arenas("bound") <= 2 < arenas("as it is")


def test_memory_that_is_free_between_blocks_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    held, freed, given_back = map(float, done.stdout.split())
    assert freed > held - 50, "the system gets it by itself: then nobody has to give it back"
    assert given_back < held - 150
