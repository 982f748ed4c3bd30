"""A plan as one SELECT of ClickHouse: the same numbers as the engine's, computed from rows.

The query is a row of steps: columns that row expressions need, aggregates by window, expressions over aggregates, values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fqlstream.events.definitions import ColumnType, Window
from fqlstream.events.durations import window_origin_ms
from fqlstream.fql.plan import ModelPlan, SegmentPlan
from fqlstream.fql.planner import aggregates_of
from fqlstream.fql.sql_aggregates import SqlAggregate, State, sql_aggregate
from fqlstream.fql.sql_registers import Registers, Sql, count_uses
from fqlstream.fql.sql_text import identifier, text_literal
from fqlstream.functions.drift import baseline_of
from fqlstream.functions.expression import Aggregate, AggregateValue, ColumnRef, Expression, Literal
from fqlstream.functions.sql_lambdas import FINITE, LAMBDAS, lambdas_of

#: What a long query needs beyond ClickHouse's defaults.
SQL_SETTINGS: Final[Mapping[str, int]] = {
    "max_query_size": 1 << 30,
    "max_ast_depth": 10_000,
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
    "max_subquery_depth": 10_000,
}

WINDOW_START, WINDOW_END, SEGMENT, ROWS, LABELLED = "window_start", "window_end", "segment", "rows", "labelled_rows"


@dataclass(frozen=True, slots=True)
class Select:
    """A query: it gives a row for each window and segment, in their order.

    Its columns are `window_start` and `window_end` where there are windows, `segment`, `rows`, `labelled_rows`, then
    `metrics`, a nullable Float64 for each metric of the plan. `parameters` are the query's own, arrays of counts, each with
    the histogram of a baseline that it stands for.
    """

    sql: str
    metrics: tuple[str, ...]
    parameters: Mapping[str, Aggregate]


def compile_clickhouse(
    plan: ModelPlan, source: str, *, window: Window | None = None, segments: Sequence[str] | None = None
) -> Select:
    """Write the query that computes a plan over `source`, a table, view or subquery with the columns of `events_<model>`.

    `segments` are names, all by default; `window` needs the column event_at. Histograms of baselines that the plan was not
    given are parameters. Raises SqlFormError for a function that has no exact form in SQL.
    """
    wanted = None if segments is None else set(segments)
    chosen = tuple(segment for segment in plan.segments if wanted is None or segment.name in wanted)
    return _Writer(plan, source, window, chosen).select()


@dataclass(frozen=True, slots=True)
class _Cell:
    """An aggregate: its form, and its states' names by suffix."""

    aggregate: Aggregate
    form: SqlAggregate
    names: Mapping[str, str]


