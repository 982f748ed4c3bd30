"""All metrics and segments of a model version as one plan: each distinct aggregate over each distinct segment is kept once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, overload

from fqlstream.aggregates.index import make_aggregator
from fqlstream.errors import DefinitionError, Diagnostic, FqlError
from fqlstream.events.definitions import (
    BaselineDefinition,
    MetricDefinition,
    ModelDefinition,
    Role,
    SegmentDefinition,
)
from fqlstream.fql.check import check
from fqlstream.fql.plan import Cell, Compared, Lane, MetricPlan, ModelPlan, SegmentPlan, columns_of, key_of_texts, walk
from fqlstream.functions.aggregates import count_present, count_true, row_total
from fqlstream.functions.building_blocks import apply_boolean, apply_number, either, number
from fqlstream.functions.drift import baseline_of, own_rows
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, ColumnRef, DType, Expression
from fqlstream.functions.expression import Literal as LiteralNode
from fqlstream.settings import FqlSettings

#: Gives the counts of a baseline in the bins of a histogram, outer ones included; None where it has none.
Histograms = Callable[[str, Aggregate], Sequence[float] | None]

ALL_ROWS: Final = SegmentPlan(name="", text="", expression=LiteralNode(True, DType.BOOLEAN))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A definition that does not fit this version of the model, e.g. because a column came later."""

    kind: Literal["metric", "segment"]
    name: str
    error: FqlError


@overload
def plan_model(
    model: ModelDefinition,
    metrics: Iterable[MetricDefinition],
    segments: Iterable[SegmentDefinition],
    *,
    revisions: Mapping[str, int] | None = None,
    baselines: Mapping[str, BaselineDefinition] | None = None,
    histograms: Histograms | None = None,
    streamed: bool = False,
    settings: FqlSettings | None = None,
    skip_invalid: Literal[False] = False,
) -> ModelPlan: ...


@overload
def plan_model(
    model: ModelDefinition,
    metrics: Iterable[MetricDefinition],
    segments: Iterable[SegmentDefinition],
    *,
    revisions: Mapping[str, int] | None = None,
    baselines: Mapping[str, BaselineDefinition] | None = None,
    histograms: Histograms | None = None,
    streamed: bool = False,
    settings: FqlSettings | None = None,
    skip_invalid: Literal[True],
) -> tuple[ModelPlan, tuple[Skipped, ...]]: ...


def plan_model(
    model: ModelDefinition,
    metrics: Iterable[MetricDefinition],
    segments: Iterable[SegmentDefinition],
    *,
    revisions: Mapping[str, int] | None = None,
    baselines: Mapping[str, BaselineDefinition] | None = None,
    histograms: Histograms | None = None,
    streamed: bool = False,
    settings: FqlSettings | None = None,
    skip_invalid: bool = False,
) -> ModelPlan | tuple[ModelPlan, tuple[Skipped, ...]]:
    """Plan all metrics and segments of one version of a model.

    `revisions` are the metrics', by name; 1 where one is missing. `histograms` give the counts of baselines: a metric of
    drift whose baseline has none does not fit. With `streamed`, baselines stay in the plan as `compared`. Raises FqlError for a definition that does not fit (a note
    names it), DefinitionError beyond a limit. With `skip_invalid`, definitions that do not fit are left out and given back.
    """
    limits = settings if settings is not None else FqlSettings()
    numbers = revisions or {}
    skipped: list[Skipped] = []
    metric_plans: list[MetricPlan] = []
    segment_plans: list[SegmentPlan] = [ALL_ROWS]
    for segment in segments:
        found = _checked("segment", segment, model, baselines, limits)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            segment_plans.append(SegmentPlan(segment.name, segment.definition, found))
    for metric in metrics:
        found = _checked("metric", metric, model, baselines, limits)
        if not isinstance(found, Skipped) and not streamed:
            found = _with_baselines(metric, model, found, histograms)
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            metric_plans.append(MetricPlan(metric.name, metric.definition, numbers.get(metric.name, 1), found))
    if skipped and not skip_invalid:
        raise _first_error(skipped)
    _check_limits(model, len(metric_plans), len(segment_plans) - 1, limits)
    plan = assemble(model, tuple(metric_plans), tuple(segment_plans), limits)
    return (plan, tuple(skipped)) if skip_invalid else plan


def _checked(
    kind: Literal["metric", "segment"],
    definition: MetricDefinition | SegmentDefinition,
    model: ModelDefinition,
    baselines: Mapping[str, BaselineDefinition] | None,
    limits: FqlSettings,
) -> Expression | Skipped:
    try:
        expression = check(definition.definition, model, kind, baselines=baselines, settings=limits).require()
    except FqlError as error:
        return _skipped(kind, definition, model, error)
    if kind == "metric" and expression.dtype is DType.BOOLEAN:
        return apply_number("to_number", expression)  # published as 1 or 0
    return expression


def _skipped(
    kind: Literal["metric", "segment"],
    definition: MetricDefinition | SegmentDefinition,
    model: ModelDefinition,
    error: FqlError,
) -> Skipped:
    error.add_note(f"in {kind} {definition.name!r} of model {model.name} {model.version}")
    return Skipped(kind, definition.name, error)


