"""Traffic and data integrity: section 6.2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fqlstream.functions.aggregates import count_true, row_total
from fqlstream.functions.building_blocks import apply_boolean, either, violation
from fqlstream.functions.expression import ColumnRef, DType, Expression
from fqlstream.functions.spec import (
    ANY,
    ML_TASKS,
    Call,
    Example,
    FunctionSpec,
    LevelRule,
    Nulls,
    Parameter,
    Passing,
    Takes,
)


def _missing(column: ColumnRef) -> Expression:
    # the checks are exclusive: an ill-typed or infinite value is null to FQL, yet no null violation
    no_type = apply_boolean("not", violation("type", column))
    no_range = apply_boolean("not", violation("range", column))
    return apply_boolean("and", apply_boolean("is_null", column), apply_boolean("and", no_type, no_range))


def _lower_null(call: Call) -> Expression:
    return count_true(_missing(call.required_column("column")))


def _lower_type(call: Call) -> Expression:
    return count_true(violation("type", call.required_column("column")))


def _lower_range(call: Call) -> Expression:
    return count_true(violation("range", call.required_column("column")))


def _lower_any(call: Call) -> Expression:
    column = call.required_column("column")
    return count_true(either(apply_boolean("is_null", column), violation("type", column), violation("range", column)))


def _violations(
    name: str, lower: Callable[[Call], Expression], summary: str, result: float, source: str
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(Parameter("column", ANY, "A column.", Passing.EITHER, Takes.COLUMN),),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=f"{summary} 0 for no rows.",
        nulls=Nulls.OWN,
        # in the table of examples x goes from 0 to 10
        examples=(Example(f"{name}(x)", result, {"x": (1.0, None, "ill-typed", 11.0, 10.0)}),),
        source=source,
        tasks=ML_TASKS,
        lower=lower,
    )


INTEGRITY: Final[tuple[FunctionSpec, ...]] = (
    FunctionSpec(
        name="traffic",
        params=(),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary="Number of rows, nulls included; 0 for no rows.",
        nulls=Nulls.OWN,
        examples=(Example("traffic()", 3.0, {"x": (1.0, None, 2.0)}),),
        source="documented",
        tasks=ML_TASKS,
        lower=lambda _: row_total(),
    ),
    _violations(
        "null_violation_count",
        _lower_null,
        "Number of rows where a column is missing, null, NaN or the empty String.",
        1.0,
        "documented; unconditional, as FQL's page says",
    ),
    _violations(
        "range_violation_count",
        _lower_range,
        "Number of rows where a column is outside its min and max or not among its categories; bounds are inside, within 1e-9 relative.",
        1.0,
        "documented; rules as in Fiddler's client 1.8.6",
    ),
    _violations(
        "type_violation_count",
        _lower_type,
        "Number of rows where a column holds a value of the wrong type.",
        1.0,
        "documented; rules as in Fiddler's client 1.8.6",
    ),
    _violations(
        "any_violation_count",
        _lower_any,
        "Number of rows where a column has a null, type or range violation.",
        3.0,
        "documented",
    ),
)
