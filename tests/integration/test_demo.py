"""The demo as a newcomer runs it, its final values against scikit-learn, NumPy and the batch engine over the same rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk
from tests.running_stack import environment_of_free_ports

from fqlstream import evaluate
from fqlstream.events.definitions import MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.events.documents import load_definitions
from fqlstream.local.demo.models import CHICKS, MODELS, PHISHING, DemoModel
from fqlstream.local.demo.session import SEED, plan_day
from fqlstream.local.demo.traffic import Broken, Inference, Label, spread, traffic

DEADLINE_S = 240.0
STOP_S = 30.0
DAY_S = 86_400
Row = dict[str, Any]
Key = tuple[str, str, str, str]  # model, metric, segment, window_start/window_end


class Folder:
    """An empty folder to run the demo in, with ports that nothing else uses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = environment_of_free_ports()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a demo."""
        return subprocess.Popen(
            [sys.executable, "-m", "fqlstream.cli", "demo", *arguments],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def once(self) -> dict[str, Any]:
        """Run a whole demo; gives its answer."""
        demo = self.start("--once", "--json")
        told, said = demo.communicate(timeout=DEADLINE_S)
        assert demo.returncode == 0, said
        assert "Traceback" not in said
        answer: dict[str, Any] = json.loads(told)
        return answer

    def processes(self) -> list[int]:
        """Name the processes that run in this folder or name it on their command line."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                inside = (process / "cwd").readlink().is_relative_to(self.path)
            except OSError:
                continue  # it has ended meanwhile
            if inside or str(self.path).encode() in words:
                found.append(int(process.name))
        return found


