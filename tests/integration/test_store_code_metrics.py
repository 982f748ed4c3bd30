"""Rows of code metrics on the real store."""

from __future__ import annotations

import math
from dataclasses import replace

from fqlstream.store import code_metric_rows as rows
from fqlstream.store.client import Store
from fqlstream.store.code_metric_rows import Report, RunRow, TaskRow, ValueRow

KEPT_MS = 10 * 365 * 86_400_000
NOW = 1_790_000_000_000
REPORT = Report("computed", 100, 7, "spark", ("namespaces",), {"started": 1.5}, 2**30, "CMX001", "no", "line 1", "do")
RUN = RunRow(
    "id", NOW, 2**32, "me", "churn", "cool", "h", NOW - 10, NOW, {0: 5, 3: 2**33}, "success", REPORT, 1, NOW, NOW, NOW
)
TASK = TaskRow("id", "serving/churn/v1", "h", 1, 0, "churn", "cool", "pending", Report(), NOW, NOW)


def test_a_run_is_read_as_it_was_written_and_the_higher_version_wins(store: Store) -> None:
    older = replace(RUN, period_end_ms=NOW - 3_600_000, state="running", finished_at_ms=None)
    for run in (RUN, replace(RUN, run_version=2**31, state="given_up"), older):
        rows.write_run(store, run, kept_ms=KEPT_MS)
    assert rows.newest_runs(store, ["id", "nobody"], each_max=9) == {"id": [RUN, older], "nobody": []}
    assert rows.newest_runs(store, ["id"], each_max=1) == {"id": [RUN]}
    assert store.query_rows("SELECT state, error, rows FROM code_metric_runs ORDER BY period_end DESC LIMIT 1") == [
        ("success", "no", 7)
    ]


def test_what_is_asked_often_reads_the_periods_that_matter_without_their_reports(store: Store) -> None:
    runs = [replace(RUN, metric_id=name, period_end_ms=NOW + at, report=REPORT) for name in "ab" for at in range(4)]
    for run in runs:
        rows.write_run(store, run, kept_ms=KEPT_MS)
    found = rows.newest_runs_since(store, ["b", "nobody", "a"], {"a": NOW + 2, "nobody": NOW + 9}, each_max=3)
    assert {name: [run.period_end_ms - NOW for run in of] for name, of in found.items()} == {
        "a": [3, 2], "b": [3, 2, 1], "nobody": [],
    }  # fmt: skip
    assert found["a"][0] == replace(RUN, metric_id="a", period_end_ms=NOW + 3, report=Report())
    assert rows.newest_runs_since(store, [], {}, each_max=3) == {}


def test_a_text_that_is_no_unicode_is_stored_all_the_same(store: Store) -> None:
    rows.write_run(store, replace(RUN, metric_id="text", report=replace(REPORT, error="a\ud800b")), kept_ms=KEPT_MS)
    assert rows.newest_runs(store, ["text"], each_max=1)["text"][0].report.error == "a?b"


def test_the_parts_of_a_period_and_its_value_are_told_apart_from_those_of_another(store: Store) -> None:
    run = replace(RUN, metric_id="parts")
    values = [ValueRow("all", "", 1.0, 7), ValueRow("v1", "young", None, 0)]
    rows.write_values(store, run, values, kept_ms=KEPT_MS)
    rows.write_values(store, replace(run, run_version=run.run_version + 1), values[1:], kept_ms=KEPT_MS)
    assert sorted(rows.known_parts(store, "parts", NOW)) == [("all", ""), ("v1", "young")]
    assert rows.known_parts(store, "parts", NOW - 1) == []
    assert rows.whole_values(store, ["parts"], "all") == {("parts", NOW): 1.0}


def test_values_keep_nan_and_none_apart_and_the_later_owner_s_stand(store: Store) -> None:
    rows.write_values(
        store, RUN, [ValueRow("all", "", math.nan, 7), ValueRow("all", "young", None, 0)], kept_ms=KEPT_MS
    )
    rows.write_values(store, replace(RUN, run_version=5), [ValueRow("all", "young", 3.0, 1)], kept_ms=KEPT_MS)
    nan, none = rows.latest_values(store, "id")
    assert math.isnan(nan["value"])
    assert (none["segment"], none["value"], none["rows"]) == ("young", None, 0)
    rows.write_values(store, replace(RUN, period_end_ms=NOW + 1), [ValueRow("all", "", 2.0, 8)], kept_ms=KEPT_MS)
    assert rows.latest_values(store, "id")[0]["value"] == 2.0


def test_a_task_goes_forward_only(store: Store) -> None:
    assert rows.newest_task(store, "id", TASK.dataset_id, "h") is None
    final = replace(
        TASK, step=rows.STEP_FINAL, state="failed", report=REPORT, value=math.inf, segments={"a": None, "b": 1.0}
    )
    for task in (TASK, final, replace(TASK, step=3, report=replace(REPORT, progress=40))):
        rows.write_task(store, task)
    assert rows.newest_task(store, "id", TASK.dataset_id, "h") == final
    rows.write_task(store, replace(TASK, attempt=2))
    assert rows.newest_task(store, "id", TASK.dataset_id, "h") == replace(TASK, attempt=2)
    assert rows.newest_task(store, "id", TASK.dataset_id, "h", attempt=1) == final


def test_the_highest_claim_owns_a_partition(store: Store) -> None:
    assert rows.partition_owners(store, 3) == {}
    for epoch, owner in ((1, "a"), (2, "b"), (2, "c")):
        rows.claim_partition(store, 3, epoch, owner, NOW)
    assert rows.partition_owners(store, 3) == {"b": 2, "c": 2}
    assert rows.partition_owners(store, 4) == {}
