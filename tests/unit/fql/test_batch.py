"""How a batch falls into panes, and what panes and segments let in of a column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.aggregates.exact import Room, slice_exactly
from fqlstream.aggregates.masks import pack
from fqlstream.fql.batch import MASKED_PANES_MAX, Batch, Counted, panes_of

CODES = st.one_of(
    st.lists(st.integers(0, 20), max_size=60),
    st.lists(st.integers(0, MASKED_PANES_MAX - 1), max_size=60),
    st.lists(st.integers(0, 20), max_size=60).map(sorted),
    st.lists(st.just(3), max_size=60),
)


@given(CODES)
def test_every_row_is_in_its_pane_once(values: list[int]) -> None:
    codes = np.array(values, dtype=np.int64)
    panes, order = panes_of(codes)
    rows = np.arange(len(codes)) if order is None else order
    seen = []
    for pane in panes:
        inside = rows[pane.start : pane.stop]
        inside = inside if pane.mask is None else inside[pane.mask]
        assert (codes[inside] == pane.code).all()
        seen.extend(inside.tolist())
    assert sorted(seen) == list(range(len(codes)))
    assert [pane.code for pane in panes] == sorted(set(values))


def test_rows_are_only_moved_where_panes_are_many() -> None:
    few, many = np.arange(60) % MASKED_PANES_MAX, np.arange(60) % (MASKED_PANES_MAX + 1)
    assert panes_of(few)[1] is None
    assert panes_of(many)[1] is not None
    assert panes_of(np.sort(many))[1] is None


@given(CODES, st.integers(0, 2**32))
def test_counts_sums_and_numbers_are_those_of_the_rows(values: list[int], seed: int) -> None:
    codes = np.array(values, dtype=np.int64)
    random = np.random.default_rng(seed)
    panes, order = panes_of(codes)
    codes = codes if order is None else codes[order]
    rows = len(codes)
    numbers, valid = np.round(random.random(rows), 2), random.random(rows) < 0.8
    segments = [np.ones(rows, dtype=np.bool_), random.random(rows) < 0.5, np.zeros(rows, dtype=np.bool_)]
    flags = random.random(rows) < 0.5
    column = pa.array(numbers, mask=~valid)
    batch = Batch(rows, pack([pa.array(segment) for segment in segments], rows), [column])
    slices = slice_exactly(np.where(valid, numbers, 0.0), room=Room(rows, 1))
    assert slices is not None
    counted = Counted(batch, [pa.array(flags), pa.array(valid), pa.array(flags)])
    for pane in panes:
        inside = [segment & (codes == pane.code) for segment in segments]
        assert counted.count(pane) == [[(rows & of).sum() for of in (flags, valid, flags)] for rows in inside]
        assert [found.tolist() for found in batch.numbers(pane, 0)] == [numbers[of & valid].tolist() for of in inside]
        (sums,) = batch.sums(pane, [slices])
        assert np.allclose([float(total) for total in sums], [numbers[of & valid].sum() for of in inside])
        assert batch.numbers(pane, 0) is batch.numbers(pane, 0)
