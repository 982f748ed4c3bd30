from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from fqlstream.clock import ManualClock
from fqlstream.errors import StoreError
from fqlstream.runner import keeping
from fqlstream.runner.keeping import Kept, ended_run, ended_task, given_up, next_step
from fqlstream.store.code_metric_rows import STEP_FINAL, Report, RunRow, TaskRow, ValueRow

RUN = RunRow("id", 9, 0, "me", "m", "c", "h", 0, 9, {}, "running", Report(), 2, 0, 0)
TASK = TaskRow("id", "serving/m/v1", "h", 1, 0, "m", "c", "pending", Report(), 0, 0)


class Table:
    """Rows that were written; `away` says how many writes fail first."""

    def __init__(self, away: int = 0) -> None:
        self.rows: list[RunRow] = []
        self.away = away

    def write(self, row: RunRow) -> None:
        if self.away:
            self.away -= 1
            raise StoreError("STO001", "away", retryable=True)
        self.rows.append(row)


def kept(table: Table, clock: ManualClock, stopping: threading.Event | None = None) -> Kept[RunRow]:
    return Kept(
        RUN,
        table.write,
        lambda row: replace(row, run_version=row.run_version + 1),
        clock,
        stopping or threading.Event(),
    )


def test_each_row_has_a_higher_version_and_silence_is_broken() -> None:
    table, clock = Table(), ManualClock(100)
    row = kept(table, clock)
    row.begin()
    row.beat(50)
    clock.advance(50)
    row.beat(50)
    row.tell(Report("loaded", 40))
    row.end(ended_run(Report("computed", 100), is_success=True, now_ms=151))
    assert [(each.run_version, each.state, each.updated_at_ms) for each in table.rows] == [
        (1, "running", 100), (2, "running", 150), (3, "running", 150), (4, "success", 150),
    ]  # fmt: skip
    clock.advance(500)
    row.beat(50)
    row.tell(Report())
    assert len(table.rows) == 4, "nothing follows the end"


def test_progress_that_cannot_be_written_is_left_out_and_the_end_is_written_until_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "_AGAIN_S", 0.001)
    table = Table(away=3)
    row = kept(table, ManualClock())
    row.tell(Report("started", 10))
    values: list[RunRow] = []
    assert not row.is_over
    row.end(given_up("STO001", "away", is_failure=True), values.append)
    assert row.is_over
    assert [(each.state, each.tries, each.report.error) for each in table.rows] == [("given_up", 3, "away")]
    assert values[-1] == table.rows[0], "what has to be durable first comes first, each time"


def test_a_runner_that_stops_does_not_wait_for_clickhouse() -> None:
    stopping = threading.Event()
    stopping.set()
    table = Table(away=9)
    row = kept(table, ManualClock(), stopping)
    row.end(given_up("", "stopped", is_failure=False))
    assert (table.rows, row.is_over) == ([], False)


def test_an_orderly_end_is_no_try() -> None:
    assert given_up("x", "y", is_failure=False)(RUN).tries == 0


def test_a_task_ends_with_the_values_of_the_version_that_was_asked_for() -> None:
    # all rows of all versions failed in the second run: what comes first there is of another version
    values = (ValueRow("all", "", 1.0, 3), ValueRow("all", "s", None, 0), ValueRow("v1", "", 2.0, 3))
    other = ended_task(Report(), values[1:][::-1], "all", is_success=False)(TASK)
    assert (other.value, other.segments) == (None, {"s": None})
    ended = ended_task(Report("computed"), values, "all", is_success=True)(TASK)
    assert (ended.value, ended.segments, ended.state, ended.step) == (1.0, {"s": None}, "success", STEP_FINAL)
    assert next_step(ended) == ended
    assert ended_task(Report(code="x"), (), "all", is_success=False)(TASK).state == "failed"
    assert next_step(TASK).step == 1
