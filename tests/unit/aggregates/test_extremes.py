"""The smallest and the largest number; and when it can be said what is left once a row goes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.aggregates.extremes import Extreme, ExtremeState
from fqlstream.errors import FqlstreamError

KINDS = pytest.mark.parametrize("kind", ["min", "max"])
VALUES = st.lists(st.none() | st.floats(-10, 10).map(lambda value: round(value, 1)), max_size=8)


def state(kind: Literal["min", "max"], values: list[float | None]) -> ExtremeState:
    aggregator = Extreme(kind)
    return aggregator.update(aggregator.init(), (pa.array(values, pa.float64()),))


@KINDS
@given(VALUES)
def test_it_is_numpys(kind: Literal["min", "max"], values: list[float | None]) -> None:
    numbers = [value for value in values if value is not None]
    wanted = None if not numbers else getattr(np, kind)(numbers)
    assert Extreme(kind).read(state(kind, values), "value", {}).value == wanted


@KINDS
def test_what_is_no_finite_number_is_passed_over(kind: Literal["min", "max"]) -> None:
    assert state(kind, [math.nan, math.inf, -math.inf, None]) == ExtremeState(None)
    assert state(kind, [math.nan, 3.0, -math.inf]) == ExtremeState(3.0)


@KINDS
def test_both_zeros_are_one_state(kind: Literal["min", "max"]) -> None:
    for values in ([-0.0], [0.0], [-0.0, 0.0], [0.0, -0.0]):
        found = state(kind, list(values)).value
        assert found is not None
        assert math.copysign(1, found) == 1


@KINDS
@given(VALUES, VALUES)
def test_taking_rows_away_gives_what_is_left_or_says_that_nobody_knows(
    kind: Literal["min", "max"], stay: list[float | None], go: list[float | None]
) -> None:
    left = Extreme(kind).retract(state(kind, [*stay, *go]), state(kind, go))
    gone, rest = state(kind, go).value, state(kind, stay).value
    if gone is None:
        assert left == state(kind, stay)
    elif rest is not None and (rest < gone if kind == "min" else rest > gone):
        assert left == state(kind, stay), "what went was not the extreme"
    else:
        assert left is None, "what stands behind the extreme is unknown"


@KINDS
def test_a_state_of_a_newer_release_or_of_no_release_is_refused(kind: Literal["min", "max"]) -> None:
    aggregator = Extreme(kind)
    assert aggregator.decode(aggregator.encode(ExtremeState(2.5))) == ExtremeState(2.5)
    assert aggregator.decode(aggregator.encode(ExtremeState())) == ExtremeState()
    with pytest.raises(FqlstreamError, match="version 99, this release reads up to 1") as caught:
        aggregator.decode([99, 1.0])
    assert caught.value.code == "STA001"
    for damaged in (None, [], ["1", 2.0], 7):
        with pytest.raises(FqlstreamError, match="damaged"):
            aggregator.decode(damaged)
