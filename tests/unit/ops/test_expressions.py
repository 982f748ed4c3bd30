"""Findings about one expression, and how many states a pane of a model holds: counted against the planner's own plan."""

from __future__ import annotations

import pytest

from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import MetricDefinition, SegmentDefinition
from fqlstream.fql.planner import plan_model
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.ops.expressions import cells_count, check_expression
from fqlstream.settings import FqlSettings

LIMITS = FqlSettings()
MODEL = EXAMPLE_MODELS["binary"]


def entry(metrics: list[str], segments: list[str] | None = None) -> ModelEntry:
    known = Catalogue().with_definition(MODEL)
    for number, text in enumerate(metrics):
        known = known.with_definition(MetricDefinition(model=MODEL.name, name=f"m{number}", definition=text))
    for number, text in enumerate(segments or []):
        known = known.with_definition(SegmentDefinition(model=MODEL.name, name=f"s{number}", definition=text))
    return known.models[MODEL.name]


@pytest.mark.parametrize(
    ("metrics", "segments"),
    [
        ([], []),
        (["auroc()"], []),
        (["auroc()", "auroc() * 2", "1 - auroc()"], []),
        (["precision()", "recall()", "f1_score()"], ["tp()"]),
        (["traffic()", "auroc()", "average(if(fp(), 1, 0))"], ["tp()", "fp()", "not tp()"]),
    ],
)
def test_states_are_counted_as_they_are_planned(metrics: list[str], segments: list[str]) -> None:
    known = entry(metrics, segments)
    plan = plan_model(MODEL, list(known.metrics.values()), list(known.segments.values()), settings=LIMITS)
    assert cells_count(known, MODEL, LIMITS) >= len(plan.cells)
    if metrics and "traffic()" not in metrics:
        assert cells_count(known, MODEL, LIMITS) == len(plan.cells)


def test_the_same_state_is_counted_once_and_each_segment_has_its_own() -> None:
    alone = cells_count(entry(["auroc()"]), MODEL, LIMITS)
    assert cells_count(entry(["auroc()", "auroc() + 1"]), MODEL, LIMITS) == alone
    assert cells_count(entry(["auroc()"], ["tp()", "fp()"]), MODEL, LIMITS) == 3 * alone
    assert cells_count(entry(["auroc()"], ["tp()", "tp()"]), MODEL, LIMITS) == 2 * alone, "one segment by two names"


def test_what_does_not_check_counts_nothing_and_is_found() -> None:
    known = entry(["auroc()", "auroc("], ["tp() +"])
    assert cells_count(known, MODEL, LIMITS) == cells_count(entry(["auroc()"]), MODEL, LIMITS)
    (error, *_) = check_expression(known.metrics["m1"], known, MODEL, LIMITS)
    assert error.severity == "error"
    assert check_expression(known.metrics["m0"], known, MODEL, LIMITS) == ()


def test_a_metric_is_no_segment() -> None:
    known = entry(["tp()"], ["traffic() > 1"])
    for definition in (known.metrics["m0"], known.segments["s0"]):
        assert any(found.severity == "error" for found in check_expression(definition, known, MODEL, LIMITS))
