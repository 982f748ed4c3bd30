"""Confusion states and what is made of their counts: sections 6.3 to 6.5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fqlstream.events.definitions import Task
from fqlstream.functions.aggregates import count_present, count_true
from fqlstream.functions.building_blocks import apply_boolean, apply_number, class_is, number
from fqlstream.functions.expression import DType, Expression
from fqlstream.functions.spec import Call, CallError, CallWarning, Example, FunctionSpec, LevelRule, Nulls
from fqlstream.functions.targets import (
    CLASS,
    TARGET,
    THRESHOLD,
    actual_positive,
    class_index,
    class_outputs,
    class_place,
    predicted_positive,
    target_column,
)

#: Scores and truths of the examples: 2 true positives, 1 false positive, 1 false negative, 1 true negative, 1 unlabelled.
BINARY_ROWS: Final[Mapping[str, tuple[float | str | None, ...]]] = {
    "score": (0.9, 0.8, 0.7, 0.2, 0.1, 0.6),
    "churned": ("yes", "yes", "no", "yes", "no", None),
}
MULTICLASS_ROWS: Final[Mapping[str, tuple[float | str | None, ...]]] = {
    "p_cat": (0.7, 0.2, 0.1, 0.3),
    "p_dog": (0.2, 0.5, 0.3, 0.3),
    "p_fox": (0.1, 0.3, 0.6, 0.4),
    "animal": ("cat", "dog", "cat", None),
}


def _sides(call: Call) -> tuple[Expression, Expression]:
    """Give where truth and prediction are positive."""
    if call.model.task is not Task.MULTICLASS:
        if "class" in call.arguments:
            raise CallError(
                "FQL042",
                f"class= is for multiclass models; {call.model.name} is binary",
                f"write {call.spec.name}()",
                "class",
            )
        return actual_positive(call), predicted_positive(call)
    column = target_column(call)
    place = class_place(call, column)
    predicted = apply_number("argmax", *class_outputs(call, column))
    return class_is(class_index(call, column), place), class_is(predicted, place)


def _opposite(condition: Expression) -> Expression:
    return apply_boolean("not", condition)


def true_positive(call: Call) -> Expression:
    """Tell where both are positive; null where either is null."""
    actual, predicted = _sides(call)
    return apply_boolean("both", actual, predicted)


def false_positive(call: Call) -> Expression:
    """Tell where only the prediction is positive; null where either is null."""
    actual, predicted = _sides(call)
    return apply_boolean("both", _opposite(actual), predicted)


def false_negative(call: Call) -> Expression:
    """Tell where only the truth is positive; null where either is null."""
    actual, predicted = _sides(call)
    return apply_boolean("both", actual, _opposite(predicted))


def true_negative(call: Call) -> Expression:
    """Tell where neither is positive; null where either is null."""
    actual, predicted = _sides(call)
    return apply_boolean("both", _opposite(actual), _opposite(predicted))


def _tp(call: Call) -> Expression:
    return count_true(true_positive(call))


def _fp(call: Call) -> Expression:
    return count_true(false_positive(call))


def _fn(call: Call) -> Expression:
    return count_true(false_negative(call))


def _tn(call: Call) -> Expression:
    return count_true(true_negative(call))


def _ratio(part: Expression, *whole: Expression) -> Expression:
    return apply_number("/", part, _total(*whole))


def _total(first: Expression, *others: Expression) -> Expression:
    result = first
    for other in others:
        result = apply_number("+", result, other)
    return result


def _lower_precision(call: Call) -> Expression:
    return _ratio(_tp(call), _tp(call), _fp(call))


def _lower_recall(call: Call) -> Expression:
    return _ratio(_tp(call), _tp(call), _fn(call))


def _lower_f1(call: Call) -> Expression:
    # from the counts, so that it is 0 where precision or recall is undefined but there are errors
    twice = apply_number("*", number(2), _tp(call))
    return _ratio(twice, twice, _fp(call), _fn(call))


def _lower_fpr(call: Call) -> Expression:
    return _ratio(_fp(call), _fp(call), _tn(call))


def _lower_geometric_mean(call: Call) -> Expression:
    root = apply_number("sqrt", apply_number("*", _total(_tp(call), _fp(call)), _total(_tp(call), _fn(call))))
    return apply_number("/", _tp(call), root)


def _lower_accuracy(call: Call) -> Expression:
    if call.model.task is Task.MULTICLASS:
        if "threshold" in call.arguments:
            call.warnings.append(
                CallWarning(
                    "FQL104", "threshold= has no effect on the accuracy of a multiclass model", None, "threshold"
                )
            )
        column = target_column(call)
        actual: Expression = class_index(call, column)
        predicted: Expression = apply_number("argmax", *class_outputs(call, column))
    else:
        actual, predicted = actual_positive(call), predicted_positive(call)
    correct = apply_boolean("==", actual, predicted)
    return _ratio(count_true(correct), count_present(correct))


def _state(
    name: str, lower: Callable[[Call], Expression], meaning: str, result: tuple[bool | None, ...]
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(CLASS,),
        level=LevelRule.ROW,
        result=DType.BOOLEAN,
        summary=f"Whether a row is a {meaning}; null where target or output is null. Multiclass: one class against the rest.",
        nulls=Nulls.GIVES_NULL,
        examples=(Example(f"{name}()", result, BINARY_ROWS, "binary"),),
        source="documented; null for unlabelled rows chosen here",
        tasks=(Task.BINARY, Task.MULTICLASS),
        lower=lower,
    )


def _rate(
    name: str,
    lower: Callable[[Call], Expression],
    summary: str,
    result: float,
    *,
    source: str = "documented; 0/0 is null by choice",
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(TARGET, THRESHOLD),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=f"{summary} Over labelled rows; null where undefined.",
        nulls=Nulls.SKIPPED,
        examples=(Example(f"{name}()", result, BINARY_ROWS, "binary"),),
        source=source,
        tasks=(Task.BINARY,),
        lower=lower,
    )


CONFUSION: Final[tuple[FunctionSpec, ...]] = (
    _state("tp", true_positive, "true positive", (True, True, False, False, False, None)),
    _state("tn", true_negative, "true negative", (False, False, False, False, True, None)),
    _state("fp", false_positive, "false positive", (False, False, True, False, False, None)),
    _state("fn", false_negative, "false negative", (False, False, False, True, False, None)),
    _rate("precision", _lower_precision, "TP / (TP + FP).", 2 / 3),
    _rate("recall", _lower_recall, "TP / (TP + FN).", 2 / 3),
    _rate("f1_score", _lower_f1, "2 TP / (2 TP + FP + FN).", 2 / 3),
    _rate("fpr", _lower_fpr, "False positive rate, FP / (FP + TN).", 0.5),
    _rate(
        "geometric_mean",
        _lower_geometric_mean,
        "sqrt(precision x recall); not the mean of class recalls that other libraries call so.",
        2 / 3,
    ),
    FunctionSpec(
        name="accuracy",
        params=(TARGET, THRESHOLD),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary="Share of labelled rows whose predicted class (binary: by threshold, multiclass: the highest output) is the true one.",
        nulls=Nulls.SKIPPED,
        examples=(
            Example("accuracy()", 0.6, BINARY_ROWS, "binary"),
            Example("accuracy()", 2 / 3, MULTICLASS_ROWS, "multiclass"),
        ),
        source="documented; threshold without effect on multiclass models by choice",
        tasks=(Task.BINARY, Task.MULTICLASS),
        lower=_lower_accuracy,
    ),
)
