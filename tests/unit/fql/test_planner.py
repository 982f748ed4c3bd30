from __future__ import annotations

import pytest

from fqlstream.aggregates.index import make_aggregator
from fqlstream.errors import DefinitionError, FqlError
from fqlstream.events.definitions import BaselineDefinition, MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.plan import Cell, Lane, ModelPlan, cell_key
from fqlstream.fql.planner import aggregates_of, plan_model
from fqlstream.functions.aggregates import row_total
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.functions.expression import Aggregate, ColumnRef, DType, Literal
from fqlstream.settings import FqlSettings

MODEL = EXAMPLE_MODELS["binary"]
ALL = Literal(True, DType.BOOLEAN)


def metrics(**definitions: str) -> list[MetricDefinition]:
    return [MetricDefinition(model="binary", name=name, definition=text) for name, text in definitions.items()]


def segments(**definitions: str) -> list[SegmentDefinition]:
    return [SegmentDefinition(model="binary", name=name, definition=text) for name, text in definitions.items()]


def over(plan: ModelPlan, segment: str) -> list[Cell]:
    expression = next(item.expression for item in plan.segments if item.name == segment)
    return [cell for cell in plan.cells if cell.segment == expression]


def test_each_aggregate_is_kept_once_for_each_segment() -> None:
    plan = plan_model(
        MODEL,
        metrics(
            mean="average(age)",
            total="sum(age)",
            rate="sum(age) / count(age)",
            median="quantile(age)",
            p90="quantile(age, 0.9)",
        ),
        segments(old="age > 60", same="(age) > 60.0", hits="fp()"),
    )
    kinds = [(cell.aggregate.kind, cell.aggregate.args) for cell in over(plan, "")]
    assert len(kinds) == len(set(kinds)) == 5  # row count, labelled, sum, count, quantile
    assert [item.name for item in plan.segments] == ["", "old", "same", "hits"]
    assert len(plan.cells) == 5 * 3
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)


def test_the_first_segment_is_all_rows() -> None:
    plan = plan_model(MODEL, metrics(n="traffic()"), segments(old="age > 60"))
    assert plan.segments[0].name == ""
    assert plan.segments[0].expression == ALL
    assert plan.traffic == row_total()
    assert plan.traffic.aggregate in {cell.aggregate for cell in plan.cells}


def test_what_reads_a_target_is_in_the_label_lane() -> None:
    plan = plan_model(
        MODEL,
        metrics(f1="f1_score()", mean="average(age)", missing="null_violation_count(churned)"),
        segments(old="age > 60", hits="tp()"),
    )
    lanes = {(cell.aggregate, cell.segment): cell.lane for cell in plan.cells}
    mean = Aggregate("sum", (ColumnRef("age", MODEL.columns[0].type),))
    assert lanes[mean, ALL] is Lane.EVENTS
    assert {cell.lane for cell in over(plan, "hits")} == {Lane.LABELS}
    f1 = next(item.expression for item in plan.metrics if item.name == "f1")
    missing = next(item.expression for item in plan.metrics if item.name == "missing")
    for aggregate in (*aggregates_of(f1), *aggregates_of(missing), plan.labelled.aggregate):
        assert lanes[aggregate, ALL] is Lane.LABELS
    assert lanes[plan.traffic.aggregate, ALL] is Lane.EVENTS


def test_a_key_names_the_content_and_not_the_place() -> None:
    one = plan_model(MODEL, metrics(a="average(age)"), segments(old="age > 60"))
    two = plan_model(MODEL, metrics(b="traffic()", c="sum(age)"), segments(young="age < 20", elders="age > 60"))
    keys = {(cell.aggregate, cell.segment): cell.key for cell in one.cells}
    shared = {(cell.aggregate, cell.segment): cell.key for cell in two.cells}
    common = keys.keys() & shared.keys()
    assert len(common) == 6
    assert all(keys[item] == shared[item] for item in common)
    for cell in one.cells:
        version = make_aggregator(cell.aggregate.kind, dict(cell.aggregate.params), FqlSettings()).state_version
        assert cell.key == cell_key(cell.aggregate, cell.segment, version)


def test_a_column_of_another_type_is_another_key() -> None:
    def key(kind: str) -> str:
        model = ModelDefinition.model_validate({"name": "m", "columns": [{"name": "x", "type": kind}]})
        plan = plan_model(model, [MetricDefinition(model="m", name="a", definition="sum(x)")], [])
        return next(cell.key for cell in plan.cells if cell.aggregate.kind == "sum")

    assert key("int") != key("float")


