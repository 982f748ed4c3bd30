"""Keys of ordered values: one per double at level 0, fewer and fewer above, always in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.aggregates.grids import Grid, keys_of, values_of

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(st.one_of(FINITE, st.floats(0, 1), st.sampled_from([0.0, -0.0, 1.0, 0.5, 5e-324])), max_size=40)
GRIDS = pytest.mark.parametrize("grid", [Grid("unit"), Grid("relative")], ids=lambda grid: grid.kind)


@given(VALUES)
def test_keys_order_as_doubles_do(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    keys = keys_of(array)
    assert values_of(keys).tolist() == array.tolist()  # 0.0 == -0.0
    order = np.argsort(keys, kind="stable")
    assert array[order].tolist() == sorted(values)
    assert len(set(keys.tolist())) == len(set(values))


@GRIDS
@given(values=VALUES, level=st.integers(0, 62), step=st.integers(0, 20))
def test_coarsening_keeps_order_and_composes(grid: Grid, values: list[float], level: int, step: int) -> None:
    keys = keys_of(np.sort(np.array(values, dtype=np.float64)))
    coarse = grid.coarsened(keys, 0, level)
    assert (coarse[1:] >= coarse[:-1]).all()
    further = min(level + step, 63)
    assert grid.coarsened(coarse, level, further).tolist() == grid.coarsened(keys, 0, further).tolist()


@GRIDS
@given(values=VALUES, level=st.integers(0, 62))
def test_edges_enclose_what_fell_into_the_bin(grid: Grid, values: list[float], level: int) -> None:
    array = np.array(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        low, high = grid.edges(grid.coarsened(keys_of(array), 0, level), level)
    # a bin that reaches beyond the largest double has NaN for an edge
    assert ((low <= array) | np.isnan(low)).all()
    assert ((high >= array) | np.isnan(high)).all()


@GRIDS
@given(values=VALUES, most=st.integers(1, 8))
def test_level_is_the_finest_that_is_small_enough(grid: Grid, values: list[float], most: int) -> None:
    keys = keys_of(np.sort(np.array(values, dtype=np.float64)))
    level = grid.level_for(keys, 0, most)
    assert len(set(grid.coarsened(keys, 0, level).tolist())) <= max(most, 3 if level == 63 else most)
    if level:
        assert len(set(grid.coarsened(keys, 0, level - 1).tolist())) > most


def test_scores_share_bins_of_equal_width() -> None:
    grid = Grid("unit")
    scores = np.array([-0.5, 0.0, 0.1, 0.26, 0.5, 0.74, 0.75, 1.0, 1.5])
    level = 51  # four bins
    keys = grid.coarsened(keys_of(scores), 0, level)
    assert keys.tolist() == [-1, 0, 0, 1, 2, 2, 3, 3, 4]
    low, high = grid.edges(keys, level)
    assert low.tolist() == [-np.inf, 0, 0, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0]
    assert high.tolist() == [0, 0.25, 0.25, 0.5, 0.75, 0.75, 1.0, 1.0, np.inf]
