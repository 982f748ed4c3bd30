"""The README's commands and queries, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import replace

import clickhouse_connect
import numpy as np
import pytest
from confluent_kafka import Producer as Sender
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from prometheus_client.parser import text_string_to_metric_families
from scipy.spatial.distance import jensenshannon
from tests.readme_blocks import blocks
from tests.running_stack import RunningStack
from tests.waiting import wait_equal, wait_until

from fqlstream.ops.numbers import WORKER_NUMBERS

DEADLINE_S = 120.0
#: What the README says where nothing else uses the ports.
STORE_URL = "http://127.0.0.1:8123"
BOOTSTRAP = "localhost:9092"
API_URL = "http://127.0.0.1:8080"


def run(stack: RunningStack, script: str) -> subprocess.CompletedProcess[str]:
    """Run a block of the README; the addresses are those that the stack has here."""
    here = {STORE_URL: stack.store_url, BOOTSTRAP: stack.bootstrap, API_URL: stack.api_url}
    for written, address in here.items():
        script = script.replace(written, address)
    return stack.shell(script)


@pytest.fixture(scope="module")
def churn(stack: RunningStack) -> RunningStack:
    """The README's minute, as far as the values are there."""
    define, publish, _ = blocks("run", "churn")
    for script in (define, publish):
        done = run(stack, script)
        assert done.returncode == 0, done.stderr
    expected = {("recall", ""): 0.5, ("recall", "seniors"): 0.5, ("cost", ""): 210.0, ("cost", "seniors"): 200.0}
    wait_equal(lambda: _days(stack), expected, "the day's values", DEADLINE_S, look_s=0.2)
    return stack


def _days(stack: RunningStack) -> dict[tuple[str, str], float]:
    query = (
        "SELECT metric, segment, value FROM metric_latest"
        " WHERE model = 'churn' AND version = 'all' AND window_s = 86400 AND labelled_rows > 0"
    )
    rows = run(stack, f'fqlstream sql "{query}" --format JSONCompactEachRow').stdout.splitlines()
    return {(metric, segment): value for metric, segment, value in map(json.loads, rows)}


def test_the_worker_of_the_minute_says_that_it_works_and_what_it_did(churn: RunningStack) -> None:
    url = f"http://127.0.0.1:{json.loads((churn.data / 'ports.json').read_text())['worker-1']}"
    health = json.loads(churn.shell(f"curl -sf {url}/health").stdout)
    assert health["status"] == "ok"
    assert health["partitions"]["inference-events"] == {"assigned": 4, "taken": 4}

    def numbers() -> dict[str, float]:
        families = text_string_to_metric_families(churn.shell(f"curl -sf {url}/metrics").stdout)
        return {f"{s.name}{[*s.labels.values()]}": s.value for family in families for s in family.samples}

    # other tests of this stack send events too
    flushes = "fqlstream_flush_seconds_count['inference-events']"
    wait_until(lambda: numbers().get(flushes, 0) >= 1, "a flush in the worker's numbers", DEADLINE_S)
    told = numbers()
    assert told["fqlstream_labels_total[]"] >= 3
    assert told["fqlstream_events_total[]"] >= 4
    assert told["fqlstream_records_total['inference-events']"] >= 7
    assert told["fqlstream_decode_seconds_count[]"] >= 1
    assert told["fqlstream_outside_seconds_count['states']"] >= 1
    assert told["fqlstream_partitions['inference-events']"] == 4
    assert told["fqlstream_takeovers_total['inference-events']"] >= 4
    assert told["fqlstream_open_windows['churn']"] >= 1
    assert told["fqlstream_panes_bytes[]"] > 0
    declared = {name for row in WORKER_NUMBERS for name in row.series}
    exported = {name.partition("[")[0] for name in told if not name.partition("[")[0].endswith("_created")}
    unseen = {"fqlstream_dead_letters_total", "fqlstream_outside_failures_total"}  # nothing was refused, nothing failed
    assert declared - unseen <= exported
    assert {name for name in exported if name.startswith("fqlstream")} <= declared


def test_lag_of_the_minute_is_told_to_people_programs_and_nagios(churn: RunningStack) -> None:
    (script,) = blocks("run", "lag")
    # until the worker has committed what it has read, also of other tests of this stack
    wait_until(lambda: run(churn, script).returncode == 0, "nothing lags", DEADLINE_S, look_s=0.5)
    people, programs, nagios = (run(churn, line).stdout for line in script.splitlines())
    assert "fqlstream  OK  Stable, 1 member" in people
    assert "fqlstream" in {group["group"] for group in json.loads(programs)["groups"]}
    assert re.match(r"LAG OK - fqlstream OK \d+ records [\d.]+ s \| 'fqlstream records'=\d+;10000;;0", nagios)


