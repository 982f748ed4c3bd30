"""Any FQL over any stored range of a model's events, now: the number that streaming would publish of them, read from history.

Rows are those that streaming counts: duplicates left out, each version in its own types, targets of the last label. Under all
versions together each one's rows count as that version reads them, as long as their states could be merged
(`stream.versions`). Baselines are those of a window that ends where the range does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fqlstream.errors import DefinitionError, FqlError, UsageError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS
from fqlstream.events.definitions import (
    ColumnType,
    MetricDefinition,
    ModelDefinition,
    Role,
    SegmentDefinition,
)
from fqlstream.fql.compile_clickhouse import SQL_SETTINGS, Counted, Select, Source, compile_clickhouse
from fqlstream.fql.evaluate import Evaluation
from fqlstream.fql.plan import Compared, MetricPlan, ModelPlan, SegmentPlan
from fqlstream.fql.planner import assemble, plan_model
from fqlstream.functions.expression import Aggregate, AggregateValue
from fqlstream.settings import FqlSettings
from fqlstream.store.client import Store, rows_of
from fqlstream.store.model_tables import (
    StoredColumn,
    asked_of,
    chosen_sql,
    labelled_sql,
    last_labels_sql,
    stored_columns,
    value_sql,
    violations_sql,
)
from fqlstream.store.naming import event_table, identifier, label_table, literal
from fqlstream.store.sql_evaluation import evaluation
from fqlstream.stream.baselines import counted_state, is_counted, uncounted
from fqlstream.stream.versions import cells_in_common

_METRIC, _SEGMENT = "metric", "segment"
#: Types that SQL forms are written for: those of a table in memory, which the differential test holds to the engine.
_TYPES: Final[Mapping[ColumnType, str]] = {
    ColumnType.INT: "Nullable(Int64)",
    ColumnType.FLOAT: "Nullable(Float64)",
    ColumnType.BOOL: "Nullable(Bool)",
    ColumnType.STRING: "Nullable(String)",
    ColumnType.CATEGORY: "Nullable(String)",
    ColumnType.TIMESTAMP: "Nullable(DateTime64(3, 'UTC'))",
    ColumnType.VECTOR: "Array(Float64)",
}
_VIOLATIONS: Final = (TYPE_VIOLATIONS, RANGE_VIOLATIONS)
#: What a row has beside its columns, and what stands for it where there is no row.
_HEADS: Final[Mapping[str, str]] = {"event_id": "''", "event_at": "toDateTime64(0, 3, 'UTC')"}


@dataclass(frozen=True, slots=True)
class Range:
    """Event times in Unix ms, half-open; None where there is no bound."""

    start_ms: int | None = None
    end_ms: int | None = None

    def sql(self) -> str:
        """Write which rows are in it."""
        bounds = (("event_at >=", self.start_ms), ("event_at <", self.end_ms))
        found = [f"{text} fromUnixTimestamp64Milli({ms})" for text, ms in bounds if ms is not None]
        return " AND ".join(found) or "true"


def snapshot(
    store: Store,
    entry: ModelEntry,
    expression: str,
    *,
    segment: str | None = None,
    within: Range | None = None,
    version: str | None = None,
    settings: FqlSettings | None = None,
) -> Evaluation:
    """Compute a metric over stored events: of one version, or of all together as the newest one reads it. Always exact.

    Raises FqlError for a wrong expression, UsageError for a version that is not there, a range that holds nothing, and a
    rolling baseline without an end of the range, DefinitionError where versions read the expression in ways that do not add up.
    """
    asked = _Asked(store, entry, expression, segment, within or Range(), version, settings or FqlSettings())
    return asked.answer()


class _Asked:
    """One question: its plans, one for each version, and the rows that each reads."""

    def __init__(
        self,
        store: Store,
        entry: ModelEntry,
        expression: str,
        segment: str | None,
        within: Range,
        version: str | None,
        settings: FqlSettings,
    ) -> None:
        self.store = store
        self.entry = entry
        self.version = version
        self.within = within
        self.settings = settings
        self.metric = MetricDefinition.model_construct(model=entry.name, name=_METRIC, definition=expression)
        self.segments = (
            []
            if segment is None
            else [SegmentDefinition.model_construct(model=entry.name, name=_SEGMENT, definition=segment)]
        )
        self.model = _version_of(entry, version)
        self.plan = self._plan_of(self.model)
        if lacking := uncounted(self.plan, entry.baselines):
            raise lacking[0].error
        if within.start_ms is not None and within.end_ms is not None and within.start_ms >= within.end_ms:
            raise UsageError(
                "SNP004", "the range is empty: it ends where it begins, or before", "let --to be later than --from"
            )

    @property
    def part(self) -> SegmentPlan:
        return self.plan.segments[-1]

    def answer(self) -> Evaluation:
        versions = [self.model.version] if self.version is not None else self._versions_in(self.within)
        query = compile_clickhouse(self.plan, self._sources(versions, self.within), segments=[self.part.name])
        counts = {name: self._counts_of(aggregate) for name, aggregate in query.parameters.items()}
        row = self._rows(query, counts)[0]
        return evaluation(row, query.metrics[0])

    def _rows(self, query: Select, parameters: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
        bound = {name: [float(count) for count in counts] for name, counts in parameters.items()}
        return rows_of(self.store.query_arrow(query.sql, bound, SQL_SETTINGS))

    # ---------------------------------------------------------------------------------------------- versions

    def _plan_of(self, model: ModelDefinition) -> ModelPlan:
        return plan_model(
            model,
            [self.metric],
            self.segments,
            baselines=self.entry.baselines,
            streamed=True,
            settings=self.settings,
        )

    def _versions_in(self, within: Range) -> list[str]:
        """Name the versions with a row in a range; the others lack nothing."""
        if not _is_table(self.store, event_table(self.entry.name)):
            return []
        found = self.store.query_rows(
            f"SELECT DISTINCT version FROM {identifier(event_table(self.entry.name))} WHERE NOT duplicate AND {within.sql()}"
        )
        present = {version for (version,) in found}
        return [version for version in self.entry.versions if version in present]

    def _sources(self, versions: Sequence[str], within: Range) -> list[Source]:
        models = [self.entry.versions[version] for version in versions] or [self.model]
        return [Source(rows_sql(self.store, model, within), self._reads(model)) for model in models]

    def _reads(self, model: ModelDefinition) -> dict[Counted, Counted]:
        """Say what a version counts for each cell of the plan.

        Raises DefinitionError where it has nothing like one of them.
        """
        if model == self.model:
            return {}
        try:
            plan = self._plan_of(model)
        except FqlError as error:
            raise self._unlike(model, str(error.message)) from None
        theirs = {cell.key: (cell.aggregate, cell.segment) for cell in plan.cells}
        common = cells_in_common(self.plan, plan)
        reads = {}
        for cell in self.plan.cells:
            if cell.key not in common:
                raise self._unlike(model, "it counts other things for it, or the same in other bins")
            reads[cell.aggregate, cell.segment] = theirs[common[cell.key]]
        return reads

    def _unlike(self, model: ModelDefinition, why: str) -> DefinitionError:
        return DefinitionError(
            "SNP002",
            f"version {model.version} of model {model.name} has events in this range, and cannot be added to version"
            f" {self.model.version} for this expression: {why}",
            f"ask for one of them: --version {model.version}, or --version {self.model.version}",
        )

    # ---------------------------------------------------------------------------------------------- baselines

    def _counts_of(self, aggregate: Aggregate) -> Sequence[float]:
        """Give the histogram of a baseline in the bins of an aggregate, over the segment."""
        compared = next(
            item for item in self.plan.compared if item.aggregate == aggregate and item.segment == self.part.expression
        )
        baseline = self.entry.baselines[compared.baseline]
        if is_counted(baseline):
            state = counted_state(baseline, compared)
            if state is None:
                message = f"`uncounted` let baseline {baseline.name!r} pass"
                raise AssertionError(message)
            return state.counts
        if baseline.type == "rolling" and self.within.end_ms is None:
            raise UsageError(
                "SNP003",
                f"baseline {baseline.name!r} is the time before the end of the range, and the range has none",
                "say where it ends: --to TIME",
            )
        reach = baseline.range_before(self.within.end_ms or 0)
        if reach is None:
            message = f"baseline {baseline.name!r} is neither counted nor of a stored time"
            raise AssertionError(message)
        return self._counted(compared, Range(*reach))

    def _counted(self, compared: Compared, within: Range) -> Sequence[float]:
        """Count the rows of all versions in a range, those of the segment."""
        edges = dict(compared.production.params)["edges"]
        bins = len(edges) + 1 if isinstance(edges, tuple) else 0
        metrics = tuple(
            MetricPlan(str(place), "", 1, AggregateValue(compared.production, "bin", (("index", float(place)),)))
            for place in range(bins)
        )
        plan = assemble(self.model, metrics, (self.part,), self.settings)
        query = compile_clickhouse(plan, self._sources(self._versions_in(within), within))
        row = self._rows(query, {})[0]
        return [row[name] for name in query.metrics]


def _version_of(entry: ModelEntry, version: str | None) -> ModelDefinition:
    found = entry.newest if version is None else entry.versions.get(version)
    if found is None:
        known = ", ".join(entry.versions)
        raise UsageError("SNP001", f"model {entry.name} has no version {version!r}", f"its versions: {known}")
    return found


def _is_table(store: Store, name: str) -> bool:
    sql = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
    return bool(store.query_rows(sql, {"name": name})[0][0])


# ------------------------------------------------------------------------------------------------ rows


def rows_sql(store: Store, model: ModelDefinition, within: Range, heads: Sequence[str] = ()) -> str:
    """Write the subquery of a version's counted rows of all partitions, under its columns' names and both of violations.

    Targets are those of the last label. A column or a table that nobody has written yet is null, or empty. `heads` names what
    is wanted beside: event_id, event_at.
    """
    table = event_table(model.name)
    names = [*(column.name for column in model.columns), *_VIOLATIONS, *heads]
    if not _is_table(store, table):
        nothing = [nothing_sql(column.type) for column in model.columns] + ["CAST([], 'Array(String)')"] * len(
            _VIOLATIONS
        )
        nothing += [_HEADS[name] for name in heads]
        listed = ", ".join(f"{sql} AS {identifier(name)}" for sql, name in zip(nothing, names, strict=True))
        return f"(SELECT {listed} WHERE false)"
    known = {column.stored for column in stored_columns(store, table)}
    stored = {column.name: StoredColumn(column.name, column.type, column.role).stored for column in model.columns}
    where = f"version = {literal(model.version)} AND NOT duplicate AND {within.sql()}"
    targets = list(model.role(Role.TARGET))
    values = []
    for column in model.columns:
        name = stored[column.name]
        value = f"e.{name}" if name in known else nothing_sql(column.type)
        if column in targets:
            value = chosen_sql(value, asked_of(targets.index(column)))
        values.append(f"CAST({value} AS {_TYPES[column.type]})")
    for place, violations in enumerate(_VIOLATIONS, start=len(targets)):
        value = violations_sql(violations, place, [column.name for column in targets]) if targets else f"e.{violations}"
        values.append(value)
    values += [f"e.{name}" for name in heads]
    # a column may be called anything, also like what the join below speaks of: it gets its name last
    prefix = _free_prefix(names)
    inner = ", ".join(f"{value} AS {identifier(f'{prefix}{place}')}" for place, value in enumerate(values))
    outer = ", ".join(f"{identifier(f'{prefix}{place}')} AS {identifier(name)}" for place, name in enumerate(names))
    source = f"(SELECT * FROM {identifier(table)} FINAL WHERE {where})"
    return f"(SELECT {outer} FROM (SELECT {inner} FROM {_labelled(store, model, source, table, where)}))"


def _labelled(store: Store, model: ModelDefinition, source: str, table: str, where: str) -> str:
    targets = model.role(Role.TARGET)
    if not targets:
        return f"{source} AS e"
    forms = stored_columns(store, label_table(model.name))
    values = [value_sql([form for form in forms if form.name == column.name], column.type) for column in targets]
    of_these = f"event_id IN (SELECT event_id FROM {identifier(table)} WHERE {where})"
    return labelled_sql(source, last_labels_sql(label_table(model.name), values, of_these))


def nothing_sql(kind: ColumnType) -> str:
    """Write what stands for no value of a type."""
    return f"CAST({'[]' if kind is ColumnType.VECTOR else 'NULL'} AS {_TYPES[kind]})"


def _free_prefix(names: Sequence[str]) -> str:
    prefix = "c"
    while any(name.startswith(prefix) and name.removeprefix(prefix).isdecimal() for name in names):
        prefix += "c"
    return prefix
