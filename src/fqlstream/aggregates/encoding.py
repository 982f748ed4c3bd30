"""What every encoded state begins with: the version of its form."""

from __future__ import annotations

from typing import Any

from fqlstream.errors import FqlstreamError


def body(data: Any, kind: str, state_version: int) -> list[Any]:
    """Give what follows the version; refuses what a newer release has written, and what is no state."""
    if not isinstance(data, (list, tuple)) or not data or not isinstance(data[0], int):
        raise FqlstreamError(
            "STA002",
            f"stored state of {kind!r} is damaged: it does not begin with a version",
            "rebuild the states from history with `fqlstream repair`",
        )
    if data[0] > state_version:
        raise FqlstreamError(
            "STA001",
            f"stored state of {kind!r} has version {data[0]}, this release reads up to {state_version}",
            "a newer release of fqlstream has written it: run that one, or rebuild the states from history with `fqlstream repair`",
        )
    return list(data[1:])


class ForeignStateError(FqlstreamError):
    """A stored state is sound but of another make than these settings ask for: it cannot be merged with new ones."""
