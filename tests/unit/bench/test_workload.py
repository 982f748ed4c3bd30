"""The benchmarks' events: the same for the same seed, of the promised size, and as the payload contract wants them."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from fqlstream import evaluate
from fqlstream.bench.workload import DEFINITIONS, MODEL, VERSION, Workload


def test_the_same_workload_is_the_same_events() -> None:
    assert Workload(500).table.equals(Workload(500).table)
    assert not Workload(500, seed=8).table.equals(Workload(500).table)


def test_json_events_say_what_the_table_says() -> None:
    workload = Workload(1_000, minutes=10)
    rows = workload.table.to_pylist()
    records = list(workload.json_records())
    assert len(records) == 1_000
    for row, (event_id, at_ms, text) in zip(rows, records, strict=True):
        event = json.loads(text)
        columns = event.pop("columns")
        assert event == {
            "type": "inference",
            "model": MODEL,
            "version": VERSION,
            "event_id": event_id,
            "event_at": at_ms,
        }
        assert {**columns, "event_id": event_id, "event_at": at_ms} == row
    sizes = [len(text) for *_, text in records]
    assert 180 <= sum(sizes) / len(sizes) <= 220


def test_event_time_runs_evenly_over_the_minutes() -> None:
    times = Workload(600, minutes=10).table["event_at"].to_numpy()
    assert times[-1] - times[0] == 599 * 1_000
    assert len(set((times - times[0]) // 60_000)) == 10


def test_arrow_batches_hold_the_same_events() -> None:
    workload = Workload(2_500)
    records = list(workload.arrow_records(1_000))
    tables = [pa.ipc.open_stream(stream).read_all() for *_, stream in records]
    assert [len(table) for table in tables] == [1_000, 1_000, 500]
    assert pa.concat_tables(tables).equals(workload.table)
    assert records[1][:2] == ("e-000000001000", workload.table["event_at"][1_000].as_py())


MODEL_DOCUMENT = DEFINITIONS[0]
METRICS = [each for each in DEFINITIONS if each["kind"] == "metric"]
SEGMENTS = [each for each in DEFINITIONS if each["kind"] == "segment"]


def test_there_are_ten_metrics_and_five_segments_beside_all_rows() -> None:
    assert (len(METRICS), len(SEGMENTS)) == (10, 5)


@pytest.mark.parametrize("metric", METRICS, ids=lambda each: each["name"])
def test_every_metric_has_a_value_in_every_segment(metric: dict) -> None:
    frame = Workload(2_000).table
    for segment in [None, *SEGMENTS]:
        chosen = None if segment is None else segment["definition"]
        result = evaluate(frame, metric["definition"], model=MODEL_DOCUMENT, segment=chosen)
        assert result["value"] is not None
        assert 0 < result["rows"] <= 2_000
        assert (result["rows"] < 2_000) == (segment is not None)
