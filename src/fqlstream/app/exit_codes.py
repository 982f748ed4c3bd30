"""How a worker ends, for whoever starts it again."""

from __future__ import annotations

from typing import Final

from fqlstream.errors import FqlstreamError

#: It was told to stop, and did.
STOPPED: Final = 0
#: Something failed that may go better the next time.
FAILED: Final = 1
#: It was stuck: start it again at once.
STUCK: Final = 3
#: Starting it again meets the same until somebody does what the message says.
NEEDS_SOMEBODY: Final = 4

_SOMEBODY: Final = frozenset({
    "DLV001",  # the source topic is another one than the states were counted from
    "DLV002",  # records left the log before they were counted
    "DLV003",  # the log is older than the states
    "KFK101",  # the log does not hold the offset that comes next
    "KFK021",  # the source topic is missing
    "KFK121",  # a topic is missing
    "DEF020",  # the topic of definitions is missing
})  # fmt: skip


def exit_code_of(error: FqlstreamError) -> int:
    """Give the code that a worker ends with after an error."""
    return NEEDS_SOMEBODY if error.code in _SOMEBODY else error.exit_code


__all__ = ["FAILED", "NEEDS_SOMEBODY", "STOPPED", "STUCK", "exit_code_of"]
