"""How this process's memory is handed out by glibc, and given back, where there is a glibc."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

#: From glibc's malloc.h.
_M_ARENA_MAX: Final = -8
#: One for the event loop, one for all threads.
_ARENAS: Final = 2


def bound_arenas() -> None:
    """Let threads share their memory. Elsewhere than with glibc this does nothing.

    By itself glibc gives each of a worker's dozens of threads its own, eight a core, and each keeps what its largest
    statement took: several hundred megabytes that nobody uses. The interpreter's lock leaves no time that this could cost.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give the system what is free between the blocks in use. Elsewhere than with glibc this does nothing.

    By itself glibc gives back the end of its heap only. After events all over many panes three quarters of a heap of
    2.4 GB were free, in pieces of 16 KiB to 64 MiB between small blocks that stay.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
