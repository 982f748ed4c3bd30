from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fqlstream.clock import ManualClock, SteadyClock, SystemClock, even_s


def test_the_systems_clock_tells_utc_in_milliseconds_and_never_goes_back_where_it_measures() -> None:
    clock = SystemClock()
    before = datetime.now(UTC).timestamp() * 1000
    now = clock.now_ms()
    assert int(before) <= now <= datetime.now(UTC).timestamp() * 1000
    measured = [clock.monotonic_s() for _ in range(100)]
    assert measured == sorted(measured)


def test_a_manual_clock_stands_still_until_it_is_turned_also_back() -> None:
    clock = ManualClock(5_000)
    assert (clock.now_ms(), clock.now_ms(), clock.monotonic_s()) == (5_000, 5_000, 5.0)
    clock.advance(250)
    assert (clock.now_ms(), clock.monotonic_s()) == (5_250, 5.25)
    clock.advance(-1_250)
    assert clock.now_ms() == 4_000


HOUR_MS = 3_600_000


class Hands:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall_ms, self.even_s = 10 * HOUR_MS, 0.0
        self.clock = SteadyClock(lambda: self.wall_ms, lambda: self.even_s, leap_ms_min=24 * HOUR_MS)

    def after(self, ms: int) -> int:
        self.wall_ms += ms
        self.even_s += ms / 1000
        return self.clock.now_ms()


def test_a_steady_clock_tells_the_machines_time_while_nobody_sets_it() -> None:
    hands = Hands()
    assert [hands.after(ms) - 10 * HOUR_MS for ms in (0, 1, 999, 5_000)] == [0, 1, 1_000, 6_000]


@pytest.mark.parametrize("jump_ms", [-5 * HOUR_MS, 5 * HOUR_MS, -90, 90])
def test_a_steady_clock_neither_leaps_nor_goes_back_and_comes_to_the_right_time(jump_ms: int) -> None:
    hands = Hands()
    hands.wall_ms += jump_ms
    told = [hands.clock.now_ms()]
    assert told[0] == 10 * HOUR_MS
    for _ in range(11 * 60):
        told.append(hands.after(60_000))
        assert 30_000 <= told[-1] - told[-2] <= 120_000
    assert told[-1] == hands.wall_ms


def test_a_steady_clock_that_began_with_a_wrong_time_leaps_forward_and_never_back() -> None:
    hands = Hands()
    hands.wall_ms += 30 * 365 * 24 * HOUR_MS  # no clock at boot, and then a time service
    right = hands.wall_ms
    assert hands.after(1_000) == right + 1_000
    hands.wall_ms = 10 * HOUR_MS
    assert hands.after(1_000) == right + 1_500


def test_a_steady_clock_goes_on_while_the_machine_is_suspended() -> None:
    clock = SteadyClock(leap_ms_min=24 * HOUR_MS)
    before = even_s()
    told_s = clock.monotonic_s()
    assert before <= told_s <= even_s()
    boot_s = float(Path("/proc/uptime").read_text().split()[0])  # counts suspended time; rounded down
    assert told_s - 1 <= boot_s <= even_s() + 1


def test_suspended_time_has_passed_at_once() -> None:
    hands = Hands()
    assert hands.after(8 * HOUR_MS) == 18 * HOUR_MS
