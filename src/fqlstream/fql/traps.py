"""Expressions that are right and yet rarely what was meant: warnings, never errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fqlstream.errors import Diagnostic
from fqlstream.events.definitions import ModelDefinition, Role
from fqlstream.fql.ast import (
    BooleanNode,
    CallNode,
    ColumnNode,
    Node,
    NullNode,
    NumberNode,
    OperatorNode,
    Span,
    as_written,
    children,
    postorder,
)

_STATES: Final = frozenset({"tp", "tn", "fp", "fn"})
_NULL_TESTS: Final = frozenset({"is_null", "is_not_null"})


@dataclass(frozen=True, slots=True)
class _Place:
    """A node and what stands around it."""

    node: Node
    aggregate: str | None  # the aggregate that it is an argument of
    guarded: bool = False  # an `if` around it has asked whether the target is null
    rest: bool = False  # the else branch of an `if` that asked for a confusion state


def find_traps(root: Node, model: ModelDefinition, kind: str, *, unlabelled: bool = True) -> Iterator[Diagnostic]:
    """Give a warning for each trap, in no order. `unlabelled`: whether rows without a label take the else branch."""
    targets = frozenset(column.name for column in model.role(Role.TARGET))
    reads = _reading(root, targets)
    stack = [_Place(root, "segment" if kind == "segment" else None)]
    while stack:
        place = stack.pop()
        node = place.node
        match node:
            case CallNode(name="if", arguments=(condition, value, otherwise)):
                asks = reads[id(condition.value)]
                guarded = place.guarded or asks.null_test
                rest = (asks.states or place.rest) and not guarded
                if unlabelled and rest and _counts(otherwise.value, place.aggregate):
                    yield _unlabelled(otherwise.value.span, model)
                stack.append(_Place(condition.value, place.aggregate, place.guarded))
                stack.append(_Place(value.value, place.aggregate, guarded))
                stack.append(_Place(otherwise.value, place.aggregate, guarded, rest))
                continue
            case CallNode(name="count", arguments=(argument,)) if _marks_rows(argument.value):
                yield _counts_zeros(node.span)
            case OperatorNode(operator="/", operands=(left, right)) if _looks_like_rate(left, right):
                yield _rate(right.span)
            case _:
                pass
        aggregate = node.name if isinstance(node, CallNode) and node.name != "if" else place.aggregate
        stack.extend(_Place(child, aggregate, place.guarded) for child in children(node))


@dataclass(frozen=True, slots=True)
class _Reads:
    states: bool  # a confusion state
    null_test: bool  # is_null or is_not_null of a target


def _reading(root: Node, targets: frozenset[str]) -> dict[int, _Reads]:
    """Tell for every node whether it or something below it reads a confusion state, or tests the target for null."""
    result: dict[int, _Reads] = {}
    for node in postorder(root):
        below = [result[id(child)] for child in children(node)]
        states = any(item.states for item in below)
        test = any(item.null_test for item in below)
        if isinstance(node, CallNode):
            states |= node.name in _STATES
            test |= node.name in _NULL_TESTS and any(
                isinstance(item.value, ColumnNode) and item.value.name in targets for item in node.arguments
            )
        result[id(node)] = _Reads(states, test)
    return result


def _counts(otherwise: Node, aggregate: str | None) -> bool:
    """Tell whether the value that unlabelled rows get does anything."""
    match otherwise:
        case NullNode():
            return False
        case CallNode(name="if"):
            return False  # asked again there
        case NumberNode(value=0.0):
            return aggregate != "sum"
        case BooleanNode(value=False):
            return aggregate != "segment"
        case _:
            return True


def _marks_rows(node: Node) -> bool:
    """Recognise `if(c, 1, 0)`: a number in both branches."""
    match node:
        case CallNode(name="if", arguments=(_, value, otherwise)):
            return isinstance(value.value, NumberNode) and isinstance(otherwise.value, NumberNode)
        case _:
            return False


def _looks_like_rate(left: Node, right: Node) -> bool:
    match left, right:
        case CallNode(name="sum", arguments=(argument,)), CallNode(name="count", arguments=(counted,)):
            return _marks_rows(argument.value) and isinstance(counted.value, ColumnNode)
        case _:
            return False


def _warning(code: str, message: str, span: Span, hint: str) -> Diagnostic:
    return Diagnostic(code, message, span.start, span.end, hint, "warning")


def _unlabelled(span: Span, model: ModelDefinition) -> Diagnostic:
    target = next((column.name for column in model.role(Role.TARGET)), "target")
    return _warning(
        "FQL101",
        "rows without a label yet get this value too",
        span,
        f"leave them out: if(is_null({as_written(target)}), null, if(fp(), ...))",
    )


def _counts_zeros(span: Span) -> Diagnostic:
    return _warning(
        "FQL102", "count() counts the zeros too: this is the number of all rows", span, "write sum(if(condition, 1, 0))"
    )


def _rate(span: Span) -> Diagnostic:
    return _warning(
        "FQL103",
        "count(column) leaves out the rows where the column is null",
        span,
        "a rate of all rows is / traffic()",
    )