@dataclass(frozen=True)
class Run:
    """Two runs in one folder, one after the other."""

    folder: Folder
    first: Mapping[str, Any]
    second: Mapping[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = Folder(tmp_path_factory.mktemp("demo"))
    first = folder.once()
    assert folder.processes() == []
    return Run(folder, first, folder.once())


def _sent(model: DemoModel, run_id: str) -> list[Inference | Label | Broken]:
    """What the run's model server sent: a seed and the time decide it."""
    started_ms = int(datetime.strptime(run_id, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() * 1000)
    day = plan_day(started_ms, 600_000)
    return list(traffic(model, spread(model.rows(), day.start_ms, day.end_ms), seed=SEED, run=run_id))


def _rows(model: DemoModel, run_id: str) -> list[Row]:
    """Every event once, with its last label."""
    messages = _sent(model, run_id)
    labels = {message.event_id: message.columns for message in messages if isinstance(message, Label)}
    return [
        {**message.columns, model.target: None, **labels.get(message.event_id, {}), "event_at": message.at_ms}
        for message in messages
        if isinstance(message, Inference) and not message.repeated
    ]


def _day(answer: Mapping[str, Any], model: str, segment: str = "") -> dict[str, Any]:
    return {
        value["metric"]: value
        for value in answer["values"]
        if (value["model"], value["segment"], value["window_s"]) == (model, segment, DAY_S)
    }


def test_phishing_agrees_with_scikit_learn(run: Run) -> None:
    rows = [row for row in _rows(PHISHING, run.first["run"]) if row["verdict"] is not None]
    truth = np.array([row["verdict"] == "phishing" for row in rows])
    score = np.array([row["score"] for row in rows])
    said = score >= 0.5
    day = _day(run.first, "phishing")
    expected = {
        "precision": sk.precision_score(truth, said),
        "recall": sk.recall_score(truth, said),
        "f1": sk.f1_score(truth, said),
        "accuracy": sk.accuracy_score(truth, said),
        "careful_recall": sk.recall_score(truth, score >= 0.3),
        "brier": sk.brier_score_loss(truth, score),
        "cost": float(2 * np.sum(said & ~truth) + 50 * np.sum(truth & ~said)),
    }
    for metric, value in expected.items():
        assert day[metric]["value"] == pytest.approx(value, rel=1e-12), metric
        assert day[metric]["exact"]
        assert (day[metric]["rows"], day[metric]["labelled_rows"]) == (1250, len(rows))
    bound = day["auroc"]["error_bound"] or 1e-12
    assert day["auroc"]["value"] == pytest.approx(sk.roc_auc_score(truth, score), abs=bound)


def test_chicks_agree_with_scikit_learn_and_numpy(run: Run) -> None:
    rows = [row for row in _rows(CHICKS, run.first["run"]) if row["weight_g"] is not None]
    truth = np.array([row["weight_g"] for row in rows])
    said = np.array([row["predicted_g"] for row in rows])
    day = _day(run.first, "chicks")
    expected = {
        "mae": sk.mean_absolute_error(truth, said),
        "rmse": np.sqrt(sk.mean_squared_error(truth, said)),
        "r2": sk.r2_score(truth, said),
        "mape": sk.mean_absolute_percentage_error(truth, said),
        "bias": np.mean(said - truth),
        "heaviest": truth.max(),
    }
    for metric, value in expected.items():
        assert day[metric]["value"] == pytest.approx(value, rel=1e-12), metric


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_value_of_every_window_equals_the_batch_answer(run: Run, model: DemoModel) -> None:
    rows = _rows(model, run.first["run"])
    published = {_key(value): value for value in run.first["values"] if value["model"] == model.name}
    definitions = load_definitions(model.definitions)
    (defined,) = (item for item in definitions if isinstance(item, ModelDefinition))
    segments = {item.name: item.definition for item in definitions if isinstance(item, SegmentDefinition)}
    compared = 0
    for metric in (item for item in definitions if isinstance(item, MetricDefinition)):
        for name, segment in {"": None, **segments}.items():
            for window in defined.windows.sizes:
                for batch in evaluate(rows, metric.definition, model=defined, segment=segment, window=window):
                    value = published[
                        model.name, metric.name, name, f"{_ms(batch['window_start'])}-{_ms(batch['window_end'])}"
                    ]
                    assert value["rows"] == batch["rows"]
                    assert value["exact"] == batch["exact"]
                    if value["exact"]:
                        assert value["value"] == batch["value"], (metric.name, name, batch)  # to the last bit
                    elif "quantile(" not in metric.definition:  # whose bounds are of the rank
                        room = value["error_bound"] + batch["error_bound"]
                        assert value["value"] == pytest.approx(batch["value"], abs=room)
                    compared += 1
    assert compared == len(published)


def test_sketched_quantiles_are_within_their_bound(run: Run) -> None:
    scores = np.sort([row["score"] for row in _rows(PHISHING, run.first["run"])])
    value = _day(run.first, "phishing")["score_p90"]
    assert not value["exact"]
    rank = np.searchsorted(scores, value["value"]) / len(scores)
    # the bound holds at 99 % confidence: a test that runs every day asks for three times as much room
    assert abs(rank - 0.9) <= 3 * value["error_bound"]


def test_everything_is_final_and_what_was_broken_is_told(run: Run) -> None:
    assert {value["status"] for value in run.first["values"]} <= {"final", "revised"}
    broken = sum(isinstance(message, Broken) for model in MODELS.values() for message in _sent(model, run.first["run"]))
    assert sum(run.first["dead_letters"].values()) == broken
    assert len(run.first["dead_letters"]) == 6


def test_a_second_run_in_the_same_folder_adds_to_the_first(run: Run) -> None:
    first, second = _day(run.first, "phishing"), _day(run.second, "phishing")
    if first["recall"]["window_start"] != second["recall"]["window_start"]:
        assert second["recall"]["rows"] == first["recall"]["rows"]  # midnight passed between the two
        return
    assert second["recall"]["rows"] == 2 * first["recall"]["rows"]
    assert second["recall"]["value"] == first["recall"]["value"]
    assert second["cost"]["value"] == 2 * first["cost"]["value"]
    assert second["recall"]["status"] == "revised"


def test_live_values_end_with_ctrl_c(run: Run) -> None:
    demo = run.folder.start()
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Ask ClickHouse"):
            break
    else:
        pytest.fail(demo.communicate()[1])
    refused = run.folder.start("--once")
    _, said = refused.communicate(timeout=DEADLINE_S)
    assert refused.returncode == 2
    assert "LOC011 a stack already runs in .fqlstream/demo" in said
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=STOP_S)
    assert demo.returncode == 0, said
    assert "Traceback" not in said
    assert run.folder.processes() == []


def _key(value: Mapping[str, Any]) -> Key:
    span = f"{_ms(value['window_start'])}-{_ms(value['window_end'])}"
    return value["model"], value["metric"], value["segment"], span


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
