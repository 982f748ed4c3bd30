"""`fqlstream.evaluate`: what may be given, what comes back, and that windows are those of the stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

import fqlstream
from fqlstream.errors import FqlError, UsageError
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import BaselineDefinition, ModelDefinition, Window
from fqlstream.fql.evaluate import Question, count_left_out, evaluate, evaluate_table, window_of
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.settings import FqlSettings
from fqlstream.stream.windows import spans_of

COLUMNS = {"x": [1.0, 2.0, None, 4.0], "s": ["a", "", "b", None], "n": [1, 2, 3, 4]}
MODEL = {
    "task": "binary_classification",
    "columns": [
        {"name": "score", "type": "float", "role": "output", "min": 0, "max": 1},
        {"name": "label", "type": "bool", "role": "target"},
    ],
}


class Stream:
    """A frame of another library, as Arrow's C interface shows it."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


FRAMES = {
    "pandas": pd.DataFrame(COLUMNS),
    "pandas nullable": pd.DataFrame(COLUMNS).convert_dtypes(),
    "pandas categories": pd.DataFrame(COLUMNS).astype({"s": "category"}),
    "arrow": pa.table(COLUMNS),
    "arrow batch": pa.RecordBatch.from_pydict(COLUMNS),
    "arrow stream": Stream(pa.table(COLUMNS)),
    "dict of lists": COLUMNS,
    "dict of arrays": {"x": np.array([1.0, 2.0, np.nan, 4.0]), "s": pa.array(COLUMNS["s"]), "n": np.arange(1, 5)},
    "dict of series": {"x": pd.Series(COLUMNS["x"]), "s": COLUMNS["s"], "n": range(1, 5)},
    "rows": [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)],
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_any_frame_gives_the_same_values(frame: Any) -> None:
    assert evaluate(frame, "sum(x)") == {"value": 7.0, "rows": 4, "exact": True, "error_bound": None}
    assert evaluate(frame, "count(s)")["value"] == 2
    assert evaluate(frame, "average(x * n)", segment="n > 1") == {
        "value": 10.0,
        "rows": 3,
        "exact": True,
        "error_bound": None,
    }


def test_it_is_exported_at_the_top() -> None:
    assert fqlstream.evaluate is evaluate
    assert "evaluate" in dir(fqlstream)
    with pytest.raises(AttributeError):
        _ = fqlstream.evaluat


def test_values_of_several_types_are_judged_by_the_model() -> None:
    model = {"columns": [{"name": "x", "type": "float", "max": 10}]}
    for frame in ({"x": [1, "2", True, 11.0, None]}, pd.DataFrame({"x": [1, "2", True, 11.0, None]})):
        assert evaluate(frame, "sum(x)", model=model)["value"] == 12.0
        assert evaluate(frame, "type_violation_count(x)", model=model)["value"] == 2
        assert evaluate(frame, "range_violation_count(x)", model=model)["value"] == 1
        assert evaluate(frame, "null_violation_count(x)", model=model)["value"] == 1


def test_a_model_may_be_a_definition_its_fields_or_a_file(tmp_path: Path) -> None:
    frame = {"score": [0.9, 0.2, 0.8, 0.7], "label": [True, False, False, None]}
    file = tmp_path / "model.yaml"
    file.write_text(
        "kind: model\nname: m\ntask: binary_classification\ncolumns:\n"
        "  - {name: score, type: float, role: output}\n  - {name: label, type: bool, role: target}\n"
        "---\n{kind: metric, model: m, name: other, definition: traffic()}\n"
    )
    for model in (MODEL, ModelDefinition.model_validate({"name": "m", **MODEL}), file, str(file)):
        assert evaluate(frame, "precision()", model=model) == {
            "value": 0.5,
            "rows": 4,
            "exact": True,
            "error_bound": None,
        }


def test_a_column_that_the_data_lacks_is_null() -> None:
    assert evaluate({"score": [0.5]}, "precision()", model=MODEL)["value"] is None
    assert evaluate({"score": [0.5]}, "null_violation_count(label)", model=MODEL)["value"] == 1


def test_no_rows() -> None:
    assert evaluate({"x": pa.array([], pa.float64())}, "sum(x)") == {
        "value": None,
        "rows": 0,
        "exact": True,
        "error_bound": None,
    }
    assert evaluate({"x": pa.array([], pa.float64()), "event_at": []}, "sum(x)", window="1h") == []


def test_a_truth_is_one_or_zero() -> None:
    assert evaluate(COLUMNS, "average(x) < 5")["value"] == 1.0
    assert evaluate(COLUMNS, "average(x) > 5")["value"] == 0.0


def test_wrong_expressions_are_refused() -> None:
    for expression in ("x +", "x + 1", "sum(y)", "precision()"):
        with pytest.raises(FqlError):
            evaluate(COLUMNS, expression)
    with pytest.raises(FqlError):
        evaluate(COLUMNS, "sum(x)", segment="sum(x) > 1")


