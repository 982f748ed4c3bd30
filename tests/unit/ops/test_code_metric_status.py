from __future__ import annotations

from typing import Any

import pytest

from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.ops import code_metric_status
from fqlstream.ops.code_metric_status import statuses
from fqlstream.store.code_metric_rows import Report, RunRow

METRIC = CodeMetricDefinition(model="m", name="c", code="1", id="id")
RUN = RunRow("id", 9_000, 1, "me", "m", "c", "h", 0, 9_000, {}, "failed", Report(code="CBM010"), 0, 0, 0)


@pytest.mark.parametrize(("end_ms", "value"), [(9_000, 2.5), (8_000, None)])
def test_a_run_is_shown_with_the_value_of_its_own_period(
    end_ms: int, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_metric_status.rows, "newest_runs", lambda *_, **__: {"id": [RUN]})
    monkeypatch.setattr(code_metric_status.rows, "whole_values", lambda *_: {("id", end_ms): 2.5})
    nothing: Any = None
    (status,) = statuses(nothing, [METRIC])
    assert (status.value, status.code) == (value, "CBM010")
