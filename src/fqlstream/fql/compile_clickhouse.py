"""A plan as one SELECT of ClickHouse: the same numbers as the engine's, computed from rows.

The query is a row of steps: columns that row expressions need, aggregates by window, expressions over aggregates, values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fqlstream.events.definitions import ColumnType, Window
from fqlstream.events.durations import window_origin_ms
from fqlstream.fql.plan import ModelPlan, SegmentPlan
from fqlstream.fql.planner import aggregates_of
from fqlstream.fql.sql_aggregates import LambdaCall, SqlAggregate, State, sql_aggregate
from fqlstream.fql.sql_registers import Registers, Sql, count_uses
from fqlstream.fql.sql_text import identifier, text_literal
from fqlstream.functions.drift import baseline_of
from fqlstream.functions.expression import Aggregate, AggregateValue, ColumnRef, Expression, Literal
from fqlstream.functions.sql_lambdas import FINITE, lambdas_of

#: What a long query needs beyond ClickHouse's defaults.
SQL_SETTINGS: Final[Mapping[str, int]] = {
    "max_query_size": 1 << 30,
    "max_ast_depth": 10_000,
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
    "max_subquery_depth": 10_000,
    # machine code for a query of many expressions takes seconds to make, and the third query that has them would make it
    "compile_expressions": 0,
    "compile_aggregate_expressions": 0,
}

WINDOW_START, WINDOW_END, SEGMENT, ROWS, LABELLED = "window_start", "window_end", "segment", "rows", "labelled_rows"


#: An aggregate over a segment, which is given by its filter.
Counted = tuple[Aggregate, Expression]


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


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of one version of a model: a table, view or subquery with that version's columns as `events_<model>` has them.

    `reads` says what the version counts for an aggregate of the plan over a segment of it; itself where it is left out.
    """

    sql: str
    reads: Mapping[Counted, Counted] = field(default_factory=dict)


def compile_clickhouse(
    plan: ModelPlan,
    source: str | Sequence[Source],
    *,
    window: Window | None = None,
    segments: Sequence[str] | None = None,
) -> Select:
    """Write the query that computes a plan over a source, or over the rows of several versions together.

    `segments` are names, all by default; `window` needs the column event_at. Histograms of baselines that the plan was not
    given are parameters. Raises SqlFormError for a function that has no exact form in SQL.
    """
    wanted = None if segments is None else set(segments)
    chosen = tuple(segment for segment in plan.segments if wanted is None or segment.name in wanted)
    sources = [Source(source)] if isinstance(source, str) else source
    return _Writer(plan, sources, window, chosen).select()


def compile_rows(plan: ModelPlan, source: str, values: Mapping[str, str], flags: Mapping[str, str | None]) -> str:
    """Write the query of a source's rows: values (SQL over its columns) by their names, then whether a row is in a segment.

    `flags` gives the segment of each such column; None: no row is in it. Raises SqlFormError as `compile_clickhouse` does.
    """
    named = {segment.name: segment for segment in plan.segments}
    wanted = [named[name] for name in dict.fromkeys(flags.values()) if name is not None]
    return _Writer(plan, [Source(source)], None, wanted).select_rows(values, flags)


@dataclass(frozen=True, slots=True)
class _Cell:
    """An aggregate: its form, and its states' names by suffix."""

    aggregate: Aggregate
    form: SqlAggregate
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Calls:
    """What is selected of a source's rows: the states of each aggregate, and which rows each segment lets in (None: all)."""

    states: Sequence[Mapping[str, State]]
    conditions: Sequence[str | None]