def test_the_doctor_finds_what_is_wrong_and_what_to_do(churn: RunningStack) -> None:
    def look() -> dict[str, list[tuple[str, str, str]]]:
        report = json.loads(churn.shell("fqlstream doctor --json || test $? -eq 1").stdout)
        checks: dict[str, list[tuple[str, str, str]]] = {}
        for each in report["findings"]:
            checks.setdefault(each["check"], []).append((each["severity"], each["what"], each["do"] or ""))
        return checks

    def found(check: str) -> list[tuple[str, str, str]]:
        return look()[check]

    # other tests of this stack have records refused, and none of them touches these
    first = look()
    for check in ("broker", "replicas", "store", "schema", "log", "tables"):
        assert {severity for severity, _, _ in first[check]} == {"ok"}, first[check]
    assert first.keys() >= {"clock", "group", "windows", "rows", "dead letters", "requests", "disk"}
    assert [what for _, what, _ in first["processes"]] == [
        f"worker-1 at http://127.0.0.1:{json.loads((churn.data / 'ports.json').read_text())['worker-1']}/health: ok",
        f"API at {churn.api_url}/health: ok",
    ]

    admin = AdminClient({"bootstrap.servers": churn.bootstrap})
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "record-verdicts", incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20)
    changed = ("warn", "record-verdicts: retention.ms is 1, 3600000 declared", "make it so: fqlstream topics apply")
    wait_until(lambda: changed in found("topics"), "the topic that differs", DEADLINE_S)
    churn.shell("fqlstream topics apply")
    wait_until(lambda: {each[0] for each in found("topics")} == {"ok"}, "topics as declared", DEADLINE_S)

    sender = Sender({"bootstrap.servers": churn.bootstrap})
    sender.produce("inference-events", b"{", b"x")
    assert sender.flush(20) == 0
    wait_until(lambda: any("DLQ005" in what for _, what, _ in found("dead letters")), "the letter", DEADLINE_S)

    (worker,) = json.loads((churn.data / "stack.json").read_text())["pids"]["workers"]
    os.kill(worker, signal.SIGSTOP)
    try:
        environment = {**churn.environment, "FQLSTREAM_DOCTOR__ASK_WAIT_S": "1"}
        done = replace(churn, environment=environment).shell("fqlstream doctor || test $? -eq 1")
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("ERROR") and "worker-1" in line]
        assert "no answer" in line
    finally:
        os.kill(worker, signal.SIGCONT)


def test_the_minute_ends_with_values(churn: RunningStack) -> None:
    (_, _, ask) = blocks("run", "churn")
    done = run(churn, ask)
    assert done.returncode == 0, done.stderr
    for told in ("0.5", "recall\tseniors", "r-3"):
        assert told in done.stdout


@pytest.mark.parametrize("name", ["fql", "mistake"])
def test_output_is_what_the_readme_shows(churn: RunningStack, name: str) -> None:
    (script,), (output,) = blocks("run", name), blocks("output", name)
    done = run(churn, script)
    assert (done.stdout + done.stderr).strip() == output.strip()


def test_the_same_is_had_by_rest(churn: RunningStack) -> None:
    (ask,) = blocks("run", "rest")
    done = run(churn, ask)
    assert done.returncode == 0, done.stderr
    assert '"value":0.5' in done.stdout
    assert '"rows":4' in done.stdout


def test_what_metrics_are_recorded_of_is_registered_listed_and_deleted(churn: RunningStack) -> None:
    (script,) = blocks("run", "registered")
    done = run(churn, script)
    assert done.returncode == 0, done.stderr
    registered, listed = done.stdout.split("\n", 1)
    assert [row["id"] for row in json.loads(registered)[3:]] == [1, 1], "an experiment and a job have numbers"
    assert "run-1" in listed
    assert "nightly" in listed
    assert "deleted execution/run-1" in listed


def test_drift_is_computed_for_stored_history_and_history_again(churn: RunningStack) -> None:
    define, repair = blocks("run", "drift")
    defined, repaired = run(churn, define), run(churn, repair)
    assert defined.returncode == repaired.returncode == 0, defined.stderr + repaired.stderr
    assert "back-filled" in defined.stderr
    assert "rebuilt" in repaired.stderr
    sent, trained = (
        np.histogram(scores, 10, (0, 1))[0] for scores in ((0.91, 0.73, 0.18, 0.08), (0.10, 0.35, 0.55, 0.80))
    )
    assert f"{jensenshannon(sent, trained, base=2):.6f}" in defined.stdout


def test_what_was_refused_counts_after_a_replay_and_is_deleted_again(churn: RunningStack) -> None:
    send, look, replay = blocks("run", "letters")
    sent = run(churn, send)
    assert sent.returncode == 0, sent.stderr
    wait_equal(
        lambda: run(churn, look).stdout.count("DLQ009"), 2, "the letter is counted and listed", DEADLINE_S, look_s=0.2
    )
    replayed = run(churn, replay)
    assert replayed.returncode == 0, replayed.stderr
    assert "would replay 1 letters" in replayed.stderr
    query = 'fqlstream sql "SELECT event_id FROM events_upsell"'
    wait_equal(lambda: run(churn, query).stdout, "u-1\n", "the event is there", DEADLINE_S, look_s=0.2)
    (delete,) = blocks("run", "delete")
    deleted = run(churn, delete)
    assert deleted.returncode == 0, deleted.stderr
    assert "deleted 1 events and 0 labels of 1 ids" in deleted.stderr
    assert run(churn, query).stdout == ""


@pytest.mark.parametrize("query", blocks("sql"), ids=lambda text: text.splitlines()[0].removeprefix("-- "))
def test_queries_run_in_an_unmodified_client(churn: RunningStack, query: str) -> None:
    host, port = churn.store_url.removeprefix("http://").split(":")
    client = clickhouse_connect.get_client(host=host, port=int(port))
    try:
        rows = client.query(query).row_count
        assert rows >= 1 or "FROM dead_letters" in query  # nothing was refused in the README's minute
    finally:
        client.close()


def test_the_readme_has_blocks_to_run() -> None:
    assert len(blocks("run", "churn")) == 3
    assert len(blocks("sql")) == 4
