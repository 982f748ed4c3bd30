"""How long work tells a person where it is: lines that stay, and a status that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _silent(_text: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Progress:
    """`line` says something once; `status` replaces what it said before (a terminal shows only the last)."""

    line: Callable[[str], None] = _silent
    status: Callable[[str], None] = _silent


SILENT = Progress()
