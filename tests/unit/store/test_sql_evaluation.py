from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fqlstream.errors import UsageError
from fqlstream.events.columns import coerce_values, violation_lists
from fqlstream.events.definitions import BaselineDefinition
from fqlstream.fql.evaluate import Question, evaluate_table, window_of
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.store.sql_evaluation import evaluate_in_clickhouse

MODEL = EXAMPLE_MODELS["table"]
MINUTE = 60_000


def table(**columns: list[Any]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    arrays: dict[str, Any] = {}
    type_bad, range_bad = {}, {}
    for column in MODEL.columns:
        values = columns.get(column.name, [None] * rows)
        arrays[column.name], type_bad[column.name], range_bad[column.name] = coerce_values(values, column)
    arrays["_type_violations"] = violation_lists(rows, type_bad)
    arrays["_range_violations"] = violation_lists(rows, range_bad)
    return pa.table(arrays)


def period(name: str, **fields: str) -> BaselineDefinition:
    return BaselineDefinition.model_validate({"model": "table", "name": name, **fields})


ROWS = table(
    x=[1.0, None, 30.0, 2.5, 1e300, 1e300], b=[True, False, None, True, True, False], s=["a", "", None, "b", "a", "é"]
)
TIMES = np.array([0, 1, MINUTE, 2 * MINUTE, 2 * MINUTE + 1, -1], np.int64)
FIRST = period("first", type="static", start="1970-01-01T00:00:00Z", end="1970-01-01T00:01:00Z")
BEFORE = period("before", type="rolling", window="1m", offset="1m")


@pytest.mark.parametrize("window", [None, "1m", {"size": "3m", "every": "1m"}])
@pytest.mark.parametrize(
    "text",
    [
        "sum(x)",
        "count(s) - null_violation_count(s)",
        "range_violation_count(x)",
        "psi(b, 'first')",
        "jsd(x, 'file') / 2",
        "quantile(x)",
        "average(if(b, 1, 0)) > 0.5",
    ],
)
def test_the_engines_answer_alike(text: str, window: Any) -> None:
    baselines = {"file": table(x=[1.0, 2.0, 9.5])}
    size = None if window is None else window_of(window)
    question = Question(text, "s != 'b'", size, TIMES, baselines, {"first": FIRST})
    left, right = (evaluate(ROWS, MODEL, question) for evaluate in (evaluate_table, evaluate_in_clickhouse))
    assert len(left) == 1 if window is None else len(left) > 1
    assert [{**item, "value": None} for item in left] == [{**item, "value": None} for item in right]
    for a, b in zip(left, right, strict=True):
        # drift reads logarithms, whose last digit is a matter of the library
        is_close = text.startswith(("psi", "jsd")) and b["value"] is not None
        assert a["value"] == (pytest.approx(b["value"], rel=1e-13, abs=0) if is_close else b["value"])


def test_no_rows_are_an_answer_and_no_windows() -> None:
    nothing = ROWS.slice(0, 0)
    assert evaluate_in_clickhouse(nothing, MODEL, Question("sum(x)")) == [
        {"value": None, "rows": 0, "exact": True, "error_bound": None}
    ]
    assert evaluate_in_clickhouse(nothing, MODEL, Question("sum(x)", None, window_of("1h"), TIMES[:0])) == []


def test_a_baseline_that_moves_with_the_window_is_refused_where_it_is_read() -> None:
    minutes = window_of("1m")
    moving = Question("psi(b, 'before')", None, minutes, TIMES, periods={"first": FIRST, "before": BEFORE})
    with pytest.raises(UsageError, match="another period for each window") as raised:
        evaluate_in_clickhouse(ROWS, MODEL, moving)
    assert raised.value.code == "USE038"
    fixed = replace(moving, expression="psi(b, 'first')")
    assert evaluate_in_clickhouse(ROWS, MODEL, fixed) == evaluate_table(ROWS, MODEL, fixed)


def test_windows_need_times() -> None:
    with pytest.raises(UsageError, match="time of every row"):
        evaluate_in_clickhouse(ROWS, MODEL, Question("sum(x)", window=window_of("1h")))
