"""Expressions as programs: every distinct node once, constants where there are no columns, violations by column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fqlstream.events.definitions import ColumnType
from fqlstream.fql.programs import ProgramBuilder, Step, load_row, marks_of
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, ColumnRef, DType, Expression, Literal

X = ColumnRef("x", ColumnType.FLOAT)
S = ColumnRef("s", ColumnType.STRING)


def number(value: float | None) -> Literal:
    return Literal(value, DType.NUMBER)


def apply(op: str, *args: Expression, dtype: DType = DType.NUMBER) -> Apply:
    return Apply(op, args, dtype)


def values_of(expression: Expression, table: pa.Table) -> list[object]:
    builder = ProgramBuilder()
    root = builder.add(expression)
    return builder.program([root]).run(len(table), load_row(table))[root].to_pylist()


TABLE = pa.table({"x": [1.0, None, 3.0], "s": ["a", "", None]})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (X, [1.0, None, 3.0]),
        (number(2), [2.0, 2.0, 2.0]),
        (number(None), [None, None, None]),
        (Literal("é", DType.STRING), ["é", "é", "é"]),
        (apply("+", X, number(1)), [2.0, None, 4.0]),
        (apply("+", number(1), number(1)), [2.0, 2.0, 2.0]),
        (apply("is_null", S, dtype=DType.BOOLEAN), [False, True, True]),
        (apply("*", apply("+", X, number(1)), apply("+", X, number(1))), [4.0, None, 16.0]),
    ],
)
def test_expressions_have_one_value_per_row(expression: Expression, expected: list[object]) -> None:
    assert values_of(expression, TABLE) == expected
    assert values_of(expression, TABLE.slice(0, 0)) == []


def test_equal_expressions_share_a_register() -> None:
    builder = ProgramBuilder()
    one = builder.add(apply("+", X, number(1)))
    two = builder.add(apply("*", apply("+", X, number(1)), X))
    assert builder.add(apply("+", X, number(1))) == one
    program = builder.program([one, two])
    assert sum(isinstance(source, Step) for source in program.sources) == 2
    assert program.columns == {"x"}


def test_a_program_computes_only_what_is_asked() -> None:
    builder = ProgramBuilder()
    one, other = builder.add(apply("negate", X)), builder.add(apply("length", S))
    registers = builder.program([one]).run(3, load_row(TABLE.select(["x"])))
    assert registers[one].to_pylist() == [-1.0, None, -3.0]
    assert registers[other] is None


def test_violations_are_told_apart_by_column_and_kind() -> None:
    table = pa.table(
        {
            "_type_violations": pa.array([["x"], [], ["s", "x"]], pa.list_(pa.string())),
            "_range_violations": pa.array([[], ["x"], []], pa.list_(pa.string())),
        }
    )
    builder = ProgramBuilder()
    roots = [
        builder.add(apply(op, column, dtype=DType.BOOLEAN))
        for op in ("type_violation", "range_violation")
        for column in (X, S)
    ]
    program = builder.program(roots)
    assert program.columns == {"_type_violations", "_range_violations"}
    registers = program.run(3, load_row(table))
    assert [registers[root].to_pylist() for root in roots] == [
        [True, False, True],
        [False, False, True],
        [False, True, False],
        [False, False, False],
    ]


def test_marks_of_sliced_and_missing_lists() -> None:
    lists = pa.array([["x"], None, [], ["y", "x"], ["x"]], pa.list_(pa.string()))
    assert marks_of(lists, "x").to_pylist() == [True, False, False, True, True]
    assert marks_of(lists.slice(1, 3), "x").to_pylist() == [False, False, True]


def test_rows_know_no_aggregates() -> None:
    with pytest.raises(TypeError):
        values_of(AggregateValue(Aggregate("count", (X,)), "value"), TABLE)
    with pytest.raises(TypeError):
        values_of(apply("type_violation", number(1)), TABLE)
