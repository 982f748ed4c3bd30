from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.durations import format_duration, parse_duration_ms, window_origin_ms

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0s", 0),
        ("500ms", 500),
        ("30s", 30_000),
        ("1m", 60_000),
        ("90m", 5_400_000),
        ("1d", DAY_MS),
        ("2w", 14 * DAY_MS),
    ],
)
def test_a_whole_number_and_a_unit(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "1", 60, 1.5, None, "1.5h", "-1h", "1 h", "1H", "h", "1h30m", "1y", "1234567890123s", "١h"]
)
def test_anything_else_is_refused_in_words_that_say_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="a whole number and a unit"):
        parse_duration_ms(text)


@given(st.integers(0, 10**12))
def test_what_is_written_reads_back(ms: int) -> None:
    assert parse_duration_ms(format_duration(ms)) == ms


def test_weeks_are_written_in_days_and_counted_from_a_monday() -> None:
    assert format_duration(7 * DAY_MS) == "7d"
    for size_ms in (7 * DAY_MS, 28 * DAY_MS):
        assert datetime.fromtimestamp(window_origin_ms(size_ms) / 1000, UTC).weekday() == 0
    for size_ms in (3_600_000, DAY_MS, 30 * DAY_MS):
        assert window_origin_ms(size_ms) == 0
