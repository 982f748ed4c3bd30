"""Integrity counts and traffic against the rules of each column type, written here once more, a value at a time."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream import evaluate

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 15),
    st.integers(),
    st.floats(-5, 15),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["", "FR", "DE", "1", "?", 1, 2, 2.0, 10 * (1 + 1e-10), 10 * (1 + 1e-8)]),
    st.lists(st.one_of(st.floats(0, 1), st.none(), st.just("x")), max_size=3),
)
COLUMNS: dict[str, dict[str, Any]] = {
    "float": {"type": "float", "min": 0, "max": 10, "replace_with_nulls": ["-1", "?"]},
    "int": {"type": "int", "min": 0, "max": 10},
    "bool": {"type": "bool"},
    "string": {"type": "string"},
    "category": {"type": "category", "categories": ["FR", "DE"]},
    "numbers": {"type": "category", "categories": [1, 2]},
    "vector": {"type": "vector", "n_dimensions": 2},
}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_missing(value: Any, column: dict[str, Any]) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    named = column.get("replace_with_nulls", [])
    if isinstance(value, str):
        return value == "" or value in named
    return is_number(value) and any(value == float(item) for item in named if item != "?")


def has_type(value: Any, column: dict[str, Any]) -> bool:
    match column["type"]:
        case "float":
            return is_number(value)
        case "int":
            whole = is_number(value) and (math.isinf(value) or float(value).is_integer())
            return whole and (math.isinf(value) or -(2**63) <= value < 2**63)
        case "bool":
            return isinstance(value, bool) or (is_number(value) and value in {0, 1})
        case "string":
            return isinstance(value, str)
        case "category" if isinstance(column["categories"][0], str):
            return isinstance(value, str)
        case "category":
            return is_number(value) and not math.isinf(value) and float(value).is_integer()
        case _:
            return isinstance(value, list) and all(is_number(item) for item in value)


def in_range(value: Any, column: dict[str, Any]) -> bool:
    match column["type"]:
        case "float" | "int":
            if math.isinf(value) or abs(value) > 1e300:
                return False
            above = value - 10 > 1e-9 * abs(max(value, 10))
            below = 0 - value > 1e-9 * abs(max(value, 0))
            return not above and not below
        case "category" if isinstance(column["categories"][0], str):
            return value in column["categories"]
        case "category":
            return int(value) in column["categories"]
        case "vector":
            return len(value) == 2
        case _:
            return True


def verdict(value: Any, column: dict[str, Any]) -> str:
    if is_missing(value, column):
        return "null"
    if is_number(value) and math.isinf(value) and column.get("categories") == [1, 2]:
        return "null"  # an infinity is null wherever numbers belong
    if not has_type(value, column):
        return "type"
    return "fine" if in_range(value, column) else "range"


@pytest.mark.parametrize("name", COLUMNS)
@given(values=st.lists(ANYTHING, max_size=12))
def test_counts_follow_the_rules(name: str, values: list[Any]) -> None:
    column = {"name": "c", **COLUMNS[name]}
    verdicts = [verdict(value, column) for value in values]
    model = {"columns": [column]}
    found = {
        kind: evaluate({"c": values}, f"{kind}_violation_count(c)", model=model)["value"]
        for kind in ("null", "type", "range", "any")
    }
    assert found == {
        "null": verdicts.count("null"),
        "type": verdicts.count("type"),
        "range": verdicts.count("range"),
        "any": len(verdicts) - verdicts.count("fine"),
    }
    assert evaluate({"c": values}, "traffic()", model=model)["value"] == len(values)


@given(st.lists(st.one_of(st.none(), st.floats(-20, 20)), max_size=30))
def test_counts_of_a_frame_are_its_masks(values: list[float | None]) -> None:
    frame = pd.DataFrame({"c": pd.Series(values, dtype="float64")})
    model = {"columns": [{"name": "c", "type": "float", "min": -10, "max": 10}]}
    outside = ((frame.c < -10) | (frame.c > 10)).sum()
    assert evaluate(frame, "range_violation_count(c)", model=model)["value"] == outside
    assert evaluate(frame, "null_violation_count(c)", model=model)["value"] == frame.c.isna().sum()
    kept = evaluate(frame, "range_violation_count(c)", model=model, segment="c > 10")
    assert kept["value"] == kept["rows"] == (frame.c > 10).sum()