@pytest.mark.parametrize(
    ("frame", "options", "code"),
    [
        (42, {}, "USE033"),
        ({"x": "text"}, {}, "USE033"),
        ({"x": [1.0], "n": [1, 2]}, {}, "USE034"),
        (COLUMNS, {"window": "1h"}, "USE031"),
        (COLUMNS, {"window": "1h", "event_at": "when"}, "USE031"),
        ({**COLUMNS, "event_at": [0, 1, 2, None]}, {"window": "1h"}, "USE035"),
        ({**COLUMNS, "event_at": ["2024-01-01", 1, 2, 3]}, {"window": "1h"}, "USE035"),
        ({**COLUMNS, "event_at": [0, 1, 2, 3]}, {"window": "soon"}, "USE032"),
    ],
)
def test_wrong_calls_say_what_to_do(frame: Any, options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as refused:
        evaluate(frame, "sum(x)", **options)
    assert refused.value.code == code


def test_windows_are_in_time_order_and_hold_rows() -> None:
    day = datetime(2024, 1, 1, tzinfo=UTC)
    times = [day + timedelta(minutes=m) for m in (130, 10, 59, 60)]
    found = evaluate({"x": [1.0, 2.0, 3.0, 4.0], "event_at": times}, "sum(x)", window="1h")
    assert [(item["window_start"], item["window_end"], item["value"], item["rows"]) for item in found] == [
        ("2024-01-01T00:00:00Z", "2024-01-01T01:00:00Z", 5.0, 2),
        ("2024-01-01T01:00:00Z", "2024-01-01T02:00:00Z", 4.0, 1),
        ("2024-01-01T02:00:00Z", "2024-01-01T03:00:00Z", 1.0, 1),
    ]


def test_a_window_without_rows_of_the_segment_is_there() -> None:
    found = evaluate({"x": [1.0, 5.0], "event_at": [0, 3_600_000]}, "sum(x)", segment="x > 2", window="1h")
    assert [(item["value"], item["rows"]) for item in found] == [(None, 0), (5.0, 1)]


def test_a_time_index_gives_the_times() -> None:
    index = pd.DatetimeIndex(["2024-01-01T00:30", "2024-01-01T01:30"], tz="Europe/Paris")
    found = evaluate(pd.DataFrame({"x": [1.0, 2.0]}, index=index), "sum(x)", window="1h")
    assert [item["window_start"] for item in found] == ["2023-12-31T23:00:00Z", "2024-01-01T00:00:00Z"]


@given(
    st.lists(st.tuples(st.integers(-10, 3_000), st.integers(0, 9)), min_size=1, max_size=30),
    st.sampled_from(["5m", "1h", "7d", {"size": "10m", "every": "5m"}, {"size": "15m", "every": "10m"}]),
)
def test_windows_are_those_of_the_stream(rows: list[tuple[int, int]], shape: Any) -> None:
    window = Window.model_validate(shape)
    expected: dict[int, list[int]] = {}
    for minute, x in rows:
        # a stream knows panes; of five minutes, they fit all these windows
        for span in spans_of(window, minute * 60_000 // 300_000 * 300_000):
            expected.setdefault(span.start_ms, []).append(x)
    frame = {"x": [x for _, x in rows], "event_at": [minute * 60_000 for minute, _ in rows]}
    found = evaluate(frame, "sum(x)", window=shape)
    starts = [int(datetime.fromisoformat(item["window_start"]).timestamp() * 1000) for item in found]
    assert {start: item["value"] for start, item in zip(starts, found, strict=True)} == {
        start: sum(values) for start, values in expected.items()
    }
    assert starts == sorted(expected)


def test_a_typed_table_is_evaluated_as_it_is() -> None:
    model = ModelDefinition.model_validate({"name": "m", **MODEL})
    table = coerce_table(pa.table({"score": [0.9, 0.4], "label": [True, True]}), model)
    assert [item["value"] for item in evaluate_table(table, model, Question("recall()"))] == [0.5]
    hours = Question("recall()", window=window_of("1h"), event_at_ms=np.array([0, 3_600_000]))
    assert [item["value"] for item in evaluate_table(table, model, hours)] == [1, 0]
    with pytest.raises(UsageError, match="2 times for 1 rows"):
        evaluate_table(table.slice(1), model, hours)


def test_a_sketch_says_so() -> None:
    values = np.arange(1_000.0)
    exact = evaluate({"x": values}, "quantile(x, level=0.9)", settings=FqlSettings(quantile_values_max=1_000))
    sketch = evaluate({"x": values}, "quantile(x, level=0.9)", settings=FqlSettings(quantile_values_max=10))
    assert exact == {"value": np.quantile(values, 0.9), "rows": 1_000, "exact": True, "error_bound": None}
    assert not sketch["exact"]
    assert sketch["value"] == pytest.approx(899, abs=30)
    assert sketch["error_bound"] == pytest.approx(0.0133, abs=1e-4)


# ---- baselines that are periods of the data itself -------------------------------------------------------------------


DRIFTING = {
    "task": "regression",
    "columns": [{"name": "x", "type": "float", "bins": [0.0, 1.0, 2.0, 3.0, 4.0]}, {"name": "s", "type": "string"}],
}


def drifting(rows_count: int = 4_000) -> pd.DataFrame:
    random = np.random.default_rng(7)
    hours = np.sort(random.integers(0, 12 * 60, rows_count)) / 60
    return pd.DataFrame(
        {
            "x": np.where(random.random(rows_count) < 0.05, np.nan, random.normal(1 + hours / 6, 1, rows_count)),
            "s": np.where(random.random(rows_count) < 0.3, "a", "b"),
            "event_at": pd.Timestamp("2026-11-21", tz="UTC") + pd.to_timedelta(hours, "h"),
        }
    )


def distance(window: pd.DataFrame, past: pd.DataFrame) -> float | None:
    """Jensen-Shannon distance by SciPy over NumPy's histograms, what lies outside in bins of its own."""
    edges = [-np.inf, 0.0, 1.0, 2.0, 3.0, 4.0, np.inf]
    sides = [np.histogram(frame.x.dropna(), edges)[0] for frame in (past, window)]
    return float(jensenshannon(*sides, base=2)) if all(side.sum() for side in sides) else None


def between(frame: pd.DataFrame, start: Any, end: Any) -> pd.DataFrame:
    return frame[(frame.event_at >= start) & (frame.event_at < end)]


@pytest.mark.parametrize("segment", [None, "s == 'a'"])
@pytest.mark.parametrize("window", ["1h", {"size": "2h", "every": "30m"}])
def test_a_rolling_baseline_is_the_period_before_each_window(window: Any, segment: str | None) -> None:
    frame = drifting()
    before = BaselineDefinition(model="model", name="before", type="rolling", window="2h", offset="1h")
    fixed = between(frame, frame.event_at.min(), frame.event_at.min() + pd.Timedelta("1h"))

    found = evaluate(
        frame,
        "jsd(x, 'before') + 0 * jsd(x, 'first')",
        model=DRIFTING,
        window=window,
        segment=segment,
        baselines={"before": before, "first": fixed},
    )

    kept = frame if segment is None else frame[frame.s == "a"]
    assert len(found) >= 12
    for value in found:
        start, end = pd.Timestamp(value["window_start"]), pd.Timestamp(value["window_end"])
        past = between(kept, end - pd.Timedelta("3h"), end - pd.Timedelta("1h"))
        expected = distance(between(kept, start, end), past)
        assert value["value"] == (None if expected is None else pytest.approx(expected, rel=1e-12))
    assert sum(value["value"] is None for value in found) <= 2


def test_a_stored_time_is_a_baseline_too() -> None:
    frame = drifting()
    stored = BaselineDefinition(
        model="model", name="b", type="static", start="2026-11-21T01:00:00Z", end="2026-11-21T03:00:00Z"
    )
    rows = between(frame, pd.Timestamp("2026-11-21T01:00Z"), pd.Timestamp("2026-11-21T03:00Z"))
    whole = evaluate(frame, "jsd(x, 'b')", model=DRIFTING, baselines={"b": stored})
    assert whole["value"] == pytest.approx(distance(frame, rows), rel=1e-12)
    by_hour = evaluate(frame, "psi(x, 'b')", model=DRIFTING, window="1h", baselines={"b": stored})
    assert by_hour == evaluate(frame, "psi(x, 'b')", model=DRIFTING, window="1h", baselines={"b": rows})


def test_a_period_before_each_window_needs_windows() -> None:
    before = BaselineDefinition(model="model", name="before", type="rolling", window="2h")
    with pytest.raises(UsageError, match="there are no windows") as caught:
        evaluate(drifting(100), "jsd(x, 'before')", model=DRIFTING, baselines={"before": before})
    assert caught.value.code == "USE037"
    # one that the expression does not name is no trouble
    assert evaluate(drifting(100), "traffic()", model=DRIFTING, baselines={"before": before})["value"] == 100


# ---- rows that a function leaves out ---------------------------------------------------------------------------------


def test_rows_that_a_function_leaves_out_are_counted() -> None:
    model = EXAMPLE_MODELS["regression"]
    table = coerce_table(
        pa.table({"price": [0.0, 2.0, 0.0, None, 0.0, 5.0], "estimate": [1.0, 1.0, None, 1.0, 3.0, 4.0]}), model
    )
    said = "mape() leaves out 2 of 6 rows: rows whose target is 0"
    assert count_left_out(table, model, Question("mape()")) == [said]
    assert count_left_out(table, model, Question("mape() / (1 + mape())")) == [said]
    assert count_left_out(table, model, Question("mape()", "estimate > 2")) == [
        "mape() leaves out 1 of 2 rows: rows whose target is 0"
    ]
    assert count_left_out(table, model, Question("mape()", "price > 0")) == []
    assert count_left_out(table, model, Question("mae() + wmape()")) == []
