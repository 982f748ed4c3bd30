"""Events deleted under live traffic: rows, labels and bytes are gone, values are those of the rest, nothing comes back."""

from __future__ import annotations

import json
import subprocess
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.commands import command, invoke
from tests.integration import test_crash
from tests.integration.flows import (
    HOUR_MS,
    MINUTE_MS,
    PARTITIONS,
    Flow,
    Row,
    Sender,
    await_equal,
    batch,
    differences,
    flow_of,
)
from tests.integration.test_crash import Stack
from tests.waiting import wait_until

from fqlstream.cli.delete_events import delete_events
from fqlstream.errors import DefinitionError, FqlstreamError, StoreError, UsageError
from fqlstream.store.naming import event_table, label_table

stack = test_crash.stack
METRICS = {
    "traffic": "traffic()",
    "cost": "average(if(fn(), -40, if(fp(), -400, 250)))",
    "highest": "max(x)",
    "median": "quantile(x, level=0.5)",
    "hits": "sum(if(tp(), 1, 0))",
    "named": "sum(if(note == 'n7', 1, 0))",
}
SEGMENTS = {"big": "x >= 50", "wrong": "fp() or fn()"}
T0 = 1_795_000_000_000 // HOUR_MS * HOUR_MS


@pytest.fixture(scope="module")
def flow(stack: Stack) -> Iterator[Flow]:
    with pytest.MonkeyPatch.context() as patch, flow_of(stack) as running:
        # a busy machine is no standstill
        patch.setenv("FQLSTREAM_STREAM__REPAIR_STALL_MS", "150000")
        yield running


