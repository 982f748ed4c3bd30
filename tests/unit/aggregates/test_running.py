from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.aggregates.running import RANKS, RunningSummary
from fqlstream.errors import FqlstreamError

finite = st.floats(allow_nan=False, allow_infinity=False)


def summary_of(*portions: list[float]) -> RunningSummary:
    made = RunningSummary()
    for portion in portions:
        made.learn(portion)
    return made


def shown(made: RunningSummary) -> tuple[object, ...]:
    return made.count, made.finite, made.mean, made.variance, made.min, made.max, made.quantiles()


@given(st.lists(finite, min_size=2, max_size=40))
def test_moments_and_extremes_are_numpys(values: list[float]) -> None:
    made = summary_of(values)
    assert (made.count, made.min, made.max) == (len(values), min(values), max(values))
    if max(map(abs, values)) < 1e100:
        scale = max(1.0, max(map(abs, values)))
        assert made.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9 * scale)
        assert made.variance == pytest.approx(np.var(values, ddof=1), rel=1e-6, abs=1e-9 * scale**2)


@given(st.lists(st.lists(st.floats(), max_size=8), max_size=6))
def test_a_summary_depends_on_the_values_and_not_on_their_portions(portions: list[list[float]]) -> None:
    assert shown(summary_of(*portions)) == shown(summary_of([value for portion in portions for value in portion]))


@given(st.lists(st.floats(), max_size=30), st.lists(st.floats(), max_size=30))
def test_a_summary_that_was_written_goes_on_as_if_it_had_not_been(before: list[float], after: list[float]) -> None:
    whole = summary_of(before, after)
    read = RunningSummary.decode(summary_of(before).encode(), before)
    assert shown(read) == shown(summary_of(before))
    read.learn(after)
    assert shown(read) == shown(whole)


def test_quantiles_are_near_the_exact_ones() -> None:
    values = np.random.default_rng(7).normal(size=20_000)
    found = summary_of(values.tolist()).quantiles()
    ranks = {rank: float(np.mean(values <= value)) for rank, value in found.items()}
    assert ranks == pytest.approx({rank: rank for rank in RANKS}, abs=0.01)


def test_nan_and_infinities_count_and_nothing_else() -> None:
    made = summary_of([math.nan, math.inf, -math.inf])
    assert shown(made) == (3, 0, None, None, None, None, {})
    made.learn([2.0])
    assert shown(made)[:6] == (4, 1, 2.0, None, 2.0, 2.0)


def test_what_overflows_is_not_told() -> None:
    made = summary_of([1.7e308, -1.7e308, 1.7e308] * 5)
    assert made.variance is None
    assert (made.min, made.max) == (-1.7e308, 1.7e308)


def test_states_of_newer_releases_and_damaged_ones_are_refused() -> None:
    with pytest.raises(FqlstreamError) as newer:
        RunningSummary.decode(msgspec.msgpack.encode((2, 1)), [])
    assert newer.value.code == "STA001"
    with pytest.raises(FqlstreamError) as damaged:
        RunningSummary.decode(msgspec.msgpack.encode("x"), [])
    assert damaged.value.code == "STA002"
