"""Aggregate functions, as declared rows, and the primitive aggregates that all other metrics are built of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.functions.arrays import FLOAT64, Datum, as_numbers, row_count
from fqlstream.functions.expression import Aggregate, AggregateValue, DType, Expression, Literal
from fqlstream.functions.spec import (
    ANY,
    NUMBER,
    Call,
    CallError,
    Example,
    FunctionSpec,
    Kernel,
    LevelRule,
    Nulls,
    Parameter,
    Passing,
    Takes,
)

QUANTILE_BOUND: Final = (
    "exact up to a cap of distinct values, then normalised rank error 0.0133 at 99 % confidence (KLL k=200)"
)
SCORE_BOUND: Final = "exact up to a cap of distinct scores, then a bound that is computed from the bins and published"
#: Kinds of states that do not stay exact.
BOUND_OF_KIND: Final[Mapping[str, str]] = {"quantile": QUANTILE_BOUND, "score_pairs": SCORE_BOUND, "gini": SCORE_BOUND}
_ROWS = {"x": (1.0, 2.0, 4.0, None)}


def count_true(condition: Expression) -> AggregateValue:
    """Count rows where a Boolean is true."""
    return AggregateValue(Aggregate("count_true", (condition,)), "value")


def count_present(value: Expression) -> AggregateValue:
    """Count rows where a value is non-null; the empty String counts as null."""
    return AggregateValue(Aggregate("count", (value,)), "value")


def sum_of(value: Expression) -> AggregateValue:
    """Add up the non-null values of a Number; null where there are none."""
    return AggregateValue(Aggregate("sum", (value,)), "sum")


def average_of(value: Expression) -> AggregateValue:
    """Average the non-null values of a Number; null where there are none."""
    return AggregateValue(Aggregate("sum", (value,)), "average")


def row_total() -> AggregateValue:
    """Count all rows."""
    return count_true(Literal(True, DType.BOOLEAN))


def _lower_quantile(call: Call) -> Expression:
    level = call.number("level") if "level" in call.arguments else 0.5
    if level is None or not 0.0 <= level <= 1.0:
        shown = "null" if level is None else f"{level:g}"
        raise CallError("FQL047", f"the level of a quantile lies between 0 and 1, not {shown}", None, "level")
    return AggregateValue(Aggregate("quantile", (call["x"],)), "quantile", (("level", level),))


def _element_wise(function: str) -> Kernel:
    def run(*args: Datum) -> pa.Array:
        numbers = [as_numbers(arg) for arg in args]
        whole = pc.call_function(function, numbers, pc.ElementWiseAggregateOptions(skip_nulls=True))
        return whole if isinstance(whole, pa.Array) else pa.array([whole.as_py()] * row_count(args), FLOAT64)

    name = "greatest" if function == "max_element_wise" else "least"

    def sql(*args: str) -> str:
        # ClickHouse's own treatment of NULL here differs between versions
        missing = " and ".join(f"isNull({arg})" for arg in args)
        weakest = "-inf" if name == "greatest" else "inf"
        return f"if({missing}, NULL, {name}({', '.join(f'ifNull({arg}, {weakest})' for arg in args)}))"

    return Kernel(name, run, sql, nulls=Nulls.OWN)


def _aggregate(
    name: str, summary: str, examples: tuple[Example, ...], kind: str, read: str, *, source: str = "documented"
) -> FunctionSpec:
    types = ANY if name == "count" else NUMBER
    return FunctionSpec(
        name=name,
        params=(Parameter("x", types, "A column or row expression."),),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=summary,
        nulls=Nulls.SKIPPED,
        examples=examples,
        source=source,
        lower=lambda call: AggregateValue(Aggregate(kind, (call["x"],)), read),
    )


def _of_aggregates(name: str, kernel: Kernel, summary: str, result: float) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(
            Parameter("agg1", NUMBER, "An aggregate or a constant."),
            Parameter("agg2", NUMBER, "Further ones.", repeats_min=1),
        ),
        level=LevelRule.COMBINED,
        result=DType.NUMBER,
        summary=f"{summary} of several aggregates; nulls are left out, all null gives null.",
        nulls=Nulls.OWN,
        examples=(Example(f"{name}(sum(x), max(x), 5)", result, _ROWS),),
        source="documented; at least two arguments and the null rule chosen here",
        kernel=kernel,
    )


AGGREGATES: Final[tuple[FunctionSpec, ...]] = (
    _aggregate(
        "sum",
        "Sum of the non-null values; null where there are none. The same to the last bit in whatever order rows arrive.",
        (Example("sum(x)", 7.0, _ROWS), Example("sum(1)", 4.0, _ROWS)),
        "sum",
        "sum",
        source="documented; null over nothing chosen here, as in SQL",
    ),
    _aggregate(
        "average",
        "Mean of the non-null values; null where there are none.",
        (Example("average(x)", 7 / 3, _ROWS),),
        "sum",
        "average",
    ),
    _aggregate(
        "count",
        "Number of rows where x is not null; the empty String counts as null. 0 where there are none.",
        (Example("count(x)", 3.0, _ROWS), Example("count(s)", 1.0, {"s": ("a", "", None)})),
        "count",
        "value",
    ),
    _aggregate("min", "Smallest value; null where there are none.", (Example("min(x)", 1.0, _ROWS),), "min", "value"),
    _aggregate("max", "Largest value; null where there are none.", (Example("max(x)", 4.0, _ROWS),), "max", "value"),
    FunctionSpec(
        name="quantile",
        params=(
            Parameter("x", NUMBER, "A column or row expression."),
            Parameter(
                "level", NUMBER, "From 0 to 1; 0.5 by default.", Passing.EITHER, takes=Takes.CONSTANT, required=False
            ),
        ),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary="Value at a level of the ordered values, interpolated linearly; null where there are none.",
        nulls=Nulls.SKIPPED,
        examples=(
            Example("quantile(x)", 1.5, {"x": (1.0, 1.0, 2.0, 3.0)}),
            Example("quantile(x, level=0.25)", 1.5, _ROWS),
        ),
        source="documented; interpolation as in ClickHouse and numpy.quantile(method='linear')",
        lower=_lower_quantile,
        error_bound=QUANTILE_BOUND,
    ),
    _of_aggregates("greatest", _element_wise("max_element_wise"), "Largest", 7.0),
    _of_aggregates("least", _element_wise("min_element_wise"), "Smallest", 4.0),
)
