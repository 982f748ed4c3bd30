from __future__ import annotations

import json

from fqlstream.events.definitions import BaselineDefinition, MetricDefinition, SegmentDefinition
from fqlstream.fql.explain import Explanation, explain
from fqlstream.fql.plan import Lane
from fqlstream.fql.planner import plan_model
from fqlstream.functions.example_models import EXAMPLE_MODELS

MODEL = EXAMPLE_MODELS["binary"]


def explained(*texts: str, segments: tuple[str, ...] = ()) -> Explanation:
    metrics = [MetricDefinition(model="binary", name=f"m{at}", definition=text) for at, text in enumerate(texts)]
    parts = [SegmentDefinition(model="binary", name=f"s{at}", definition=text) for at, text in enumerate(segments)]
    return explain(plan_model(MODEL, metrics, parts))


def test_steps_are_numbered_after_what_they_use() -> None:
    found = explained("f1_score()", "average(if(age > 60, age * 2, null))", segments=("age > 60",))
    assert [item.number for item in found.steps] == list(range(1, len(found.steps) + 1))
    for item in found.steps:
        used = [int(word.strip("#(),")) for word in item.text.split() if word.startswith("#")]
        assert all(number < item.number for number in used)
    shared = next(item for item in found.steps if item.text == "age > 60")
    assert shared.used == 2


def test_everything_is_named_once() -> None:
    found = explained("precision()", "recall()", "sum(age)", "average(age)")
    assert len({item.text for item in found.aggregates}) == len(found.aggregates)
    sums = next(item for item in found.aggregates if item.text == "sum(age)")
    assert sums.metrics == ("m2", "m3")
    assert sums.lane is Lane.EVENTS
    hits = next(item for item in found.aggregates if item.metrics == ("m0", "m1"))
    assert hits.lane is Lane.LABELS
    assert found.metrics[0].text.startswith(f"a{hits.number} / (a{hits.number} + ")


def test_exactness_is_told() -> None:
    found = explained("sum(age)", "quantile(age, 0.9)", "quantile(age) - min(age)", "auroc()")
    bounds = [item.error_bound for item in found.metrics]
    assert bounds[0] == "exact"
    assert "rank error 0.0133" in bounds[1]
    assert bounds[2].startswith("combines: ")
    assert "scores" in bounds[3]


def test_costs_add_up() -> None:
    found = explained("sum(age)", segments=("age > 1", "age > 2"))
    each = sum(item.state_bytes_max for item in found.aggregates)
    assert found.state_bytes_max == 3 * each
    assert sum(found.cells.values()) == 3 * len(found.aggregates)


def test_text_and_json_say_the_same() -> None:
    found = explained("quantile(age, level=0.9) / (average(age) + 1)", segments=("churned == 'it''s'",))
    text, value = found.as_text(), json.loads(json.dumps(found.as_dict()))
    assert value["metrics"][0]["expression"] in text
    assert "quantile(a" in value["metrics"][0]["expression"]
    assert "level=0.9" in value["metrics"][0]["expression"]
    assert value["segments"][1]["definition"] == "churned == 'it''s'"
    for item in value["steps"]:
        assert f"#{item['step']:<4}{item['expression']}" in text


def test_drift_reads_one_histogram_twice_of_the_model_and_of_its_baseline() -> None:
    table = EXAMPLE_MODELS["table"]
    baseline = BaselineDefinition.model_validate(
        {"model": "table", "name": "last week", "type": "rolling", "window": "7d"}
    )
    metric = MetricDefinition(model="table", name="drift", definition="jsd(b, 'last week')")
    found = explain(plan_model(table, [metric], [], baselines={"last week": baseline}, streamed=True))
    (bins,) = [item for item in found.aggregates if item.text.startswith("histogram(")]
    assert bins.metrics == ("drift",)
    assert f"bin(a{bins.number}, index=1)" in found.metrics[0].text
    assert f"bin(a{bins.number} of baseline 'last week', index=1)" in found.metrics[0].text


def test_a_segment_tells_what_it_costs_and_one_that_says_the_same_costs_nothing() -> None:
    found = explained("sum(age)", "recall()", segments=("age > 1", "churned == 'yes'", "age > 1", "true"))
    everything, first, second, again, true = found.segments
    assert [item.same_as for item in found.segments] == [None, None, None, "s0", ""]
    assert everything.states == first.states == second.states == len(found.aggregates)
    assert everything.state_bytes_max == sum(item.state_bytes_max for item in found.aggregates)
    assert (again.states, again.state_bytes_max) == (true.states, true.state_bytes_max) == (0, 0)
    assert sum(item.states for item in found.segments) == sum(found.cells.values())
    assert sum(item.state_bytes_max for item in found.segments) == found.state_bytes_max
    assert f"s1: #{len(found.steps)}" in found.as_text() or "churned" in found.as_text()
    assert "s2: " in found.as_text()
    assert "[nothing: the same as s0]" in found.as_text()
    assert "[nothing: the same as (all rows)]" in found.as_text()
