"""What a runner begins, and how it ends what nobody foresaw: over rows in memory, with a pool that runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fqlstream.clock import ManualClock
from fqlstream.code_metrics.request import Layer
from fqlstream.errors import StoreError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import CodeMetricDefinition, ModelDefinition
from fqlstream.events.payloads import CodeMetricTask
from fqlstream.runner import runner as running
from fqlstream.runner.execution import Finished
from fqlstream.runner.keeping import Kept
from fqlstream.runner.runner import Runner
from fqlstream.settings import Settings, load
from fqlstream.store.code_metric_rows import (
    FAILED,
    GIVEN_UP,
    RUNNING,
    STEP_FINAL,
    WAITING,
    Report,
    RunRow,
    TaskRow,
    ValueRow,
)

HOUR = 3_600_000
NOW = 500_000 * HOUR
METRICS = tuple(CodeMetricDefinition(model="m", name=name, code="1", id=name) for name in "ab")
REQUEST = CodeMetricTask(type="validate", metric_id="a", dataset_id="serving/m/v1", code_hash="h", attempt=1)
TASK = TaskRow("a", "serving/m/v1", "h", 1, 0, "m", "a", "pending", Report(), NOW, NOW)


class Pool:
    """Runs nothing."""

    def layers(self) -> tuple[Layer, ...]:
        return ()

    def warm(self) -> None:
        """Nothing is started."""

    def close(self) -> None:
        """Nothing was started."""

    def run(self, *_: object) -> Any:
        raise AssertionError("nothing is run here")


class Tables:
    """Rows in memory, the last of each thing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tasks: list[TaskRow] = []
        self.runs: list[RunRow] = []
        self.values: list[ValueRow] = []
        self.known_parts: list[tuple[str, str]] = []
        self.looks = 0
        monkeypatch.setattr(running.rows, "newest_task", self._newest_task)
        monkeypatch.setattr(running.rows, "write_task", lambda _, row: self.tasks.append(row))
        monkeypatch.setattr(running.rows, "write_run", self._write_run)
        monkeypatch.setattr(running.rows, "write_values", lambda _, _row, found, **__: self.values.extend(found))
        monkeypatch.setattr(running.rows, "known_parts", lambda *_: self.known_parts)
        monkeypatch.setattr(running.rows, "newest_runs_since", self._newest_runs)
        monkeypatch.setattr(running.rows, "watermarks", lambda *_: {"m": NOW})
        monkeypatch.setattr(running, "newest_flushes", lambda *_: [])

    def _newest_task(self, *_: object) -> TaskRow | None:
        self.looks += 1
        return self.tasks[-1] if self.tasks else None

    def _write_run(self, _store: object, row: RunRow, **_: object) -> None:
        row.report.error.encode()
        self.runs.append(row)

    def _newest_runs(self, _store: object, ids: list[str], *_: object, **__: object) -> dict[str, list[RunRow]]:
        return {name: [run for run in self.runs[::-1] if run.metric_id == name][:1] for name in ids}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    return Tables(monkeypatch)


@pytest.fixture
def catalogue() -> Catalogue:
    model = ModelDefinition.model_validate(
        {"name": "m", "columns": [{"name": "x", "type": "int"}], "windows": {"sizes": ["1h"]}}
    )
    found = Catalogue().with_definition(model)
    for metric in METRICS:
        found = found.with_definition(metric)
    return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    loaded = load()
    one = {"code_metrics": loaded.code_metrics.model_copy(update={"runs_at_once": 1})}
    runner = {"runner": loaded.runner.model_copy(update={"directory": tmp_path / "rows"})}
    return loaded.model_copy(update={**one, **runner})


@pytest.fixture
def runner(settings: Settings, tables: Tables, clock: ManualClock) -> Iterator[Runner]:
    nothing: Any = None
    made = Runner(settings, nothing, Pool(), clock)
    made._partitions_count = 1
    made._ownership.epochs[0] = made._ownership._numbers[0] = 1
    yield made
    made._threads.shutdown()
    made._preparing.shutdown()


def begun(runner: Runner, metric_id: str) -> RunRow:
    return RunRow(metric_id, NOW, 1, runner.owner, "m", metric_id, "h", 0, NOW, {}, RUNNING, Report(), 0, NOW, NOW)


def kept(runner: Runner, row: RunRow) -> Kept[RunRow]:
    return Kept(
        row,
        runner._write_run,
        lambda each: replace(each, run_version=each.run_version + 1),
        runner._clock,
        runner._stopping,
    )