class _Writer:
    """Writes one query. Every name of its own begins with a prefix that no column, metric or source of the user's has."""

    def __init__(self, plan: ModelPlan, source: str, window: Window | None, segments: Sequence[SegmentPlan]) -> None:
        self.plan = plan
        self.source = source
        self.window = window
        self.segments = segments
        self.roots = [*(metric.expression for metric in plan.metrics), plan.traffic, plan.labelled]
        aggregates = dict.fromkeys(item for root in self.roots for item in aggregates_of(root))
        self.aggregates = [item for item in aggregates if baseline_of(item) is None]
        self.parameters: dict[str, Aggregate] = {}
        self.prefix = self._free_prefix()
        self.number, self.place = f"{self.prefix}window_number", f"{self.prefix}segment_number"
        self.ctes: list[tuple[str, str]] = []
        self.last = source
        self.step_count = 0

    def select(self) -> Select:
        cells = self._write_cells()
        self._write_segments(cells)
        body, metrics = self._values(cells)
        with_clause = [f"{name} AS (\n    {sql}\n)" for name, sql in self.ctes]
        lambdas = lambdas_of("\n".join([*with_clause, body]))
        head = ",\n".join([*lambdas, *with_clause])
        return Select(f"WITH\n{head}\n{body}" if head else body, metrics, self.parameters)

    # -------------------------------------------------------------------------------------------------- rows

    def _write_cells(self) -> list[_Cell]:
        """Write the steps of rows, then the aggregates by window."""
        filters = [segment.expression for segment in self.segments]
        roots = [*(arg for item in self.aggregates for arg in item.args), *filters]
        rows = Registers(_column, f"{self.prefix}r", count_uses(roots))
        conditions = [self._condition(rows, expression) for expression in filters]
        cells, calls = [], []
        for number, aggregate in enumerate(self.aggregates, 1):
            form = sql_aggregate(aggregate)
            states = _states(rows, aggregate, form)
            names = {suffix: f"{self.prefix}a{number}{suffix}" for suffix in states}
            cells.append(_Cell(aggregate, form, names))
            for suffix, state in states.items():
                calls += [
                    (f"{names[suffix]}{self._of_segment(place)}", state.call(condition))
                    for place, condition in enumerate(conditions)
                ]
        self._write_steps(rows.steps)
        selected = [f"{sql} AS {name}" for name, sql in calls]
        grouped = ""
        if self.window is not None:
            self._step(f"SELECT *, {_window_sql(self.window)} AS {self.number} FROM {self.last}")
            selected.insert(0, self.number)
            grouped = f"\n    GROUP BY {self.number}"
        self._step(f"SELECT {_listed(selected)}\n    FROM {self.last}{grouped}", "cells")
        return cells

    def _condition(self, rows: Registers, segment: Expression) -> str | None:
        """Give the column that says whether a row is in a segment; None where every row is."""
        if segment == Literal(True, segment.dtype):
            return None
        found = rows.sql(segment)
        return rows.name(Sql(f"ifNull({found.text}, false)", found.step)).text

    def _of_segment(self, place: int) -> str:
        return f"_{place}" if len(self.segments) > 1 else ""

    def _write_segments(self, cells: Sequence[_Cell]) -> None:
        """Turn the states of several segments, which stand beside each other, into rows."""
        if len(self.segments) == 1:
            return
        names = [name for cell in cells for name in cell.names.values()]
        part = f"{self.prefix}part"
        rows = [
            f"({', '.join([str(place), *(f'{name}{self._of_segment(place)}' for name in names)])})"
            for place in range(len(self.segments))
        ]
        selected = [f"{part}.1 AS {self.place}", *(f"{part}.{at} AS {name}" for at, name in enumerate(names, 2))]
        if self.window is not None:
            selected.insert(0, self.number)
        self._step(
            f"SELECT {_listed(selected)}\n    FROM {self.last}\n    ARRAY JOIN [{', '.join(rows)}] AS {part}",
            "segments",
        )

    # -------------------------------------------------------------------------------------------------- values

    def _values(self, cells: Sequence[_Cell]) -> tuple[str, tuple[str, ...]]:
        known = {cell.aggregate: cell for cell in cells}
        registers = Registers(lambda leaf: self._reading(known, leaf), f"{self.prefix}v", count_uses(self.roots))
        values = [registers.name(_as_value(registers.sql(root))) for root in self.roots]
        self._write_steps(registers.steps)
        *metrics, traffic, labelled = [value.text for value in values]
        taken = [WINDOW_START, WINDOW_END, SEGMENT, ROWS, LABELLED]
        names = tuple(_unique([metric.name for metric in self.plan.metrics], taken))
        selected = [
            *self._window_columns(),
            f"{self._segment_name()} AS {SEGMENT}",
            f"toUInt64({traffic}) AS {ROWS}",
            f"toUInt64({labelled}) AS {LABELLED}",
            *(f"{value} AS {identifier(name)}" for value, name in zip(metrics, names, strict=True)),
        ]
        order = [*([self.number] if self.window else []), *([self.place] if len(self.segments) > 1 else [])]
        ordered = f"\nORDER BY {', '.join(order)}" if order else ""
        return f"SELECT {_listed(selected, indent=4)}\nFROM {self.last}{ordered}", names

    def _reading(self, known: Mapping[Aggregate, _Cell], leaf: ColumnRef | AggregateValue) -> Sql:
        if isinstance(leaf, ColumnRef):
            message = f"a metric cannot read the column {leaf.name!r} itself"
            raise TypeError(message)
        if baseline_of(leaf.aggregate) is not None:
            return Sql(f"{{{self._parameter(leaf.aggregate)}:Array(Float64)}}[{int(dict(leaf.params)['index']) + 1}]")
        cell = known[leaf.aggregate]
        text = cell.form.read(leaf.aggregate, leaf.read, dict(leaf.params), cell.names)
        # a lambda stands for all that it calls
        return Sql(text, leaves=1 + 40 * sum(f"{name}(" in text for name in LAMBDAS))

    def _parameter(self, aggregate: Aggregate) -> str:
        for name, known in self.parameters.items():
            if known == aggregate:
                return name
        name = f"baseline_{len(self.parameters) + 1}"
        self.parameters[name] = aggregate
        return name

    def _window_columns(self) -> Iterator[str]:
        if self.window is None:
            return
        start = f"{window_origin_ms(self.window.size_ms)} + {self.window.every_ms} * {self.number}"
        yield f"fromUnixTimestamp64Milli({start}, 'UTC') AS {WINDOW_START}"
        yield f"fromUnixTimestamp64Milli({start} + {self.window.size_ms}, 'UTC') AS {WINDOW_END}"

    def _segment_name(self) -> str:
        names = [text_literal(segment.name) for segment in self.segments]
        return names[0] if len(names) == 1 else f"[{', '.join(names)}][{self.place} + 1]"

    # -------------------------------------------------------------------------------------------------- steps

    def _write_steps(self, steps: Sequence[Sequence[tuple[str, str]]]) -> None:
        for step in steps:
            columns = [f"{sql} AS {name}" for name, sql in step]
            self._step(f"SELECT *,\n        {_listed(columns)}\n    FROM {self.last}")

    def _step(self, sql: str, name: str | None = None) -> None:
        if name is None:
            self.step_count += 1
            name = f"step{self.step_count}"
        named = f"{self.prefix}{name}"
        self.ctes.append((named, sql))
        self.last = named

    def _free_prefix(self) -> str:
        taken = {column.name for column in self.plan.model.columns} | {metric.name for metric in self.plan.metrics}
        taken.update(_WORD.findall(self.source))
        prefix = ""
        while any(name.startswith(prefix) and _OWN_NAME.fullmatch(name.removeprefix(prefix)) for name in taken):
            prefix += "_"
        return prefix


