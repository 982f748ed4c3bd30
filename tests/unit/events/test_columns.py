"""Coercion into typed columns: what is null, what is a violation, and that JSON and Arrow agree."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.columns import (
    arrow_schema,
    arrow_type,
    coerce_array,
    coerce_table,
    coerce_values,
    number_text,
    parse_rfc3339_ms,
    violation_lists,
)
from fqlstream.events.definitions import Column, ColumnType, ModelDefinition

NAN = float("nan")
INF = float("inf")


def column(kind: str, **more: Any) -> Column:
    return Column.model_validate({"name": "c", "type": kind, **more})


# column, value in, value out, violation: "" none, "t" type, "r" range
CASES = [
    (column("float"), 1.5, 1.5, ""),
    (column("float"), 3, 3.0, ""),
    (column("float"), None, None, ""),
    (column("float"), NAN, None, ""),
    (column("float"), True, None, "t"),
    (column("float"), "1.5", None, "t"),
    (column("float"), "", None, ""),
    (column("int", min=5), "", None, ""),
    (column("bool"), "", None, ""),
    (column("timestamp"), "", None, ""),
    (column("vector", n_dimensions=2), "", None, ""),
    (column("category", categories=[1, 2]), "", None, ""),
    (column("string", replace_with_nulls=[""]), "", None, ""),
    (column("float"), [1.0], None, "t"),
    (column("float"), {"a": 1}, None, "t"),
    (column("float"), INF, None, ""),
    (column("float", max=1), INF, None, "r"),
    (column("float", max=1), -INF, None, "r"),
    (column("float"), 10**400, None, ""),
    (column("float", min=0), -(10**400), None, "r"),
    (column("float", min=0, max=1), 2.5, 2.5, "r"),
    (column("float", min=0, max=1), -0.5, -0.5, "r"),
    (column("float", min=0, max=1), 1.0, 1.0, ""),
    (column("float", min=0, max=1), 0.0, 0.0, ""),
    (column("float", max=100), 100 * (1 + 5e-10), 100 * (1 + 5e-10), ""),
    (column("float", max=100), 100 * (1 + 2e-9), 100 * (1 + 2e-9), "r"),
    (column("float", min=-100), -100 * (1 + 5e-10), -100 * (1 + 5e-10), ""),
    (column("float", min=-100), -101.0, -101.0, "r"),
    (column("float", replace_with_nulls=["-1.0"]), -1.0, None, ""),
    (column("float", replace_with_nulls=["-1.0"]), -1, None, ""),
    (column("float", replace_with_nulls=["-1.0"]), "-1.0", None, ""),
    (column("float", replace_with_nulls=["N/A"]), "N/A", None, ""),
    (column("float", replace_with_nulls=["N/A"]), "n/a", None, "t"),
    (column("float", min=0, replace_with_nulls=[-1]), -1.0, None, ""),
    (column("int"), 4, 4, ""),
    (column("int"), 4.0, 4, ""),
    (column("int"), 4.5, None, "t"),
    (column("int"), False, None, "t"),
    (column("int"), "4", None, "t"),
    (column("int"), NAN, None, ""),
    (column("int"), INF, None, ""),
    (column("int", min=0), INF, None, "r"),
    (column("int"), 2**63 - 1, 2**63 - 1, ""),
    (column("int"), 2**63, None, "t"),
    (column("int"), 1e300, None, "t"),
    (column("int", min=0, max=9), 12, 12, "r"),
    (column("int", replace_with_nulls=[-1]), -1, None, ""),
    (column("int", replace_with_nulls=["-1"]), -1.0, None, ""),
    (column("int", replace_with_nulls=["none"]), "none", None, ""),
    (column("bool"), True, True, ""),
    (column("bool"), 0, False, ""),
    (column("bool"), 1.0, True, ""),
    (column("bool"), 2, None, "t"),
    (column("bool"), "true", None, "t"),
    (column("bool"), NAN, None, ""),
    (column("bool", categories=[True]), False, False, "r"),
    (column("bool", replace_with_nulls=["false"]), False, None, ""),
    (column("string"), "x", "x", ""),
    (column("string"), "", "", ""),
    (column("string"), 5, None, "t"),
    (column("string"), True, None, "t"),
    (column("string"), NAN, None, ""),
    (column("string"), "\ud800", None, "t"),
    (column("string"), "日本", "日本", ""),
    (column("string", replace_with_nulls=["?"]), "?", None, ""),
    (column("category", categories=["FR", "DE"]), "FR", "FR", ""),
    (column("category", categories=["FR", "DE"]), "XX", "XX", "r"),
    (column("category", categories=["FR", "DE"]), "", "", ""),
    (column("category", categories=["FR", "DE"]), 1, None, "t"),
    (column("category", categories=[1, 2]), 1, "1", ""),
    (column("category", categories=[1, 2]), 2.0, "2", ""),
    (column("category", categories=[1, 2]), 3, "3", "r"),
    (column("category", categories=[1, 2]), 1.5, None, "t"),
    (column("category", categories=[1, 2]), "1", None, "t"),
    (column("category", categories=[1, 2]), True, None, "t"),
    (column("category", categories=[1, 2]), NAN, None, ""),
    (column("category", categories=[True, False]), True, "true", ""),
    (column("category", categories=[0.5, 1.5]), 0.5, "0.5", ""),
    (column("category", categories=[0.5, 1.5]), 1, "1", "r"),
    (column("category", categories=[0.5, 1.5]), INF, None, ""),
    (column("category"), 7, "7", ""),
    (column("category", categories=["a", "?"], replace_with_nulls=["?"]), "?", None, ""),
    (column("timestamp"), 1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123000, UTC), ""),
    (column("timestamp"), 1_700_000_000_123.0, datetime(2023, 11, 14, 22, 13, 20, 123000, UTC), ""),
    (column("timestamp"), "2023-11-14T22:13:20.123Z", datetime(2023, 11, 14, 22, 13, 20, 123000, UTC), ""),
    (column("timestamp"), "2023-11-15T00:13:20.1239999999+02:00", datetime(2023, 11, 14, 22, 13, 20, 123000, UTC), ""),
    (column("timestamp"), "1969-12-31T23:59:59.9999Z", datetime(1969, 12, 31, 23, 59, 59, 999000, UTC), ""),
    (column("timestamp"), "2023-11-14T22:13:20", None, "t"),
    (column("timestamp"), "2023-11-14", None, "t"),
    (column("timestamp"), "2023-13-14T22:13:20Z", None, "t"),
    (column("timestamp"), "yesterday", None, "t"),
    (column("timestamp"), 1.5, None, "t"),
    (column("timestamp"), 10**18, None, "t"),
    (column("timestamp"), True, None, "t"),
    (column("timestamp", replace_with_nulls=[0]), 0, None, ""),
    (column("vector"), [1, 2.5], [1.0, 2.5], ""),
    (column("vector"), [], None, ""),
    (column("vector", n_dimensions=2), [], None, "r"),
    (column("vector"), [1, None], None, "t"),
    (column("vector"), [True], None, "t"),
    (column("vector"), "x", None, "t"),
    (column("vector", n_dimensions=2), [1.0], [1.0], "r"),
    (column("vector", n_dimensions=2), [1.0, 2.0], [1.0, 2.0], ""),
    (column("vector", n_dimensions=2), None, None, ""),
]
CLEAN = {
    "float": 0.25,
    "int": 7,
    "bool": True,
    "string": "ok",
    "timestamp": "2024-01-01T00:00:00Z",
    "vector": [1.0, 2.0],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].type}-{case[1]!r:.30}-{case[3] or 'fine'}")
@pytest.mark.parametrize("company", ["alone", "with_clean", "with_null"])
def test_one_value_is_read_the_same_whatever_stands_beside_it(case: tuple[Column, Any, Any, str], company: str) -> None:
    definition, given_value, expected, violation = case
    clean = CLEAN.get(definition.type) if definition.type != "category" else (definition.categories or ("z",))[0]
    beside = {"alone": [], "with_clean": [clean, clean], "with_null": [None, clean]}[company]

    array, type_bad, range_bad = coerce_values([given_value, *beside], definition)

    assert array.type == arrow_type(definition)
    assert array[0].as_py() == expected
    assert (bool(type_bad[0]), bool(range_bad[0])) == (violation == "t", violation == "r")
    assert not type_bad[1:].any()
    assert not range_bad[1:].any() or definition.min is not None or definition.max is not None
    assert [value is None for value in array.to_pylist()[1:]] == [value is None for value in beside]


def fits_arrow(value: Any) -> bool:
    try:
        pa.array([value])
    except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
        return False
    return True


ARROW_CASES = [case for case in CASES if fits_arrow(case[1])]


@pytest.mark.parametrize("case", ARROW_CASES, ids=lambda case: f"{case[0].type}-{case[1]!r:.30}-{case[3] or 'fine'}")
def test_arrow_and_python_values_agree(case: tuple[Column, Any, Any, str]) -> None:
    definition, given_value, expected, violation = case
    raw = pa.array([given_value, None])

    array, type_bad, range_bad = coerce_array(raw, definition)

    assert array.type == arrow_type(definition)
    assert array.to_pylist() == [expected, None]
    assert (bool(type_bad[0]), bool(range_bad[0])) == (violation == "t", violation == "r")
    assert not type_bad[1]
    assert not range_bad[1]


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["1", "-1", "a", "2024-01-01T00:00:00Z"]),
    st.lists(st.one_of(st.floats(), st.integers(0, 3), st.none()), max_size=3),
    st.just({}),
)
KINDS = [
    column("float", min=-1, max=2, replace_with_nulls=["1", -1]),
    column("int", min=-1, max=2, replace_with_nulls=[1]),
    column("bool", categories=[True]),
    column("string", replace_with_nulls=["a"]),
    column("category", categories=["a", 1]),
    column("category"),
    column("timestamp"),
    column("vector", n_dimensions=2),
]


@given(st.sampled_from(KINDS), st.lists(ANYTHING, max_size=8))
def test_a_column_is_its_values_one_by_one(definition: Column, values: list[Any]) -> None:
    array, type_bad, range_bad = coerce_values(values, definition)
    singles = [coerce_values([value], definition) for value in values]
    assert repr(array.to_pylist()) == repr([single[0][0].as_py() for single in singles])
    assert type_bad.tolist() == [bool(single[1][0]) for single in singles]
    assert range_bad.tolist() == [bool(single[2][0]) for single in singles]
    assert not (type_bad & range_bad).any()
    assert not type_bad[[value is not None for value in array.to_pylist()]].any()


@pytest.mark.parametrize(
    ("raw", "definition", "expected", "bad"),
    [
        (pa.array([1, 2], pa.int8()), column("float"), [1.0, 2.0], [0, 0]),
        (pa.array([1.5, None, NAN], pa.float32()), column("float"), [1.5, None, None], [0, 0, 0]),
        (pa.array([Decimal("1.50"), None]), column("float"), [1.5, None], [0, 0]),
        (pa.array([1, 2**63], pa.uint64()), column("int"), [1, None], [0, 1]),
        (pa.array([1.0, 2.5, None]), column("int"), [1, None, None], [0, 1, 0]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), column("category"), ["a", "b", None, "a"], [0] * 4),
        (pa.array(["a"], pa.large_string()), column("string"), ["a"], [0]),
        (pa.array(["a"], pa.string_view()), column("string"), ["a"], [0]),
        (pa.array([b"a"]), column("string"), [None], [1]),
        (pa.array([1, 0, 3, None]), column("bool"), [True, False, None, None], [0, 0, 1, 0]),
        (pa.array([date(2024, 1, 1)]), column("timestamp"), [datetime(2024, 1, 1, tzinfo=UTC)], [0]),
        (
            pa.array([-1], pa.timestamp("ns")),
            column("timestamp"),
            [datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)],
            [0],
        ),
        (pa.array([1], pa.timestamp("s")), column("timestamp"), [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)], [0]),
        (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), column("vector"), [[1.0, 2.0]], [0]),
        (pa.array([[1.0, None], [2.0]]), column("vector"), [None, [2.0]], [1, 0]),
        (pa.nulls(2), column("string"), [None, None], [0, 0]),
        (pa.chunked_array([["a"], ["b"]]), column("string"), ["a", "b"], [0, 0]),
        (pa.chunked_array([], pa.string()), column("string"), [], []),
    ],
)
def test_arrow_types_are_read(raw: Any, definition: Column, expected: list[Any], bad: list[int]) -> None:
    array, type_bad, _ = coerce_array(raw, definition)
    assert array.type == arrow_type(definition)
    assert array.to_pylist() == expected
    assert type_bad.astype(int).tolist() == bad


def test_text_that_is_not_utf8_is_a_type_violation() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes()), pa.py_buffer(b"\xff" + b"ab")]
    )
    array, type_bad, _ = coerce_array(broken, column("string"))
    assert array.to_pylist() == [None, "ab"]
    assert type_bad.tolist() == [True, False]


def test_numpy_and_pandas_scalars_are_plain_values() -> None:
    pandas = pytest.importorskip("pandas")
    array, bad, _ = coerce_values([np.float32(0.5), np.int64(2), pandas.NA, pandas.NaT, np.nan], column("float"))
    assert array.to_pylist() == [0.5, 2.0, None, None, None]
    assert not bad.any()
    times, bad, _ = coerce_values([pandas.Timestamp("2024-01-01"), np.datetime64("2024-01-01")], column("timestamp"))
    assert times.to_pylist() == [datetime(2024, 1, 1, tzinfo=UTC)] * 2
    assert not bad.any()


def test_equal_looking_definitions_keep_their_own_rules() -> None:
    # Python takes 1 and True for equal, FQL does not
    numbers, booleans = column("category", categories=[1, 0]), column("category", categories=[True, False])
    assert numbers == booleans
    assert coerce_values([1], numbers)[0].to_pylist() == ["1"]
    assert coerce_values([True], booleans)[0].to_pylist() == ["true"]


MODEL = ModelDefinition.model_validate(
    {
        "name": "m",
        "columns": [
            {"name": "age", "type": "int", "min": 18, "max": 100},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
    }
)


def test_a_table_gets_typed_columns_and_violations() -> None:
    table = pa.table({"age": [20.0, 17.0, 20.5], "churned": ["no", "maybe", None], "other": [1, 2, 3]})
    typed = coerce_table(table, MODEL)
    assert typed.schema == arrow_schema(MODEL, "inference")
    assert typed.to_pydict() == {
        "age": [20, 17, None],
        "score": [None, None, None],
        "churned": ["no", "maybe", None],
        "_type_violations": [[], [], ["age"]],
        "_range_violations": [[], ["age", "churned"], []],
    }


def test_a_label_carries_targets_and_metadata_only() -> None:
    assert arrow_schema(MODEL, "label").names == ["churned", "_type_violations", "_range_violations"]
    assert coerce_table(pa.table({"age": [20]}), MODEL, ["churned"]).column_names[0] == "churned"


def test_violation_lists_of_no_rows_and_no_violations() -> None:
    assert violation_lists(0, {}).to_pylist() == []
    assert violation_lists(2, {"a": np.zeros(2, np.bool_)}).to_pylist() == [[], []]


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0, "2"), (0.1, "0.1"), (1e15, "1000000000000000"), (1e16, "1e+16"), (-0.5, "-0.5"), (42, "42")],
)
def test_numbers_are_written_shortest(value: float, text: str) -> None:
    assert number_text(value) == text


NAIVE = st.datetimes(datetime(1900, 1, 2), datetime(2299, 12, 30))  # noqa: DTZ001 (the zone is drawn apart)


@given(NAIVE, st.sampled_from(["Z", "+05:30", "-11:00"]))
def test_times_agree_with_the_vectorised_reader(moment: datetime, zone: str) -> None:
    text = moment.isoformat() + zone
    single = parse_rfc3339_ms(text)
    array, bad, _ = coerce_values([text, text], column("timestamp"))
    assert array.cast(pa.int64()).to_pylist() == [single, single]
    assert not bad.any()


def test_every_column_type_has_an_arrow_type() -> None:
    for kind in ColumnType:
        assert isinstance(arrow_type(column(kind)), pa.DataType)
