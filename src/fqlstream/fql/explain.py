"""A plan as numbered steps that people can read: what is computed once, what it costs, how exact it is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fqlstream.aggregates.index import AGGREGATORS
from fqlstream.fql.ast import as_written
from fqlstream.fql.compile_clickhouse import compile_clickhouse
from fqlstream.fql.plan import Lane, ModelPlan, walk
from fqlstream.fql.sql_registers import SqlFormError
from fqlstream.functions.aggregates import BOUND_OF_KIND
from fqlstream.functions.drift import baseline_of, own_rows
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.index import OPERATOR_BY_NAME
from fqlstream.settings import FqlSettings

EXACT: Final = "exact"


@dataclass(frozen=True, slots=True)
class Step:
    """A row expression, computed once a batch; `#n` in `text` is an earlier step, `used` how many others read it."""

    number: int
    text: str
    used: int


@dataclass(frozen=True, slots=True)
class AggregateLine:
    """An aggregate: one state for each segment and pane."""

    number: int
    text: str
    lane: Lane
    error_bound: str
    state_bytes_max: int
    metrics: tuple[str, ...]  # '' is the row counts that every value carries


@dataclass(frozen=True, slots=True)
class SegmentLine:
    """A segment by its text and as it is computed, and what it costs: states of a pane, and their size.

    Segments that say the same share their states: `same_as` names the first of them, and this one costs nothing.
    """

    name: str
    definition: str
    text: str
    states: int
    state_bytes_max: int
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A metric by its text and as it is computed."""

    name: str
    definition: str
    text: str
    error_bound: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan in words. Text and JSON are two renderings of it."""

    model: str
    version: str
    steps: tuple[Step, ...]
    segments: tuple[SegmentLine, ...]
    aggregates: tuple[AggregateLine, ...]
    metrics: tuple[MetricLine, ...]
    cells: Mapping[Lane, int]
    state_bytes_max: int
    sql: str | None  # None where something has no exact form; `sql_reason` says what
    sql_reason: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Give the explanation for JSON."""
        return {
            "model": self.model,
            "version": self.version,
            "steps": [{"step": item.number, "expression": item.text, "used": item.used} for item in self.steps],
            "segments": [
                {
                    "name": item.name,
                    "definition": item.definition,
                    "expression": item.text,
                    "states": item.states,
                    "state_bytes_max": item.state_bytes_max,
                    "same_as": item.same_as,
                }
                for item in self.segments
            ],
            "aggregates": [
                {
                    "aggregate": item.number,
                    "expression": item.text,
                    "lane": item.lane.value,
                    "error_bound": item.error_bound,
                    "state_bytes_max": item.state_bytes_max,
                    "metrics": [name for name in item.metrics if name],
                }
                for item in self.aggregates
            ],
            "metrics": [
                {
                    "name": item.name,
                    "definition": item.definition,
                    "expression": item.text,
                    "error_bound": item.error_bound,
                }
                for item in self.metrics
            ],
            "cells": {lane.value: count for lane, count in self.cells.items()},
            "state_bytes_max": self.state_bytes_max,
            "sql": self.sql,
            "sql_reason": self.sql_reason,
        }

    def as_text(self) -> str:
        """Give the explanation for people."""
        total = sum(self.cells.values())
        lanes = ", ".join(f"{count} {lane.value}" for lane, count in self.cells.items())
        size = f"{len(self.metrics)} metrics x {len(self.segments)} segments"
        cost = f"{total} states a pane ({lanes}), at most {_bytes(self.state_bytes_max)}"
        lines = [
            f"model {self.model} {self.version}: {size}, {cost}",
            "",
            "row expressions, each computed once a batch",
            *(f"  #{item.number:<4}{item.text}{_shared(item.used)}" for item in self.steps),
            "",
            "segments, each with a state of its own for every aggregate",
            *(f"  {_segment_name(item.name)}: {item.text}  {_segment_cost(item)}" for item in self.segments),
            "",
            "aggregates, each one state for every segment and pane",
            *(f"  a{item.number:<4}{item.text}  {_cost(item)}" for item in self.aggregates),
            "",
            "metrics",
            *(f"  {item.name} = {item.text}  [{item.error_bound}]" for item in self.metrics),
            "",
            "the same in ClickHouse, exact, over all rows",
            textwrap.indent(self.sql or f"none: {self.sql_reason}", "  "),
        ]
        return "\n".join(lines)


