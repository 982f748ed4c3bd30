"""How this process's memory is handed out by glibc: one setting, where there is a glibc."""

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
