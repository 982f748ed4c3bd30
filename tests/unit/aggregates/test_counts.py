"""What counts as given, for every type of column."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from fqlstream.aggregates.counts import Count, is_given


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a", "", None, "é"]), [True, False, False, True]),
        (pa.array(["a", "", None], pa.large_string()), [True, False, False]),
        (pa.array(["a", "", None]).dictionary_encode(), [True, False, False]),
        (pa.array([1.0, None, math.nan, math.inf, 0.0]), [True, False, False, False, True]),
        (pa.array([0, None, 5]), [True, False, True]),
        (pa.array([True, False, None]), [True, True, False]),
        (pa.array([0, None], pa.timestamp("ms", tz="UTC")), [True, False]),
        (pa.array([[1.0], [], None]), [True, True, False]),
        (pa.array([1, 2]), [True, True]),
        (pa.array([], pa.string()), []),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_given(array: pa.Array, expected: list[Any]) -> None:
    given = is_given(array)
    assert [value is True for value in given.to_pylist()] == expected
    count = Count("count")
    assert count.update(3, (array,)) == 3 + sum(expected)
    assert count.update(0, (array.slice(1),)) == sum(expected[1:])