def explain(plan: ModelPlan, settings: FqlSettings | None = None, *, source: str = "events") -> Explanation:
    """Explain a plan; `source` is what its SQL reads."""
    limits = settings if settings is not None else FqlSettings()
    aggregates = list(dict.fromkeys(cell.aggregate for cell in plan.cells))
    filters = list(dict.fromkeys(cell.segment for cell in plan.cells))
    namer = _Namer([*(arg for item in aggregates for arg in item.args), *filters])
    numbers = {item: place for place, item in enumerate(aggregates, 1)}
    readers = _readers(plan)
    lanes = {cell.aggregate: cell.lane for cell in reversed(plan.cells)}
    sizes = {item: AGGREGATORS[item.kind].state_bytes_max(dict(item.params), limits) for item in aggregates}
    sql, reason = _sql(plan, source)
    return Explanation(
        model=plan.model.name,
        version=plan.model.version,
        steps=namer.steps(),
        segments=_segments(plan, namer, sizes),
        aggregates=tuple(
            AggregateLine(
                number=numbers[item],
                text=f"{item.kind}({', '.join(map(namer.text, item.args))})",
                lane=lanes[item],
                error_bound=BOUND_OF_KIND.get(item.kind, EXACT),
                state_bytes_max=sizes[item],
                metrics=readers[item],
            )
            for item in aggregates
        ),
        metrics=tuple(
            MetricLine(item.name, item.text, _metric_text(item.expression, numbers), _bound(item.expression))
            for item in plan.metrics
        ),
        cells={lane: len(plan.lane_cells(lane)) for lane in Lane},
        state_bytes_max=sum(sizes[cell.aggregate] for cell in plan.cells),
        sql=sql,
        sql_reason=reason,
    )


def _segments(plan: ModelPlan, namer: _Namer, sizes: Mapping[Aggregate, int]) -> tuple[SegmentLine, ...]:
    lines: list[SegmentLine] = []
    first: dict[Expression, str] = {}
    for item in plan.segments:
        same_as = first.setdefault(item.expression, item.name)
        is_new = same_as == item.name
        cells = [cell.aggregate for cell in plan.cells if is_new and cell.segment == item.expression]
        size = sum(sizes[aggregate] for aggregate in cells)
        text = namer.text(item.expression)
        lines.append(SegmentLine(item.name, item.text, text, len(cells), size, None if is_new else same_as))
    return tuple(lines)


def _sql(plan: ModelPlan, source: str) -> tuple[str | None, str | None]:
    try:
        return compile_clickhouse(plan, source).sql, None
    except SqlFormError as error:
        return None, error.message


def _readers(plan: ModelPlan) -> dict[Aggregate, tuple[str, ...]]:
    """Name for each aggregate the metrics that read it; '' for the row counts."""
    names: dict[Aggregate, dict[str, None]] = {}
    for value in (plan.traffic, plan.labelled):
        names.setdefault(value.aggregate, {})[""] = None
    for metric in plan.metrics:
        for node in walk(metric.expression):
            if isinstance(node, Aggregate):
                names.setdefault(own_rows(node), {})[metric.name] = None
    return {item: tuple(found) for item, found in names.items()}


def _bound(expression: Expression) -> str:
    kinds = [node.kind for node in walk(expression) if isinstance(node, Aggregate)]
    bounds = list(dict.fromkeys(BOUND_OF_KIND[kind] for kind in kinds if kind in BOUND_OF_KIND))
    if not bounds:
        return EXACT
    if isinstance(expression, AggregateValue):
        return bounds[0]
    return f"combines: {'; '.join(bounds)}"


