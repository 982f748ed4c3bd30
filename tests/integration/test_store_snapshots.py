"""Snapshots of history on the real store, against the engine over the rows that a repair reads, and against numbers by hand."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.stored_history import MINUTE, T0, written

from fqlstream.errors import DefinitionError, FqlError, UsageError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import BaselineDefinition, MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.compile_arrow import LANES, Result, compile_model
from fqlstream.fql.evaluate import Evaluation, rfc3339
from fqlstream.fql.planner import plan_model
from fqlstream.settings import FqlSettings
from fqlstream.store.client import Store
from fqlstream.store.history import read_pane
from fqlstream.store.model_tables import ensure
from fqlstream.store.snapshots import Range, snapshot

#: Every name that the join of events and labels speaks of, and what looks like a name of the query itself.
AWKWARD = ("e", "l", "o", "t0", "hit", "c0", "cc1", "r1", "a1", "x:int", "it's `odd`", "step1")


def model(version: str = "v1", **changes: Any) -> ModelDefinition:
    return ModelDefinition.model_validate({
        "name": "churn",
        "version": version,
        "task": "binary_classification",
        "columns": [
            {"name": "age", "type": "int", "min": 0, "max": 100},
            {"name": "country", "type": "category", "categories": ["FR", "DE"]},
            {"name": "seen", "type": "timestamp", "role": "metadata"},
            {"name": "embedding", "type": "vector"},
            *({"name": name, "type": "float"} for name in AWKWARD),
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
        "windows": {"pane": "1m", "sizes": ["1h"]},
        **changes,
    })  # fmt: skip


def entry_of(*versions: ModelDefinition, baselines: Iterable[dict[str, Any]] = ()) -> ModelEntry:
    catalogue = Catalogue()
    for version in versions:
        catalogue = catalogue.with_definition(version)
    for baseline in baselines:
        catalogue = catalogue.with_definition(BaselineDefinition.model_validate({"model": "churn", **baseline}))
    return catalogue.models["churn"]


def random_event(rng: random.Random, partition: int, offset: int) -> dict[str, Any]:
    return {
        "offset": offset,
        "event_id": f"{partition}-{offset}",
        "event_at": T0 + rng.randint(0, 10) * MINUTE + rng.randint(0, 999),
        "duplicate": rng.random() < 0.1,
        "age": rng.choice((None, rng.randint(-5, 120))),
        "country": rng.choice((None, "FR", "DE", "XX")),
        "seen": rng.choice((None, T0)),
        "embedding": rng.choice((None, [1.0, 2.0])),
        "score": rng.choice((None, rng.random(), 0.5)),
        "churned": rng.choice((None, None, "yes")),
        **{name: rng.choice((None, rng.gauss(0, 10), 0.1)) for name in AWKWARD},
        "_type_violations": rng.choice(([], ["age"])),
        "_range_violations": rng.choice(([], ["age"], ["churned"])),
    }


METRICS = (
    "traffic()",
    "sum(e) + average(l * o)",
    "sum(t0 - hit) / sum(c0 + cc1)",
    'quantile("x:int", 0.25) + min(r1) + max(a1)',
    'count("it\'s `odd`") - count(embedding) + count(seen) + count(step1)',
    "f1_score()",
    "auroc()",
    "calibrated_threshold()",
    "log_loss()",
    "gini(actual=abs(e), predicted=age)",
    "type_violation_count(age) + 1000 * any_violation_count(churned)",
    "null_violation_count(embedding)",
    "average(if(fn(), -40, if(fp(), -400, 250)))",
)
SEGMENTS = (None, "age >= 18 and country != 'FR'", "churned == 'yes'", "false")


def batch(definition: ModelDefinition, tables: Sequence[pa.Table], expression: str, segment: str | None) -> Result:
    """Give what the engine makes of rows."""
    settings = FqlSettings()
    metric = MetricDefinition(model="churn", name="m", definition=expression)
    parts = [] if segment is None else [SegmentDefinition(model="churn", name="part", definition=segment)]
    engine = compile_model(plan_model(definition, [metric], parts), settings)
    cells = {lane: engine.init(lane) for lane in LANES}
    for table in tables:
        found = engine.partials_both(table, np.zeros(table.num_rows, np.int64), 1)
        cells = {lane: engine.merge(lane, cells[lane], found[lane][0]) for lane in LANES}
    return engine.results(cells)[-1]


def rows_of_range(store: Store, definition: ModelDefinition, within: Range, partitions: int) -> list[pa.Table]:
    start, end = within.start_ms or 0, within.end_ms or 2 * T0
    return [
        table for partition in range(partitions) for table in read_pane(store, definition, partition, start, end, 10**9)
    ]


def test_a_snapshot_is_what_the_engine_makes_of_the_same_rows(store: Store) -> None:
    rng = random.Random(7)
    definition = model()
    for partition in range(3):
        events = [random_event(rng, partition, offset) for offset in range(80)]
        labels = [
            {
                # some of another partition's events, some of none
                "event_id": f"{rng.choice((partition, partition, partition, rng.randint(0, 2)))}-{rng.randint(0, 90)}",
                "offset": offset,
                "churned": rng.choice((None, "no", "yes", "maybe")),
                "_type_violations": rng.choice(([], ["churned"])),
            }
            for offset in range(100, 220)
        ]
        written(store, definition, partition, events=events, labels=labels)
        written(store, definition, partition, events=events[:30], labels=labels[:50])  # a replay
    entry = entry_of(definition)
    ranges = (Range(), Range(T0 + 3 * MINUTE, T0 + 7 * MINUTE), Range(end_ms=T0 + 5 * MINUTE), Range(start_ms=2 * T0))
    repaired = [rows_of_range(store, definition, within, 3) for within in ranges]
    seen = set()
    for place, expression in enumerate(METRICS):
        for segment in (SEGMENTS[0], SEGMENTS[1 + place % 3]):
            at = rng.randrange(len(ranges)) if segment else 0
            found = snapshot(store, entry, expression, segment=segment, within=ranges[at])
            wanted = batch(definition, repaired[at], expression, segment)
            case = (expression, segment, ranges[at])
            assert found == Evaluation(value=wanted.value, rows=wanted.rows, exact=True, error_bound=None), case
            seen.add(found["value"])
    assert len(seen) > len(METRICS)


def test_each_versions_rows_count_as_it_reads_them(store: Store) -> None:
    strict = model("v1", task_params={"threshold": 0.9, "target_class_order": ["no", "yes"]})
    plain = model("v2")
    scores = [0.2, 0.6, 0.95]
    for definition in (strict, plain):
        events = [
            {"offset": at, "event_id": f"{definition.version}-{at}", "score": score, "churned": "yes", "age": at}
            for at, score in enumerate(scores, 0 if definition is strict else 10)
        ]
        written(store, definition, 0, events=events)
    entry = entry_of(strict, plain)
    assert snapshot(store, entry, "recall()")["value"] == 3 / 6
    assert snapshot(store, entry, "recall()", version="v1")["value"] == 1 / 3
    assert snapshot(store, entry, "recall()", version="v2")["value"] == 2 / 3
    assert snapshot(store, entry, "recall()", segment="tp()") == Evaluation(
        value=1.0, rows=3, exact=True, error_bound=None
    )
    assert snapshot(store, entry, "sum(age) + traffic()")["value"] == 0 + 1 + 2 + 10 + 11 + 12 + 6


def test_a_column_may_change_its_type_between_versions(store: Store) -> None:
    whole = model("v1")
    columns = [{"name": "age", "type": "float"} if c.name == "age" else c.model_dump() for c in whole.columns]
    real = model("v2", columns=columns)
    written(store, whole, 0, events=[{"offset": 0, "event_id": "a", "age": 2**53}])
    written(store, real, 0, events=[{"offset": 1, "event_id": "b", "age": 0.5}])
    entry = entry_of(whole, real)
    # whole numbers alone are added another way than with fractions among them
    assert snapshot(store, entry, "sum(age)", version="v1")["value"] == 2.0**53
    assert snapshot(store, entry, "average(age) * 2")["value"] == 2.0**53
    assert snapshot(store, entry, "max(age) - min(age)")["value"] == 2.0**53 - 0.5
    assert snapshot(store, entry, "count(age)")["value"] == 2.0


def test_versions_that_do_not_add_up_are_told(store: Store) -> None:
    narrow, wide = model("v1"), model("v2")
    columns = [{**c.model_dump(), "max": 200} if c.name == "age" else c.model_dump() for c in wide.columns]
    wide = model("v2", columns=columns)
    baseline = {"name": "first", "type": "static", "start": rfc3339(T0), "end": rfc3339(T0 + MINUTE)}
    written(store, narrow, 0, events=[{"offset": 0, "event_id": "a", "age": 5}])
    written(store, wide, 0, events=[{"offset": 2 * MINUTE, "event_id": "b", "age": 5}])
    entry = entry_of(narrow, wide, baselines=[baseline])
    with pytest.raises(DefinitionError, match=r"version v1 .* cannot be added to version v2") as raised:
        snapshot(store, entry, "jsd(age, 'first')")
    assert raised.value.code == "SNP002"
    assert "--version v1" in str(raised.value.hint)
    # also where only the baseline's rows are of another kind
    with pytest.raises(DefinitionError, match="cannot be added"):
        snapshot(store, entry, "jsd(age, 'first')", version="v2")
    # a version without events in the range lacks nothing
    late = {**baseline, "start": rfc3339(T0 + 2 * MINUTE), "end": rfc3339(T0 + 3 * MINUTE)}
    entry = entry_of(narrow, wide, baselines=[late])
    assert snapshot(store, entry, "jsd(age, 'first')", within=Range(T0 + MINUTE)) == Evaluation(
        value=0.0, rows=1, exact=True, error_bound=None
    )
    # one that lacks a column is told by what it lacks
    other = model("v3", columns=[*columns, {"name": "new", "type": "float"}])
    ensure(store, [other])
    entry = entry_of(narrow, wide, other)
    with pytest.raises(DefinitionError, match="Column new not found"):
        snapshot(store, entry, "sum(new)")
    assert snapshot(store, entry, "sum(new)", version="v3")["rows"] == 0
    with pytest.raises(FqlError, match="nothing"):
        snapshot(store, entry, "sum(nothing)")


def test_what_makes_no_sense_is_refused(store: Store) -> None:
    baseline = {"name": "before", "type": "rolling", "window": "1m", "offset": "1m"}
    entry = entry_of(model(), baselines=[baseline])
    written(store, model(), 0, events=[{"offset": at * MINUTE, "event_id": str(at), "age": 5} for at in range(4)])
    for code, arguments in {
        "SNP001": {"version": "v9"},
        "SNP003": {"expression": "psi(age, 'before')"},
        "SNP004": {"within": Range(T0, T0)},
    }.items():
        with pytest.raises(UsageError) as raised:
            snapshot(store, entry, **{"expression": "traffic()", **arguments})
        assert raised.value.code == code
    within = Range(T0 + 2 * MINUTE, T0 + 3 * MINUTE)
    assert snapshot(store, entry, "psi(age, 'before')", within=within)["value"] == 0.0
    first = Range(T0, T0 + MINUTE)
    assert snapshot(store, entry, "psi(age, 'before')", within=first)["value"] is None, "nothing came before"


def test_nothing_stored_is_no_rows(store: Store) -> None:
    entry = entry_of(model())
    nothing = Evaluation(value=None, rows=0, exact=True, error_bound=None)
    assert snapshot(store, entry, "sum(age) + count(embedding)") == nothing
    assert snapshot(store, entry, "traffic()", segment="country == 'FR'") == {**nothing, "value": 0.0}
    ensure(store, [model()])
    assert snapshot(store, entry, "auroc()") == nothing


def test_a_column_that_nobody_has_written_yet_is_null(store: Store) -> None:
    old = model()
    written(store, old, 0, events=[{"offset": 0, "event_id": "a", "age": 5}])
    more = [{"name": "new", "type": "string"}, {"name": "list", "type": "vector"}]
    grown = model(columns=[*(c.model_dump() for c in old.columns), *more])
    entry = entry_of(grown)
    assert snapshot(store, entry, "count(new) + count(list) + 10 * sum(age)")["value"] == 50.0
