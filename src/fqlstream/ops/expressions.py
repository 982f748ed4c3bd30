"""What the rules of definitions need of FQL: findings about one expression, and how many states a model keeps."""

from __future__ import annotations

from fqlstream.errors import Diagnostic
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.check import check
from fqlstream.fql.plan import walk
from fqlstream.functions.expression import Aggregate
from fqlstream.settings import FqlSettings


def check_expression(
    definition: MetricDefinition | SegmentDefinition, entry: ModelEntry, model: ModelDefinition, limits: FqlSettings
) -> tuple[Diagnostic, ...]:
    """Check a metric or segment against one version of its model; errors first, then warnings."""
    result = check(definition.definition, model, definition.kind, baselines=entry.baselines, settings=limits)
    return (*result.errors, *result.warnings)


def cells_count(entry: ModelEntry, model: ModelDefinition, limits: FqlSettings) -> int:
    """Count the states that every pane of this version holds: distinct aggregates times distinct segments.

    Expressions that do not check count nothing.
    """
    aggregates: set[Aggregate] = set()
    for metric in entry.metrics.values():
        expression = check(metric.definition, model, "metric", baselines=entry.baselines, settings=limits).expression
        if expression is not None:
            aggregates.update(node for node in walk(expression) if isinstance(node, Aggregate))
    segments = {
        check(segment.definition, model, "segment", settings=limits).expression for segment in entry.segments.values()
    }
    # two more stand behind `rows` and `labelled_rows`, and all rows are a segment too
    return (len(aggregates) + 2) * (len(segments - {None}) + 1)
