"""Arrow arrays as NumPy sees them and back: nulls stay nulls, and nothing that is not finite comes out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.functions.arrays import (
    as_numbers,
    as_texts,
    doubles,
    numbers_from,
    numeric,
    one_type,
    row_count,
    validity,
)

NUMBERS = st.lists(st.none() | st.floats(), max_size=12)


def array(values: list[Any]) -> pa.Array:
    return pa.array(values, pa.float64())


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def same(found: list[float | None], wanted: list[float | None]) -> bool:
    return [None if x is None else (x, math.copysign(1, x)) for x in found] == [
        None if x is None else (x, math.copysign(1, x)) for x in wanted
    ]


@given(NUMBERS, st.integers(0, 12), st.sampled_from([pa.float64(), pa.float32()]))
def test_valid_numbers_are_seen_as_they_are_wherever_the_array_begins(values: list[Any], start: int, kind: Any) -> None:
    cast = pa.array(values, pa.float64()).cast(kind, safe=False).slice(start)
    seen = doubles(cast)
    assert seen.dtype == np.float64
    assert len(seen) == len(cast)
    for at, value in enumerate(cast.to_pylist()):
        assert value is None or seen[at] == value or (math.isnan(value) and math.isnan(seen[at]))


def test_an_array_of_doubles_is_not_copied() -> None:
    whole = array([1.0, 2.0, 3.0])
    assert doubles(whole).ctypes.data == whole.buffers()[1].address
    assert doubles(array([1.0, None]).slice(1)).size == 1


@given(NUMBERS, st.integers(0, 12))
def test_a_kernel_of_numpy_gives_null_for_null_and_for_what_is_not_finite(values: list[Any], start: int) -> None:
    twice = numeric(lambda x: x * 2)
    part = array(values).slice(start)
    wanted = [finite(None if value is None else value * 2) for value in part.to_pylist()]
    assert same(twice(part).to_pylist(), wanted)


@given(st.lists(st.tuples(st.none() | st.floats(), st.none() | st.floats()), max_size=10))
def test_where_any_argument_is_null_the_result_is(rows: list[tuple[float | None, float | None]]) -> None:
    left, right = (array([row[side] for row in rows]) for side in (0, 1))
    with np.errstate(all="ignore"):
        wanted = [None if None in row else finite(float(np.add(*row))) for row in rows]
    assert same(numeric(np.add)(left, right).to_pylist(), wanted)
    one = numeric(np.add)(left, pa.scalar(1.5))
    assert same(one.to_pylist(), [None if row[0] is None else finite(row[0] + 1.5) for row in rows])
    assert numeric(np.add)(left, pa.scalar(None, pa.float64())).to_pylist() == [None] * len(rows)


def test_a_sum_that_overflows_is_only_a_suspicion() -> None:
    large = np.array([1.7e308, 1.7e308, -1.0])
    assert numbers_from(large, None).to_pylist() == large.tolist()
    assert numbers_from(np.array([np.inf, -np.inf, 1.0]), None).to_pylist() == [None, None, 1.0]


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9])
def test_validity_may_be_a_part_of_a_larger_one(start: int) -> None:
    flags = [number % 3 != 0 for number in range(20)]
    valid = pa.array(flags).slice(start, 6)
    found = numbers_from(np.arange(6.0), valid).to_pylist()
    assert found == [float(at) if flag else None for at, flag in enumerate(flags[start : start + 6])]


def test_everything_is_valid_where_nothing_is_null() -> None:
    assert validity((array([1.0, 2.0]), pa.scalar(3.0))) is None
    both = validity((array([None, 2.0, 3.0]), array([1.0, None, 3.0])))
    assert both is not None
    assert both.to_pylist() == [False, False, True]


def test_rows_are_those_of_the_arrays_and_one_of_constants() -> None:
    assert row_count((pa.scalar(1.0), array([1.0, 2.0]))) == 2
    assert row_count((pa.scalar(1.0),)) == 1


def test_whole_numbers_become_doubles_and_large_ones_the_next_double() -> None:
    assert as_numbers(pa.array([1, None, 2**53 + 1])).equals(pa.array([1.0, None, 2.0**53]))
    assert as_numbers(pa.scalar(7)).as_py() == 7.0
    assert as_numbers(pa.array([1.5])).type == pa.float64()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_are_plain_whatever_they_came_as(kind: pa.DataType) -> None:
    values = ["a", None, "", "é", "a"]
    assert as_texts(pa.array(values, pa.string()).cast(kind)).equals(pa.array(values, pa.string()))


def test_two_values_of_one_type_have_one_form() -> None:
    whole, double = one_type(pa.array([1, 2]), pa.scalar(0.5))
    assert (whole.type, double.type) == (pa.float64(), pa.float64())
    packed, plain = one_type(pa.array(["a"]).dictionary_encode(), pa.array(["b"]))
    assert (packed.type, plain.type) == (pa.string(), pa.string())
    truths = one_type(pa.array([True]), pa.scalar(None, pa.bool_()))
    assert [truth.type for truth in truths] == [pa.bool_(), pa.bool_()]
