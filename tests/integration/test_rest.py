"""Our own routes, on a whole stack: what the command line does, REST does."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.rest_client import PREFIX, RestClient
from tests.running_stack import RunningStack
from tests.waiting import wait_until

CHURN = """
kind: model
name: churn
task: binary_classification
columns:
  - {name: age, type: int, role: input, min: 18, max: 100}
  - {name: score, type: float, role: output, min: 0, max: 1}
  - {name: churned, type: category, role: target, categories: ["no", "yes"]}
task_params: {threshold: 0.5, target_class_order: ["no", "yes"]}
windows: {pane: 1m, sizes: [1h]}
---
{kind: metric, model: churn, name: mean age, definition: "average(age)"}
---
{kind: segment, model: churn, name: seniors, definition: "age >= 60"}
---
{kind: pipeline, name: train}
---
{kind: deployment, name: nightly, pipeline: train}
---
{kind: experiment, name: digits}
"""
EVENTS = [
    {"model": "churn", "event_id": f"e-{n}", "event_at": "2026-03-01T10:00:00Z", "columns": {"age": age, "score": 0.9}}
    for n, age in enumerate((20, 40, 60, 80))
]


@pytest.fixture(scope="module")
def rest(stack: RunningStack) -> Iterator[RestClient]:
    """A client of a stack on which the definitions above stand, and the events above were counted."""
    with RestClient(stack) as client:
        applied = client("POST", "/definitions/yaml", content=CHURN, headers={"content-type": "application/yaml"})
        assert [each["result"] for each in applied["results"]] == ["created"] * 6
        (stack.directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
        stack.run("publish", "--model", "churn", "events.jsonl")
        wait_until(
            lambda: [v for v in client("GET", "/values/latest", params={"model": "churn"})["items"] if v["rows"] == 4],
            "the events are counted",
        )
        yield client


def test_what_was_applied_is_listed_page_by_page_changed_and_deleted(rest: RestClient) -> None:
    applied = [("model", "churn"), ("metric", "mean age"), ("segment", "seniors")]
    listed = [(row["kind"], row["name"]) for row in rest.pages("/definitions", 2) if row["model"] == "churn"]
    assert [each for each in listed if each in applied] == applied  # other tests add to the model
    body = {"definitions": [{"kind": "metric", "model": "churn", "name": "extra", "definition": "sum(age)"}]}
    assert rest("POST", "/definitions", json=body)["results"][0]["result"] == "created"
    assert rest("POST", "/definitions", json=body)["results"][0]["result"] == "unchanged"
    body["definitions"][0]["definition"] = "max(age)"
    assert rest("POST", "/definitions", json=body)["results"][0]["result"] == "changed"
    (found,) = rest("GET", "/definitions", params={"kind": "metric", "name": "extra"})["items"]
    assert (found["revision"], found["definition"]["definition"]) == (2, "max(age)")
    gone = {"kind": "metric", "model": "churn", "name": "extra"}
    assert [each["result"] for each in rest("DELETE", "/definitions", params=gone)] == ["deleted"]
    assert rest("DELETE", "/definitions", params=gone, status=404)["code"] == "DEF030"


def test_a_wrong_definition_is_refused_whole_with_its_place(rest: RestClient) -> None:
    wrong = "{kind: metric, model: churn, name: good, definition: sum(age)}\n---\n{kind: metric, model: churn, name: bad, definition: sum(agge)}"
    refused = rest("POST", "/definitions/yaml", content=wrong, status=422)
    assert "request:3" in refused["detail"]
    assert "agge" in refused["detail"]
    assert rest("GET", "/definitions", params={"name": "good"})["total_count"] == 0
    assert rest("POST", "/definitions/yaml", content=b"\xff", status=400)["code"] == "API001"
    assert rest("POST", "/definitions/yaml", content="", status=400)["code"] == "API001"


def test_the_server_reads_no_file_of_its_own_for_a_client(rest: RestClient) -> None:
    for file in ("/etc/passwd", "../../x.csv"):
        body = {"definitions": [{"kind": "baseline", "model": "churn", "name": "b", "type": "static", "file": file}]}
        assert rest("POST", "/definitions", json=body, status=422)["code"] == "API040"


def test_a_baseline_is_counted_from_the_file_that_is_sent(rest: RestClient) -> None:
    rows = "age,score\n" + "".join(f"{age},0.5\n" for age in range(20, 90))
    asked = {"params": {"model": "churn", "name": "training"}, "files": {"file": ("training.csv", rows)}}
    assert rest("POST", "/baselines/file", **asked)["results"][0]["result"] == "created"
    (found,) = rest("GET", "/definitions", params={"kind": "baseline"})["items"]
    assert found["definition"]["file"] == "training.csv"
    assert sum(found["definition"]["counts"][0]["counts"]) == 70
    rest("POST", "/baselines/file", params={"model": "churn", "name": "b"}, files={"file": ("x.exe", rows)}, status=422)
    rest(
        "POST", "/baselines/file", params={"model": "nobody", "name": "b"}, files={"file": ("x.csv", rows)}, status=404
    )


def test_values_are_those_that_sql_gives(rest: RestClient, stack: RunningStack) -> None:
    asked = {"model": "churn", "metric": "mean age", "window": "1h"}
    (value,) = rest.pages("/values", 1, **asked)
    assert (value["value"], value["rows"], value["window_start"]) == (50.0, 4, "2026-03-01T10:00:00Z")
    (senior,) = rest("GET", "/values", params={**asked, "segment": "seniors"})["items"]
    assert senior["value"] == 70.0
    assert rest("GET", "/values", params={**asked, "from": "2026-03-01T11:00"})["items"] == []
    assert rest("GET", "/values", params={**asked, "to": "2026-03-01T10:00:00Z"})["items"] == []
    told = json.loads(stack.run("values", "churn", "mean age", "--json").stdout)
    assert told[0]["value"] == value["value"]
    for wrong in ({"window": "x"}, {"from": "yesterday"}, {"window": "1ms"}, {"to": "9999-01-01"}):
        assert rest("GET", "/values", params={**asked, **wrong}, status=422)["fields"]


def test_a_snapshot_is_what_the_command_says(rest: RestClient, stack: RunningStack) -> None:
    body = {"model": "churn", "expression": "average(age) / 2", "segment": "age > 20", "from": "2026-01-01"}
    assert rest("POST", "/snapshots", json=body) == {"value": 30.0, "rows": 3, "exact": True, "error_bound": None}
    refused = rest("POST", "/snapshots", json={**body, "expression": "sum(aeg)"}, status=422)
    assert refused["diagnostics"][0]["hint"]
    assert rest("POST", "/snapshots", json={**body, "model": "nobody"}, status=404)["code"] == "DEF030"
    assert rest("POST", "/snapshots", json={**body, "version": "v9"}, status=404)
    assert rest("POST", "/snapshots", json={**body, "surprise": 1}, status=422)["fields"] == {
        "body.surprise": ["Extra inputs are not permitted"]
    }


def test_fql_is_checked_explained_and_evaluated(rest: RestClient) -> None:
    assert rest("POST", "/fql/check", json={"model": "churn", "expression": "sum(age)"})["level"] == "agg"
    assert rest("POST", "/fql/check", json={"model": "churn", "expression": "sum(aeg"})["ok"] is False
    assert "average" in json.dumps(rest("POST", "/fql/explain", json={"model": "churn"}))
    names = {each["name"] for each in rest("GET", "/fql/functions")}
    assert {"average", "auroc"} <= names
    assert rest("GET", "/fql/function", params={"name": "average"})["name"] == "average"
    rest("GET", "/fql/function", params={"name": "nothing"}, status=404)
    rows = "event_at,age,score\n2026-01-01T00:00:00Z,30,0.1\n2026-01-01T02:00:00Z,50,0.2\n"
    form = {"model": "churn", "expression": "average(age)"}
    for engine in ("arrow", "clickhouse"):
        found = rest("POST", "/fql/eval", data={**form, "engine": engine}, files={"file": ("d.csv", rows)})
        assert [value["value"] for value in found["values"]] == [40.0]
    found = rest("POST", "/fql/eval", data={**form, "window": "1h"}, files={"file": ("d.csv", rows)})
    assert [value["value"] for value in found["values"]] == [30.0, 50.0]


def test_dead_letters_are_shown_exported_and_sent_again(rest: RestClient, stack: RunningStack) -> None:
    (stack.directory / "lost.jsonl").write_text(json.dumps({**EVENTS[0], "event_id": "lost", "model": "unborn"}) + "\n")
    from fqlstream.client import Producer

    with Producer(stack.bootstrap) as producer:
        producer.log_inference("unborn", "lost", {"age": 1})
    letters = wait_until(lambda: rest("GET", "/dead-letters", params={"code": "DLQ009"}), "a letter")
    (letter,) = letters
    place = f"{letter['letter_partition']}@{letter['letter_offset']}"
    whole = rest("GET", "/dead-letters/letter", params={"place": place})
    assert '"lost"' in whole["value"]["text"]
    assert whole["remedy"]
    (count,) = [each for each in rest("GET", "/dead-letters/counts") if each["code"] == "DLQ009"]
    assert count["letters"] == 1
    lines = rest("GET", "/dead-letters/export", params={"code": "DLQ009"}).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [letter["id"]]
    rest("POST", "/dead-letters/replay", json={}, status=422)
    rest("GET", "/dead-letters/letter", params={"place": "0@999999"}, status=404)
    rest("GET", "/dead-letters/letter", params={"place": "elsewhere"}, status=422)
    dry = rest("POST", "/dead-letters/replay", json={"places": [place], "dry_run": True})
    assert (dry["counts"]["replayed"], dry["dry_run"]) == (1, True)
    assert rest("POST", "/dead-letters/replay", json={"places": [place]})["counts"]["replayed"] == 1
    content = "\n".join(lines)
    again = rest("POST", "/dead-letters/replay/file", content=content, params={"dry_run": True})
    assert (again["counts"]["already_replayed"], again["counts"].get("replayed", 0)) == (1, 0)


def test_operators_ask_by_rest_too(rest: RestClient, stack: RunningStack) -> None:
    assert rest("GET", "/schema") == []
    assert rest("GET", "/topics") == []
    plan = {"differences": [], "applied": False, "ok": True}
    planned = rest("GET", "/topics/plan", params={"repartition": True})
    assert ({key: planned[key] for key in plan}, planned["brokers"]) == (plan, 1)
    assert "inference-events" in planned["topics"]
    assert rest("POST", "/topics", json={})["applied"] is True
    assert rest("POST", "/schema") == {"applied": []}
    asked = rest("POST", "/repairs", json={"model": "churn"})
    assert asked["panes"] >= 1, "one for each partition that has an event"
    wait_until(
        lambda: (
            rest("GET", "/repairs", params={"model": "churn", "requested_at_ms": asked["requested_at_ms"]})["panes"]
            == 0
        ),
        "the pane is rebuilt",
    )
    found = rest("POST", "/sql", json={"query": "SELECT 40 + 2 AS answer"})
    assert found["data"] == [{"answer": 42}]
    assert rest("POST", "/sql", json={"query": "SELEC 1"}, status=400)["code"] == "STO002"
    with RestClient(stack, rest("POST", "/keys", json={"scopes": ["read"]})["key"]) as read:
        read("POST", "/sql", json={"query": "SELECT 1"}, status=403)
    rest("POST", "/deletions", json={"model": "churn"}, status=422)


def test_a_model_is_inferred_from_a_file_and_the_file_is_sent(rest: RestClient) -> None:
    lines = [
        "event_id,event_at,age,score,label",
        *(f"r-{n},2026-03-01T10:00:00Z,{20 + n},0.{n},{n % 2}" for n in range(9)),
    ]
    rows = {"file": ("rain.csv", "\n".join(lines))}
    text = rest("POST", "/models/infer/file", files=rows, data={"name": "rain"})
    assert text.startswith("# Inferred from rain.csv, 9 rows.")
    rest("POST", "/definitions/yaml", content=text)
    rest("POST", "/definitions", json={"definitions": [
        {"kind": "metric", "model": "rain", "name": "events", "definition": "traffic()"}
    ]})  # fmt: skip
    sent = rest("POST", "/events/file", files=rows, data={"model": "rain", "finish": True})
    assert (sent["rows"], sent["form"]) == (9, "arrow")
    wait_until(
        lambda: [v for v in rest("GET", "/values/latest", params={"model": "rain"})["items"] if v["value"] == 9],
        "what was sent is counted",
    )
    refused = rest("POST", "/events/file", files={"file": ("x.jsonl", b"{")}, data={"model": "rain"}, status=422)
    assert (refused["code"], refused["detail"].startswith("x.jsonl:1")) == ("DAT002", True)
    rest("POST", "/events/file", files={"file": ("rain.txt", b"x")}, data={"model": "rain"}, status=422)
    rest("POST", "/events/file", files=rows, data={"model": "snow"}, status=404)


def test_what_metrics_belong_to_is_registered_listed_and_deleted(rest: RestClient) -> None:
    for number in range(5):
        body = {"name": f"listed-{number}", "pipeline": "train", "deployment": "nightly" if number % 2 else None}
        assert rest("POST", "/executions", json=body)["result"] == "created"
    names = [row["name"] for row in rest.pages("/executions", 2, pipeline="train")]
    assert names == sorted(names)
    assert {f"listed-{number}" for number in range(5)} <= set(names)
    of_nightly = [row["name"] for row in rest.pages("/executions", 1, deployment="nightly")]
    assert [name for name in of_nightly if name.startswith("listed-")] == ["listed-1", "listed-3"]
    assert rest("GET", "/executions", params={"name": "listed-2"})["total_count"] == 1
    assert rest("GET", "/executions", params={"name": "listed-2", "deployment": "nightly"})["total_count"] == 0
    rest("GET", "/executions", params={"pipeline": "train", "deployment": "nightly"}, status=422)
    rest("POST", "/executions", json={"name": "x", "pipeline": "nobody"}, status=422)
    first = rest("POST", "/jobs", json={"experiment": "digits"})["id"]
    second = rest("POST", "/jobs", json={"experiment": "digits"})["id"]
    assert second == first + 1
    assert [row["id"] for row in rest.pages("/jobs", 1, experiment="digits")][-2:] == [first, second]
    assert rest("DELETE", "/registry", params={"kind": "job", "name": str(first)})[0]["result"] == "deleted"
    assert rest("GET", "/jobs", params={"name": str(first)})["total_count"] == 0
    rest("DELETE", "/registry", params={"kind": "pipeline", "name": "train"}, status=409)


def test_a_recorded_number_is_read_back_at_once_and_replaced(rest: RestClient) -> None:
    rest("POST", "/executions", json={"name": "numbers", "pipeline": "train", "deployment": "nightly"})
    for value in (1, 0.5, "NaN", "-Infinity"):
        rest("POST", "/recorded/pipeline-metrics", json={"execution": "numbers", "name": "loss", "value": value})
        (row,) = rest("GET", "/recorded/pipeline-metrics", params={"execution": "numbers"})["items"]
        assert (row["value"], row["pipeline"], row["deployment"]) == (value, "train", "nightly")
    for filters in ({"pipeline": "train"}, {"deployment": "nightly"}, {}):
        found = rest.pages("/recorded/pipeline-metrics", 1, name="loss", **filters)
        assert [row["execution"] for row in found] == ["numbers"]
    rest("GET", "/recorded/pipeline-metrics", params={"pipeline": "train", "deployment": "nightly"}, status=422)
    unknown = {"execution": "nobody", "name": "loss", "value": 1}
    assert rest("POST", "/recorded/pipeline-metrics", json=unknown, status=404)


@pytest.mark.parametrize("value", [None, True, "1", "nan", [1], {}, "", "inf"])
def test_what_is_no_number_is_refused(rest: RestClient, value: Any) -> None:
    rest("POST", "/executions", json={"name": "strict", "pipeline": "train"})
    body = {"execution": "strict", "name": "m", "value": value}
    assert rest("POST", "/recorded/pipeline-metrics", json=body, status=422)["fields"]
    rest("POST", "/recorded/list-metrics", json={"execution": "strict", "name": "m", "values": [1, value]}, status=422)
    for path in ("/recorded/pipeline-metrics", "/recorded/list-metrics"):
        assert rest("GET", path, params={"execution": "strict"})["total_count"] == 0


def test_a_list_grows_has_a_summary_and_ends_where_it_is_full(rest: RestClient) -> None:
    rest("POST", "/executions", json={"name": "lists", "pipeline": "train"})
    body = {"execution": "lists", "name": "loss"}
    rest("POST", "/recorded/list-metrics", json={**body, "values": [1.0, 2.0, 3.0]})
    rest("POST", "/recorded/list-metrics", json={**body, "values": [4, "Infinity"]})
    found = rest("GET", "/recorded/list-metrics/values", params=body)
    assert found["items"] == [1.0, 2.0, 3.0, 4.0, "Infinity"]
    part = rest("GET", "/recorded/list-metrics/values", params={**body, "offset": 1, "limit": 3})
    assert (part["items"], part["total_count"]) == ([2.0, 3.0, 4.0], 5)
    (head,) = rest("GET", "/recorded/list-metrics", params={"execution": "lists"})["items"]
    assert (head["count"], head["summary"]["finite"], head["summary"]["mean"]) == (5, 4, 2.5)
    assert head["summary"]["exact_quantiles"]["0.5"] == 2.5
    assert math.isclose(head["summary"]["variance"], 5 / 3)
    rest("POST", "/recorded/list-metrics", json={**body, "values": [0.0] * 49_995})
    full = rest("POST", "/recorded/list-metrics", json={**body, "values": [9.0]}, status=409)
    assert full["code"] == "DLQ027"
    assert full["stored"] == 50_000
    assert rest("GET", "/recorded/list-metrics/values", params={**body, "limit": 1})["total_count"] == 50_000


def test_sixteen_writers_fill_a_list_to_its_last_place(rest: RestClient) -> None:
    rest("POST", "/executions", json={"name": "raced", "pipeline": "train"})
    appended = {"execution": "raced", "name": "loss", "values": [0.5] * 400}

    def write(_: int) -> list[int]:
        url = f"{PREFIX}/recorded/list-metrics"
        return [rest.http.post(url, json=appended).status_code for _ in range(10)]

    with ThreadPoolExecutor(16) as writers:
        answers = [status for each in writers.map(write, range(16)) for status in each]
    assert (answers.count(200), answers.count(409)) == (125, 35), "50,000 are 125 appends of 400"
    key = {"execution": "raced", "name": "loss", "limit": 100_000}
    found = rest("GET", "/recorded/list-metrics/values", params=key)
    assert found["total_count"] == len(found["items"]) == 50_000


def test_a_job_has_steps_of_which_the_highest_is_the_latest(rest: RestClient) -> None:
    job = rest("POST", "/jobs", json={"experiment": "digits", "name": "steps"})["id"]
    for step, value in ((5, 0.5), (2, 0.2), (5, "NaN"), (-1, 0.1)):
        rest("POST", "/recorded/job-metrics", json={"job": job, "name": "acc", "value": value, "step": step})
    (latest,) = rest("GET", "/recorded/job-metrics", params={"job": job})
    assert (latest["step"], latest["value"]) == (5, "NaN")
    steps = rest.pages("/recorded/job-metrics/steps", 1, job=job, name="acc")
    assert [(row["step"], row["value"]) for row in steps] == [(-1, 0.1), (2, 0.2), (5, "NaN")]
    rest("GET", "/recorded/job-metrics", params={"job": 999_999}, status=404)
    rest("POST", "/recorded/job-metrics", json={"job": job, "name": "a-b", "value": 1}, status=422)


def test_health_says_what_it_depends_on_and_numbers_count_requests(rest: RestClient, stack: RunningStack) -> None:
    ready = rest.http.get("/health").json()
    assert ready["status"] == "ok"
    assert {name: each["status"] for name, each in ready["dependencies"].items()} == {"clickhouse": "ok", "kafka": "ok"}
    numbers = rest.http.get("/metrics").text
    assert 'fqlstream_http_requests_total{method="GET",route="/health",status="200"}' in numbers
    assert "churn" not in numbers


def test_an_answer_is_one_segment(stack: RunningStack) -> None:
    where = urlsplit(stack.api_url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as connection:
        for _ in range(20):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            whole = connection.recv(65_536)
            assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
            assert whole.endswith(b'{"status":"ok"}')


def test_nothing_secret_is_in_the_logs(rest: RestClient, stack: RunningStack) -> None:
    made = rest("POST", "/keys", json={"scopes": ["read"]})["key"]
    rest("POST", "/users", json={"name": "alice", "password": "a very secret password"})
    rest("POST", "/login", json={"name": "alice", "password": "another secret password"}, status=401)
    with RestClient(stack, made) as mine:
        mine("GET", "/me")
    written = "".join(path.read_text() for path in Path(stack.data / "logs").iterdir())
    lines = [
        json.loads(line) for line in (stack.data / "logs" / "api.log").read_text().splitlines() if line.startswith("{")
    ]
    assert any(line.get("path") == f"{PREFIX}/login" and line["status"] == 401 for line in lines)
    for secret in (
        made.split("_", 2)[2],
        stack.api_key.split("_", 2)[2],
        "secret password",
        str(stack.said["store_key"]),
    ):
        assert secret not in written


def test_keys_and_users_are_made_on_the_command_line(stack: RunningStack) -> None:
    made = json.loads(stack.run("keys", "create", "--scope", "write", "--name", "nightly", "--json").stdout)
    assert made.keys() == {"id", "key", "scope"}
    assert made["scope"] == "write"
    with RestClient(stack, made["key"]) as mine:
        assert mine("GET", "/me")["scopes"] == ["write"]
        listed = json.loads(stack.run("keys", "list", "--json").stdout)
        assert next(row for row in listed if row["id"] == made["id"])["revoked_at"] is None
        assert json.loads(stack.run("keys", "revoke", made["key"], "--json").stdout)["revoked_at"]
        wait_until(lambda: mine.http.get(f"{PREFIX}/me").status_code == 401, "the API forgets it", 15)
    added = stack.shell("echo a long enough password | fqlstream users add carol --password-stdin --json")
    assert json.loads(added.stdout)["scope"] == "write read", added.stderr
    short = stack.shell("echo short | fqlstream users add dave --password-stdin")
    assert short.returncode == 2
    assert "ACC002" in short.stderr
    with RestClient(stack) as rest:
        assert (
            rest("POST", "/login", json={"name": "carol", "password": "a long enough password"})["id"] == "user:carol"
        )
    assert [row["name"] for row in json.loads(stack.run("users", "list", "--json").stdout)][-1] == "carol"
    stack.run("users", "remove", "carol")


def test_a_second_api_serves_the_same_stack_and_prints_no_key_where_there_is_one(stack: RunningStack) -> None:
    command = [sys.executable, "-m", "fqlstream.cli", "serve", "--data", str(stack.data), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=stack.directory, env=stack.environment
    ) as other:
        try:
            assert other.stdout is not None
            line = other.stdout.readline()
            assert line.startswith("listening at http://127.0.0.1:"), line
            url = line.removeprefix("listening at ").strip()
            answer = httpx.get(f"{url}{PREFIX}/me", headers={"authorization": f"Bearer {stack.api_key}"})
            assert answer.json()["scopes"] == ["admin"]
        finally:
            other.terminate()
            assert other.wait(15) == 0
