"""Metrics of regression models: section 6.6. y is the target, f the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fqlstream.events.definitions import Task
from fqlstream.functions.aggregates import average_of, count_true, sum_of
from fqlstream.functions.building_blocks import NOTHING, apply_boolean, apply_number, number
from fqlstream.functions.expression import Aggregate, AggregateValue, DType, Expression
from fqlstream.functions.spec import Call, Example, FunctionSpec, LeftOut, LevelRule, Nulls
from fqlstream.functions.targets import TARGET, numeric_pair

ROWS: Final[Mapping[str, tuple[float | None, ...]]] = {
    "price": (3.0, -0.5, 2.0, 8.0, None),
    "estimate": (2.5, 0.0, 2.0, 10.0, 1.0),
}


def _error(call: Call) -> Expression:
    target, output = numeric_pair(call)
    return apply_number("-", target, output)


def _absolute_error(call: Call) -> Expression:
    return apply_number("abs", _error(call))


def _lower_mse(call: Call) -> Expression:
    error = _error(call)
    return average_of(apply_number("*", error, error))


def _lower_mae(call: Call) -> Expression:
    return average_of(_absolute_error(call))


def _lower_mape(call: Call) -> Expression:
    # division by a target of 0 is null, and so such rows are left out
    target, output = numeric_pair(call)
    is_zero = apply_boolean("and", apply_boolean("==", target, number(0)), apply_boolean("is_not_null", output))
    call.left_out.append(LeftOut("mape", "rows whose target is 0", count_true(is_zero)))
    return average_of(apply_number("/", _absolute_error(call), apply_number("abs", target)))


def _lower_wmape(call: Call) -> Expression:
    target, output = numeric_pair(call)
    size = apply_number("if", apply_boolean("is_null", output), NOTHING, apply_number("abs", target))
    return apply_number("/", sum_of(_absolute_error(call)), sum_of(size))


def _lower_r2(call: Call) -> Expression:
    return AggregateValue(Aggregate("moments", numeric_pair(call)), "r2")


def _metric(name: str, lower: Callable[[Call], Expression], summary: str, result: float, source: str) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(TARGET,),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=f"{summary} Over rows with target and output; null where there are none.",
        nulls=Nulls.SKIPPED,
        examples=(Example(f"{name}()", result, ROWS, "regression"),),
        source=source,
        tasks=(Task.REGRESSION,),
        lower=lower,
    )


REGRESSION: Final[tuple[FunctionSpec, ...]] = (
    _metric(
        "r2",
        _lower_r2,
        "1 - SSE / SST. Null for fewer than two rows or a constant target.",
        0.8821603927986906,
        "documented; null for a constant target chosen here",
    ),
    _metric("mse", _lower_mse, "Mean of (y - f)^2.", 1.125, "documented"),
    _metric("mae", _lower_mae, "Mean of |y - f|.", 0.75, "documented"),
    _metric(
        "mape",
        _lower_mape,
        "Mean of |y - f| / |y|, a fraction; rows with y = 0 are left out, and `fql eval` says how many.",
        (0.5 / 3 + 1 + 0 + 0.25) / 4,
        "documented; a fraction, and leaving out y = 0, chosen here",
    ),
    _metric(
        "wmape",
        _lower_wmape,
        "Sum of |y - f| over sum of |y|. Null where that is 0.",
        3 / 13.5,
        "documented in words; weights |y| chosen here, the usual reading",
    ),
)
