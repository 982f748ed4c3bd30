"""What was written: FQL's syntax tree, every node with its place in the text. Frozen; knows nothing of models or types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

KEYWORDS: Final = frozenset({"true", "false", "null", "and", "or", "not"})


@dataclass(frozen=True, slots=True)
class Span:
    """Character offsets, half-open."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class NumberNode:
    """`2.34`."""

    value: float
    span: Span


@dataclass(frozen=True, slots=True)
class StringNode:
    """`'text'`."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class BooleanNode:
    """`true` or `false`."""

    value: bool
    span: Span


@dataclass(frozen=True, slots=True)
class NullNode:
    """`null`."""

    span: Span


@dataclass(frozen=True, slots=True)
class ColumnNode:
    """`name` or `"name"`."""

    name: str
    span: Span
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class OperatorNode:
    """A prefix operator (one operand), a binary one (two), or a run of `and` or `or` (two or more)."""

    operator: str  # the name of its declared row
    operands: tuple[Node, ...]
    span: Span
    operator_span: Span  # the first one of a run


@dataclass(frozen=True, slots=True)
class ArgumentNode:
    """One argument of a call; `name` None where it is given by position."""

    value: Node
    name: str | None
    name_span: Span | None


@dataclass(frozen=True, slots=True)
class CallNode:
    """`name(arguments)`."""

    name: str
    name_span: Span
    arguments: tuple[ArgumentNode, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class InvalidNode:
    """Where something was wrong that has been reported: the checker says nothing more about it."""

    span: Span


Node = NumberNode | StringNode | BooleanNode | NullNode | ColumnNode | OperatorNode | CallNode | InvalidNode


def as_written(name: str) -> str:
    """Give a column's name as it is written in an expression: quoted where it has to be."""
    plain = name.isidentifier() and name.isascii() and name.lower() not in KEYWORDS | {"if"}
    return name if plain else '"' + name.replace('"', '""') + '"'


def children(node: Node) -> tuple[Node, ...]:
    """Give what stands directly below a node, in the order of the text."""
    match node:
        case OperatorNode(operands=operands):
            return operands
        case CallNode(arguments=arguments):
            return tuple(argument.value for argument in arguments)
        case _:
            return ()


def postorder(root: Node) -> Iterator[Node]:
    """Visit every node after its children, without recursion."""
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        below = () if expanded else children(node)
        if below:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(below))
        else:
            yield node
