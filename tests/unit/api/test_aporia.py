from __future__ import annotations

import math

import pytest

from fqlstream.api.aporia import WIRE, _told
from fqlstream.api.problems import refuse
from fqlstream.store.code_metric_rows import STEP_DELIVERED, Report, TaskRow

TASK = TaskRow("id", "serving/m/v1", "h", 1, 3, "m", "c", "pending", Report("exported", 20, 7), 0, 0)


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [
        ("/api/v1/default/default/metrics/code-based-metrics", True),
        ("/api/v1/a/b/metrics/code-based-metrics/validate", True),
        ("/api/v1/a/b/model-versions", True),
        ("/api/v1/a/b/model-versionss", False),
        ("/api/v1/metrics/single-value/x", False),
        ("/api/v1/jobs/7/metrics", False),
        ("/api/fqlstream/v1/code-metrics", False),
    ],
)
def test_it_owns_its_own_paths_under_any_account(path: str, is_ours: bool) -> None:
    assert WIRE.owns({"path": path, "headers": []}) is is_ours


def test_refusals_are_a_detail() -> None:
    problem = refuse(422, "name: too long", hint="shorter", fields={"body.name": ["too long"]}).problem
    told = WIRE.render(problem, None, "r-1")
    assert told.status == 422
    assert told.body == {
        "detail": {
            "message": "name: too long", "code": "API011", "request_id": "r-1", "hint": "shorter", "fields": {"body.name": ["too long"]},
        }
    }  # fmt: skip


def test_a_validation_tells_stages_then_the_value_or_the_error() -> None:
    assert _told(TASK).model_dump(exclude_defaults=True) == {"status": "pending", "progress": 20, "stage": "exported"}
    final = TaskRow(
        "id", "serving/m/v1", "h", 1, STEP_DELIVERED, "m", "c", "success", Report("computed", 100, 7, "spark"), 0, 0,
        math.nan, {"old": None, "young": math.inf},
    )  # fmt: skip
    told = _told(final)
    assert (told.status, told.progress, told.value, told.segments) == (
        "success",
        100,
        "NaN",
        {"old": None, "young": "Infinity"},
    )
    report = Report("started", 40, 7, code="CBM1", error="no column", traceback="line 2", hint="columns: a")
    failed = _told(TaskRow("id", "d", "h", 1, STEP_DELIVERED, "m", "c", "failed", report, 0, 0))
    assert (failed.status, failed.error, failed.traceback, failed.code, failed.hint) == (
        "failed", "no column", "line 2", "CBM1", "columns: a",
    )  # fmt: skip
