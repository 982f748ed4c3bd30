from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fqlstream.errors import DefinitionError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import (
    BaselineDefinition,
    Definition,
    MetricDefinition,
    ModelDefinition,
    SegmentDefinition,
    definition_key,
)
from fqlstream.fql.evaluate import evaluate
from fqlstream.ops.baselines import problems, uncounted_segments, with_counts
from fqlstream.ops.definition_log import EMPTY, Record, adopt, fold
from fqlstream.settings import FqlSettings
from fqlstream.stream.baselines import counted_state
from fqlstream.stream.engines import Engines

LIMITS = FqlSettings()
MODEL = ModelDefinition.model_validate(
    {
        "name": "churn",
        "version": "v1",
        "task": "binary_classification",
        "columns": [
            {"name": "age", "type": "int", "min": 18, "max": 100},
            {"name": "country", "type": "category", "categories": ["FR", "DE"]},
            {"name": "active", "type": "bool"},
            {"name": "note", "type": "string"},
        ],
    }
)
METRICS = {
    "a": "jsd(age, 'training')",
    "b": "psi(country, 'training')",
    "c": "jsd(active, 'training') + psi(age, 'training')",
}
OLD = SegmentDefinition(model="churn", name="old", definition="age >= 60")


def rows(seed: int, count: int, centre: float) -> dict[str, list[object]]:
    random = np.random.default_rng(seed)
    missing = random.random(count) < 0.1
    ages = np.clip(random.normal(centre, 25, count), 0, 130).astype(int)
    return {
        "age": [None if gone else int(age) for gone, age in zip(missing, ages, strict=True)],
        "country": random.choice(["FR", "DE", "IT"], count, p=[0.5, 0.3, 0.2]).tolist(),
        "active": (random.random(count) < 0.4).tolist(),
        "note": ["x"] * count,
    }


def entry_of(*definitions: Definition) -> ModelEntry:
    catalogue = Catalogue()
    for definition in (MODEL, *definitions):
        catalogue = catalogue.with_definition(definition)
    return catalogue.models["churn"]


def metrics() -> list[MetricDefinition]:
    return [MetricDefinition(model="churn", name=name, definition=text) for name, text in METRICS.items()]


@pytest.fixture
def training(tmp_path: Path) -> tuple[Path, dict[str, list[object]]]:
    content = rows(1, 500, 40)
    pq.write_table(pa.table(content), tmp_path / "training.parquet")
    return tmp_path, content


FILE = BaselineDefinition(model="churn", name="training", type="static", file="training.parquet")


def test_a_file_gives_streaming_the_number_that_evaluation_gives(
    training: tuple[Path, dict[str, list[object]]],
) -> None:
    folder, content = training
    entry = entry_of(OLD, *metrics())
    counted = with_counts(FILE, folder, entry, LIMITS)
    engine = Engines(Catalogue({"churn": replace(entry, baselines={"training": counted})}), LIMITS)("churn", "v1")
    assert {metric.name for metric in engine.plan.metrics} == set(METRICS)
    assert not any("baseline" in dict(cell.aggregate.params) for cell in engine.plan.cells), "a baseline is no state"
    production = rows(2, 300, 55)
    frame = {name: production[name] for name in ("age", "country", "active", "note")}
    table = pa.table({column: pa.array(frame[column]) for column in frame}).cast(
        pa.schema([("age", pa.int64()), ("country", pa.string()), ("active", pa.bool_()), ("note", pa.string())])
    )
    found = engine.partials_both(table, np.zeros(len(table), np.int64), 1)
    states = tuple(counted_state(counted, item) for item in engine.plan.compared)
    results = engine.results({lane: cells[0] for lane, cells in found.items()}, states)
    assert len(results) == 2 * len(METRICS)
    for result in results:
        segment = OLD.definition if result.segment else None
        wanted = evaluate(
            production, METRICS[result.metric], model=MODEL, segment=segment, baselines={"training": content}
        )
        assert result.value == wanted["value"] is not None
        assert result.exact


