"""Exact sums against Python's fractions, at both ends of the range of doubles and in between."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.aggregates.exact import (
    BLOCK_ROWS,
    ZERO,
    ExactNumber,
    decode_exact,
    encode_exact,
    exact_number,
    exact_product_sum,
    exact_products,
    exact_sum,
    exact_total,
    group_sums,
    slice_exactly,
    weighted_totals,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TAME = st.floats(-1e6, 1e6)
LISTS = st.one_of(st.lists(FINITE, max_size=40), st.lists(TAME, max_size=40), st.lists(st.integers(-9, 9).map(float)))
RANDOM = np.random.default_rng(3)
ARRAYS = {
    "uniform": RANDOM.random(3 * BLOCK_ROWS + 17),
    "money": np.round(RANDOM.random(9_000) * 1e6, 2),
    "integers": RANDOM.integers(-(2**53), 2**53, 9_000).astype(float),
    "constant": np.full(BLOCK_ROWS, 0.1),
    "wide": np.ldexp(RANDOM.standard_normal(5_000), RANDOM.integers(-1_070, 960, 5_000)),
    "huge": RANDOM.uniform(-1, 1, 100) * 1.7e308,
    "tiny": RANDOM.integers(-5, 6, 100) * 5e-324,
    "nothing": np.zeros(0),
    "zeros": np.zeros(9),
}


def fraction(number: ExactNumber) -> Fraction:
    return Fraction(*number.as_ratio())


def total(values: np.ndarray) -> Fraction:
    return sum(map(Fraction, values.tolist()), Fraction(0))


@given(LISTS)
def test_sum_is_exact_and_canonical(values: list[float]) -> None:
    number = exact_sum(np.array(values, dtype=np.float64))
    assert fraction(number) == total(np.array(values))
    assert number.m % 2 == 1 or number == ZERO


@pytest.mark.parametrize("values", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_of_any_shape_are_summed_exactly(values: np.ndarray) -> None:
    number = exact_sum(values)
    assert fraction(number) == total(values)
    assert exact_sum(values[::-1]) == number
    groups = np.arange(len(values)) % 5
    assert group_sums(values, groups, 6) == [exact_sum(values[groups == group]) for group in range(6)]
    backwards = np.ascontiguousarray(values[::-1])
    products = exact_product_sum(values, backwards)
    assert fraction(products) == sum(
        (Fraction(a) * Fraction(b) for a, b in zip(values.tolist(), backwards.tolist(), strict=True)), Fraction(0)
    )


@given(FINITE, FINITE)
def test_arithmetic_is_that_of_fractions(a: float, b: float) -> None:
    left, right = exact_number(a), exact_number(b)
    assert fraction(left + right) == Fraction(a) + Fraction(b)
    assert fraction(left - right) == Fraction(a) - Fraction(b)
    assert left - left == ZERO
    assert float(left) == a
    assert decode_exact(encode_exact(left + right)) == left + right


@given(st.lists(FINITE, min_size=1, max_size=9), st.integers(1, 10**9))
def test_quotients_are_rounded_once(values: list[float], divisor: int) -> None:
    exact = total(np.array(values)) / divisor
    try:
        expected = exact.numerator / exact.denominator
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert exact_sum(np.array(values)).over(divisor) == expected


@given(st.lists(st.tuples(st.integers(), st.integers(-1_100, 1_000)), max_size=9))
def test_total_of_scaled_integers(parts: list[tuple[int, int]]) -> None:
    assert fraction(exact_total(parts)) == sum((Fraction(m) * Fraction(2) ** e for m, e in parts), Fraction(0))


@given(st.lists(TAME, max_size=60))
def test_slices_add_up_and_have_few_bits(values: list[float]) -> None:
    numbers = np.array(values, dtype=np.float64)
    slices = slice_exactly(numbers)
    if slices is None:  # too far apart
        assert any(0 < abs(value) < 1e-60 for value in values)
        return
    for column, exponent in zip(slices.columns, slices.exponents, strict=True):
        units = np.ldexp(column, -exponent)
        assert (units == np.round(units)).all()
        assert (np.abs(units) <= 2**37).all()
    assert [sum(map(Fraction, parts), Fraction(0)) for parts in slices.columns.T.tolist()] == list(
        map(Fraction, values)
    )


@pytest.mark.parametrize("values", [[math.nan], [math.inf], [1e305], [1e300, 1e-300]])
def test_what_cannot_be_sliced_says_so(values: list[float]) -> None:
    assert slice_exactly(np.array(values)) is None


def test_integers_need_one_slice() -> None:
    slices = slice_exactly(np.arange(-5_000.0, 5_000.0))
    assert slices is not None
    assert len(slices.columns) == 1


def test_weights_select_rows() -> None:
    rows = 2 * BLOCK_ROWS + 5
    values = RANDOM.random(rows)
    slices = slice_exactly(values)
    assert slices is not None
    weights = np.stack([np.ones(rows), RANDOM.random(rows) < 0.5, np.zeros(rows)]).astype(float)
    for start, stop in ((0, rows), (7, 9), (100, BLOCK_ROWS + 300), (5, 5)):
        (found,) = weighted_totals([slices], weights[:, start:stop], start, stop)
        for weight, number in zip(weights, found, strict=True):
            assert fraction(number) == total(values[start:stop][weight[start:stop] == 1])


@given(st.lists(st.tuples(TAME, TAME), max_size=30))
def test_products_are_exact_pairs(pairs: list[tuple[float, float]]) -> None:
    left, right = (np.array([pair[i] for pair in pairs], dtype=np.float64) for i in (0, 1))
    found = exact_products(left, right)
    if found is None:
        assert any(0 < abs(value) < 2.0**-480 for pair in pairs for value in pair)
        return
    for a, b, high, low in zip(left.tolist(), right.tolist(), *map(np.ndarray.tolist, found), strict=True):
        assert Fraction(a) * Fraction(b) == Fraction(high) + Fraction(low)
