from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.pace import Pace


@pytest.mark.parametrize(("bytes_each", "items"), [(1, 2_000), (10_000, 100), (300_000, 3), (5_000_000, 1)])
def test_so_many_items_are_taken_as_fit_the_bound(bytes_each: int, items: int) -> None:
    pace = Pace(bytes_max=1_000_000, items_max=2_000)
    for _ in range(10):
        pace.took(pace.items, pace.items * bytes_each)
    assert pace.items == items


def test_a_step_is_not_much_longer_than_the_one_before() -> None:
    pace = Pace(bytes_max=1_000_000, items_max=2_000)
    first = pace.items
    pace.took(first, 0)
    assert pace.items == 4 * first
    pace.took(0, 10**9)
    assert pace.items == 4 * first, "nothing was learned from nothing"


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**12)), max_size=20), st.integers(0, 10**9))
def test_there_is_always_a_next_step(steps: list[tuple[int, int]], bytes_max: int) -> None:
    pace = Pace(bytes_max, items_max=100)
    for items, bytes_count in steps:
        pace.took(items, bytes_count)
        assert 1 <= pace.items <= 100