def test_a_segment_that_came_later_is_compared_with_all_rows_and_named(
    training: tuple[Path, dict[str, list[object]]],
) -> None:
    counted = with_counts(FILE, training[0], entry_of(*metrics()), LIMITS)
    later = replace(entry_of(OLD, *metrics()), baselines={"training": counted})
    assert uncounted_segments(later, counted, LIMITS) == ("old",)
    compared = Engines(Catalogue({"churn": later}), LIMITS)("churn", "v1").plan.compared
    states = {(item.aggregate, item.segment): counted_state(counted, item) for item in compared}
    assert len(states) == 2 * len({item.aggregate for item in compared})
    for aggregate in {item.aggregate for item in compared}:
        assert len({state for (of, _), state in states.items() if of == aggregate}) == 1
    again = with_counts(FILE, training[0], later, LIMITS)
    assert uncounted_segments(later, again, LIMITS) == ()
    assert len({counted_state(again, item) for item in compared}) > len({counted_state(counted, i) for i in compared})


def test_counts_of_other_bins_are_not_taken_for_these(training: tuple[Path, dict[str, list[object]]]) -> None:
    counted = with_counts(FILE, training[0], entry_of(*metrics()), LIMITS)
    wider = MODEL.model_copy(
        update={"columns": (MODEL.columns[0].model_copy(update={"max": 120.0}), *MODEL.columns[1:])}
    )
    entry = replace(entry_of(*metrics()), versions={"v1": wider}, baselines={"training": counted})
    engines = Engines(Catalogue({"churn": entry}), LIMITS)
    assert [metric.name for metric in engines("churn", "v1").plan.metrics] == ["b"]
    assert {item.name: item.error.code for item in engines.skipped["churn", "v1"]} == {"a": "FQL064", "c": "FQL064"}
    assert "" in uncounted_segments(entry, counted, LIMITS)


def test_a_file_that_is_gone_is_an_error_unless_its_counts_are_here(
    training: tuple[Path, dict[str, list[object]]], tmp_path: Path
) -> None:
    entry = entry_of(*metrics())
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(DefinitionError, match="there is no file") as caught:
        with_counts(FILE, elsewhere, entry, LIMITS)
    assert caught.value.code == "DEF050"
    counted = with_counts(FILE, training[0], entry, LIMITS)
    assert with_counts(counted, elsewhere, entry, LIMITS) is counted
    assert BaselineDefinition.model_validate_json(counted.model_dump_json(by_alias=True)) == counted


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "static"}, "type"),
        ({"type": "static", "file": "a.csv", "start": "2026-11-01T00:00:00Z", "end": "2026-11-02T00:00:00Z"}, "type"),
        ({"type": "static", "file": "a.csv", "window": "7d"}, "type"),
        ({"type": "static", "start": "2026-11-02T00:00:00Z", "end": "2026-11-01T00:00:00Z"}, "end"),
        ({"type": "static", "start": "2026-11-01T00:00:30Z", "end": "2026-11-02T00:00:00Z"}, "start"),
        ({"type": "rolling"}, "window"),
        ({"type": "rolling", "window": "90s"}, "window"),
        ({"type": "rolling", "window": "1h", "file": "a.csv"}, "type"),
    ],
)
def test_a_baseline_that_says_too_little_or_too_much_is_refused(fields: dict[str, str], field: str) -> None:
    baseline = BaselineDefinition.model_validate({"model": "churn", "name": "b", **fields})
    assert field in {name for name, _ in problems(baseline, entry_of())}


def test_what_is_right_has_no_problems() -> None:
    for fields in (
        {"type": "static", "file": "a.csv"},
        {"type": "static", "start": "2026-11-01T00:00:00Z", "end": "2026-11-02T01:00:00+01:00"},
        {"type": "rolling", "window": "7d"},
        {"type": "rolling", "window": "7d", "offset": "1d"},
    ):
        baseline = BaselineDefinition.model_validate({"model": "churn", "name": "b", **fields})
        assert not list(problems(baseline, entry_of()))


def test_a_reader_adopts_metrics_together_with_the_baselines_they_name() -> None:
    definitions = (MODEL, *metrics(), FILE)
    records = [
        Record(definition_key(of).encode(), of.model_dump_json(by_alias=True).encode(), {}, at, at)
        for at, of in enumerate(definitions)
    ]
    folded, touched, refused = fold(EMPTY, records)
    assert (touched, refused) == ({"churn"}, ())
    entry, left_out = adopt(folded, "churn", LIMITS)
    assert left_out == ()
    assert entry is not None
    assert entry.metrics.keys() == METRICS.keys()
    assert entry.baselines == {"training": FILE}
