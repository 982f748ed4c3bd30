"""attribute(): the columns of spans, for agentic applications (section 7)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fqlstream.events.definitions import Column, Task
from fqlstream.functions.expression import ColumnRef, Expression
from fqlstream.functions.nearest import did_you_mean
from fqlstream.functions.spec import (
    STRING,
    Call,
    CallError,
    Example,
    FunctionSpec,
    LevelRule,
    Nulls,
    Parameter,
    Passing,
    Takes,
)

_SOURCES: Final = ("system", "user", "evaluator")
_SCOPES: Final = ("span", "session", "trace")


def _lower_attribute(call: Call) -> Expression:
    name = str(call.constant("name"))
    source = _one_of(call, "type", _SOURCES)
    scope = _one_of(call, "scope", _SCOPES)
    column = call.model.column(name)
    if column is None:
        near = did_you_mean(name, [item.name for item in call.model.columns])
        hint = f"did you mean '{near}'?" if near else "attributes are the columns of the model"
        raise CallError("FQL030", f"Attribute {name[:80]} not found in model {call.model.name}", hint, "name")
    for parameter, given, own in (("type", source, column.source), ("scope", scope, column.scope)):
        if given is not None and own is not None and given != own:
            raise CallError(
                "FQL030",
                f"Attribute {name} of {parameter} {given} not found in model {call.model.name}",
                f"it is of {parameter} '{own}'",
                parameter,
            )
    return _reference(column)


def _reference(column: Column) -> ColumnRef:
    return ColumnRef(column.name, column.type)


def _one_of(call: Call, parameter: str, allowed: Collection[str]) -> str | None:
    given = call.constant(parameter)
    if given is not None and given not in allowed:
        known = ", ".join(f"'{item}'" for item in allowed)
        raise CallError("FQL047", f"the {parameter} of an attribute is one of {known}", None, parameter)
    return None if given is None else str(given)


ATTRIBUTES: Final[tuple[FunctionSpec, ...]] = (
    FunctionSpec(
        name="attribute",
        params=(
            Parameter("name", STRING, "Its name.", Passing.EITHER, Takes.CONSTANT),
            Parameter(
                "type", STRING, "'system', 'user' or 'evaluator'.", Passing.KEYWORD, Takes.CONSTANT, required=False
            ),
            Parameter(
                "scope", STRING, "'span', 'session' or 'trace'.", Passing.KEYWORD, Takes.CONSTANT, required=False
            ),
        ),
        level=LevelRule.ROW,
        result="same",
        summary="An attribute of a span, of the type that the model gives it; null where the span lacks it.",
        nulls=Nulls.OWN,
        examples=(
            Example("attribute('tokens', type='system', scope='span')", (12.0, None), {"tokens": (12.0, None)}, "llm"),
        ),
        source="documented in part; the allowed values of type and scope chosen here",
        tasks=(Task.LLM,),
        lower=_lower_attribute,
    ),
)
