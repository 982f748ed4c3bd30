from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream.functions.index import KERNELS

PROBABILITIES = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.7, 1.0, -0.5, 1.5]), st.floats(0, 1))


def run(name: str, *args: Any) -> list[Any]:
    return KERNELS[name].arrow(*args).to_pylist()


@given(st.lists(st.tuples(PROBABILITIES, PROBABILITIES, PROBABILITIES), max_size=10))
@settings(max_examples=50, deadline=None)
def test_argmax_is_numpys_and_null_where_an_output_is(rows: list[tuple[float | None, ...]]) -> None:
    columns = [pa.array([row[place] for row in rows], pa.float64()) for place in range(3)]
    expected = [None if None in row else float(np.argmax(row)) for row in rows]
    assert run("argmax", *columns) == expected


def test_pick_takes_the_output_at_the_index() -> None:
    outputs = [pa.array([0.1, 0.2, None, 0.4]), pa.array([0.9, 0.8, 0.7, 0.6])]
    assert run("pick", pa.array([0.0, 1.0, 1.0, None]), *outputs) == [0.1, 0.8, None, None]


@pytest.mark.parametrize(
    ("values", "kind", "classes", "expected"),
    [
        (["no", "yes", "maybe", None, ""], pa.string(), ["no", "yes"], [0.0, 1.0, None, None, None]),
        ([0, 1, 2, None], pa.int64(), [0.0, 1.0], [0.0, 1.0, None, None]),
        ([0.0, 1.0, 0.5, None], pa.float64(), [1.0, 0.0], [1.0, 0.0, None, None]),
        ([True, False, None], pa.bool_(), [False, True], [1.0, 0.0, None]),
    ],
)
def test_class_index(values: list[Any], kind: pa.DataType, classes: list[Any], expected: list[Any]) -> None:
    assert run("class_index", pa.array(values, kind), *map(pa.scalar, classes)) == expected


@given(st.lists(PROBABILITIES, max_size=20))
@settings(max_examples=50, deadline=None)
def test_bins_are_those_of_numpys_histogram(values: list[float | None]) -> None:
    edges = [place / 10 for place in range(11)]
    found = run("bin_index", pa.array(values, pa.float64()), *map(pa.scalar, edges))
    clipped = [min(max(value, 0.0), 1.0) for value in values if value is not None]
    counts, _ = np.histogram(clipped, bins=edges)
    ours = np.bincount([int(place) for place in found if place is not None], minlength=10)
    assert ours.tolist() == counts.tolist()
    assert [place is None for place in found] == [value is None for value in values]


def test_strict_blocks_give_null_where_any_argument_is() -> None:
    flags = pa.array([True, False, None])
    assert run("both", flags, pa.array([None, None, None], pa.bool_())) == [None, None, None]
    assert run("both", flags, pa.array([True, True, True])) == [True, False, None]
    assert run("strict_if", flags, pa.scalar(1.0), pa.array([5.0, 6.0, 7.0])) == [1.0, 6.0, None]
    assert run("to_number", flags) == [1.0, 0.0, None]
    assert run("clip", pa.array([-1.0, 0.5, 9.0, None]), pa.scalar(0.0), pa.scalar(1.0)) == [0.0, 0.5, 1.0, None]


def test_violation_blocks_pass_on_what_the_engine_found() -> None:
    marks = pa.array([True, False])
    assert KERNELS["type_violation"].reads_violations
    assert KERNELS["range_violation"].reads_violations
    assert run("type_violation", marks) == [True, False]
    assert not any(kernel.reads_violations for name, kernel in KERNELS.items() if not name.endswith("_violation"))


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernels_take_arrays_of_no_rows(name: str) -> None:
    lists = pa.array([], pa.list_(pa.float64()))
    text, number, flag = pa.array([], pa.string()), pa.array([], pa.float64()), pa.array([], pa.bool_())
    arguments: dict[str, list[Any]] = {
        "if": [flag, number, number], "match": [text, pa.scalar("a")], "substring": [text, number, number],
        "startswith": [text, text], "length": [text], "class_index": [text, pa.scalar("a")], "not": [flag], "and": [flag, flag],
        "or": [flag, flag], "both": [flag, flag], "strict_if": [flag, number, number], "to_number": [flag],
        "type_violation": [flag], "range_violation": [flag], "bin_index": [number, pa.scalar(0.0), pa.scalar(1.0)],
        "clip": [number, pa.scalar(0.0), pa.scalar(1.0)],
        "psi_of_counts": [pa.scalar(1.0), number, number],
        "average_precision": [lists, lists, pa.scalar(5.0)], "normalised_gain": [lists, lists, pa.scalar(5.0)],
        **{one: [number] for one in ("abs", "exp", "log", "log2", "log10", "sqrt", "negate", "to_string", "number_to_string", "is_null", "is_not_null")},
    }  # fmt: skip
    assert len(KERNELS[name].arrow(*arguments.get(name, [number, number]))) == 0
