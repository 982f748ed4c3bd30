"""Which columns hold a model's truth and its prediction, and what its classes are: the decision rule of section 6.3."""

from __future__ import annotations

from typing import Final

from fqlstream.events.columns import scalar_text
from fqlstream.events.definitions import Column, ColumnType, Role, Task
from fqlstream.functions.building_blocks import apply_boolean, apply_number, class_is, number
from fqlstream.functions.expression import ColumnRef, DType, Expression, Literal
from fqlstream.functions.nearest import did_you_mean
from fqlstream.functions.spec import VALUES, Call, CallError, Parameter, Passing, Takes

_NUMBERS: Final = (ColumnType.INT, ColumnType.FLOAT)

TARGET: Final = Parameter(
    "target", VALUES, "A column in place of the model's target.", Passing.KEYWORD, Takes.COLUMN, required=False
)
THRESHOLD: Final = Parameter(
    "threshold",
    (DType.NUMBER,),
    "Scores from it on are positive; the model's own by default, else 0.5.",
    Passing.KEYWORD,
    Takes.CONSTANT,
    required=False,
)
CLASS: Final = Parameter(
    "class",
    (DType.STRING,),
    "The positive class; only and always for multiclass models.",
    Passing.KEYWORD,
    Takes.CONSTANT,
    required=False,
)


def reference(column: Column) -> ColumnRef:
    """Give a column as an expression."""
    return ColumnRef(column.name, column.type)


def target_column(call: Call) -> Column:
    """Give the column that holds the truth: the `target` argument, else the model's one target."""
    named = call.column("target")
    given = None if named is None else call.model.column(named.name)
    if given is not None:
        return given
    targets = call.model.role(Role.TARGET)
    if len(targets) == 1:
        return targets[0]
    if not targets:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs a target, and model {call.model.name} has no target column",
            "give a column the role target"
            + (", or name one: target=column" if _has_parameter(call, "target") else ""),
        )
    names = ", ".join(column.name for column in targets)
    raise CallError(
        "FQL061",
        f"model {call.model.name} has several targets ({names}): {call.spec.name}() cannot know which is meant",
        f"name one: {call.spec.name}(target={targets[0].name})" if _has_parameter(call, "target") else None,
    )


def output_columns(call: Call) -> tuple[Column, ...]:
    """Give the numeric columns that hold the prediction; exactly one but for multiclass models."""
    outputs = call.model.role(Role.OUTPUT)
    wrong = next((column for column in outputs if column.type not in _NUMBERS), None)
    if wrong is not None:
        raise CallError(
            "FQL061", f"{call.spec.name}() needs numeric outputs; {wrong.name} is of type {wrong.type.value}"
        )
    if call.model.task is not Task.MULTICLASS and len(outputs) != 1:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs exactly one output column; model {call.model.name} has {len(outputs) or 'none'}",
        )
    return outputs


def numeric_pair(call: Call) -> tuple[ColumnRef, ColumnRef]:
    """Give truth and prediction of a regression model."""
    target = target_column(call)
    if target.type not in _NUMBERS:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs a numeric target; {target.name} is of type {target.type.value}",
            None,
            "target" if "target" in call.arguments else None,
        )
    return reference(target), reference(output_columns(call)[0])


def class_literals(call: Call, column: Column) -> tuple[Literal, ...]:
    """Give a target's classes in order, as values of its column: least positive first for a binary model."""
    order = call.model.task_params.target_class_order
    if order is not None:
        return tuple(_class_literal(column, value) for value in order)
    if column.type is ColumnType.BOOL:
        return (Literal(False, DType.BOOLEAN), Literal(True, DType.BOOLEAN))
    if column.type in _NUMBERS and call.model.task is Task.BINARY:
        return _numeric_classes(call, column)
    raise CallError(
        "FQL061",
        f"{call.spec.name}() needs to know the order of the classes of {column.name}",
        "add to the model: task_params: {target_class_order: [negative, positive]}"
        if call.model.task is Task.BINARY
        else "add to the model: task_params: {target_class_order: [...]}, in the order of its outputs",
    )


