from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.clock import ManualClock
from fqlstream.errors import UsageError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import BaselineDefinition, CodeMetricDefinition
from fqlstream.events.payloads import CodeMetricTask
from fqlstream.ops import code_metric_tasks
from fqlstream.ops.code_metric_tasks import CodeMetricRequests, Dataset, code_hash, training_baseline
from fqlstream.settings import RunnerSettings
from fqlstream.store.code_metric_rows import STEP_FINAL, Report, TaskRow

METRIC = CodeMetricDefinition(model="churn", name="cool", code="def calc_metric(df): return 1", id="a")
DATASET = "serving/churn/v1"
SETTINGS = RunnerSettings()


class Sender:
    """Records that were sent."""

    def __init__(self) -> None:
        self.sent: list[CodeMetricTask] = []

    def send(self, task: CodeMetricTask) -> None:
        self.sent.append(task)


class Desk:
    """Requests over rows in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[TaskRow] = []
        self.clock, self.sender = ManualClock(1_000_000), Sender()
        monkeypatch.setattr(code_metric_tasks.rows, "write_task", lambda _, row: self.rows.append(row))
        monkeypatch.setattr(code_metric_tasks.rows, "newest_task", self._newest)
        nothing: Any = None
        self.requests = CodeMetricRequests(nothing, self.sender, SETTINGS, self.clock)

    def _newest(
        self, _: object, metric_id: str, dataset_id: str, text: str, attempt: int | None = None
    ) -> TaskRow | None:
        mine = [
            row for row in self.rows if (row.metric_id, row.dataset_id, row.code_hash) == (metric_id, dataset_id, text)
        ]
        mine = [row for row in mine if attempt in (None, row.attempt)]
        return max(mine, key=lambda row: (row.attempt, row.step), default=None)

    def ask(self) -> TaskRow:
        return self.requests.ask(METRIC, DATASET)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


@given(st.sampled_from(["serving", "training"]), st.text(min_size=1), st.text(min_size=1))
def test_a_dataset_is_found_by_its_id_whatever_its_names(stage: Any, model: str, version: str) -> None:
    dataset = Dataset(stage, model, version)
    assert Dataset.parse(dataset.id) == dataset


@pytest.mark.parametrize(
    "text", ["", "serving/churn", "testing/churn/v1", "serving//v1", "serving/churn/v1/x", "serving/%41/v1"]
)
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Dataset.parse(text)
    assert refused.value.code == "CMR001"


def test_only_a_baseline_of_stored_time_has_rows() -> None:
    catalogue = Catalogue()
    for given_ in (
        {"name": "a", "file": "x.csv"},
        {"name": "c", "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
    ):
        baseline = BaselineDefinition.model_validate({"model": "churn", "type": "static", **given_})
        catalogue = catalogue.with_definition(baseline)
    found = training_baseline(catalogue.models["churn"])
    assert found is not None
    assert found.name == "c"


def test_the_same_question_is_asked_once_and_its_end_is_given_once(desk: Desk) -> None:
    first = desk.ask()
    assert (first.attempt, first.is_final) == (1, False)
    assert desk.ask() == first
    assert len(desk.sender.sent) == 1
    desk.rows.append(replace(first, state="success", value=3.0, step=STEP_FINAL))
    assert desk.requests.look(first).value == 3.0
    told = desk.ask()
    assert (told.value, told.is_delivered) == (3.0, True)
    assert desk.ask().attempt == 2
    assert [task.attempt for task in desk.sender.sent] == [1, 2]


def test_other_code_is_another_question(desk: Desk) -> None:
    desk.ask()
    changed = METRIC.model_copy(update={"code": "def calc_metric(df): return 2"})
    assert desk.requests.ask(changed, DATASET).code_hash != desk.rows[0].code_hash
    assert code_hash(METRIC.model_copy(update={"name": "other"})) == code_hash(METRIC)


def test_a_record_without_an_answer_is_sent_again_and_one_with_is_not(desk: Desk) -> None:
    first = desk.ask()
    desk.clock.advance(11_000)
    desk.ask()
    desk.ask()
    assert [task.attempt for task in desk.sender.sent] == [1, 1]
    desk.rows.append(replace(first, step=1, report=Report("exported", 10), updated_at_ms=desk.clock.now_ms()))
    desk.clock.advance(60_000)
    assert desk.ask().report.progress == 10
    assert len(desk.sender.sent) == 2


def test_where_no_runner_works_the_question_fails_instead_of_waiting_for_ever(desk: Desk) -> None:
    desk.ask()
    desk.clock.advance(SETTINGS.silent_ms + 1)
    told = desk.ask()
    assert (told.state, told.report.code, told.is_delivered) == ("failed", "CMR010", True)
    assert desk.ask().attempt == 2


def test_questions_that_nobody_asks_again_are_forgotten(desk: Desk) -> None:
    for number in range(5):
        desk.requests.ask(METRIC.model_copy(update={"id": f"id-{number}"}), DATASET)
        desk.clock.advance(SETTINGS.silent_ms + 1)
    assert len(desk.requests._sent_ms) == 1