def _with_baselines(
    metric: MetricDefinition, model: ModelDefinition, expression: Expression, histograms: Histograms | None
) -> Expression | Skipped:
    """Put the counts of baselines in their places."""
    found: dict[Expression, Expression] = {}
    for node in walk(expression):
        if not isinstance(node, AggregateValue):
            continue
        name = baseline_of(node.aggregate)
        if name is None:
            continue
        counts = None if histograms is None else histograms(name, own_rows(node.aggregate))
        if counts is None:
            message = f"the rows of baseline {name!r} are not at hand"
            hint = "`fqlstream fql eval --baseline NAME=FILE` reads them from a file"
            item = Diagnostic("FQL064", message, 0, len(metric.definition), hint)
            return _skipped("metric", metric, model, FqlError(metric.definition, [item]))
        found[node] = number(counts[int(dict(node.params)["index"])])
    return _replaced(expression, found) if found else expression


def _replaced(expression: Expression, found: Mapping[Expression, Expression]) -> Expression:
    if expression in found:
        return found[expression]
    if isinstance(expression, Apply):
        return Apply(expression.op, tuple(_replaced(arg, found) for arg in expression.args), expression.dtype)
    return expression


def _first_error(skipped: list[Skipped]) -> FqlError:
    first = skipped[0].error
    for other in skipped[1:]:
        first.add_note(f"{other.kind} {other.name!r} is wrong as well: {other.error.code} {other.error.message}")
    return first


def _check_limits(model: ModelDefinition, metrics: int, segments: int, limits: FqlSettings) -> None:
    for what, count, allowed, setting in (
        ("metrics", metrics, limits.metrics_max, "METRICS_MAX"),
        ("segments", segments, limits.segments_max, "SEGMENTS_MAX"),
    ):
        if count > allowed:
            raise DefinitionError(
                "DEF040",
                f"model {model.name} has {count} {what}; at most {allowed} are allowed",
                f"delete some, or raise FQLSTREAM_FQL__{setting}",
            )


def labelled_rows(model: ModelDefinition) -> AggregateValue:
    """Count the rows whose target is not null to FQL; of several targets, where one is not."""
    targets = [ColumnRef(column.name, column.type) for column in model.role(Role.TARGET)]
    if not targets:
        return count_true(LiteralNode(False, DType.BOOLEAN))
    if len(targets) == 1:
        return count_present(targets[0])
    return count_true(either(*(apply_boolean("is_not_null", target) for target in targets)))


def aggregates_of(expression: Expression) -> Iterable[Aggregate]:
    """Give every aggregate that an expression reads, each once, in a fixed order."""
    return dict.fromkeys(node.aggregate for node in walk(expression) if isinstance(node, AggregateValue))


def assemble(
    model: ModelDefinition, metrics: tuple[MetricPlan, ...], segments: tuple[SegmentPlan, ...], limits: FqlSettings
) -> ModelPlan:
    """Give the plan of expressions that are checked already.

    Raises DefinitionError where it would hold too many states.
    """
    traffic, labelled = row_total(), labelled_rows(model)
    wanted: dict[Aggregate, None] = {traffic.aggregate: None, labelled.aggregate: None}
    baselines: dict[Aggregate, None] = {}
    for metric in metrics:
        read = dict.fromkeys(aggregates_of(metric.expression))
        wanted.update({own_rows(aggregate): None for aggregate in read})
        baselines.update({aggregate: None for aggregate in read if baseline_of(aggregate) is not None})
    filters = dict.fromkeys(segment.expression for segment in segments)
    if len(wanted) * len(filters) > limits.cells_max:
        raise DefinitionError(
            "DEF041",
            f"model {model.name} needs {len(wanted)} aggregates for each of {len(filters)} segments, {len(wanted) * len(filters)} states"
            f" a pane; at most {limits.cells_max} are allowed",
            "delete metrics or segments, or raise FQLSTREAM_FQL__CELLS_MAX",
        )
    targets = frozenset(column.name for column in model.role(Role.TARGET))
    late_aggregates = {aggregate: bool(columns_of(aggregate) & targets) for aggregate in wanted}
    late_filters = {segment: bool(columns_of(segment) & targets) for segment in filters}
    texts = {item: repr(item) for item in (*wanted, *filters)}
    versions = {aggregate: _state_version(aggregate, limits) for aggregate in wanted}
    cells = tuple(
        Cell(
            aggregate,
            segment,
            Lane.LABELS if late_aggregates[aggregate] or late_filters[segment] else Lane.EVENTS,
            key_of_texts(texts[aggregate], texts[segment], versions[aggregate]),
        )
        for segment in filters
        for aggregate in wanted
    )
    compared = tuple(
        Compared(name, aggregate, own_rows(aggregate), segment)
        for segment in filters
        for aggregate in baselines
        if (name := baseline_of(aggregate)) is not None
    )
    return ModelPlan(model, metrics, segments, traffic, labelled, cells, compared)


def _state_version(aggregate: Aggregate, limits: FqlSettings) -> int:
    return make_aggregator(aggregate.kind, dict(aggregate.params), limits).state_version
