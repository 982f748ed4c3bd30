"""When a code metric runs. Periods of an hour; W is the model's watermark.

|----8----|----9----|---10----|---11-W
runs:  8        9        ?        (open)
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import CodeMetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.runner import schedule
from fqlstream.runner.schedule import Due, Outlook
from fqlstream.settings import RunnerSettings
from fqlstream.store.code_metric_rows import Report, RunRow

HOUR = 3_600_000
NOW = 500_000 * HOUR
SETTINGS = RunnerSettings(spread_ms_max=0)


def run(end_ms: int, state: str = "success", **changes: object) -> RunRow:
    row = RunRow(
        "id", end_ms, 1, "me", "m", "c", "h", end_ms - 24 * HOUR, end_ms, {0: 10}, state, Report(), 0, NOW, NOW, NOW
    )
    return replace(row, **changes)


def looked(
    *runs: RunRow,
    watermark_ms: int | None = NOW,
    now_ms: int = NOW,
    settings: RunnerSettings = SETTINGS,
    inputs: str = "h",
) -> Outlook:
    return schedule.outlook("id", inputs, runs, watermark_ms, HOUR, now_ms, "me", settings)


def entry_of(*segments: str, sizes: tuple[str, ...] = ("1h", "1d")) -> ModelEntry:
    model = {"name": "m", "columns": [{"name": "x", "type": "float"}], "windows": {"sizes": list(sizes)}}
    catalogue = Catalogue().with_definition(ModelDefinition.model_validate(model))
    for name in segments:
        catalogue = catalogue.with_definition(SegmentDefinition(model="m", name=name, definition="x > 1"))
    return catalogue.models["m"]


def metric(**given_: object) -> CodeMetricDefinition:
    return CodeMetricDefinition.model_validate({"model": "m", "name": "c", "code": "1", **given_})


def test_a_new_metric_runs_for_the_last_period_that_is_over() -> None:
    assert looked(watermark_ms=NOW + 5) == Outlook(Due(NOW, "first"))
    assert looked(watermark_ms=None) == Outlook()


def test_the_next_period_waits_until_it_is_over() -> None:
    assert looked(run(NOW), watermark_ms=NOW + HOUR - 1) == Outlook()
    assert looked(run(NOW), watermark_ms=NOW + HOUR) == Outlook(Due(NOW + HOUR, "period"))


def test_after_an_absence_periods_are_made_up_for_in_their_order_up_to_a_bound() -> None:
    settings = RunnerSettings(spread_ms_max=0, catch_up_periods_max=3)
    assert looked(run(NOW), watermark_ms=NOW + 2 * HOUR, settings=settings).due == Due(NOW + HOUR, "period")
    assert looked(run(NOW), watermark_ms=NOW + 9 * HOUR, settings=settings).due == Due(NOW + 7 * HOUR, "period")


def test_other_code_or_segments_run_the_newest_period_again() -> None:
    assert looked(run(NOW), inputs="other").due == Due(NOW, "definition")
    entry = entry_of()
    hashes = {schedule.inputs_hash(metric(), entry), schedule.inputs_hash(metric(code="2"), entry),
              schedule.inputs_hash(metric(period="1d"), entry), schedule.inputs_hash(metric(), entry_of("s"))}  # fmt: skip
    assert len(hashes) == 4
    assert schedule.inputs_hash(metric(name="other"), entry) in hashes


@pytest.mark.parametrize("state", ["running", "given_up"])
def test_a_period_that_another_runner_has_under_way_is_not_begun(state: str) -> None:
    theirs = run(NOW, "running", owner="other", updated_at_ms=NOW)
    assert looked(theirs, watermark_ms=NOW + 3 * HOUR) == Outlook(waits_for="other")
    assert looked(run(NOW + HOUR, state), theirs) == Outlook(waits_for="other")
    assert looked(theirs, now_ms=NOW + SETTINGS.lost_ms).due == Due(NOW, "again")


def test_what_was_given_up_is_begun_again_later_and_later() -> None:
    def due_after(tries: int, wait_ms: int) -> Due | None:
        return looked(run(NOW, "given_up", tries=tries, updated_at_ms=NOW), now_ms=NOW + wait_ms).due

    assert due_after(0, 0) == Due(NOW, "again", 0), "ended in order, with its process"
    assert due_after(1, SETTINGS.retry_wait_ms - 1) is None
    assert due_after(1, SETTINGS.retry_wait_ms) == Due(NOW, "again", 1)
    assert due_after(2, SETTINGS.retry_wait_ms) is None
    assert due_after(60, HOUR) == Due(NOW, "again", 60)


def test_a_run_of_our_own_that_nobody_runs_is_begun_again_and_counts_as_given_up() -> None:
    lost = run(NOW, "running", tries=1, updated_at_ms=NOW)
    wait_ms = 2 * SETTINGS.retry_wait_ms
    assert looked(lost, watermark_ms=NOW + 3 * HOUR, now_ms=NOW + wait_ms - 1) == Outlook()
    assert looked(lost, watermark_ms=NOW + 3 * HOUR, now_ms=NOW + wait_ms).due == Due(NOW, "again", 2)
    older = looked(run(NOW + HOUR), lost, watermark_ms=NOW + HOUR, now_ms=NOW + wait_ms)
    assert older.due == Due(NOW, "again", 2)


def test_a_period_that_is_given_up_again_and_again_lets_newer_ones_pass() -> None:
    def due_with(tries: int) -> Due | None:
        waiting = run(NOW, "given_up", tries=tries, updated_at_ms=NOW)
        return looked(waiting, watermark_ms=NOW + HOUR, now_ms=NOW).due

    assert due_with(SETTINGS.tries_max - 1) is None
    assert due_with(SETTINGS.tries_max) == Due(NOW + HOUR, "period")


def test_other_code_does_not_wait_for_what_was_given_up_with_the_old_one() -> None:
    waiting = run(NOW, "given_up", tries=4, updated_at_ms=NOW)
    assert looked(waiting).due is None
    assert looked(waiting, inputs="other").due == Due(NOW, "definition")
    assert looked(waiting, inputs="other", watermark_ms=NOW + 2 * HOUR).due == Due(NOW + HOUR, "period")


def test_other_code_leaves_out_no_period_that_is_to_be_made_up_for() -> None:
    assert looked(run(NOW), inputs="other", watermark_ms=NOW + HOUR).due == Due(NOW + HOUR, "definition")
    assert looked(run(NOW), inputs="other", watermark_ms=NOW + 5 * HOUR).due == Due(NOW + HOUR, "period")


def test_rows_that_come_late_are_looked_for_in_the_newest_runs_that_are_over() -> None:
    runs = [run(NOW + 3 * HOUR, "running"), run(NOW + 2 * HOUR), run(NOW + HOUR, vector={0: 11}), run(NOW)]
    later = NOW + SETTINGS.late_wait_ms
    assert schedule.late_runs(runs, {0: 11}, later, SETTINGS) == (runs[1],)
    assert schedule.late_runs(runs, {0: 11}, later - 1, SETTINGS) == ()
    assert schedule.late_runs(runs, {0: 10, 1: 0}, later, SETTINGS) == (runs[1], runs[2]), "a partition that is new"
    assert schedule.is_late(runs[3], [NOW - 1])
    assert not schedule.is_late(runs[3], [NOW, NOW - 25 * HOUR])


def test_the_period_is_the_shortest_window_or_what_is_allowed() -> None:
    assert schedule.period_ms(entry_of(), SETTINGS) == HOUR
    assert schedule.period_ms(entry_of(sizes=("1m",)), RunnerSettings(period_ms_min=90_000)) == 120_000


def test_rows_are_all_that_the_model_keeps_or_the_metric_s_own_period() -> None:
    assert schedule.data_range(metric(), NOW) == (0, NOW)
    assert schedule.data_range(metric(period="1h"), NOW) == (NOW - HOUR, NOW)


@given(st.text(min_size=1), st.integers(60_000, 40 * 86_400_000))
def test_a_metric_s_own_delay_stays_below_its_bound(metric_id: str, period: int) -> None:
    settings = RunnerSettings(spread_ms_max=250_000)
    assert 0 <= schedule.spread_ms(metric_id, period, settings) <= min(period // 10, 250_000)


def test_metrics_begin_at_different_times() -> None:
    assert len({schedule.spread_ms(f"id-{n}", HOUR, RunnerSettings()) for n in range(50)}) > 40
