"""The engine against one row at a time: whatever way rows are grouped, ordered, cut or masked, states are those of the rows."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream.aggregates.index import make_aggregator
from fqlstream.errors import FqlstreamError
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.compile_arrow import LANES, Cells, Engine, compile_model
from fqlstream.fql.plan import Lane
from fqlstream.fql.planner import plan_model
from fqlstream.settings import FqlSettings

MODEL = ModelDefinition.model_validate(
    {
        "name": "churn",
        "task": "binary_classification",
        "columns": [
            {"name": "age", "type": "int", "min": 18, "max": 100},
            {"name": "country", "type": "category", "categories": ["FR", "DE"]},
            {"name": "latency", "type": "float", "role": "metadata"},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
    }
)
METRICS = {
    "rows": "traffic()",
    "precision": "precision()",
    "accuracy": "accuracy()",
    "total": "sum(latency)",
    "mean": "average(latency * 2 + age)",
    "given": "count(country)",
    "lowest": "min(latency)",
    "highest": "max(score)",
    "p90": "quantile(latency, level=0.9)",
    "cost": "sum(if(fp(), 10, 0) + if(fn(), 200, 0))",
    "odd": "range_violation_count(age) + type_violation_count(latency)",
    "is_slow": "average(latency) > 5",
}
SEGMENTS = {
    "old": "age >= 60",
    "french": "country == 'FR'",
    "right": "tp() or tn()",
    "unlabelled": "is_null(churned)",
    "none": "false",
}
SMALL = FqlSettings(quantile_values_max=4)
EVENTS, LABELS = Lane.EVENTS, Lane.LABELS


def engine_of(
    metrics: Mapping[str, str] = METRICS, segments: Mapping[str, str] = SEGMENTS, limits: FqlSettings | None = None
) -> Engine:
    limits = limits or FqlSettings()
    plan = plan_model(
        MODEL,
        [MetricDefinition(model="churn", name=name, definition=text) for name, text in metrics.items()],
        [SegmentDefinition(model="churn", name=name, definition=text) for name, text in segments.items()],
        settings=limits,
    )
    return compile_model(plan, limits)


ENGINE = engine_of()

ROW = st.fixed_dictionaries(
    {
        "age": st.one_of(st.none(), st.integers(10, 110)),
        "country": st.one_of(st.none(), st.sampled_from(["", "FR", "DE", "XX"])),
        "latency": st.one_of(st.none(), st.floats(0, 10), st.sampled_from([0.0, 1.0, 1e300, 5e-324])),
        "score": st.one_of(st.none(), st.floats(0, 1)),
        "churned": st.one_of(st.none(), st.sampled_from(["no", "yes", "?"])),
    }
)
RAW = pa.schema(
    [("age", "int64"), ("country", "string"), ("latency", "float64"), ("score", "float64"), ("churned", "string")]
)


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return coerce_table(pa.Table.from_pylist(list(rows), RAW), MODEL)


def random_table(rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return coerce_table(
        pa.table(
            {
                "age": pa.array(random.integers(10, 110, rows), mask=random.random(rows) < 0.1),
                "country": pa.array(random.choice(["FR", "DE", "XX", ""], rows)),
                "latency": pa.array(random.lognormal(1, 2, rows), mask=random.random(rows) < 0.1),
                "score": random.random(rows),
                "churned": pa.array(random.choice(["no", "yes"], rows), mask=random.random(rows) < 0.3),
            }
        ),
        MODEL,
    )


def codes_of(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


def in_one_pane(engine: Engine, table: pa.Table) -> dict[Lane, Cells]:
    partials = engine.partials_both(table, np.zeros(len(table), dtype=np.int64), 1)
    return {lane: partials[lane][0] for lane in LANES}


@given(st.lists(st.tuples(ROW, st.integers(0, 9)), max_size=25), st.sampled_from(["as_is", "sorted", "two", "one"]))
@settings(max_examples=40)
def test_every_pane_holds_its_own_rows(rows: list[tuple[dict[str, Any], int]], order: str) -> None:
    if order == "sorted":
        rows = sorted(rows, key=lambda row: row[1])
    codes = codes_of(code % {"two": 2, "one": 1}.get(order, 10) for _, code in rows)
    partials = ENGINE.partials_both(table_of(row for row, _ in rows), codes, 11)
    for pane in range(11):
        expected = in_one_pane(
            ENGINE, table_of(row for (row, _), code in zip(rows, codes, strict=True) if code == pane)
        )
        assert {lane: partials[lane][pane] for lane in LANES} == expected


@given(st.lists(ROW, max_size=12))
@settings(max_examples=60)
def test_states_are_those_of_single_rows_merged(rows: list[dict[str, Any]]) -> None:
    whole = in_one_pane(ENGINE, table_of(rows))
    for lane in LANES:
        singles = (in_one_pane(ENGINE, table_of([row]))[lane] for row in rows)
        assert ENGINE.merge_all(lane, singles) == whole[lane]


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 4095, 4097, 32_768, 32_769, 70_001])
def test_any_number_of_rows_agrees_with_pandas(rows: int) -> None:
    table = random_table(rows, seed=rows)
    frame = table.to_pandas()
    found = {(r.metric, r.segment): r for r in ENGINE.results(in_one_pane(ENGINE, table))}
    for segment, mask in {"": slice(None), "old": frame.age >= 60, "french": frame.country == "FR"}.items():
        part = frame[mask]
        assert found["rows", segment].value == len(part)
        assert found["rows", segment].labelled_rows == part.churned.notna().sum()
        assert found["lowest", segment].value == (None if part.latency.isna().all() else part.latency.min())
        assert found["given", segment].value == (part.country != "").sum()
        assert found["odd", segment].value == ((part.age < 18) | (part.age > 100)).sum()
        mean = (part.latency * 2 + part.age).mean()
        assert found["mean", segment].value == (None if np.isnan(mean) else pytest.approx(mean, rel=1e-12))
        predicted, actual = part.score >= 0.5, part.churned == "yes"
        labelled = part.churned.notna()
        alarms = (predicted & labelled).sum()
        assert found["precision", segment].value == ((predicted & actual).sum() / alarms if alarms else None)
        cost = (predicted & labelled & ~actual).sum() * 10 + (~predicted & actual).sum() * 200
        assert found["cost", segment].value == (cost if len(part) else None)
        assert found["total", segment].value == (
            None if part.latency.isna().all() else pytest.approx(part.latency.sum(), rel=1e-12)
        )


@pytest.mark.parametrize("panes", [1, 2, 5, 6, 7, 60])
@pytest.mark.parametrize("order", ["random", "rising"])
def test_panes_of_a_large_batch_agree_with_pandas(panes: int, order: str) -> None:
    table = random_table(40_000, seed=panes)
    codes = np.random.default_rng(panes).integers(0, panes, 40_000)
    codes = np.sort(codes) if order == "rising" else codes
    partials = ENGINE.partials_both(table, codes, panes + 1)
    frame = table.to_pandas().assign(pane=codes)
    windows = [{lane: partials[lane][pane] for lane in LANES} for pane in range(panes)]
    for pane, results in enumerate(ENGINE.results_many(windows)):
        part = frame[frame.pane == pane]
        found = {(r.metric, r.segment): r.value for r in results}
        assert found["rows", ""] == len(part)
        assert found["rows", "old"] == (part.age >= 60).sum()
        assert found["total", ""] == pytest.approx(part.latency.sum(), rel=1e-12)
        assert found["highest", "french"] == part.score[part.country == "FR"].max()
    assert {lane: partials[lane][panes] for lane in LANES} == {lane: ENGINE.init(lane) for lane in LANES}


def test_lanes_apart_are_lanes_together() -> None:
    table, codes = random_table(500), np.arange(500) % 3
    both = ENGINE.partials_both(table, codes, 3)
    for lane in LANES:
        assert ENGINE.partials(table, codes, 3, lane) == both[lane]


def test_sums_do_not_depend_on_order() -> None:
    engine = engine_of({"total": "sum(latency)"}, {})
    values = [1e300, 1.0, -1e300, 1e-300, 0.1, 2.0**53, 5e-324]
    states = set()
    for order in itertools.permutations(values, 7):
        table = coerce_table(pa.table({"latency": list(order)}), MODEL)
        states.add(in_one_pane(engine, table)[EVENTS])
        if len(states) > 1:
            break
    assert len(states) == 1


def test_columns_are_those_that_cells_read() -> None:
    assert ENGINE.columns == {*RAW.names, "_type_violations", "_range_violations"}
    engine = engine_of({"total": "sum(latency)", "hits": "sum(if(tp(), 1, 0))"}, {"old": "age >= 60"})
    assert engine.columns == {"latency", "churned", "score", "age"}
    assert engine.label_columns == {"churned", "score", "age"}
    # each lane needs no more than its own columns
    table = random_table(3)
    assert engine.partials(table.select(sorted(engine.label_columns)), codes_of([0, 0, 0]), 1, LABELS)
    with pytest.raises(KeyError):
        engine.partials(table.select(sorted(engine.label_columns)), codes_of([0, 0, 0]), 1, EVENTS)


def test_a_table_that_lacks_a_column_is_refused() -> None:
    with pytest.raises(KeyError, match="latency"):
        ENGINE.partials_both(random_table(3).drop_columns(["latency"]), codes_of([0, 0, 0]), 1)


@given(st.lists(ROW, min_size=1, max_size=10), st.data())
@settings(max_examples=60)
def test_a_label_replaces_what_its_row_was(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    label = data.draw(st.one_of(st.none(), st.sampled_from(["no", "yes"])))
    after = [*rows[:place], {**rows[place], "churned": label}, *rows[place + 1 :]]
    before = in_one_pane(ENGINE, table_of(rows))[LABELS]
    gone, come = (in_one_pane(ENGINE, table_of([of[place]]))[LABELS] for of in (rows, after))
    expected = in_one_pane(ENGINE, table_of(after))[LABELS]

    replaced, complete = ENGINE.replace(LABELS, before, gone, come)
    assert replaced == expected or not complete

    retracted, told = ENGINE.retract(LABELS, before, gone)
    assert ENGINE.merge(LABELS, retracted, come) == expected or not told
    assert complete or not told


def test_a_state_that_forgot_its_rows_asks_for_repair() -> None:
    engine = engine_of({"p": "quantile(latency)", "m": "min(latency)"}, {"yes": "churned == 'yes'"}, SMALL)
    rows = [{"latency": float(i), "churned": "yes"} for i in range(9)]
    whole = in_one_pane(engine, table_of(rows))[LABELS]
    for place, told in ((0, False), (8, False)):
        gone = in_one_pane(engine, table_of([rows[place]]))[LABELS]
        assert engine.retract(LABELS, whole, gone)[1] is told
        # a change that the segment does not notice is none
        assert engine.replace(LABELS, whole, gone, gone) == (whole, True)
    exact = in_one_pane(engine, table_of(rows[:3]))[LABELS]
    states, told = engine.retract(LABELS, exact, in_one_pane(engine, table_of(rows[2:3]))[LABELS])
    assert told
    assert states == in_one_pane(engine, table_of(rows[:2]))[LABELS]


@given(st.lists(ROW, max_size=10))
@settings(max_examples=40)
def test_encoded_cells_come_back(rows: list[dict[str, Any]]) -> None:
    engine = engine_of(limits=SMALL)
    for lane, cells in in_one_pane(engine, table_of(rows)).items():
        data = engine.encode(lane, cells)
        assert engine.decode(lane, data) == (cells, frozenset())
        record = msgspec.msgpack.decode(data)
        assert set(record) == {"version", "cells"}
        assert set(record["cells"]) == {cell.key for cell in engine.plan.lane_cells(lane)}


def test_a_record_of_other_definitions_is_read_by_key() -> None:
    old = engine_of({"rows": "traffic()", "total": "sum(latency)"}, {"old": "age >= 60"})
    new = engine_of({"p": "max(score)", "total": "sum(latency)"}, {"young": "age < 30", "old": "age >= 60"})
    table = random_table(100)
    data = old.encode(EVENTS, in_one_pane(old, table)[EVENTS])
    cells, missing = new.decode(EVENTS, data)
    expected = in_one_pane(new, table)[EVENTS]
    for cell, state, own, nothing in zip(new.plan.lane_cells(EVENTS), cells, expected, new.init(EVENTS), strict=True):
        assert state == (nothing if cell.key in missing else own)
    lacking = [cell for cell in new.plan.lane_cells(EVENTS) if cell.key in missing]
    assert {cell.aggregate.kind for cell in lacking} == {"max", "count_true", "sum", "count"} - {"count"}
    assert 0 < len(missing) < len(cells)


def test_states_of_another_sketch_are_not_covered() -> None:
    metrics = {"p": "quantile(latency)", "rows": "traffic()"}
    kll, river = (
        engine_of(metrics, {}, FqlSettings(quantile_values_max=4, quantile_sketch=name))
        for name in ("kll", "river_histogram")
    )
    table = random_table(200)
    cells, missing = river.decode(EVENTS, kll.encode(EVENTS, in_one_pane(kll, table)[EVENTS]))
    quantiles = {cell.key for cell in river.plan.lane_cells(EVENTS) if cell.aggregate.kind == "quantile"}
    assert missing == quantiles
    assert all(
        (state == nothing) == (cell.key in missing)
        for cell, state, nothing in zip(river.plan.lane_cells(EVENTS), cells, river.init(EVENTS), strict=True)
    )
    # exact states are of no sketch
    few = table.slice(0, 3)
    assert river.decode(EVENTS, kll.encode(EVENTS, in_one_pane(kll, few)[EVENTS]))[1] == frozenset()
    (value, _) = river.results(in_one_pane(river, table))
    assert (value.exact, value.error_bound) == (False, None)


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"version": 1})])
def test_a_damaged_record_is_refused(data: bytes) -> None:
    with pytest.raises(FqlstreamError) as refused:
        ENGINE.decode(EVENTS, data)
    assert refused.value.code == "STA002"


def test_a_newer_record_is_refused() -> None:
    with pytest.raises(FqlstreamError) as refused:
        ENGINE.decode(EVENTS, msgspec.msgpack.encode({"version": 99, "cells": {}}))
    assert refused.value.code == "STA001"


def test_results_of_no_rows() -> None:
    results = ENGINE.results({lane: ENGINE.init(lane) for lane in LANES})
    assert len(results) == len(METRICS) * (len(SEGMENTS) + 1)
    for result in results:
        assert result.value == (0.0 if result.metric in {"rows", "given", "odd"} else None), result
        assert (result.rows, result.labelled_rows, result.exact, result.error_bound) == (0, 0, True, None)


def test_many_windows_are_read_as_one_at_a_time() -> None:
    tables = [random_table(rows, seed=rows) for rows in (0, 1, 50, 3_000)]
    windows = [in_one_pane(ENGINE, table) for table in tables]
    assert ENGINE.results_many(windows) == [ENGINE.results(window) for window in windows]
    assert ENGINE.results_many([]) == []


def test_a_quantile_says_how_far_its_rank_may_be_off() -> None:
    engine = engine_of({"p": "quantile(latency, level=0.9)", "twice": "2 * quantile(latency, level=0.9)"}, {}, SMALL)
    table = random_table(5_000)
    direct, twice = engine.results(in_one_pane(engine, table))
    assert (direct.exact, twice.exact) == (False, False)
    assert direct.error_bound == pytest.approx(0.0133, abs=1e-4)
    exact = 2 * pd.Series(table["latency"].to_pandas()).quantile(0.9)
    assert twice.error_bound is not None
    assert abs(twice.value - exact) <= twice.error_bound


def test_one_engine_serves_many_segments() -> None:
    segments = {f"s{i}": f"age == {i}" for i in range(150)}
    engine = engine_of({"total": "sum(latency)", "rows": "traffic()"}, segments)
    table = random_table(9_000)
    found = {(r.metric, r.segment): r.value for r in engine.results(in_one_pane(engine, table))}
    ages = table["age"].to_pandas()
    assert all(found["rows", f"s{i}"] == (ages == i).sum() for i in range(150))
    total = table["latency"].to_pandas()[ages == 42].sum()
    assert found["total", "s42"] == pytest.approx(total, rel=1e-12)


def test_many_sums_are_taken_in_groups() -> None:
    metrics = {f"m{i}": f"sum(latency * {i})" for i in range(1, 90)}
    engine = engine_of(metrics, {})
    table = random_table(500)
    latency = table["latency"].to_pandas()
    for result in engine.results(in_one_pane(engine, table)):
        assert result.value == pytest.approx((latency * int(result.metric[1:])).sum(), rel=1e-12)


def test_chunked_and_sliced_tables_are_read_alike() -> None:
    table = random_table(300)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 100), table.slice(107)])
    assert in_one_pane(ENGINE, chunked) == in_one_pane(ENGINE, table)
    for start in (1, 3, 8, 64):
        part = table.slice(start, 150)
        copied = pa.Table.from_pylist(part.to_pylist(), part.schema)
        assert in_one_pane(ENGINE, part) == in_one_pane(ENGINE, copied)


def test_aggregators_are_named_per_cell() -> None:
    for lane in LANES:
        cells = ENGINE.plan.lane_cells(lane)
        kinds = [aggregator.kind for aggregator in ENGINE.aggregators(lane)]
        assert kinds == [cell.aggregate.kind for cell in cells]
        assert ENGINE.init(lane) == tuple(
            make_aggregator(cell.aggregate.kind, dict(cell.aggregate.params), FqlSettings()).init() for cell in cells
        )


@pytest.mark.parametrize("rows", [3, 40, 3_000])
def test_the_memory_that_states_are_said_to_take_is_what_python_allocates_for_them(rows: int) -> None:
    """Sketches aside, whose memory is not Python's: exact values only."""
    engine = engine_of(
        {**METRICS, "auroc": "auroc()"}, limits=FqlSettings(quantile_values_max=10_000, score_values_max=10_000)
    )
    table = random_table(rows)
    partials = engine.partials_both(table, np.zeros(rows, np.int64), 1)
    encoded = {lane: engine.encode(lane, partials[lane][0]) for lane in LANES}
    for lane in LANES:
        engine.decode(lane, encoded[lane])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        copies = [{lane: engine.decode(lane, encoded[lane])[0] for lane in LANES} for _ in range(50)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each = (after - before) / len(copies)
    assert 0.7 * each < engine.bytes_of(copies[0]) < 2.5 * each
    assert engine.bytes_of({lane: engine.init(lane) for lane in LANES}) == 0


def test_a_sketch_counts_as_memory_for_what_it_keeps_not_for_what_it_saw() -> None:
    engine = engine_of({"p90": "quantile(latency, level=0.9)"}, {}, SMALL)
    few, many = (engine.bytes_of(in_one_pane(engine, random_table(rows))) for rows in (100, 50_000))
    assert 2_000 < few < many < 10_000
