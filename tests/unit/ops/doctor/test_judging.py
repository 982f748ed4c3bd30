"""What facts mean, situation by situation: each kind of trouble is found, and none is made of what is fine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from tests.unit.stream.one_partition import model

from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import ModelDefinition
from fqlstream.fql.plan import Lane
from fqlstream.ops.code_metric_status import Status as CodeMetric
from fqlstream.ops.doctor import judging
from fqlstream.ops.doctor.findings import Finding, Severity
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, PartitionLag
from fqlstream.ops.topics import Action, Difference, LogRange, TopicHealth, TopicReport
from fqlstream.settings import DoctorSettings
from fqlstream.store.code_metric_rows import RunnerRow
from fqlstream.store.diagnosis import Disk, PublishedModel, Refused, Waiting
from fqlstream.stream.protocol import FlushRow, Suspicion, Version

LIMITS = DoctorSettings()
NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
OK, NOTE, WARN, ERROR = Severity.OK, Severity.NOTE, Severity.WARN, Severity.ERROR
TOPIC = TopicHealth("events", "id", 2, (), ())


def severities(findings: Iterable[Finding]) -> list[Severity]:
    return [finding.severity for finding in findings]


def flush(partition: int = 0, fence: int = 99, **more: object) -> FlushRow:
    row = FlushRow("events", partition, Version(1, 5), "me", "id", dict.fromkeys(Lane, fence), {}, written_at_ms=NOW_MS)
    return replace(row, **more)


@pytest.mark.parametrize(
    ("action", "actual", "severity"),
    [(Action.CREATE, None, ERROR), (Action.SET, "1", WARN), (Action.GROW, "1", WARN), (Action.REFUSED, "1", WARN)],
)
def test_a_topic_that_differs_is_trouble(action: Action, actual: str | None, severity: Severity) -> None:
    difference = Difference("events", "partitions", "4", actual, action, "why")
    (found,) = judging.of_declarations(TopicReport(1, ("events",), (difference,)))
    assert found.severity is severity
    assert "events" in found.what


def test_a_topic_that_is_larger_than_declared_is_fine() -> None:
    kept = Difference("events", "partitions", "4", "8", Action.KEPT)
    assert severities(judging.of_declarations(TopicReport(1, ("events",), (kept,)))) == [OK]


def test_partitions_without_leader_or_replicas_are_named() -> None:
    assert severities(judging.of_replicas([TOPIC])) == [OK]
    found = list(judging.of_replicas([replace(TOPIC, leaderless=(1,), under_replicated=(0, 1))]))
    assert severities(found) == [ERROR, WARN]
    assert "events[1]" in found[0].what


@pytest.mark.parametrize(
    ("row", "log", "severity", "word"),
    [
        (flush(), LogRange(0, 130), OK, "30 records"),
        (flush(fence=-1), LogRange(0, 0), OK, "0 records"),
        (flush(), LogRange(120, 130), ERROR, "offsets 100 to 119 have left"),
        (flush(), LogRange(0, 50), ERROR, "restore Kafka"),
        (flush(topic_id="other"), LogRange(0, 130), ERROR, "deleted and created again"),
        (flush(topic_id=""), LogRange(0, 130), OK, "30 records"),
    ],
)
def test_a_log_that_does_not_fit_what_is_durable_is_found_before_a_takeover(
    row: FlushRow, log: LogRange, severity: Severity, word: str
) -> None:
    (found,) = judging.of_logs([row], TOPIC, {0: log})
    assert found.severity is severity
    assert word in f"{found.what} {found.do}"


def test_a_partition_that_nobody_ever_took_over_is_found_where_it_holds_something() -> None:
    assert severities(judging.of_logs([flush()], TOPIC, {0: LogRange(0, 100), 1: LogRange(0, 0)})) == [OK]
    (found,) = judging.of_logs([flush()], TOPIC, {0: LogRange(0, 100), 1: LogRange(0, 7)})
    assert (found.severity, found.what.split()[0]) == (ERROR, "events[1]")


def lagging(status: Status | None, members: int = 1) -> GroupLag:
    partition = PartitionLag("events", 0, 5, 0, 9, 4, 4, 12.0, status, "because")
    return GroupLag("fqlstream", "Stable", members, (partition,))


def test_a_group_is_judged_as_lag_judges_it() -> None:
    assert severities(judging.of_group(lagging(Status.OK), LIMITS)) == [OK]
    assert severities(judging.of_group(lagging(None), LIMITS)) == [OK]
    assert severities(judging.of_group(lagging(Status.WARN), LIMITS)) == [WARN]
    (found,) = judging.of_group(lagging(Status.STALL), LIMITS)
    assert (found.severity, "because" in found.what) == (ERROR, True)
    (found,) = judging.of_group(lagging(Status.STOP, members=0), LIMITS)
    assert "no worker runs" in found.what


def test_a_record_that_waits_for_long_is_told_though_one_look_sees_no_trend() -> None:
    group = lagging(Status.OK)
    (late,) = judging.of_group(group, LIMITS.model_copy(update={"lag_s_max": 11.0}))
    assert (late.severity, "the oldest for 12 s" in late.what, "lag --watch" in str(late.do)) == (WARN, True, True)
    assert severities(judging.of_group(group, LIMITS.model_copy(update={"lag_s_max": 12.0}))) == [OK]


def test_tables_that_wait_for_a_migration_are_trouble() -> None:
    assert severities(judging.of_migrations([])) == [OK]
    assert severities(judging.of_migrations(["010_x.sql"])) == [ERROR]


@pytest.mark.parametrize(
    ("skew_ms", "uncertainty_ms", "ahead_ms", "severity"),
    [
        (100, 5, None, OK),
        (-1_900, 5, None, OK),
        (2_100, 5, None, WARN),
        (-5_000, 10, None, WARN),
        (2_100, 200, None, OK),  # a slow answer tells less
        (0, 5, 2_900, OK),  # ClickHouse's second is rounded down
        (0, 5, 3_100, WARN),
    ],
)
def test_clocks_that_differ_by_more_than_can_be_an_accident_are_trouble(
    skew_ms: float, uncertainty_ms: float, ahead_ms: int | None, severity: Severity
) -> None:
    assert severities(judging.of_clocks(skew_ms, uncertainty_ms, ahead_ms, LIMITS)) == [severity]


def test_a_reason_that_is_still_given_is_trouble_and_an_older_one_a_note() -> None:
    assert severities(judging.of_letters([], NOW_MS, LIMITS)) == [OK]
    new, old = Refused("DLQ009", 7, NOW_MS - 60_000), Refused("DLQ005", 3, NOW_MS - 2 * HOUR_MS)
    first, second = judging.of_letters([new, old], NOW_MS, LIMITS)
    assert (first.severity, second.severity) == (WARN, NOTE)
    assert "No model of this name is defined" in first.what
    assert "1 min ago" in first.what
    assert "fqlstream apply" in str(first.do)


def test_rows_that_are_late_or_twice_are_told_and_deaths_are_trouble() -> None:
    (fine,) = judging.of_rows([flush(counters={"events": 1_000, "late": 3})])
    assert (fine.severity, "3 late" in fine.what) == (OK, True)
    (many,) = judging.of_rows([flush(counters={"events": 1_000, "late": 300, "duplicates": 5})])
    assert (many.severity, "30% late" in str(many.do)) == (NOTE, True)
    found = list(judging.of_rows([flush(suspicion=Suspicion(deaths=2))]))
    assert severities(found) == [OK, WARN]
    assert "events[0]@100" in found[1].what


MODEL = ModelDefinition.model_validate(model())
LATENESS_MS = MODEL.windows.lateness_ms


def windows(
    published: PublishedModel, row: FlushRow, spans: list[tuple[int, int]], counted_ms: int | None = None
) -> Finding:
    catalogue = Catalogue(models={"m": ModelEntry("m", {MODEL.version: MODEL})})
    counted = {"m": published.watermark_ms if counted_ms is None else counted_ms}
    (found,) = judging.of_windows([published], [row], counted, {"m": spans}, catalogue, NOW_MS, LIMITS)
    return found


LATELY_MS, LONG_AGO_MS = NOW_MS - 1_000, NOW_MS - 10 * 60_000
VERSION = Version(1, 5).number


def test_values_that_are_not_published_though_counted_are_trouble() -> None:
    kept_up = PublishedModel("m", {0: VERSION}, NOW_MS, LATELY_MS)
    assert windows(kept_up, flush(), []).severity is OK
    behind = PublishedModel("m", {0: VERSION - 1}, NOW_MS, LONG_AGO_MS)
    assert windows(behind, flush(written_at_ms=LATELY_MS), []).severity is OK, "others' events: nothing of its own"
    stuck = windows(behind, flush(written_at_ms=LONG_AGO_MS), [])
    assert (stuck.severity, "10 min ago" in stuck.what) == (ERROR, True)


@pytest.mark.parametrize("flushed_ms", [LATELY_MS, LONG_AGO_MS])
def test_publishing_that_stands_still_is_seen_while_events_come(flushed_ms: int) -> None:
    row = flush(written_at_ms=flushed_ms)
    stuck = PublishedModel("m", {0: VERSION - 9}, LONG_AGO_MS, LONG_AGO_MS)
    assert windows(stuck, row, [], counted_ms=LATELY_MS).severity is ERROR
    assert windows(replace(stuck, watermark_ms=None), row, [], counted_ms=LATELY_MS).severity is ERROR, "never any"
    just_now = replace(stuck, updated_at_ms=LATELY_MS)
    assert windows(just_now, row, [], counted_ms=LATELY_MS).severity is OK, "it catches up"


@pytest.mark.parametrize("flushed_ms", [LATELY_MS, LONG_AGO_MS])
def test_a_window_that_should_be_final_is_trouble_whether_events_come_or_not(flushed_ms: int) -> None:
    past = LATELY_MS - LATENESS_MS
    published = PublishedModel("m", {0: VERSION}, LATELY_MS - 1_000, LONG_AGO_MS)
    overdue = windows(published, flush(written_at_ms=flushed_ms), [(past - HOUR_MS, past)], counted_ms=LATELY_MS)
    assert (overdue.severity, overdue.facts) == (ERROR, {"overdue_windows": 1})
    early = windows(published, flush(written_at_ms=flushed_ms), [(past - HOUR_MS, past + 1)], counted_ms=LATELY_MS)
    assert early.severity is OK


def test_time_that_stands_still_is_told_with_the_partition_that_holds_it() -> None:
    old_ms = NOW_MS - LATENESS_MS - 3 * HOUR_MS
    row = flush(watermarks={lane: {"m": old_ms} for lane in Lane})
    quiet = PublishedModel("m", {0: row.version.number}, old_ms, NOW_MS)
    found = windows(quiet, row, [(old_ms, old_ms + HOUR_MS)])
    assert (found.severity, "events[0] is furthest behind" in str(found.do)) == (NOTE, True)
    assert windows(quiet, row, []).severity is OK, "no window waits for it"


def test_what_waits_for_long_is_trouble() -> None:
    assert severities(judging.of_requests("panes", Waiting(0, 0), NOW_MS, LIMITS)) == [OK]
    assert severities(judging.of_requests("panes", Waiting(3, NOW_MS - 1_000), NOW_MS, LIMITS)) == [NOTE]
    assert severities(judging.of_requests("panes", Waiting(3, NOW_MS - HOUR_MS), NOW_MS, LIMITS)) == [WARN]


RUNNER = RunnerRow("me", "host", "spark", ("bubblewrap",), (), "", "", (0,), NOW_MS)
METRIC = CodeMetric("m", "mine", "1", "success")


@pytest.mark.parametrize(
    ("metrics", "runners", "expected"),
    [
        ([], [], []),
        ([METRIC], [RUNNER], [OK]),
        ([METRIC], [], [ERROR]),
        ([METRIC], [replace(RUNNER, code="CMX001", error="no bwrap")], [WARN, ERROR]),
        ([METRIC], [replace(RUNNER, missing=("cgroup: not writable",))], [WARN, OK]),
        ([replace(METRIC, state="failed", code="CMX002", error="boom")], [RUNNER], [WARN]),
    ],
)
def test_metrics_in_python_need_a_runner_that_contains_them(
    metrics: list[CodeMetric], runners: list[RunnerRow], expected: list[Severity]
) -> None:
    assert severities(judging.of_code_metrics(metrics, runners)) == expected


@pytest.mark.parametrize(
    ("free", "total", "expected"), [(50, 100, [OK]), (14, 100, [WARN]), (4, 100, [ERROR]), (0, 0, [])]
)
def test_a_disk_is_judged_by_what_is_free(free: int, total: int, expected: list[Severity]) -> None:
    assert severities(judging.of_disks([Disk("d", free, total)], LIMITS)) == expected


def test_each_trouble_of_a_table_is_named() -> None:
    assert severities(judging.of_tables([("states", 12)], [], [], [], LIMITS)) == [OK]
    found = list(judging.of_tables([("states", 301)], [("events", "no space")], [("labels", 2)], ["flushes"], LIMITS))
    assert severities(found) == [WARN, ERROR, ERROR, ERROR]
    assert [finding.what.split()[0].rstrip(":") for finding in found] == ["states", "events", "labels", "flushes"]
