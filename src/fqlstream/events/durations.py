"""Durations as people write them: 500ms, 30s, 1m, 1h, 1d, 1w."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PATTERN = re.compile(r"(\d{1,12})(ms|s|m|h|d|w)", re.ASCII)


def parse_duration_ms(text: object) -> int:
    """Turn `90d` into milliseconds.

    Raises ValueError for anything else, a bare number included: 60 of what?
    """
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        message = f"{text!r} is no duration: write a whole number and a unit (ms s m h d w), such as 1m or 90d"
        raise ValueError(message)
    return int(match[1]) * _UNITS_MS[match[2]]


def format_duration(ms: int) -> str:
    """Write milliseconds in the largest unit that fits exactly; the inverse of `parse_duration_ms`."""
    for unit in ("d", "h", "m", "s"):
        if ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"


def window_origin_ms(size_ms: int) -> int:
    """Give the Unix time that windows of a size are counted from: a Monday for weeks, else the epoch, a Thursday."""
    return 4 * _UNITS_MS["d"] if size_ms % _UNITS_MS["w"] == 0 else 0


DurationMs = Annotated[
    int,
    BeforeValidator(parse_duration_ms, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str, when_used="always"),
]
