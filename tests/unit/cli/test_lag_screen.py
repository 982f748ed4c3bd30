from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.unit.ops.lag.test_report import lagging

from fqlstream.cli.lag_screen import WatchScreen, age, chart, number, past, sparkline, whole
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport
from fqlstream.store.lag_history import LagPoint


def shown(*parts: object, width: int = 140, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.0, "0 s"), (1.44, "1.4 s"), (99, "99 s"), (100, "1 m 40 s"), (200, "3 m 20 s"), (5 * 3600 + 420, "5 h 07 m"),
     (26 * 86400 + 7200, "26 d 02 h")],
)  # fmt: skip
def test_ages_are_written_as_people_say_them(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


def test_numbers_have_thousands_and_paces_a_digit() -> None:
    assert [number(v) for v in (None, 0, 1234567, 1.25, 1234.5)] == ["?", "0", "1,234,567", "1.2", "1,234"]


@given(st.lists(st.integers(0, 10**12), max_size=200), st.integers(1, 80), st.integers(1, 4))
def test_a_chart_fits_and_its_highest_column_is_the_highest_value(values: list[int], columns: int, rows: int) -> None:
    lines = chart(values, columns, rows)
    assert [len(line) for line in lines] == [columns] * rows
    text = "".join(lines)
    assert set(text) <= set(" ·▁▂▃▄▅▆▇█")
    if values and max(values) > 0:
        assert "█" in lines[0], "the highest value reaches the top"
    else:
        assert text.strip() == "·" * min(columns, len(values))


def test_a_sparkline_keeps_peaks_and_shows_what_is_not_zero() -> None:
    assert sparkline([0, 4, 8], 3) == "·▄█"
    assert sparkline([0] * 50 + [100] + [0] * 49, 10) == "·····█····"
    assert chart([0, None, 2], 3, 2) == ["  █", "· █"]
    assert sparkline([1, 10_000], 2) == "▁█"


REPORT = LagReport(1_000_000, "c1", (
    GroupLag("g", "Stable", 2, (
        lagging("a", 0, 5, member="m-1", client_id="m", host="10.0.0.1"),
        lagging("a", 1, 900, lag_rows=9000, status=Status.STALL, why="it stands still", in_per_s=2.0, out_per_s=0.0),
        lagging("b", 0, None, status=None, why="nothing was committed"),
    )),
), 0.25, ("the history is away",))  # fmt: skip


def test_one_look_is_told_whole() -> None:
    text = shown(*whole(REPORT))
    for words in ("g  ERR  Stable, 2 members, 3 partitions: 905 records, 9,005 rows, oldest 15 m 00 s", "m at 10.0.0.1", "STALL",
                  "it stands still", "nothing was committed", "nobody"):  # fmt: skip
        assert words in text, text


def test_the_screen_has_the_worst_first_and_no_more_than_fits() -> None:
    many = (*(lagging("t", number, number) for number in range(500)), lagging("z", 7, 1, status=Status.STALL))
    report = LagReport(1_000_000, "c1", (GroupLag("g", "Stable", 1, many),), 0.25)
    text = shown(WatchScreen(report, {"g": [1, 5, 9]}, 5, "LAG002 nobody answers"), height=20)
    lines = text.rstrip().split("\n")
    assert len(lines) <= 20
    assert "STALL" in next(line for line in lines if line.startswith(("z", "t ")) or "STALL" in line)
    assert "499" in text
    assert "LAG002 nobody answers" in text
    assert "partitions more" in text
    assert "highest 9 records" in text


def test_what_would_steer_a_terminal_is_escaped() -> None:
    odd = lagging("t", 0, 5, member="m", client_id="\x1b[2Jme", host="[red]h", why="\x1b]0;x\x07")
    text = shown(*whole(LagReport(0, "c", (GroupLag("\x1bg", "Stable", 1, (odd,)),), 0.1)))
    assert "\x1b" not in text
    assert "\\x1b[2Jme at [red]h" in text


def test_the_past_is_drawn_by_group_and_topic() -> None:
    points = [
        LagPoint("g", "t", 60_000 * i, lag_records=i * 10, lag_rows=None, lag_seconds=i / 2, log_end=i, committed=0, worst="WARN")
        for i in range(10)
    ]  # fmt: skip
    text = shown(*past(points, 0, 60_000, 12))
    assert "g  t  worst WARN" in text
    assert "records behind: highest 90, last 90" in text
    assert "time behind: highest 4.5 s, last 4.5 s" in text
    assert "00:00:00 UTC" in text
    assert "00:09:00" in text