class _Namer:
    """Numbers distinct row expressions, arguments before what uses them."""

    def __init__(self, roots: Iterable[Expression]) -> None:
        self.numbers: dict[Expression, int] = {}
        self.used: dict[Expression, int] = {}
        for root in roots:
            self._number(root)

    def _number(self, root: Expression) -> None:
        self.used[root] = self.used.get(root, 0) + 1
        stack: list[tuple[Expression, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if not isinstance(node, Apply) or node in self.numbers:
                continue
            if ready:
                self.numbers[node] = len(self.numbers) + 1
                for arg in node.args:
                    self.used[arg] = self.used.get(arg, 0) + 1
            else:
                stack.append((node, True))
                stack.extend((arg, False) for arg in reversed(node.args))

    def text(self, node: Expression) -> str:
        if isinstance(node, Apply):
            return f"#{self.numbers[node]}"
        return _leaf(node)

    def steps(self) -> tuple[Step, ...]:
        return tuple(
            Step(number, _applied(node, [self.text(arg) for arg in node.args]), self.used.get(node, 0))
            for node, number in self.numbers.items()
            if isinstance(node, Apply)
        )


def _applied(node: Apply, args: list[str]) -> str:
    spec = OPERATOR_BY_NAME.get(node.op)
    if spec is None or spec.symbol is None:
        return f"{node.op}({', '.join(args)})"
    return f"{spec.symbol}{args[0]}" if len(args) == 1 else f" {spec.symbol} ".join(args)


def _leaf(node: Expression) -> str:
    match node:
        case ColumnRef(name=name):
            return as_written(name)
        case Literal(value=None):
            return "null"
        case Literal(value=bool() as truth):
            return str(truth).lower()
        case Literal(value=str() as text):
            return "'" + text.replace("'", "''") + "'"
        case Literal(value=number):
            return f"{number:g}"
        case _:
            return repr(node)


def _metric_text(expression: Expression, numbers: Mapping[Aggregate, int]) -> str:
    """Write a metric over its aggregates `a1`, `a2`... with as many parentheses as its tree has."""
    done: list[str] = []
    stack: list[tuple[Expression, bool]] = [(expression, False)]
    while stack:
        node, ready = stack.pop()
        match node:
            case Apply(args=args) if not ready:
                stack.append((node, True))
                stack.extend((arg, False) for arg in reversed(args))
            case Apply(args=args):
                below = done[len(done) - len(args) :]
                del done[len(done) - len(args) :]
                text = _applied(node, below)
                done.append(f"({text})" if node.op in OPERATOR_BY_NAME and stack else text)
            case AggregateValue(aggregate=aggregate, read=read, params=params):
                given = "".join(f", {name}={value:g}" for name, value in params)
                place = f"a{numbers[own_rows(aggregate)]}"
                if (baseline := baseline_of(aggregate)) is not None:
                    place += f" of baseline {_leaf(Literal(baseline, DType.STRING))}"
                done.append(place if read == "value" else f"{read}({place}{given})")
            case _:
                done.append(_leaf(node))
    return done[-1]


def _cost(item: AggregateLine) -> str:
    metrics = ", ".join(name or "row counts" for name in item.metrics)
    return f"[{item.lane.value} lane; {item.error_bound}; at most {_bytes(item.state_bytes_max)}; for {metrics}]"


def _segment_name(name: str) -> str:
    return name or "(all rows)"


def _segment_cost(item: SegmentLine) -> str:
    if item.same_as is not None:
        return f"[nothing: the same as {_segment_name(item.same_as)}]"
    return f"[{item.states} states a pane, at most {_bytes(item.state_bytes_max)}]"


def _shared(used: int) -> str:
    return f"    (used {used} times)" if used > 1 else ""


def _bytes(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1024:.0f} KiB"
