"""FQL's operators, as declared rows. Their precedence is the grammar's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.functions.arrays import Datum, as_numbers, as_texts, numeric
from fqlstream.functions.expression import DType
from fqlstream.functions.spec import (
    BOOLEAN,
    NUMBER,
    VALUES,
    Example,
    FunctionSpec,
    Kernel,
    LevelRule,
    Nulls,
    Parameter,
)

_UNDEFINED = "A result that is undefined or infinite is null."


def _left_and_right(types: tuple[DType, ...], *, same: bool = False) -> tuple[Parameter, ...]:
    return (Parameter("a", types, "Left side.", same=same), Parameter("b", types, "Right side.", same=same))


def _arithmetic(
    name: str,
    function: Callable[..., Any],
    sql: Callable[..., str],
    summary: str,
    examples: tuple[Example, ...],
    source: str,
    passes_undefined: tuple[int, ...] = (),
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        symbol=name,
        params=_left_and_right(NUMBER),
        level=LevelRule.ARGUMENTS,
        result=DType.NUMBER,
        summary=f"{summary} {_UNDEFINED}",
        nulls=Nulls.GIVES_NULL,
        examples=examples,
        source=source,
        kernel=Kernel(name, numeric(function), sql, undefined_is_null=True, passes_undefined=passes_undefined),
    )


def _comparable(left: Datum, right: Datum) -> tuple[Datum, Datum]:
    """Give both sides in one type: Numbers as float64, also two columns of integers."""
    kind = left.type
    if pa.types.is_boolean(kind):
        return left, right
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return as_numbers(left), as_numbers(right)
    return as_texts(left), as_texts(right)


def _comparison(
    name: str, function: str, summary: str, examples: tuple[Example, ...], *, any_type: bool = False
) -> FunctionSpec:
    def run(left: Datum, right: Datum) -> pa.Array:
        return pc.call_function(function, list(_comparable(left, right)))

    return FunctionSpec(
        name=name,
        symbol=name,
        params=_left_and_right(VALUES, same=True) if any_type else _left_and_right(NUMBER),
        level=LevelRule.ARGUMENTS,
        result=DType.BOOLEAN,
        summary=summary,
        nulls=Nulls.GIVES_NULL,
        examples=examples,
        source="documented for Numbers; Strings and Booleans as in the documentation's own examples, both sides of one type"
        if any_type
        else "documented",
        kernel=Kernel(name, run, lambda a, b: f"{a} {name} {b}"),
    )


def _sql_power(a: str, b: str) -> str:
    # ClickHouse's pow gives anything at all where the result is beyond every double
    digits = f"{b} * log2(abs({a}))"
    beyond = f"if({digits} > 0, inf, 0)"
    return f"multiIf({a} < 0 and {b} != trunc({b}), nan, abs({digits}) > 1100, {beyond}, pow({a}, {b}))"


def _numbers(**columns: tuple[float | None, ...]) -> dict[str, tuple[float | None, ...]]:
    return columns


NEGATE: Final = FunctionSpec(
    name="negate",
    symbol="-",
    params=(Parameter("a", NUMBER, "What to negate."),),
    level=LevelRule.ARGUMENTS,
    result=DType.NUMBER,
    summary="Negation. Binds less tightly than ^: -2 ^ 2 is -4.",
    nulls=Nulls.GIVES_NULL,
    examples=(Example("-x", (-1.0, 2.0, None), {"x": (1.0, -2.0, None)}),),
    source="documented; precedence chosen here, as in mathematics and Python",
    kernel=Kernel("negate", numeric(np.negative), lambda a: f"-({a})"),
)

NOT: Final = FunctionSpec(
    name="not",
    symbol="not ",
    params=(Parameter("a", BOOLEAN, "What to negate."),),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="Logical negation.",
    nulls=Nulls.GIVES_NULL,
    examples=(Example("not b", (False, True, None), {"b": (True, False, None)}),),
    source="documented",
    kernel=Kernel("not", pc.invert, lambda a: f"not ({a})"),
)

AND: Final = FunctionSpec(
    name="and",
    symbol="and",
    params=_left_and_right(BOOLEAN),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="True if both are. Three-valued: false and null is false, true and null is null.",
    nulls=Nulls.OWN,
    examples=(
        Example(
            "a and b", (True, False, False, None), {"a": (True, True, False, True), "b": (True, False, None, None)}
        ),
    ),
    source="documented; null rule chosen here, as in SQL",
    kernel=Kernel("and", pc.and_kleene, lambda a, b: f"({a}) and ({b})", nulls=Nulls.OWN),
)

OR: Final = FunctionSpec(
    name="or",
    symbol="or",
    params=_left_and_right(BOOLEAN),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="True if one is. Three-valued: true or null is true, false or null is null.",
    nulls=Nulls.OWN,
    examples=(
        Example(
            "a or b", (True, False, True, None), {"a": (True, False, True, False), "b": (False, False, None, None)}
        ),
    ),
    source="documented; null rule chosen here, as in SQL",
    kernel=Kernel("or", pc.or_kleene, lambda a, b: f"({a}) or ({b})", nulls=Nulls.OWN),
)

OPERATORS: Final[tuple[FunctionSpec, ...]] = (
    _arithmetic(
        "^",
        np.power,
        _sql_power,
        "Power, right-associative; 0 ^ 0 is 1.",
        (
            Example("x ^ 2", (6.25, 9.0), _numbers(x=(2.5, -3.0))),
            Example("x ^ 0.5", (2.0, None), _numbers(x=(4.0, -8.0))),
            Example("2 ^ 3 ^ 2", 512.0),
        ),
        "documented; associativity and undefined results chosen here",
    ),
    NEGATE,
    _arithmetic(
        "*",
        np.multiply,
        lambda a, b: f"{a} * {b}",
        "Product.",
        (Example("x * 10", (20.0, None), _numbers(x=(2.0, None))),),
        "documented",
        (0, 1),
    ),
    _arithmetic(
        "/",
        np.divide,
        lambda a, b: f"{a} / {b}",
        "Real division, never integer; division by zero is null.",
        (Example("x / y", (0.2, None, None), _numbers(x=(2.0, 1.0, 0.0), y=(10.0, 0.0, 0.0))),),
        "documented; division by zero chosen here",
        (0,),
    ),
    _arithmetic(
        "%",
        np.fmod,
        lambda a, b: f"remainder({a}, {b})",
        "Remainder of truncated division: it has the sign of the left side.",
        (Example("x % 3", (-1.0, 1.0, 1.5), _numbers(x=(-7.0, 7.0, 4.5))), Example("7 % 0", None)),
        "documented; sign chosen here, as in ClickHouse, C and SQL",
    ),
    _arithmetic(
        "+",
        np.add,
        lambda a, b: f"{a} + {b}",
        "Sum; does not join Strings.",
        (Example("x + 2", (4.0, None), _numbers(x=(2.0, None))),),
        "documented",
        (0, 1),
    ),
    _arithmetic(
        "-",
        np.subtract,
        lambda a, b: f"{a} - ({b})",
        "Difference.",
        (Example("x - 2", (0.0, None), _numbers(x=(2.0, None))),),
        "documented",
        (0, 1),
    ),
    _comparison("<", "less", "Less than.", (Example("x < 10", (True, None), _numbers(x=(5.0, None))),)),
    _comparison("<=", "less_equal", "Less than or equal to.", (Example("x <= 10", (True, False), _numbers(x=(10.0, 11.0))),)),
    _comparison(">", "greater", "Greater than.", (Example("x > 10", (False, True), _numbers(x=(10.0, 11.0))),)),
    _comparison(
        ">=", "greater_equal", "Greater than or equal to.", (Example("x >= 10", (True, False), _numbers(x=(10.0, 9.0))),)
    ),
    _comparison(
        "==",
        "equal",
        "Equal, exactly; String comparison is by code point and case-sensitive.",
        (
            Example("x == 10", (True, False, None), _numbers(x=(10.0, 9.0, None))),
            Example("s == 'no'", (True, False, False), {"s": ("no", "No", "")}),
        ),
        any_type=True,
    ),
    _comparison(
        "!=",
        "not_equal",
        "Not equal.",
        (Example("x != 10", (False, True, None), _numbers(x=(10.0, 9.0, None))),),
        any_type=True,
    ),
    NOT,
    AND,
    OR,
)  # fmt: skip