def due(runner: Runner, catalogue: Catalogue) -> set[str]:
    return {work.metric_id for work in runner._scheduled(catalogue)}


def test_a_run_of_this_process_is_left_alone_and_one_that_only_stands_in_the_table_is_begun_again(
    runner: Runner, tables: Tables, clock: ManualClock, catalogue: Catalogue
) -> None:
    tables.runs += [begun(runner, "a"), begun(runner, "b")]
    tables.runs = [replace(run, inputs_hash=running.schedule.inputs_hash(metric, catalogue.models["m"])) for run, metric in zip(tables.runs, METRICS, strict=True)]  # fmt: skip
    assert runner._places.take("a", None)
    assert due(runner, catalogue) == set()
    clock.advance(runner._limits.retry_wait_ms)
    assert due(runner, catalogue) == {"b"}
    runner._places.free("a")
    assert due(runner, catalogue) == {"a", "b"}


def test_a_request_behind_a_long_run_shows_that_it_waits_and_is_looked_for_now_and_then(
    runner: Runner, tables: Tables, clock: ManualClock, catalogue: Catalogue
) -> None:
    tables.tasks.append(TASK)
    runner._requests.add(0, 0, REQUEST.model_dump_json().encode())
    assert runner._places.take("b", None)
    for _ in range(3):
        assert list(runner._asked_for(catalogue)) == []
    assert [(row.report.stage, row.step, row.updated_at_ms) for row in tables.tasks[1:]] == [(WAITING, 1, NOW)]
    assert tables.looks == 1
    clock.advance(runner._limits.silent_ms // 2)
    assert list(runner._asked_for(catalogue)) == []
    assert tables.tasks[-1].updated_at_ms == clock.now_ms()
    runner._places.free("b")
    (work,) = runner._asked_for(catalogue)
    assert runner._places.take("a", work.request)
    looks = tables.looks
    assert list(runner._asked_for(catalogue)) == []
    assert tables.looks == looks, "what runs here is not asked for"


def test_what_cannot_be_stored_of_a_run_does_not_keep_its_end_from_being_written(
    runner: Runner, tables: Tables
) -> None:
    row = kept(runner, begun(runner, "a"))
    with pytest.raises(UnicodeEncodeError):
        runner._end_run(row, Finished(Report(code="CBM010", error="\ud800"), ()))
    runner._end_unforeseen(row, RuntimeError("no"))
    (ended,) = tables.runs
    assert (ended.state, ended.tries, ended.report.code) == (GIVEN_UP, 1, "CMR009")
    task: Kept[TaskRow] = Kept(
        replace(TASK, report=Report(error="\ud800")),
        tables.tasks.append,
        lambda each: each,
        runner._clock,
        runner._stopping,
    )
    runner._end_unforeseen(task, RuntimeError("no"))
    assert (tables.tasks[-1].report.code, tables.tasks[-1].step) == ("CMR009", STEP_FINAL)


def test_a_run_leaves_no_value_of_an_earlier_one_of_its_period_standing(runner: Runner, tables: Tables) -> None:
    tables.known_parts = [("all", ""), ("all", "removed")]
    report = Report(code="CBM010", error="segment 'young': no")
    runner._end_run(
        kept(runner, begun(runner, "a")),
        Finished(report, (ValueRow("all", "", 1.0, 3),), (("all", ""), ("all", "young"))),
    )
    assert {(value.segment, value.value) for value in tables.values} == {("", 1.0), ("young", None), ("removed", None)}


@pytest.mark.parametrize("code", ["CBM006", "CBM031"])
@pytest.mark.parametrize(("tries", "state"), [(0, GIVEN_UP), (5, FAILED)])
def test_what_a_busy_machine_may_have_caused_is_tried_again_before_the_code_is_to_blame(
    code: str, tries: int, state: str, runner: Runner, tables: Tables
) -> None:
    row = replace(begun(runner, "a"), tries=tries)
    runner._end_run(kept(runner, row), Finished(Report(code=code, error="not now"), ()))
    assert tables.runs[-1].state == state


@pytest.mark.parametrize(("code", "state"), [("STO040", FAILED), ("STO001", GIVEN_UP)])
def test_only_what_may_pass_is_tried_again(
    code: str, state: str, runner: Runner, tables: Tables, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError(code, "no")

    monkeypatch.setattr(runner._execution, "run", refuse)
    monkeypatch.setattr(running.rows, "partition_owners", lambda *_: {runner.owner: 1})
    work = next(iter(runner._scheduled(catalogue)))
    work.execute(work.begin())
    assert (tables.runs[-1].state, tables.runs[-1].report.code) == (state, code)
