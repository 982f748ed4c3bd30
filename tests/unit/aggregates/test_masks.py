"""Rows as bits: packing any Boolean array, and counting what two of them share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.aggregates import masks
from fqlstream.aggregates.masks import count_common, flags, pack, pack_mask, unpack, valid_mask

FLAGS = st.lists(st.sampled_from([True, False, None]), max_size=200)


@given(FLAGS, st.integers(0, 20))
def test_any_array_is_packed_null_as_false(values: list[bool | None], start: int) -> None:
    for array in (pa.array(values, pa.bool_()), pa.array([None, True, *values], pa.bool_()).slice(2)):
        part = array.slice(start)
        expected = [value is True for value in values[start:]]
        bits = pack([part, part], len(part))
        assert unpack(bits, len(part)).tolist() == [expected, expected]
        assert int(np.bitwise_count(bits).sum()) == 2 * sum(expected)  # nothing behind the last row
        if expected:
            assert pack_mask(np.array(expected)).tolist() == bits[:1].tolist()


@given(st.integers(0, 40), st.integers(0, 20), st.booleans())
def test_what_lies_behind_a_slice_is_not_counted(rows: int, start: int, with_nulls: bool) -> None:
    array = pa.array([True] * 100 + ([None] if with_nulls else [])).slice(start, rows)
    assert int(np.bitwise_count(pack([array], rows)).sum()) == rows
    assert flags(array).tolist() == [True] * rows
    valid = valid_mask(array)
    assert valid is None or valid.tolist() == [True] * rows


@given(st.integers(0, 300), st.integers(0, 4), st.integers(1, 5), st.integers(0, 2**32))
def test_common_bits_are_counted(rows: int, left: int, right: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.random((left, rows)) < 0.5, random.random((right, rows)) < 0.5
    expected = (a[:, None, :] & b[None, :, :]).sum(axis=2)
    assert count_common(pack_mask(a), pack_mask(b)).tolist() == expected.tolist()


def test_counting_goes_in_passes_where_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_WORDS_MAX", 4)
    ones = np.ones((5, 130), dtype=np.bool_)
    assert count_common(pack_mask(ones), pack_mask(ones[:2])).tolist() == [[130, 130]] * 5
