"""The fused plan of a model: all its metrics and segments, each distinct expression and aggregate kept once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from fqlstream.events.definitions import ModelDefinition
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, ColumnRef, Expression, Literal


class Lane(StrEnum):
    """Cells that read a target change long after their event: they have a record of their own."""

    EVENTS = "events"
    LABELS = "labels"


@dataclass(frozen=True, slots=True)
class MetricPlan:
    """A metric as an aggregate-level expression over `AggregateValue` leaves."""

    name: str
    text: str
    revision: int
    expression: Expression


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """A segment as a Boolean row expression; `''` is all rows."""

    name: str
    text: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Cell:
    """One aggregate over one segment: the unit of state. `key` names it by content, not by place."""

    aggregate: Aggregate
    segment: Expression
    lane: Lane
    key: str


@dataclass(frozen=True, slots=True)
class Compared:
    """A histogram of a baseline that metrics read: no state of its own, put beside a window when its values are read.

    `aggregate` is the one in the metrics, `production` the same over the model's own rows, which is a cell of the plan.
    """

    baseline: str
    aggregate: Aggregate
    production: Aggregate
    segment: Expression


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Everything that is computed for one version of a model.

    `cells` holds each distinct (aggregate, segment expression) once; the first segment is all rows. `traffic` and
    `labelled` are the aggregates behind the `rows` and `labelled_rows` of every published value.
    """

    model: ModelDefinition
    metrics: tuple[MetricPlan, ...]
    segments: tuple[SegmentPlan, ...]
    traffic: AggregateValue
    labelled: AggregateValue
    cells: tuple[Cell, ...]
    compared: tuple[Compared, ...] = ()

    def lane_cells(self, lane: Lane) -> tuple[Cell, ...]:
        """Give the cells of one lane, in the plan's order."""
        return tuple(cell for cell in self.cells if cell.lane is lane)


def walk(expression: Expression) -> Iterator[Expression | Aggregate]:
    """Visit an expression and everything below it, aggregates' arguments included."""
    stack: list[Expression | Aggregate] = [expression]
    while stack:
        node = stack.pop()
        yield node
        match node:
            case Apply(args=args) | Aggregate(args=args):
                stack.extend(args)
            case AggregateValue(aggregate=aggregate):
                stack.append(aggregate)
            case ColumnRef() | Literal():
                pass


def columns_of(expression: Expression | Aggregate) -> frozenset[str]:
    """Name every column that an expression reads."""
    roots = expression.args if isinstance(expression, Aggregate) else (expression,)
    return frozenset(node.name for root in roots for node in walk(root) if isinstance(node, ColumnRef))


def cell_key(aggregate: Aggregate, segment: Expression, state_version: int) -> str:
    """Name a cell by what it computes: definition, segment and the column types it reads (types are in the nodes)."""
    return key_of_texts(repr(aggregate), repr(segment), state_version)


def key_of_texts(aggregate: str, segment: str, state_version: int) -> str:
    """Give the same of both as text: a plan of thousands of cells writes each aggregate and segment once."""
    text = f"{state_version}|{aggregate}|{segment}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


__all__ = [
    "Cell",
    "Compared",
    "Lane",
    "MetricPlan",
    "ModelPlan",
    "SegmentPlan",
    "cell_key",
    "columns_of",
    "key_of_texts",
    "walk",
]
