"""Operators against Python's float arithmetic and pandas' three-valued logic, on arrays, slices and scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqlstream.functions.index import KERNELS, OPERATOR_BY_NAME
from fqlstream.functions.operators import OPERATORS

NUMBERS = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -7.0, 1e308, -1e308, 5e-324, 2.0**53, 2.0**53 + 2]),
    st.floats(allow_nan=False, allow_infinity=False),
)
BOOLEANS = st.one_of(st.none(), st.booleans())
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "A", "é", "e\u0301", "ab", "😀"]), st.text(max_size=4))


def _power(a: float, b: float) -> float:
    try:
        found = math.pow(a, b)
    except (ValueError, OverflowError):
        return math.nan
    return found


def _divide(a: float, b: float) -> float:
    return a / b if b else math.nan


def _modulo(a: float, b: float) -> float:
    return math.fmod(a, b) if b else math.nan


ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "%": _modulo,
    "^": _power,
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def test_the_oracles_cover_every_operator() -> None:
    assert set(ARITHMETIC) | set(COMPARISONS) | {"negate", "not", "and", "or"} == set(OPERATOR_BY_NAME)
    assert len(OPERATORS) == 16


def forms(values: Sequence[Any], kind: pa.DataType) -> list[pa.Array]:
    """Give the same array plain and as a slice in the middle of another, where offsets are not 0."""
    whole = pa.array(values, kind)
    return [whole, pa.array([None, *values, None], kind).slice(1, len(values))]


def close(found: Any, expected: float | None) -> bool:
    if expected is None or not math.isfinite(expected):
        return found is None
    return found is not None and (found == expected or math.isclose(found, expected, rel_tol=4e-15, abs_tol=1e-320))


@pytest.mark.parametrize("name", ARITHMETIC)
@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
@settings(max_examples=40, deadline=None)
@example(pairs=[])
@example(pairs=[(-7.0, 3.0), (0.0, -1.0), (-8.0, 1 / 3), (0.0, 0.0), (1e308, 10.0), (None, 1.0), (2.0, None)])
def test_arithmetic(name: str, pairs: list[tuple[float | None, float | None]]) -> None:
    expected = [None if a is None or b is None else ARITHMETIC[name](a, b) for a, b in pairs]
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    for a, b in zip(forms(left, pa.float64()), forms(right, pa.float64()), strict=True):
        found = KERNELS[name].arrow(a, b)
        assert found.type == pa.float64()
        assert all(map(close, found.to_pylist(), expected)), (found.to_pylist(), expected)


@pytest.mark.parametrize("name", [*ARITHMETIC, *COMPARISONS])
@pytest.mark.parametrize("constant", [3.0, 0.0, -2.5, None])
def test_a_literal_on_either_side_is_as_a_column_of_it(name: str, constant: float | None) -> None:
    values = [1.0, None, -7.0, 0.0, 1e300]
    column, same = pa.array(values), pa.array([constant] * 5, pa.float64())
    scalar = pa.scalar(constant, pa.float64())
    kernel = KERNELS[name].arrow
    assert kernel(column, scalar).equals(kernel(column, same))
    assert kernel(scalar, column).equals(kernel(same, column))


def test_integers_are_computed_as_doubles() -> None:
    big = pa.array([2**53 + 1, 7, None], pa.int64())
    assert KERNELS["+"].arrow(big, pa.scalar(0.0)).to_pylist() == [2.0**53, 7.0, None]
    assert KERNELS["/"].arrow(big, pa.array([2, 2, 2], pa.int64())).to_pylist() == [2.0**52, 3.5, None]
    assert KERNELS["<"].arrow(big, pa.scalar(2.0**53)).to_pylist() == [False, True, None]
    other = pa.array([2**53, 7, 7], pa.int64())
    assert KERNELS["=="].arrow(big, other).to_pylist() == [True, True, None], "also with each other"


@pytest.mark.parametrize("name", COMPARISONS)
@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
@settings(max_examples=25, deadline=None)
def test_comparisons_of_numbers(name: str, pairs: list[tuple[float | None, float | None]]) -> None:
    _compare(name, pairs, pa.float64())


@pytest.mark.parametrize("name", ["==", "!="])
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=20))
@settings(max_examples=25, deadline=None)
def test_comparisons_of_texts(name: str, pairs: list[tuple[str | None, str | None]]) -> None:
    _compare(name, pairs, pa.string())


@pytest.mark.parametrize("name", ["==", "!="])
@given(pairs=st.lists(st.tuples(BOOLEANS, BOOLEANS), max_size=20))
@settings(max_examples=40, deadline=None)
def test_comparisons_of_booleans(name: str, pairs: list[tuple[bool | None, bool | None]]) -> None:
    _compare(name, pairs, pa.bool_())


def _compare(name: str, pairs: Sequence[tuple[Any, Any]], kind: pa.DataType) -> None:
    expected = [None if a is None or b is None else COMPARISONS[name](a, b) for a, b in pairs]
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    for a, b in zip(forms(left, kind), forms(right, kind), strict=True):
        found = KERNELS[name].arrow(a, b)
        assert found.type == pa.bool_()
        assert found.to_pylist() == expected


def test_texts_compare_with_categories_of_any_encoding() -> None:
    column = pa.array(["a", None, "b"]).dictionary_encode()
    assert KERNELS["=="].arrow(column, pa.scalar("a")).to_pylist() == [True, None, False]


@pytest.mark.parametrize("name", ["and", "or"])
@given(pairs=st.lists(st.tuples(BOOLEANS, BOOLEANS), max_size=20))
@settings(max_examples=25, deadline=None)
def test_logic_is_three_valued_as_in_pandas(name: str, pairs: list[tuple[bool | None, bool | None]]) -> None:
    left, right = (pd.array([pair[side] for pair in pairs], dtype="boolean") for side in (0, 1))
    theirs = left & right if name == "and" else left | right
    expected = [None if value is pd.NA else bool(value) for value in theirs]
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    for a, b in zip(forms(sides[0], pa.bool_()), forms(sides[1], pa.bool_()), strict=True):
        assert KERNELS[name].arrow(a, b).to_pylist() == expected


@given(values=st.lists(NUMBERS, max_size=20))
@settings(max_examples=25, deadline=None)
def test_negation_of_numbers(values: list[float | None]) -> None:
    for array in forms(values, pa.float64()):
        assert KERNELS["negate"].arrow(array).to_pylist() == [None if v is None else -v for v in values]


def test_negation_of_booleans() -> None:
    for array in forms([True, False, None], pa.bool_()):
        assert KERNELS["not"].arrow(array).to_pylist() == [False, True, None]


def test_results_under_null_do_not_leak() -> None:
    """Values below a null are arbitrary: not even an infinity there may show."""
    data = np.array([np.inf, 2.0])
    array = pa.Array.from_buffers(pa.float64(), 2, [pa.py_buffer(b"\x02"), pa.py_buffer(data)])
    assert array.to_pylist() == [None, 2.0]
    assert KERNELS["*"].arrow(array, array).to_pylist() == [None, 4.0]
