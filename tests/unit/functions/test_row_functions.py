from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.functions.rows import TABLE, rows_of

from fqlstream.fql.check import check
from fqlstream.functions.index import KERNELS

NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.floats(-800, 800))

ORACLES: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sqrt": math.sqrt,
}


def _expected(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    try:
        return ORACLES[name](value)
    except (ValueError, OverflowError):
        return None


@pytest.mark.parametrize("name", ORACLES)
@given(values=st.lists(NUMBERS, max_size=20))
@settings(max_examples=30, deadline=None)
@example(values=[1000.0, 144.0, 16.0, 1.0, 0.0, -0.0, -1.0, 709.9, 1e308, None])
@example(values=[])
def test_functions_of_a_number(name: str, values: list[float | None]) -> None:
    found = KERNELS[name].arrow(pa.array(values, pa.float64())).to_pylist()
    for value, ours in zip(values, found, strict=True):
        theirs = _expected(name, value)
        if theirs is None:
            assert ours is None, (name, value)
        else:
            assert math.isclose(ours, theirs, rel_tol=1e-14, abs_tol=1e-300), (name, value)


def test_what_the_page_promises_holds_exactly() -> None:
    for text in ("log10(x) == 3", "log2(y) == 4"):
        assert rows_of(text, {"x": [1000.0] * 9, "y": [16.0] * 9}) == [True] * 9
    assert rows_of("exp(x) == e()", {"x": [1.0] * 9}) == [True] * 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if(b, x, 0)", [1.0, 0.0, 0.0, None]),
        ("if(b, null, x)", [None, 2.0, 3.0, None]),
        ("if(b, 'yes', s)", ["yes", "b", None, "yes"]),
        ("if(b, a, not a)", [True, None, True, False]),
        ("if(x > 1, 'high', 'low')", ["low", "high", "high", "low"]),
    ],
)
def test_if_takes_the_second_value_where_the_condition_is_null(text: str, expected: list[Any]) -> None:
    columns = {
        "x": [1.0, 2.0, 3.0, None],
        "b": [True, False, None, True],
        "s": ["a", "b", None, "d"],
        "a": [True, None, False, False],
    }
    assert rows_of(text, columns) == expected


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, None], pa.float64()),
        ([1, None], pa.int64()),
        ([True, None], pa.bool_()),
        (["a", None], pa.string()),
        (["a", None], pa.dictionary(pa.int32(), pa.string())),
        ([[1.0], None], pa.list_(pa.float64())),
        ([0, None], pa.timestamp("ms", tz="UTC")),
    ],
)
def test_is_null_of_every_type(values: list[Any], kind: pa.DataType) -> None:
    array = pa.array(values, kind)
    assert KERNELS["is_null"].arrow(array).to_pylist() == [False, True]
    assert KERNELS["is_not_null"].arrow(array).to_pylist() == [True, False]


def test_the_empty_text_counts_as_null_and_keeps_its_value() -> None:
    columns = {"s": ["", None, "a"]}
    assert rows_of("is_null(s)", columns) == [True, True, False]
    assert rows_of("is_not_null(s)", columns) == [False, False, True]
    assert rows_of("s == ''", columns) == [True, None, False]
    assert rows_of("length(s)", columns) == [0.0, None, 1.0]
    assert rows_of("startswith(s, '')", columns) == [True, None, True]


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{2,1}", "[z-a]", "((a{100}){100}){100}", r"\8"])
def test_what_re2_does_not_compile_is_an_error_with_its_reason(pattern: str) -> None:
    result = check(f"match(s, '{pattern}')", TABLE)
    assert [item.code for item in result.errors] == ["FQL048"]
    assert "no RE2 regular expression: " in result.errors[0].message