def _numeric_classes(call: Call, column: Column) -> tuple[Literal, ...]:
    """Find the two values of a numeric target; the higher one is positive."""
    if column.categories is not None:
        values = sorted(float(value) for value in column.categories if not isinstance(value, str))
    else:
        values = [0.0 if column.min is None else column.min, 1.0 if column.max is None else column.max]
    if len(set(values)) != 2:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs a target of two values; {column.name} has {', '.join(f'{v:g}' for v in values)}",
            "add to the model: task_params: {target_class_order: [negative, positive]}",
        )
    return tuple(number(value) for value in values)


def _class_literal(column: Column, value: str | float | bool) -> Literal:  # noqa: FBT001 (a value)
    if column.type is ColumnType.BOOL:
        known = {"true": True, "false": False, "1": True, "0": False}.get(scalar_text(value).lower())
        if known is not None:
            return Literal(known, DType.BOOLEAN)
    elif column.type in _NUMBERS:
        try:
            return number(float(value))
        except ValueError:
            pass
    else:
        return Literal(scalar_text(value), DType.STRING)
    raise CallError(
        "FQL061",
        f"target_class_order names {value!r}, which column {column.name} of type {column.type.value} cannot hold",
    )


def class_index(call: Call, column: Column) -> Expression:
    """Give the place of a row's true class; null where the target is null or no class of the model."""
    classes = class_literals(call, column)
    if call.model.task is Task.BINARY and len(classes) != 2:
        raise CallError("FQL061", f"a binary model has two classes; target_class_order names {len(classes)}")
    if len(set(classes)) != len(classes):
        raise CallError("FQL061", "target_class_order names a class twice")
    return apply_number("class_index", reference(column), *classes)


def actual_positive(call: Call) -> Expression:
    """Tell where the truth of a binary model is its positive class; null where it is neither."""
    return class_is(class_index(call, target_column(call)), 1)


def score(call: Call) -> ColumnRef:
    """Give the output of a binary model."""
    return reference(output_columns(call)[0])


def predicted_positive(call: Call) -> Expression:
    """Tell where a binary model says positive: from the threshold on."""
    return apply_boolean(">=", score(call), number(_threshold(call)))


def _threshold(call: Call) -> float:
    if "threshold" in call.arguments:
        given = call.number("threshold")
        if given is None:
            raise CallError("FQL047", "a threshold cannot be null", None, "threshold")
        return given
    return call.chosen.threshold


def class_outputs(call: Call, column: Column) -> tuple[ColumnRef, ...]:
    """Give the outputs of a multiclass model, one per class, in the classes' order."""
    outputs = output_columns(call)
    classes = class_literals(call, column)
    if len(outputs) != len(classes):
        raise CallError(
            "FQL061",
            f"model {call.model.name} has {len(outputs)} outputs for {len(classes)} classes",
            "one output column per class of target_class_order, in the same order",
        )
    return tuple(map(reference, outputs))


def class_place(call: Call, column: Column) -> int:
    """Give the place of the class that `class=` names."""
    named = call.constant("class")
    order = [scalar_text(value) for value in call.model.task_params.target_class_order or ()]
    if named is None:
        raise CallError(
            "FQL040",
            f"{call.spec.name}() of a multiclass model needs a class",
            f"write {call.spec.name}(class='{order[0] if order else 'name'}')",
        )
    class_literals(call, column)  # says what is missing where there is no order
    if named not in order:
        raise CallError(
            "FQL062", f"{named!r} is no class of model {call.model.name}", _nearest(str(named), order), "class"
        )
    return order.index(str(named))


def _nearest(name: str, known: list[str]) -> str:
    near = did_you_mean(name, known)
    return f"did you mean '{near}'?" if near else f"its classes: {', '.join(known[:20])}"


def _has_parameter(call: Call, name: str) -> bool:
    return any(param.name == name for param in call.spec.params)
