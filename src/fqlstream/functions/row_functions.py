"""Constants and row-level functions, as declared rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.functions import texts
from fqlstream.functions.arrays import Datum, as_texts, numeric, one_type
from fqlstream.functions.expression import Apply, DType, Expression, Literal
from fqlstream.functions.spec import (
    ANY,
    BOOLEAN,
    NUMBER,
    STRING,
    VALUES,
    Call,
    CallError,
    Example,
    FunctionSpec,
    Kernel,
    LevelRule,
    Nulls,
    Parameter,
    Takes,
)


def _constant(name: str, value: float, summary: str) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(),
        level=LevelRule.ARGUMENTS,
        result=DType.NUMBER,
        summary=summary,
        nulls=Nulls.GIVES_NULL,
        examples=(Example(f"{name}()", value),),
        source="documented",
        lower=lambda _: Literal(value, DType.NUMBER),
    )


def _numeric(
    name: str, function: Callable[..., Any], summary: str, examples: tuple[Example, ...], source: str = "documented"
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(Parameter("x", NUMBER, "A number."),),
        level=LevelRule.ARGUMENTS,
        result=DType.NUMBER,
        summary=summary,
        nulls=Nulls.GIVES_NULL,
        examples=examples,
        source=source,
        kernel=Kernel(
            name,
            numeric(function),
            lambda x: f"{name}({x})",
            undefined_is_null=True,
            passes_undefined=() if name == "exp" else (0,),
        ),
    )


def _choose(condition: Datum, value: Datum, otherwise: Datum) -> pa.Array:
    value, otherwise = one_type(value, otherwise)
    return pc.if_else(pc.fill_null(condition, False), value, otherwise)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def is_null(value: Datum) -> pa.Array:
    """Tell where a value is null; the empty String counts as null."""
    if _is_text(value.type):
        return pc.fill_null(pc.equal(as_texts(value), pa.scalar("")), True)
    return pc.is_null(value)


def _lower_match(call: Call) -> Expression:
    pattern = call.constant("regex")
    problem = texts.pattern_problem(pattern) if isinstance(pattern, str) else None
    if problem is not None:
        raise CallError(
            "FQL048",
            f"the pattern is no RE2 regular expression: {problem}",
            "RE2 has no back-references and no look-around: github.com/google/re2/wiki/Syntax",
            "regex",
        )
    return Apply("match", (call["str"], call["regex"]), DType.BOOLEAN)


def _lower_to_string(call: Call) -> Expression:
    value = call["x"]
    return Apply("number_to_string" if value.dtype is DType.NUMBER else "to_string", (value,), DType.STRING)


def _sql_substring(text: str, offset: str, size: str) -> str:
    # least and greatest leave NULL out
    missing = " or ".join(f"isNull({arg})" for arg in (text, offset, size))
    first = f"toInt64(trunc(least(greatest({offset}, -1), 2147483646)))"
    count = f"toInt64(trunc(least(greatest({size}, 0), 2147483646)))"
    return f"if({missing} or trunc({offset}) < 1, NULL, substringUTF8({text}, {first}, {count}))"


def _lower_if(call: Call) -> Expression:
    value, otherwise = call["value1"], call["value2"]
    op = "if" if call.chosen.null_condition == "else" else "strict_if"
    return Apply(op, (call["condition"], value, otherwise), value.dtype)


IF: Final = FunctionSpec(
    name="if",
    params=(
        Parameter("condition", BOOLEAN, "What decides; null counts as false."),
        Parameter("value1", VALUES, "The value where the condition is true.", same=True, null=True),
        Parameter("value2", VALUES, "The value elsewhere, of the same type.", same=True, null=True),
    ),
    level=LevelRule.ARGUMENTS,
    result="same",
    summary="value1 where the condition is true, else value2, also where the condition is null. Either may be the literal null.",
    nulls=Nulls.OWN,
    examples=(
        Example("if(b, 'yes', 'no')", ("yes", "no", "no"), {"b": (True, False, None)}),
        Example("if(is_null(x), null, x * 2)", (2.0, None), {"x": (1.0, None)}),
        Example("if(false, 'yes', 'no') == 'no'", True),
    ),
    source="documented; a null condition chosen here (the setting null_condition), as in ClickHouse",
    kernel=Kernel("if", _choose, lambda c, a, b: f"if({c}, {a}, {b})", nulls=Nulls.OWN),
    lower=_lower_if,
)

LENGTH: Final = FunctionSpec(
    name="length",
    params=(Parameter("x", STRING, "A text."),),
    level=LevelRule.ARGUMENTS,
    result=DType.NUMBER,
    summary="Number of characters (Unicode code points); 0 for the empty String.",
    nulls=Nulls.GIVES_NULL,
    examples=(
        Example("length('Hello world') == 11", True),
        Example("length(s)", (1.0, 0.0, None), {"s": ("é", "", None)}),
    ),
    source="documented; code points rather than bytes chosen here",
    kernel=Kernel("length", texts.length, lambda x: f"toFloat64(lengthUTF8({x}))"),
)

TO_STRING: Final = FunctionSpec(
    name="to_string",
    params=(Parameter("x", VALUES, "A value of any type."),),
    level=LevelRule.ARGUMENTS,
    result=DType.STRING,
    summary="A value as text: Numbers in the shortest form that reads back the same, without .0; an exponent from 1e+16 up and below 0.0001.",
    nulls=Nulls.GIVES_NULL,
    examples=(
        Example("to_string(42) == '42'", True),
        Example("to_string(true) == 'true'", True),
        Example("to_string(x)", ("2", "0.1", "1e+16", None), {"x": (2.0, 0.1, 1e16, None)}),
    ),
    source="documented for integers and Booleans; floats chosen here",
    kernel=Kernel(
        "to_string",
        texts.to_string,
        lambda x: f"toString({x})",
        # what a comparison gives is no Bool in ClickHouse, and would be written as 1
        clickhouse_by_type={DType.BOOLEAN: lambda x: f"if(isNull({x}), NULL, if({x}, 'true', 'false'))"},
    ),
    lower=_lower_to_string,
)

NUMBER_TO_STRING: Final = Kernel("number_to_string", texts.to_string, lambda x: f"number_text({x})")

STARTSWITH: Final = FunctionSpec(
    name="startswith",
    params=(Parameter("str", STRING, "A text."), Parameter("prefix", STRING, "What it may begin with.")),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="Whether a text begins with another, case-sensitive; every text begins with the empty one.",
    nulls=Nulls.GIVES_NULL,
    examples=(
        Example("startswith('abcde', 'abc')", True),
        Example("startswith(s, 'a')", (True, False, None), {"s": ("ab", "Ab", None)}),
    ),
    source="documented",
    kernel=Kernel("startswith", texts.starts_with, lambda s, p: f"startsWith({s}, {p})"),
)

SUBSTRING: Final = FunctionSpec(
    name="substring",
    params=(
        Parameter("str", STRING, "A text."),
        Parameter("offset", NUMBER, "First character, counted from 1; truncated."),
        Parameter("length", NUMBER, "How many characters; truncated."),
    ),
    level=LevelRule.ARGUMENTS,
    result=DType.STRING,
    summary="Characters of a text from an offset on, cut at its end. An offset below 1 gives null, a length below 1 the empty String.",
    nulls=Nulls.GIVES_NULL,
    examples=(
        Example("substring('abcde', 2, 3) == 'bcd'", True),
        Example("substring(s, 2, 9)", ("éc", "", None), {"s": ("aéc", "a", None)}),
        Example("substring('abc', 0, 1)", None),
    ),
    source="documented; code points and the edges chosen here",
    kernel=Kernel("substring", texts.substring, _sql_substring),
)

MATCH: Final = FunctionSpec(
    name="match",
    params=(
        Parameter("str", STRING, "A text."),
        Parameter("regex", STRING, "An RE2 pattern, constant.", takes=Takes.CONSTANT),
    ),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="Whether an RE2 pattern is found anywhere in a text; not anchored, and . matches no line break.",
    nulls=Nulls.GIVES_NULL,
    examples=(
        Example("match('abcde', 'a.c.*e')", True),
        Example("match(s, '^b')", (False, True, None), {"s": ("ab", "ba", None)}),
    ),
    source="documented as RE2; searching and flags chosen here",
    # ClickHouse turns dot-all on
    kernel=Kernel("match", texts.match, lambda s, p: f"match({s}, concat('(?-s)', {p}))"),
    lower=_lower_match,
)

#: Types whose values are null or not; a text may be empty, and an array in ClickHouse is never null but may be empty.
_NEVER_EMPTY: Final = (DType.NUMBER, DType.BOOLEAN, DType.TIMESTAMP)

IS_NULL: Final = FunctionSpec(
    name="is_null",
    params=(Parameter("x", ANY, "A value of any type."),),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="True where a value is null; the empty String counts as null. Never null itself.",
    nulls=Nulls.OWN,
    examples=(
        Example("is_null('') == true", True),
        Example("is_null(x)", (False, True), {"x": (1.0, None)}),
    ),
    source="documented",
    kernel=Kernel(
        "is_null",
        is_null,
        lambda x: f"empty(ifNull(toString({x}), ''))",
        nulls=Nulls.OWN,
        clickhouse_by_type={
            **dict.fromkeys(_NEVER_EMPTY, lambda x: f"isNull({x})"),
            DType.STRING: lambda x: f"empty(ifNull({x}, ''))",
            DType.VECTOR: lambda x: f"empty({x})",
        },
    ),
)

IS_NOT_NULL: Final = FunctionSpec(
    name="is_not_null",
    params=(Parameter("x", ANY, "A value of any type."),),
    level=LevelRule.ARGUMENTS,
    result=DType.BOOLEAN,
    summary="False where a value is null; the empty String counts as null. Never null itself.",
    nulls=Nulls.OWN,
    examples=(
        Example("is_not_null('') == false", True),
        Example("is_not_null(s)", (True, False, False), {"s": ("a", "", None)}),
    ),
    source="documented",
    kernel=Kernel(
        "is_not_null",
        lambda x: pc.invert(is_null(x)),
        lambda x: f"notEmpty(ifNull(toString({x}), ''))",
        nulls=Nulls.OWN,
        clickhouse_by_type={
            **dict.fromkeys(_NEVER_EMPTY, lambda x: f"isNotNull({x})"),
            DType.STRING: lambda x: f"notEmpty(ifNull({x}, ''))",
            DType.VECTOR: lambda x: f"notEmpty({x})",
        },
    ),
)

ROW_FUNCTIONS: Final[tuple[FunctionSpec, ...]] = (
    _constant("e", math.e, "Base of the natural logarithm. Without parentheses, e is a column."),
    _constant("pi", math.pi, "Ratio of a circle's circumference to its diameter."),
    IF,
    LENGTH,
    TO_STRING,
    STARTSWITH,
    SUBSTRING,
    MATCH,
    IS_NULL,
    IS_NOT_NULL,
    _numeric(
        "abs",
        np.abs,
        "Absolute value.",
        (Example("abs(-3) == 3", True), Example("abs(x)", (3.0, None), {"x": (-3.0, None)})),
    ),
    _numeric(
        "exp",
        np.exp,
        "e to the power of x; null where it is infinite.",
        (Example("exp(1) == 2.718281828459045", True), Example("exp(x)", (1.0, None), {"x": (0.0, 1000.0)})),
    ),
    _numeric(
        "log",
        np.log,
        "Natural logarithm; null for x <= 0.",
        (Example("log(e()) == 1", True), Example("log(x)", (0.0, None, None), {"x": (1.0, 0.0, -1.0)})),
        "documented (its example log(e) means log(e())); x <= 0 chosen here",
    ),
    _numeric(
        "log2",
        np.log2,
        "Logarithm to base 2; null for x <= 0.",
        (Example("log2(16) == 4", True), Example("log2(x)", (3.0, None), {"x": (8.0, 0.0)})),
        "documented; x <= 0 chosen here",
    ),
    _numeric(
        "log10",
        np.log10,
        "Logarithm to base 10; null for x <= 0.",
        (Example("log10(1000) == 3", True), Example("log10(x)", (2.0, None), {"x": (100.0, -1.0)})),
        "documented (called binary there: a slip); x <= 0 chosen here",
    ),
    _numeric(
        "sqrt",
        np.sqrt,
        "Positive square root; null for x < 0.",
        (Example("sqrt(144) == 12", True), Example("sqrt(x)", (3.0, None), {"x": (9.0, -9.0)})),
        "documented; x < 0 chosen here",
    ),
)
