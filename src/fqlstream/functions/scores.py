"""Metrics of scores against classes, and gini: sections 6.4, 6.5 and 6.8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fqlstream.events.definitions import Task
from fqlstream.functions.aggregates import SCORE_BOUND, average_of, count_present, sum_of
from fqlstream.functions.building_blocks import apply_number, class_is, number
from fqlstream.functions.confusion import BINARY_ROWS, MULTICLASS_ROWS
from fqlstream.functions.expression import Aggregate, AggregateValue, DType, Expression
from fqlstream.functions.spec import (
    ML_TASKS,
    NUMBER,
    Call,
    Example,
    FunctionSpec,
    LevelRule,
    Nulls,
    Parameter,
    Passing,
)
from fqlstream.functions.targets import TARGET, actual_positive, class_index, class_outputs, score, target_column


def _score_pairs(call: Call) -> Aggregate:
    return Aggregate("score_pairs", (score(call), actual_positive(call)))


def _lower_auroc(call: Call) -> Expression:
    return AggregateValue(_score_pairs(call), "auroc")


def _lower_calibrated_threshold(call: Call) -> Expression:
    rule = call.chosen.calibrated_threshold_rule
    return AggregateValue(_score_pairs(call), "calibrated_threshold" if rule == "youden" else "f1_threshold")


def _surprise(call: Call, probability: Expression) -> Expression:
    epsilon = call.chosen.probability_epsilon
    clipped = apply_number("clip", probability, number(epsilon), number(1.0 - epsilon))
    return apply_number("negate", apply_number("log", clipped))


def _lower_log_loss(call: Call) -> Expression:
    if call.model.task is Task.MULTICLASS:
        column = target_column(call)
        return average_of(
            _surprise(call, apply_number("pick", class_index(call, column), *class_outputs(call, column)))
        )
    probability = score(call)
    of_truth = apply_number("strict_if", actual_positive(call), probability, apply_number("-", number(1), probability))
    return average_of(_surprise(call, of_truth))


def _lower_calibration_error(call: Call) -> Expression:
    # n_b/n * |mean p - mean y| is |sum of (p - y) in b| / n: one sum for each bin
    probability, positive = score(call), actual_positive(call)
    bins = call.chosen.calibration_bins
    edges = [number(edge / bins) for edge in range(bins + 1)]
    place = apply_number("bin_index", probability, *edges)
    gap = apply_number("-", probability, apply_number("to_number", positive))
    gaps: list[Expression] = [apply_number("abs", sum_of(_where_in_bin(place, index, gap))) for index in range(bins)]
    total = _added(gaps)
    return apply_number("/", total, count_present(gap))


def _added(parts: list[Expression]) -> Expression:
    """Add up, as a balanced tree: there may be a thousand bins."""
    while len(parts) > 1:
        pairs = [parts[place : place + 2] for place in range(0, len(parts), 2)]
        parts = [apply_number("+", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def _where_in_bin(place: Expression, index: int, gap: Expression) -> Expression:
    # 0 elsewhere, so that an empty bin adds nothing; null stays null
    outside = apply_number("*", gap, number(0))
    return apply_number("strict_if", class_is(place, index), gap, outside)


def _lower_gini(call: Call) -> Expression:
    return AggregateValue(Aggregate("gini", (call["actual"], call["predicted"])), "gini")


def _metric(
    name: str,
    lower: Callable[[Call], Expression],
    summary: str,
    result: float,
    source: str,
    *,
    error_bound: str = "exact",
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(TARGET,),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=f"{summary} Over rows with target and output.",
        nulls=Nulls.SKIPPED,
        examples=(Example(f"{name}()", result, BINARY_ROWS, "binary"),),
        source=source,
        tasks=(Task.BINARY,),
        lower=lower,
        error_bound=error_bound,
    )


_PAIRS: Final[Mapping[str, tuple[float | None, ...]]] = {"x": (6.0, 1.0, 0.0, 2.0), "y": (0.9, 0.3, 0.8, 0.7)}

SCORES: Final[tuple[FunctionSpec, ...]] = (
    _metric(
        "expected_calibration_error",
        _lower_calibration_error,
        "Mean distance of scores and truths over bins of equal width (10, a setting), weighted by rows; null where there are none.",
        0.38,
        "documented; the bins chosen here",
    ),
    FunctionSpec(
        name="log_loss",
        params=(TARGET,),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary="Mean of -ln(probability of the true class), probabilities kept 2.2e-16 away from 0 and 1; null where there are no rows.",
        nulls=Nulls.SKIPPED,
        examples=(
            Example("log_loss()", 0.6494550598779797, BINARY_ROWS, "binary"),
            Example("log_loss()", 1.1174690724975744, MULTICLASS_ROWS, "multiclass"),
        ),
        source="documented; clipping as in scikit-learn, outputs are not rescaled to sum to 1",
        tasks=(Task.BINARY, Task.MULTICLASS),
        lower=_lower_log_loss,
    ),
)

#: Functions of ordered pairs.
RANKS: Final[tuple[FunctionSpec, ...]] = (
    _metric(
        "auroc",
        _lower_auroc,
        "Area under the ROC curve, ties counted half; null where a class is missing.",
        5 / 6,
        "documented; ties chosen here, as in scikit-learn",
        error_bound=SCORE_BOUND,
    ),
    _metric(
        "calibrated_threshold",
        _lower_calibrated_threshold,
        "Observed score with the highest TPR - FPR (or F1: a setting), the highest of equals; null where a class is missing.",
        0.8,
        "documented in words, and differently in two places; TPR - FPR chosen here",
        error_bound=SCORE_BOUND,
    ),
    FunctionSpec(
        name="gini",
        params=(
            Parameter("actual", NUMBER, "What is concentrated, e.g. losses; not negative.", Passing.KEYWORD),
            Parameter("predicted", NUMBER, "What orders the rows.", Passing.KEYWORD),
        ),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary="2A - 1, where A is the area under the cumulative gains curve, highest prediction first, ties averaged."
        " Null where actuals are negative or sum to 0.",
        nulls=Nulls.SKIPPED,
        examples=(Example("gini(actual=x, predicted=y)", 13 / 36, _PAIRS),),
        source="documented up to a factor; this form chosen here, as ClickHouse's gini",
        tasks=ML_TASKS,
        lower=_lower_gini,
        error_bound=SCORE_BOUND,
    ),
)