class _Writer:
    """Writes one query. Every name of its own begins with a prefix that no column, metric or source of the user's has."""

    def __init__(
        self, plan: ModelPlan, sources: Sequence[Source], window: Window | None, segments: Sequence[SegmentPlan]
    ) -> None:
        self.plan = plan
        self.sources = sources
        self.window = window
        self.segments = segments
        self.roots = [*(metric.expression for metric in plan.metrics), plan.traffic, plan.labelled]
        aggregates = dict.fromkeys(item for root in self.roots for item in aggregates_of(root))
        self.aggregates = [item for item in aggregates if baseline_of(item) is None]
        self.parameters: dict[str, Aggregate] = {}
        self.prefix = self._free_prefix()
        self.number, self.place = f"{self.prefix}window_number", f"{self.prefix}segment_number"
        self.ctes: list[tuple[str, str]] = []
        self.last = ""
        self.step_count = 0
        self.calls: dict[str, list[tuple[str, ...]]] = {}

    def select(self) -> Select:
        cells = self._write_cells()
        self._write_segments(cells)
        body, metrics = self._values(cells)
        return Select(self._with_steps(body), metrics, self.parameters)

    def select_rows(self, values: Mapping[str, str], flags: Mapping[str, str | None]) -> str:
        conditions = self._write_rows(self.sources[0], ()).conditions
        known = {segment.name: condition for segment, condition in zip(self.segments, conditions, strict=True)}
        said = {name: "false" if segment is None else known[segment] or "true" for name, segment in flags.items()}
        selected = [f"{sql} AS {identifier(name)}" for name, sql in {**values, **said}.items()]
        return self._with_steps(f"SELECT {_listed(selected, indent=4)}\nFROM {self.last}")

    def _with_steps(self, body: str) -> str:
        """Put the steps, and the lambdas that they call, before what reads the last one."""
        with_clause = [f"{name} AS (\n    {sql}\n)" for name, sql in self.ctes]
        lambdas = lambdas_of("\n".join([*with_clause, body]))
        head = ",\n".join([*lambdas, *with_clause])
        return f"WITH\n{head}\n{body}" if head else body

    # -------------------------------------------------------------------------------------------------- rows

    def _write_cells(self) -> list[_Cell]:
        """Write the steps of rows, then the aggregates by window."""
        cells = []
        for number, aggregate in enumerate(self.aggregates, 1):
            form = sql_aggregate([self._read_as(source, aggregate) for source in self.sources])
            names = {suffix: f"{self.prefix}a{number}{suffix}" for suffix in form.suffixes}
            cells.append(_Cell(aggregate, form, names))
        is_one = len(self.sources) == 1
        calls = self._write_rows(self.sources[0], cells) if is_one else self._write_all_rows(cells)
        selected = [
            f"{state.call(condition)} AS {cell.names[suffix]}{self._of_segment(place)}"
            for cell, states in zip(cells, calls.states, strict=True)
            for suffix, state in states.items()
            for place, condition in enumerate(calls.conditions)
        ]
        grouped = ""
        if self.window is not None:
            selected.insert(0, self.number)
            grouped = f"\n    GROUP BY {self.number}"
        self._step(f"SELECT {_listed(selected)}\n    FROM {self.last}{grouped}", "cells")
        return cells

    def _write_rows(self, source: Source, cells: Sequence[_Cell]) -> _Calls:
        """Write the steps of one source's rows, from the source on."""
        self.last = source.sql
        filters = [self._filter_of(source, segment.expression) for segment in self.segments]
        read = [self._read_as(source, cell.aggregate) for cell in cells]
        rows = Registers(
            _column, f"{self.prefix}r", count_uses([*(arg for item in read for arg in item.args), *filters])
        )
        conditions = [self._condition(rows, expression) for expression in filters]
        states = [_states(rows, aggregate, cell.form) for aggregate, cell in zip(read, cells, strict=True)]
        self._write_steps(rows.steps)
        if self.window is not None:
            self._step(f"SELECT *, {_window_sql(self.window)} AS {self.number} FROM {self.last}")
        return _Calls(states, conditions)

    def _write_all_rows(self, cells: Sequence[_Cell]) -> _Calls:
        """Write the steps of all sources: what each reads its own way becomes columns of the same names."""
        parts: list[str] = []
        calls = _Calls((), ())
        for source in self.sources:
            own = self._write_rows(source, cells)
            inputs = [(f"{self.prefix}s{at}", condition or "true") for at, condition in enumerate(own.conditions)]
            conditions = [name for name, _ in inputs]
            states = []
            for cell, of in zip(cells, own.states, strict=True):
                named = {}
                for suffix, state in of.items():
                    name = f"{cell.names[suffix]}"
                    arguments = [(f"{name}_x{at}", text) for at, text in enumerate(state.arguments)]
                    where = [(f"{name}_if", " and ".join(state.where) or "true")]
                    inputs += [*arguments, *where]
                    named[suffix] = State(state.function, tuple(item for item, _ in arguments), (where[0][0],))
                states.append(named)
            calls = _Calls(states, conditions)
            selected = [*([self.number] if self.window else []), *(f"{text} AS {name}" for name, text in inputs)]
            parts.append(f"SELECT {_listed(selected)}\n    FROM {self.last}")
        self._step("\n    UNION ALL\n    ".join(parts), "inputs")
        return calls

    def _read_as(self, source: Source, aggregate: Aggregate) -> Aggregate:
        """Give what a source counts for an aggregate: over all segments the same."""
        read = {source.reads.get((aggregate, item.expression), (aggregate, None))[0] for item in self.segments}
        if len(read) > 1:
            message = f"a source reads {aggregate!r} in several ways"
            raise ValueError(message)
        return read.pop()

    def _filter_of(self, source: Source, segment: Expression) -> Expression:
        return source.reads.get((self.plan.traffic.aggregate, segment), (None, segment))[1]

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
        registers.steps[0][:0] = self._write_calls()
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
        found = cell.form.read(leaf.read, dict(leaf.params), cell.names)
        return Sql(found) if isinstance(found, str) else self._result_of(found)

    def _result_of(self, call: LambdaCall) -> Sql:
        """Put a call of a lambda beside the others of its kind; the results come in an array."""
        calls = self.calls.setdefault(call.name, [])
        if call.arguments not in calls:
            calls.append(call.arguments)
        return Sql(f"{self.prefix}all_{call.name}[{calls.index(call.arguments) + 1}]", step=1)

    def _write_calls(self) -> list[tuple[str, str]]:
        """Give a column for each lambda, its results over all its arguments."""
        columns = []
        for name, calls in self.calls.items():
            several = len(calls[0]) > 1
            fields = ", ".join(f"t.{place}" for place in range(1, len(calls[0]) + 1)) if several else "t"
            of = ", ".join(f"({', '.join(arguments)})" if several else arguments[0] for arguments in calls)
            columns.append((f"{self.prefix}all_{name}", f"arrayMap(t -> {name}({fields}), [{of}])"))
        return columns

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
        taken.update(word for source in self.sources for word in _WORD.findall(source.sql))
        prefix = ""
        while any(name.startswith(prefix) and _OWN_NAME.fullmatch(name.removeprefix(prefix)) for name in taken):
            prefix += "_"
        return prefix


#: Every name that a query gives.
_OWN_NAME: Final = re.compile(
    r"[rsv]\d+|a\d+[a-z]*(_x?\d+|_if)?|step\d+|inputs|cells|segments|part|all_[a-z0-9_]+|(window|segment)_number"
)
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

    if len(form.suffixes) > 1:  # its arguments stand in several states, and in lambdas that repeat them
        for arg in aggregate.args:
            rows.named(arg)
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