@pytest.mark.parametrize(
    ("targets", "kind"),
    [([], "count_true"), ([{"name": "y", "type": "float", "role": "target"}], "count"),
     ([{"name": "y", "type": "float", "role": "target"}, {"name": "z", "type": "string", "role": "target"}], "count_true")],
)  # fmt: skip
def test_labelled_rows(targets: list[dict[str, str]], kind: str) -> None:
    model = ModelDefinition.model_validate({"name": "m", "columns": [{"name": "x", "type": "float"}, *targets]})
    plan = plan_model(model, [], [])
    assert plan.labelled.aggregate.kind == kind
    lane = next(cell.lane for cell in plan.cells if cell.aggregate == plan.labelled.aggregate)
    assert lane is (Lane.LABELS if targets else Lane.EVENTS)


def test_a_boolean_metric_is_a_number_in_the_plan() -> None:
    plan = plan_model(MODEL, metrics(high="average(age) > 30"), [])
    assert plan.metrics[0].expression.dtype is DType.NUMBER


def test_revisions_are_kept() -> None:
    plan = plan_model(MODEL, metrics(a="traffic()", b="sum(age)"), [], revisions={"b": 3})
    assert [item.revision for item in plan.metrics] == [1, 3]


def test_a_definition_that_does_not_fit_raises_and_says_which() -> None:
    with pytest.raises(FqlError) as caught:
        plan_model(MODEL, metrics(good="traffic()", bad="sum(foo)"), segments(worse="age"))
    assert caught.value.code == "FQL072"
    assert caught.value.__notes__ == [
        "in segment 'worse' of model binary v1",
        "metric 'bad' is wrong as well: FQL030 Column foo not found in model binary",
    ]


def test_definitions_that_do_not_fit_can_be_left_out() -> None:
    plan, skipped = plan_model(
        MODEL, metrics(good="traffic()", bad="sum(foo)"), segments(worse="age"), skip_invalid=True
    )
    assert [item.name for item in plan.metrics] == ["good"]
    assert [item.name for item in plan.segments] == [""]
    assert [(item.kind, item.name, item.error.code) for item in skipped] == [
        ("segment", "worse", "FQL072"),
        ("metric", "bad", "FQL030"),
    ]


def test_limits() -> None:
    two = metrics(a="traffic()", b="sum(age)")
    with pytest.raises(DefinitionError, match="2 metrics; at most 1") as caught:
        plan_model(MODEL, two, [], settings=FqlSettings(metrics_max=1))
    assert caught.value.code == "DEF040"
    with pytest.raises(DefinitionError, match="2 segments; at most 1"):
        plan_model(MODEL, two, segments(a="age > 1", b="age > 2"), settings=FqlSettings(segments_max=1))
    with pytest.raises(
        DefinitionError, match="3 aggregates for each of 2 segments, 6 states a pane; at most 5"
    ) as caught:
        plan_model(MODEL, two, segments(a="age > 1"), settings=FqlSettings(cells_max=5))
    assert caught.value.code == "DEF041"
    assert caught.value.hint is not None
    assert "FQLSTREAM_FQL__CELLS_MAX" in caught.value.hint


def test_drift_needs_the_counts_of_its_baseline() -> None:
    table = EXAMPLE_MODELS["table"]
    baselines = {"training": BaselineDefinition(model="table", name="training", type="static")}
    drift = [MetricDefinition(model="table", name="drift", definition="jsd(b, 'training') * 2")]
    with pytest.raises(FqlError) as caught:
        plan_model(table, drift, [], baselines=baselines)
    assert caught.value.code == "FQL064"
    asked = []

    def histograms(name: str, aggregate: Aggregate) -> tuple[float, ...]:
        asked.append((name, aggregate.kind, dict(aggregate.params)))
        return (0.0, 1.0, 2.0, 0.0)

    plan = plan_model(table, drift, [], baselines=baselines, histograms=histograms)
    assert set(map(repr, asked)) == {repr(("training", "histogram", {"edges": (-0.5, 0.5, 1.5)}))}
    kinds = [cell.aggregate for cell in plan.cells if cell.aggregate.kind == "histogram"]
    assert len(kinds) == 1, "the baseline is no state"