def model_of(name: str, version: str = "v1") -> Row:
    return {
        "kind": "model", "name": name, "version": version, "task": "binary_classification",
        "columns": [
            {"name": "x", "type": "float"},
            {"name": "note", "type": "string", "role": "metadata"},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
        "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
    }  # fmt: skip


class Traffic:
    """Events and labels of one model, and the rows that they make; ids that are deleted leave no row."""

    def __init__(self, flow: Flow, seed: int) -> None:
        self.name = f"d{uuid.uuid4().hex[:8]}"
        self.flow, self.numbers, self.sender = flow, np.random.default_rng(seed), Sender(flow.stack.bootstrap)
        self.rows: dict[str, Row] = {}
        self.partition: dict[str, int] = {}
        metrics = [{"kind": "metric", "model": self.name, "name": k, "definition": v} for k, v in METRICS.items()]
        segments = [{"kind": "segment", "model": self.name, "name": k, "definition": v} for k, v in SEGMENTS.items()]
        flow.apply(model_of(self.name), *metrics, *segments)

    def events(self, count: int, hours: Sequence[int] = (0, 1, 2), **columns: Any) -> list[str]:
        """Send events at random times in the first minutes of some hours, anywhere; every third gets a label, sometimes in another partition."""
        ids = []
        for _ in range(count):
            event_id = f"{self.name}-{len(self.rows)}"
            at_ms = T0 + int(self.numbers.choice(hours)) * HOUR_MS + int(self.numbers.integers(0, 10 * MINUTE_MS))
            number = len(self.rows)
            values = {
                "x": float(self.numbers.integers(0, 100)),
                "note": f"n{number % 9}",
                "score": number % 10 / 10,
            } | columns
            partition = int(self.numbers.integers(0, PARTITIONS))
            self.sender.event(self.name, event_id, partition, values, at_ms)
            self.rows[event_id] = {"event_id": event_id, "event_at": at_ms, **values, "churned": None}
            self.partition[event_id] = partition
            ids.append(event_id)
            if number % 3 == 0:
                self.label(event_id)
        return ids

    def label(self, event_id: str) -> None:
        value = str(self.numbers.choice(["no", "yes"]))
        elsewhere = self.numbers.random() < 0.1
        partition = (self.partition[event_id] + 1) % PARTITIONS if elsewhere else self.partition[event_id]
        self.sender.label(self.name, event_id, partition, {"churned": value})
        if event_id in self.rows:
            self.rows[event_id]["churned"] = value

    def gone(self, ids: Sequence[str]) -> None:
        for event_id in ids:
            del self.rows[event_id]

    def finals(self) -> None:
        """Wait until the finals are those of the rows that are left."""
        self.sender.flush()
        self.flow.finish(self.name, T0 + 10 * HOUR_MS)
        expected = batch(list(self.rows.values()), model_of(self.name), METRICS, SEGMENTS, "churned")
        await_equal(lambda: self.flow.values(self.name), expected, seconds=90)

    def stored(self, ids: Sequence[str]) -> int:
        """Count rows of these ids, in both tables."""
        asked = {"ids": ids}
        return sum(
            self.flow.store.query_rows(f"SELECT count() FROM {table} WHERE event_id IN {{ids:Array(String)}}", asked)[0][0]
            for table in (event_table(self.name), label_table(self.name))
        )  # fmt: skip


def delete(flow: Flow, model: str, *options: object, exit_code: int = 0) -> Row:
    done = invoke(command(delete_events), model, *options, "--json", "--data", flow.stack.data)
    assert done.exit_code == exit_code, done.output
    found: Row = json.loads(done.stdout)
    return found


def file_of(tmp_path: Path, ids: Sequence[str]) -> Path:
    path = tmp_path / f"{uuid.uuid4().hex}.txt"
    path.write_text("\n".join([*ids, ""]))
    return path


def test_events_are_gone_and_values_are_those_of_the_rest(flow: Flow, tmp_path: Path) -> None:
    traffic = Traffic(flow, 1)
    marker = f"MARKER{uuid.uuid4().hex}"
    traffic.events(300)
    personal = traffic.events(40, note=marker, x=1_000.0)
    whole_window = traffic.events(5, hours=[6])
    traffic.sender.event(traffic.name, personal[0], traffic.partition[personal[0]], {"note": marker}, T0)  # a duplicate
    traffic.finals()
    assert files_with(flow, marker), "what is looked for would be found"
    # the test must not take the eight minutes for which ClickHouse keeps files by default
    for table in (event_table(traffic.name), label_table(traffic.name), "states"):
        flow.store.command(f"ALTER TABLE {table} MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1")

    report = delete(flow, traffic.name, "--ids", file_of(tmp_path, [*personal, *whole_window, "never sent"]))
    assert (report["ids"], report["ids_found"], report["events"], report["done"]) == (46, 45, 46, True)
    assert report["labels"] == sum(
        traffic.rows[event_id]["churned"] is not None for event_id in personal + whole_window
    )
    assert report["source_until"] > report["files_until"]
    assert traffic.stored([*personal, *whole_window]) == 0
    states = "SELECT count(), uniqExact(version, pane_start, partition, lane) FROM states WHERE model = {model:String}"
    ((kept, panes),) = flow.store.query_rows(states, {"model": traffic.name})
    assert kept == panes, "states from before are gone too"
    before = {
        (row["metric"], row["window_start"]): row
        for row in flow.values(traffic.name)
        if row["version"] == "all" and row["segment"] == ""
    }
    emptied = before["traffic", T0 + 6 * HOUR_MS]
    assert (emptied["value"], emptied["rows"], emptied["status"]) == (0.0, 0, "revised")
    assert before["highest", T0 + 6 * HOUR_MS]["value"] is None
    traffic.gone([*personal, *whole_window])

    def rest() -> list[Row]:
        return [row for row in flow.values(traffic.name) if row["window_start"] != T0 + 6 * HOUR_MS]

    expected = batch(list(traffic.rows.values()), model_of(traffic.name), METRICS, SEGMENTS, "churned")
    await_equal(rest, expected)
    wait_until(lambda: not files_with(flow, marker), "the bytes are gone", 90, saw=lambda: files_with(flow, marker))

    # labels and duplicates of deleted events that come later bring nothing back
    for event_id in personal[:10]:
        traffic.label(event_id)
        traffic.sender.event(traffic.name, event_id, 0, {"note": marker, "x": 1_000.0}, T0)
    traffic.sender.flush()
    wait_until(flow.caught_up, "all is read")
    assert traffic.stored(personal) == 0
    await_equal(rest, expected)
    again = delete(flow, traffic.name, "--ids", file_of(tmp_path, personal))
    assert (again["events"], again["labels"]) == (0, 0)


def files_with(flow: Flow, marker: str) -> list[str]:
    """Name the files of the store that hold a text; parts are small and compressed blocks of them still hold it plain."""
    found = subprocess.run(
        ["grep", "-rlaF", marker, str(flow.stack.data)], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return [name for name in found if "/kafka" not in name]


def test_deleting_under_traffic_with_a_killed_worker(flow: Flow, tmp_path: Path) -> None:
    traffic = Traffic(flow, 2)
    doomed = traffic.events(150)[::3]
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.1):
            traffic.events(2)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        wait_until(lambda: traffic.stored(doomed) > 30, "some are stored", 60)
        report = delete(flow, traffic.name, "--ids", file_of(tmp_path, doomed), "--no-wait")
        assert not report["done"]
        victim = flow.stack.workers[-1]
        victim.kill()
        victim.wait(10)
        flow.stack.start_worker()
        waited = delete(flow, traffic.name, "--ids", file_of(tmp_path, doomed))
        assert waited["done"]
    finally:
        stop.set()
        sending.join()
    traffic.gone(doomed)
    for event_id in doomed[::5]:
        traffic.label(event_id)
    traffic.finals()
    assert traffic.stored(doomed) == 0


def test_a_request_waits_for_workers_and_nothing_is_counted_from_a_replay(flow: Flow, tmp_path: Path) -> None:
    traffic = Traffic(flow, 3)
    traffic.events(200)
    traffic.finals()
    flow.stack.stop_workers()
    # unread when the request is made, then read by owners that know of it
    unread = traffic.events(50)
    stored = list(traffic.rows)[:50]
    traffic.sender.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FQLSTREAM_STREAM__REPAIR_STALL_MS", "1000")
        with pytest.raises(StoreError, match="partitions still hold the events"):
            delete(flow, traffic.name, "--ids", file_of(tmp_path, [*stored, *unread]))
    for _ in range(2):
        flow.stack.start_worker()
    traffic.gone([*stored, *unread])
    traffic.finals()
    assert traffic.stored([*stored, *unread]) == 0


def test_what_a_worker_that_slept_writes_again_is_found_and_deleted(flow: Flow, tmp_path: Path) -> None:
    traffic = Traffic(flow, 4)
    (event_id, *_) = traffic.events(30)
    traffic.finals()
    table = event_table(traffic.name)
    kept = f"{table}_kept"
    flow.store.command(f"CREATE TABLE {kept} ENGINE = Memory AS SELECT * EXCEPT written_at FROM {table}")
    delete(flow, traffic.name, "--ids", file_of(tmp_path, [event_id]))
    assert traffic.stored([event_id]) == 0
    traffic.gone([event_id])
    flow.stack.stop_workers()
    flow.store.command(f"INSERT INTO {table} (* EXCEPT written_at) SELECT * FROM {kept}")
    assert traffic.stored([event_id]) == 1
    for _ in range(2):
        flow.stack.start_worker()
    wait_until(lambda: not traffic.stored([event_id]), "it is gone again", 60)
    flow.store.command(f"DROP TABLE {kept}")
    traffic.finals()


def test_a_range_of_time_goes_with_its_labels(flow: Flow) -> None:
    traffic = Traffic(flow, 5)
    traffic.events(200, hours=[0, 1])
    traffic.finals()
    begin, end = T0 + 3 * MINUTE_MS, T0 + 6 * MINUTE_MS
    other_hour = [row for row in flow.values(traffic.name) if row["window_start"] == T0 + HOUR_MS]
    inside = [event_id for event_id, row in traffic.rows.items() if begin <= row["event_at"] < end]
    report = delete(flow, traffic.name, "--from", _iso(begin), "--to", _iso(end))
    assert (report["ids"], report["events"]) == (len(inside), len(inside))
    assert traffic.stored(inside) == 0
    traffic.gone(inside)
    traffic.finals()
    after = [row for row in flow.values(traffic.name) if row["window_start"] == T0 + HOUR_MS]
    assert sorted(after, key=str) == sorted(other_hour, key=str), "other windows are not published again"


def _iso(ms: int) -> str:
    return str(np.datetime64(ms, "ms")) + "Z"


def test_the_command_refuses_what_makes_no_sense(flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic(flow, 6)
    ids = file_of(tmp_path, ["a"])
    with pytest.raises(UsageError, match="which events"):
        delete(flow, traffic.name)
    with pytest.raises(UsageError, match="which events"):
        delete(flow, traffic.name, "--ids", ids, "--from", "2026-01-01")
    with pytest.raises(UsageError, match="cannot be read"):
        delete(flow, traffic.name, "--ids", tmp_path / "none")
    with pytest.raises(DefinitionError, match="there is no model"):
        delete(flow, "nobody", "--ids", ids)
    monkeypatch.setenv("FQLSTREAM_STREAM__HISTORY", "false")
    with pytest.raises(FqlstreamError, match="no history is kept") as caught:
        delete(flow, traffic.name, "--ids", ids)
    assert caught.value.code == "DEL001"
    monkeypatch.undo()
    report = delete(flow, traffic.name, "--ids", file_of(tmp_path, []))
    assert (report["ids"], report["partitions"], report["done"]) == (0, 0, True)
    assert not differences(flow.values(traffic.name), {})
