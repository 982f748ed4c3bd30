"""Metrics in Python on a whole stack, through real Spark in its sandbox: Aporia's documented client, periods, late rows, errors, a dead runner."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rest_client import RestClient
from tests.running_stack import RunningStack, environment_of_free_ports
from tests.waiting import wait_until

from fqlstream.store.client import Store

#: Spark starts in ten seconds, beside other suites in a minute or two.
SPARK_S = 240.0
SETTINGS = {
    "FQLSTREAM_LOCAL__RUNNERS": "1",
    "FQLSTREAM_RUNNER__LATE_WAIT_MS": "2000",
    "FQLSTREAM_CODE_METRICS__START_WAIT_S": str(SPARK_S),
}
TEXTS = Path(__file__).parents[1] / "vendor_clients"
CHURN = """
kind: model
name: churn
columns:
  - {name: age, type: int}
  - {name: score, type: float, role: output}
windows: {pane: 1m, sizes: [1h], lateness: 1h}
---
{kind: segment, model: churn, name: seniors, definition: "age >= 60"}
---
{kind: segment, model: churn, name: children, definition: "age < 6"}
"""
AGES = (20, 40, 60, 80)

pytestmark = pytest.mark.timeout(3 * SPARK_S)


def event(name: str, at: str, age: int) -> str:
    return (
        json.dumps({"model": "churn", "event_id": name, "event_at": at, "columns": {"age": age, "score": 0.5}}) + "\n"
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack.start(tmp_path_factory.mktemp("code"), environment=environment_of_free_ports() | SETTINGS)
    (running.directory / "churn.yaml").write_text(CHURN)
    (running.directory / "events.jsonl").write_text(
        "".join(event(f"e-{age}", "2026-03-01T10:20:00Z", age) for age in AGES)
    )
    running.run("apply", "-f", "churn.yaml")
    running.run("publish", "--model", "churn", "--finish", "events.jsonl")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def store(stack: RunningStack) -> Iterator[Store]:
    with stack.store() as client:
        yield client


@pytest.fixture(scope="module")
def snippet(stack: RunningStack, store: Store) -> str:
    """What the documented client prints, of which only the constants and the host are changed. It runs in a process of its own."""
    changed = {
        "<<comlete your account ID>>": '"default"',
        "<<complete your workspace ID>>": '"default"',
        "<<complete the model ID to which you want to register the metric>>": '"churn"',
        "<<complete your API key>>": repr(stack.api_key),
        "https://platform.aporia.com": stack.api_url,
    }
    text = (TEXTS / "aporia_snippet.txt").read_text()
    for blank, filled in changed.items():
        assert blank in text
        text = text.replace(blank, filled)
    (stack.directory / "my_metric.py").write_text((TEXTS / "aporia_metric.txt").read_text())
    wait_until(lambda: store.query_rows("SELECT count() FROM events_churn")[0][0] == len(AGES), "the events are stored")
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=stack.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SPARK_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def final_of(lines: list[str]) -> dict[str, Any]:
    """Give the answer that the client printed last: a dict as Python writes it."""

    found = ast.literal_eval(lines[-1])
    assert isinstance(found, dict)
    return found


def latest(store: Store, metric: str) -> dict[str, tuple[float | None, int]]:
    found = store.query_rows(
        "SELECT segment, value, rows FROM code_metric_latest WHERE metric = {metric:String} AND version = 'all'",
        {"metric": metric},
    )
    return {segment: (value, rows) for segment, value, rows in found}


def test_the_documented_client_creates_and_tries_a_metric(snippet: str) -> None:
    lines = snippet.splitlines()
    assert lines[0].startswith("Successfully created metric, id: ")
    assert "0% of metric validation task is completed" in lines
    assert lines[-2] == "200"
    answer = final_of(lines)
    assert (answer["status"], answer["value"], answer["segments"]) == (
        "success",
        50.0,
        {"seniors": 70.0, "children": None},
    )
    assert {"file_system", "network", "supervisor"} <= set(answer["layers"])
    assert answer["rows"] == 4


def test_every_period_is_computed_over_all_rows_and_each_segment_and_again_for_late_ones(
    snippet: str, stack: RunningStack, store: Store
) -> None:
    metric = "my cool metric"
    wait_until(lambda: latest(store, metric), "a first period", SPARK_S, look_s=0.5)
    assert latest(store, metric) == {"": (50.0, 4), "seniors": (70.0, 2), "children": (None, 0)}
    found = store.query_rows(
        "SELECT rows, engine, has(layers, 'file_system') FROM code_metric_runs WHERE metric = {metric:String} AND state = 'success'",
        {"metric": metric},
    )
    assert set(found) == {(4, "spark", 1)}
    (stack.directory / "late.jsonl").write_text(event("e-late", "2026-03-01T10:30:00Z", 100))
    stack.run("publish", "--model", "churn", "late.jsonl")
    wait_until(
        lambda: latest(store, metric).get("") == (60.0, 5),
        "the late row is in the value",
        SPARK_S,
        saw=lambda: store.query_rows("SELECT * FROM code_metric_runs"),
        look_s=0.5,
    )

    def listed() -> tuple[str, float, int]:
        told = {row["name"]: row for row in json.loads(stack.run("code-metrics", "list", "--json").stdout)}[metric]
        return told["state"], told["value"], told["rows"]

    # a flush that ends after the run began may have the period computed once more
    wait_until(lambda: listed() == ("success", 60.0, 5), "the run is shown", SPARK_S, saw=listed, look_s=0.5)


def test_a_metric_of_a_file_tells_its_author_what_is_wrong_with_it(snippet: str, stack: RunningStack) -> None:
    (stack.directory / "wrong.py").write_text(
        "def calc_metric(df):\n    rows = df.collect()\n    return rows.columns.agge\n"
    )
    (stack.directory / "wrong.yaml").write_text("{kind: code_metric, model: churn, name: wrong, file: wrong.py}")
    stack.run("apply", "-f", "wrong.yaml")
    words = [sys.executable, "-m", "fqlstream.cli", "code-metrics", "validate", "churn", "wrong", "--json"]
    done = subprocess.run(
        words,
        cwd=stack.directory,
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * SPARK_S,
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "failed"
    assert "agge" in told["error"]
    assert "age" in f"{told['error']} {told['hint']}"
    assert "return rows.columns.agge" in told["traceback"]
    assert str(stack.directory) not in done.stdout
    stack.run("delete", "code-metric", "wrong", "--model", "churn")


def test_a_runner_that_is_killed_leaves_nothing_and_its_successor_goes_on(
    snippet: str, stack: RunningStack, store: Store
) -> None:
    path = stack.data / "stack.json"
    before = json.loads(path.read_text())["pids"]["runner"]
    left = stack.data / "code-metrics" / "rows-left"  # as a run that was under way would have
    left.mkdir(parents=True)
    (left / "0.parquet").touch()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: json.loads(path.read_text())["pids"]["runner"] not in (None, before), "a runner in its place")
    wait_until(lambda: not left.exists(), "its rows are removed", SPARK_S)
    told = json.loads(stack.run_for(SPARK_S, "code-metrics", "run", "churn", "my cool metric", "--json").stdout)
    assert (told["status"], told["segments"]["children"]) == ("success", None)
    owners = store.query_rows(
        "SELECT partition, max(epoch) AS epoch, uniq(owner) FROM code_metric_owners GROUP BY partition HAVING epoch < 2"
    )
    assert owners == [], "each partition was claimed again, under a higher epoch"


def cool(rest: RestClient) -> dict[str, Any]:
    found = rest("GET", "/code-metrics", params={"model": "churn"})
    return next(each for each in found if each["name"] == "my cool metric")


def test_our_own_routes_and_health_tell_what_became_of_it(snippet: str, stack: RunningStack) -> None:
    with RestClient(stack) as rest:
        wait_until(lambda: cool(rest)["value"] is not None, "a first period", SPARK_S, look_s=0.5)
        status = cool(rest)
        assert (status["error"], status["hint"]) == (None, None)
        values = rest("GET", "/code-metrics/values", params={"model": "churn", "name": "my cool metric"})
        assert [(each["version"], each["segment"]) for each in values] == [
            ("all", ""),
            ("all", "children"),
            ("all", "seniors"),
        ]
        assert values[0]["value"] in (50.0, 60.0)
        assert (
            rest("GET", "/code-metrics/values", params={"model": "churn", "name": "nothing"}, status=404)["code"]
            == "DEF030"
        )
        runners = wait_until(
            lambda: [each for each in rest.http.get("/health").json()["runners"] or () if each["layers"]],
            "a runner is seen",
            SPARK_S,
        )
        assert {"file_system", "network"} <= set(runners[-1]["layers"])
        assert runners[-1]["code"] is None


def test_rest_lists_changes_and_deletes_what_stands(snippet: str, stack: RunningStack) -> None:
    with RestClient(stack) as rest:
        root = f"{stack.api_url}/api/v1/default/default"
        found = rest.http.get(f"{root}/metrics/code-based-metrics", params={"model_id": "churn"}).json()
        mine = next(each for each in found if each["name"] == "my cool metric")
        assert rest.http.get(f"{root}/metrics/code-based-metrics/{mine['id']}").json() == mine
        (version,) = rest.http.get(f"{root}/model-versions", params={"model_id": "churn"}).json()
        assert (version["name"], version["is_active"], version["training_dataset"]) == ("v1", True, None)
        assert version["serving_dataset"]["schema"][0] == {"name": "age", "type": "int", "role": "input"}
        again = rest.http.post(
            f"{root}/metrics/code-based-metrics", json={"model_id": "churn", "name": mine["name"], "code": mine["code"]}
        )
        assert (again.status_code, again.json()["id"]) == (200, mine["id"])
        other = {"model_id": "churn", "name": mine["name"], "code": "def calc_metric(df): return 1"}
        assert rest.http.post(f"{root}/metrics/code-based-metrics", json=other).status_code == 409
        made = rest.http.post(f"{root}/metrics/code-based-metrics", json={**other, "name": "one"}).json()
        one = f"{root}/metrics/code-based-metrics/{made['id']}"
        changed = rest.http.patch(one, json={"code": "def calc_metric(df): return 2", "period": "7d"}).json()
        assert (changed["id"], changed["created_at"], changed["period"]["last"]) == (
            made["id"],
            made["created_at"],
            "7d",
        )
        assert rest.http.put(one, json={"name": "two"}).status_code == 422
        assert rest.http.delete(one).status_code == 200
        assert rest.http.get(one).status_code == 404
        wrong = rest.http.post(f"{root}/metrics/code-based-metrics", json={**other, "name": "x" * 300})
        assert (wrong.status_code, list(wrong.json()["detail"]["fields"])) == (422, ["body.name"])
        for path in ("/api/v1/other/default/model-versions", "/api/v1/default/other/metrics/code-based-metrics"):
            refused = rest.http.get(stack.api_url + path, params={"model_id": "churn"})
            assert (refused.status_code, set(refused.json())) == (404, {"detail"})
        assert rest.http.get(f"{root}/model-versions", params={"model_id": "nobody"}).status_code == 404
        body = {"metric_id": mine["id"], "dataset_id": "serving/churn/v9"}
        assert rest.http.post(f"{root}/metrics/code-based-metrics/validate", json=body).status_code == 404
        nobody = rest.http.get(f"{root}/model-versions", params={"model_id": "churn"}, headers={"authorization": ""})
        assert nobody.status_code == 401
