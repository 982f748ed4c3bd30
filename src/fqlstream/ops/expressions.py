"""What the rules of definitions need of FQL: findings about one expression, and how many states a model keeps."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from fqlstream.errors import Diagnostic
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import BaselineDefinition, MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.check import CheckResult, Use, check
from fqlstream.fql.plan import walk
from fqlstream.functions.drift import own_rows
from fqlstream.functions.expression import Aggregate
from fqlstream.settings import FqlSettings

#: A change of one definition asks again about all others of its model: a check takes a millisecond, and a model has hundreds.
_REMEMBERED: Final = 8192


def check_expression(
    definition: MetricDefinition | SegmentDefinition, entry: ModelEntry, model: ModelDefinition, limits: FqlSettings
) -> tuple[Diagnostic, ...]:
    """Check a metric or segment against one version of its model; errors first, then warnings."""
    result = _checked(definition.definition, definition.kind, model, tuple(entry.baselines.values()), limits)
    return (*result.errors, *result.warnings)


def cells_count(entry: ModelEntry, model: ModelDefinition, limits: FqlSettings) -> int:
    """Count the states that every pane of this version holds: distinct aggregates times distinct segments.

    Expressions that do not check count nothing.
    """
    baselines = tuple(entry.baselines.values())
    aggregates: set[Aggregate] = set()
    for metric in entry.metrics.values():
        expression = _checked(metric.definition, "metric", model, baselines, limits).expression
        if expression is not None:
            aggregates.update(own_rows(node) for node in walk(expression) if isinstance(node, Aggregate))
    segments = {
        _checked(segment.definition, "segment", model, baselines, limits).expression
        for segment in entry.segments.values()
    }
    # two more stand behind `rows` and `labelled_rows`, and all rows are a segment too
    return (len(aggregates) + 2) * (len(segments - {None}) + 1)


@lru_cache(maxsize=_REMEMBERED)
def _checked(
    text: str, kind: Use, model: ModelDefinition, baselines: tuple[BaselineDefinition, ...], limits: FqlSettings
) -> CheckResult:
    return check(text, model, kind, baselines={item.name: item for item in baselines}, settings=limits)
