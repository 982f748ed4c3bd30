"""Kernels over Strings against Python's own and google-re2."""

from __future__ import annotations

import math
import re
from typing import Any

import pyarrow as pa
import pytest
import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fqlstream.functions.index import KERNELS

TEXTS = st.one_of(
    st.none(),
    st.sampled_from(["", "abcde", "é", "e\u0301", "😀😀x", "a\nb", "\x00", "ABC"]),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6),
)
POSITIONS = st.one_of(
    st.none(), st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, 0.9, 1.9, 1e300, -1e300, 2.0**31]), st.floats(-3, 9)
)


def run(name: str, *args: Any) -> list[Any]:
    return KERNELS[name].arrow(*args).to_pylist()


def texts(values: list[str | None]) -> list[pa.Array]:
    return [pa.array(values, pa.string()), pa.array(["ü", *values, "y"], pa.string()).slice(1, len(values))]


@given(st.lists(TEXTS, max_size=12))
@settings(max_examples=50, deadline=None)
def test_length_counts_code_points(values: list[str | None]) -> None:
    for array in texts(values):
        assert run("length", array) == [None if v is None else float(len(v)) for v in values]


def cut(text: str | None, offset: float | None, size: float | None) -> str | None:
    """Say what substring is."""
    if text is None or offset is None or size is None:
        return None
    first, count = math.trunc(offset), math.trunc(size)
    if first < 1:
        return None
    return text[first - 1 : first - 1 + count] if count > 0 else ""


@given(st.lists(st.tuples(TEXTS, POSITIONS, POSITIONS), max_size=12))
@settings(max_examples=50, deadline=None)
@example([("abcde", 2.0, 3.0), ("é😀x", 2.0, 1.0), ("abc", 0.0, 1.0), ("abc", 9.0, 1.0), ("abc", 1.0, -1.0)])
@example([])
def test_substring_with_a_place_for_each_row(rows: list[tuple[str | None, float | None, float | None]]) -> None:
    expected = [cut(*row) for row in rows]
    offsets = pa.array([row[1] for row in rows], pa.float64())
    sizes = pa.array([row[2] for row in rows], pa.float64())
    for array in texts([row[0] for row in rows]):
        found = KERNELS["substring"].arrow(array, offsets, sizes)
        found.validate(full=True)
        assert found.type == pa.string()
        assert found.to_pylist() == expected


@given(st.lists(TEXTS, max_size=8), POSITIONS, POSITIONS)
@settings(max_examples=60, deadline=None)
def test_substring_with_one_place_for_all(values: list[str | None], offset: float | None, size: float | None) -> None:
    expected = [cut(value, offset, size) for value in values]
    for array in texts(values):
        scalars = (pa.scalar(offset, pa.float64()), pa.scalar(size, pa.float64()))
        assert run("substring", array, *scalars) == expected
    if values:
        column = pa.array([offset] * len(values), pa.float64())
        assert run("substring", array, column, scalars[1]) == expected
        assert run("substring", array, scalars[0], pa.array([size] * len(values), pa.float64())) == expected


def test_substring_of_a_literal() -> None:
    assert run("substring", pa.scalar("abc"), pa.array([1.0, 2.0, None]), pa.scalar(1.0)) == ["a", "b", None]
    assert run("substring", pa.scalar(None, pa.string()), pa.array([1.0]), pa.scalar(1.0)) == [None]


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=12))
@settings(max_examples=80, deadline=None)
@example([("abcde", "abc"), ("é", "\u00e9"), ("abc", ""), ("", "a"), ("ab", "abc")])
def test_startswith(rows: list[tuple[str | None, str | None]]) -> None:
    expected = [None if a is None or b is None else a.startswith(b) for a, b in rows]
    for left, right in zip(texts([a for a, _ in rows]), texts([b for _, b in rows]), strict=True):
        assert run("startswith", left, right) == expected
    for text, prefix in rows[:3]:
        theirs = [None if a is None or prefix is None else a.startswith(prefix) for a, _ in rows]
        assert run("startswith", left, pa.scalar(prefix, pa.string())) == theirs
        ours = [None if text is None or b is None else text.startswith(b) for _, b in rows]
        assert run("startswith", pa.scalar(text, pa.string()), right) == ours


PATTERNS = [
    "a.c.*e",
    "^b",
    "b$",
    "a.b",
    "",
    "[[:alpha:]]+",
    r"\d{2,}",
    "(?i)abc",
    "(?s)a.b",
    "é",
    r"\pL\pM",
    "x|y",
    r"\bab\b",
    "a{0,3}?b",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(values=st.lists(TEXTS, max_size=12))
@settings(max_examples=15, deadline=None)
@example(values=["abcde", "a\nb", "ab", "xab y", "12", None, ""])
def test_match_searches_as_re2_does(pattern: str, values: list[str | None]) -> None:
    compiled = re2.compile(pattern)
    expected = [None if value is None else compiled.search(value) is not None for value in values]
    for array in texts(values):
        assert run("match", array, pa.scalar(pattern)) == expected


def test_match_dot_stops_at_a_line_break() -> None:
    assert run("match", pa.array(["a\nb", "a-b"]), pa.scalar("a.b")) == [False, True]
    assert run("match", pa.array(["a"]), pa.scalar(None, pa.string())) == [None]


def written(value: float) -> str:
    """Say what to_string is: Python's shortest form, without a trailing .0."""
    return re.sub(r"\.0$", "", repr(value))


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=20))
@settings(max_examples=50, deadline=None)
@example(
    [
        0.0,
        -0.0,
        2.0,
        0.1,
        1e15,
        1e16,
        1e-4,
        1e-5,
        9.999e-5,
        123456789012345.6,
        9999999999.5,
        10000000000.5,
        1e21,
        5e-324,
        2.0**53,
        None,
    ]
)
@example([123456789012345678.0, 999999999999999.9, 0.30000000000000004, -1.5])
def test_to_string_of_numbers(values: list[float | None]) -> None:
    expected = [None if value is None else written(value) for value in values]
    array = pa.array([None, *values], pa.float64()).slice(1)
    assert run("to_string", array) == expected
    assert [None if text is None else float(text) for text in expected] == values


def test_to_string_of_the_other_types() -> None:
    assert run("to_string", pa.array([42, None], pa.int64())) == ["42", None]
    assert run("to_string", pa.array([True, False, None])) == ["true", "false", None]
    assert run("to_string", pa.array(["a", "", None])) == ["a", "", None]
