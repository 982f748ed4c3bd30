from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.event_rules import time_of

from fqlstream.events.times import event_times_ms, text_times_ms, ticks_ms

digits = st.integers(0, 12).flatmap(lambda count: st.text("0123456789", min_size=count, max_size=count))
zones = st.sampled_from(["Z", "z", "+00:00", "-00:00", "+05:30", "-23:59", "+24:00", "+01:60", "+0100", "", " Z"])
plain = st.builds(
    "{}{}{}{}{}".format,
    st.dates().map(str),
    st.sampled_from(["T", "t", " ", "_"]),
    st.times().map(lambda clock: clock.isoformat("seconds")),
    st.one_of(st.just(""), digits.map(lambda text: f".{text}")),
    zones,
)
odd = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["2026-13-01T00:00:00Z", "2026-00-10T00:00:00Z", "2026-04-31T00:00:00Z", "0000-01-01T00:00:00Z"]),
    plain.flatmap(lambda text: st.integers(0, max(0, len(text) - 1)).map(lambda at: text[:at] + "x" + text[at + 1 :])),
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.one_of(plain, plain, odd), max_size=20), copies=st.sampled_from([1, 20]))
def test_texts_read_by_columns_are_what_each_is_alone(texts: list[str], copies: int) -> None:
    texts = texts * copies
    times, bad = text_times_ms(pa.array(texts, pa.string()))
    expected = [time_of(text) for text in texts]
    assert [None if wrong else ms for ms, wrong in zip(times.tolist(), bad.tolist(), strict=True)] == expected


def test_a_slice_of_texts_is_read_from_its_own_place() -> None:
    texts = pa.array([f"2026-11-21T10:00:{second:02}Z" for second in range(60)])
    times, bad = text_times_ms(texts[20:50])
    assert not bad.any()
    assert (np.diff(times) == 1000).all()
    assert times[0] == time_of("2026-11-21T10:00:20Z")


def test_values_of_all_kinds_together_and_the_record_time_where_there_is_none() -> None:
    absent = np.arange(6)
    values = [None, 5, "1970-01-01T00:00:01Z", True, 2**70, 7.5]
    times, bad = event_times_ms(values, absent)
    assert times[:3].tolist() == [0, 5, 1000]
    assert times[4] == 2**63 - 1  # too far away, and still a time
    assert bad.tolist() == [False, False, False, True, False, True]
    assert absent.tolist() == list(range(6))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_ticks_of_any_unit_are_rounded_down(unit: str) -> None:
    ticks = pa.array([-1, 0, 1_999, None], pa.timestamp(unit))
    expected = np.array([-1, 0, 1_999], f"datetime64[{unit}]").astype("datetime64[ns]").astype(np.int64) // 1_000_000
    assert ticks_ms(ticks).tolist() == [*expected.tolist(), 0]


def test_seconds_beyond_milliseconds_stay_far_away() -> None:
    assert ticks_ms(pa.array([2**62, -(2**62)], pa.timestamp("s"))).tolist() == [
        (2**63 - 1) // 1000 * 1000,
        -((2**63 - 1) // 1000 * 1000),
    ]
