from __future__ import annotations

from datetime import UTC, datetime

from fqlstream.clock import ManualClock, SystemClock


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
