from __future__ import annotations

import pytest

from fqlstream.events.definitions import ColumnType
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.fold import fold


def number(value: float | None) -> Literal:
    return Literal(value, DType.NUMBER)


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (Apply("+", (number(1.0), number(2.0)), DType.NUMBER), 3.0),
        (Apply("/", (number(1.0), number(0.0)), DType.NUMBER), None),
        (Apply("match", (Literal("ab", DType.STRING), Literal("^b", DType.STRING)), DType.BOOLEAN), False),
        (Apply("number_to_string", (number(2.0),), DType.STRING), "2"),
        (Apply("is_null", (number(None),), DType.BOOLEAN), True),
    ],
)
def test_a_kernel_over_literals_is_a_literal(node: Apply, value: object) -> None:
    assert fold(node) == Literal(value, node.dtype)


@pytest.mark.parametrize(
    "node",
    [
        number(1.0),
        ColumnRef("x", ColumnType.FLOAT),
        Apply("+", (ColumnRef("x", ColumnType.FLOAT), number(1.0)), DType.NUMBER),
    ],
)
def test_everything_else_stays(node: Expression) -> None:
    assert fold(node) is node