#: Every name that a query gives.
_OWN_NAME: Final = re.compile(r"[rv]\d+|a\d+[a-z]*(_\d+)?|step\d+|cells|segments|part|(window|segment)_number")
_WORD: Final = re.compile(r"\w+")


def _column(leaf: ColumnRef | AggregateValue) -> Sql:
    if isinstance(leaf, AggregateValue):
        message = f"a row expression cannot read {leaf!r}"
        raise TypeError(message)
    name = identifier(leaf.name)
    # FQL computes in doubles
    return Sql(f"toFloat64({name})" if leaf.type is ColumnType.INT else name)


def _states(rows: Registers, aggregate: Aggregate, form: SqlAggregate) -> Mapping[str, State]:
    """Give the states of an aggregate over its arguments' SQL."""

    def all_calls(*texts: str) -> str:
        return " ".join(state.call(None) for state in form.states(aggregate, texts).values())

    rows.call(all_calls, aggregate.args)  # names what would be repeated
    return form.states(aggregate, tuple(rows.sql(arg).operand for arg in aggregate.args))


def _as_value(found: Sql) -> Sql:
    return found if found.text.startswith(f"{FINITE}(") else Sql(f"{FINITE}({found.text})", found.step)


def _window_sql(window: Window) -> str:
    """Write the number of a row's window, counted in steps from the windows' origin; a hopping one gives a row for each."""
    origin = window_origin_ms(window.size_ms)
    since = f"(toUnixTimestamp64Milli(event_at) - {origin})"
    if window.every_ms == window.size_ms:
        return f"floor_div({since}, {window.every_ms})"
    # those that have begun and not ended: (since - size) / every < number <= since / every
    first = f"floor_div({since} - {window.size_ms}, {window.every_ms}) + 1"
    return f"arrayJoin(range({first}, floor_div({since}, {window.every_ms}) + 1))"


def _unique(names: Sequence[str], taken: Sequence[str]) -> Iterator[str]:
    """Give names that differ from each other and from those that are taken."""
    seen = set(taken)
    for name in names:
        free = name
        while free in seen:
            free += "_"
        seen.add(free)
        yield free


def _listed(columns: Sequence[str], indent: int = 8) -> str:
    return f",\n{' ' * indent}".join(columns)
