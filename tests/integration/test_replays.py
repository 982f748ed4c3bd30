"""Letters replayed through a running worker after a fix: finals equal the batch answer over all rows, once each."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from tests.commands import invoke
from tests.integration import test_crash
from tests.integration.flows import HOUR_MS, Flow, Row, await_equal, batch, differences, flow_of
from tests.integration.test_crash import TOPIC, Stack
from tests.waiting import wait_equal, wait_until

from fqlstream.cli.dead_letters import app

stack = test_crash.stack
METRICS = {"traffic": "traffic()", "cost": "average(if(fn(), -40, if(fp(), -400, 250)))", "high": "max(x)"}
SEGMENTS = {"big": "x >= 50"}
ARROW = ("content-type", b"application/vnd.apache.arrow.stream")


@pytest.fixture(scope="module")
def flow(stack: Stack) -> Iterator[Flow]:
    with flow_of(stack) as running:
        yield running


def model_of(name: str) -> Row:
    return {
        "kind": "model", "name": name, "version": "v1", "task": "binary_classification",
        "columns": [
            {"name": "x", "type": "float"},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
        "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
    }  # fmt: skip


def call(flow: Flow, *arguments: object, exit_code: int = 0) -> str:
    done = invoke(app, *arguments, "--data", flow.stack.data)
    assert done.exit_code == exit_code, done.output
    return done.stdout


def replay(flow: Flow, *arguments: object, exit_code: int = 0) -> Row:
    found: Row = json.loads(call(flow, "replay", *arguments, "--json", exit_code=exit_code))
    return found


class Sent:
    """Records with a time of their own, and the rows that they are once everything is put right."""

    def __init__(self, flow: Flow, model: str) -> None:
        self.model = model
        self.producer = Producer({"bootstrap.servers": flow.stack.bootstrap, "partitioner": "murmur2_random"})
        self.rows: dict[str, Row] = {}
        self.values: set[bytes] = set()
        # two hours ago: with a time of the replay the default of event_at would be another
        self.at_ms = (time.time_ns() // 1_000_000 // HOUR_MS - 2) * HOUR_MS

    def send(self, key: str, value: bytes, *headers: tuple[str, bytes]) -> int:
        self.at_ms += 1_000
        self.values.add(value)
        self.producer.produce(TOPIC, value, key=key, headers=list(headers), timestamp=self.at_ms)
        return self.at_ms

    def event(self, number: int) -> None:
        """An event without a time: it happens at its record's."""
        event_id, columns = f"e{number}", {"x": float(number), "score": number % 10 / 10}
        at_ms = self.send(event_id, self._json(event_id, columns))
        self.rows[event_id] = {"event_id": event_id, "event_at": at_ms, **columns, "churned": None}

    def label(self, number: int) -> None:
        value = "yes" if number % 3 else "no"
        self.send(f"e{number}", self._json(f"e{number}", {"churned": value}, type="label"))
        self.rows[f"e{number}"]["churned"] = value

    def arrow(self, number: int, *, is_bad: bool) -> None:
        """A batch of two rows; with one more whose time is an hour and more ahead where it is to be bad."""
        ids = [f"a{number}-{row}" for row in range(3 if is_bad else 2)]
        times = [None, None, self.at_ms + 2 * HOUR_MS][: len(ids)]
        xs = [float(number)] * len(ids)
        at_ms = self.send(ids[0], stream(ids, times, xs), ARROW, ("model", self.model.encode()), ("rows", b"3"))
        for event_id, event_at, x in zip(ids, times, xs, strict=True):
            self.rows[event_id] = {"event_id": event_id, "event_at": event_at or at_ms, "x": x, "score": 0.9, "churned": None}  # fmt: skip

    def _json(self, event_id: str, columns: Row, **fields: Any) -> bytes:
        return json.dumps({"model": self.model, "event_id": event_id, "columns": columns, **fields}).encode()


def stream(ids: list[str], times: list[int | None], xs: list[float]) -> bytes:
    table = pa.table({
        "event_id": pa.array(ids), "event_at": pa.array(times, pa.int64()), "x": pa.array(xs),
        "score": pa.array([0.9] * len(ids)),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def test_events_of_an_unknown_model_count_once_after_it_is_defined_and_replayed(flow: Flow, tmp_path: Path) -> None:
    name = f"m{uuid.uuid4().hex[:8]}"
    sent = Sent(flow, name)
    for number in range(120):
        sent.event(number)
        if number % 2:
            sent.label(number // 2)
        if number % 20 == 0:
            sent.arrow(number, is_bad=False)
    assert sent.producer.flush(30) == 0
    refused = len(sent.values)

    def letters() -> int:
        return sum(
            count["letters"] for count in json.loads(call(flow, "counts", "--json")) if count["code"] == "DLQ009"
        )

    wait_equal(letters, refused, "all are refused", 60)
    file = tmp_path / "letters.jsonl"
    call(flow, "export", file, "--code", "DLQ009")
    values = [json.loads(line)["value"] for line in file.read_text().splitlines()]
    assert {value["text"].encode() for value in values if "text" in value} <= sent.values
    assert sum("base64" in value for value in values) == 6

    # before it is put right: all come back, and say that they do
    assert replay(flow, "--code", "DLQ009", "--limit", "5")["counts"]["replayed"] == 5
    wait_equal(letters, refused + 5, "they come back", 60)
    assert sum(count["returned"] for count in json.loads(call(flow, "counts", "--json"))) == 5

    definitions = [model_of(name)]
    definitions += [{"kind": "metric", "model": name, "name": k, "definition": v} for k, v in METRICS.items()]
    definitions += [{"kind": "segment", "model": name, "name": k, "definition": v} for k, v in SEGMENTS.items()]
    flow.apply(*definitions)
    report = replay(flow, "--code", "DLQ009")
    assert report["counts"] == {"replayed": refused, "already_replayed": 5}
    assert (report["returned"], report["labels"]) == (5, 60)
    flow.finish(name, sent.at_ms + 3 * HOUR_MS)
    expected = batch(list(sent.rows.values()), model_of(name), METRICS, SEGMENTS, "churned")
    await_equal(lambda: flow.values(name), expected)

    # a second time: nothing is sent, and nothing doubles; --again is kept from doubling by the events' ids
    assert replay(flow, "--code", "DLQ009")["counts"] == {"already_replayed": refused + 5}
    assert replay(flow, "--file", file)["counts"] == {"already_replayed": refused}
    assert replay(flow, "--file", file, "--again")["counts"] == {"replayed": refused}
    wait_until(flow.caught_up, "all is read")
    assert not differences(flow.values(name), expected)
    assert flow.store.query_rows(f"SELECT count() FROM events_{name}")[0][0] == len(sent.rows)


def test_bad_rows_of_a_batch_and_edited_records_count_after_a_replay(flow: Flow, tmp_path: Path) -> None:
    name = f"m{uuid.uuid4().hex[:8]}"
    flow.apply(
        model_of(name), *({"kind": "metric", "model": name, "name": k, "definition": v} for k, v in METRICS.items())
    )
    sent = Sent(flow, name)
    for number in range(4):
        sent.event(number)
    sent.arrow(1, is_bad=True)
    sent.send("typo", json.dumps({"model": name, "event_id": "typo", "colums": {"x": 70.0, "score": 0.1}}).encode())
    sent.rows["typo"] = {"event_id": "typo", "event_at": sent.at_ms, "x": 70.0, "score": 0.1, "churned": None}
    assert sent.producer.flush(30) == 0
    file = tmp_path / "letters.jsonl"

    def mine() -> list[Row]:
        call(flow, "export", file)
        return [line for line in map(json.loads, file.read_text().splitlines()) if line["code"] in ("DLQ014", "DLQ012")]

    wait_until(lambda: len(mine()) == 2, "both are refused", 60, saw=mine)
    batch_letter, typo = sorted(mine(), key=lambda line: line["code"], reverse=True)
    assert (batch_letter["row"], dict(batch_letter["headers"])["rows"]) == ("2", {"text": "1"})
    origin = f"{TOPIC}[{batch_letter['partition']}]@{batch_letter['offset']}"
    shown = call(flow, "show", origin)
    assert "Check the producer's clock" in shown
    assert "'event_id': 'a1-2'" in shown
    raw = pa.ipc.open_stream(invoke(app, "show", origin, "--raw", "--data", flow.stack.data).stdout_bytes).read_all()
    assert raw.column("event_id").to_pylist() == ["a1-2"]

    # the clock is right now: the record is said to have been sent two hours later
    batch_letter["record_at"] += HOUR_MS
    typo["value"]["text"] = typo["value"]["text"].replace("colums", "columns")
    file.write_text("".join(json.dumps(line) + "\n" for line in (batch_letter, typo)))
    assert replay(flow, "--file", file, "--dry-run")["counts"] == {"replayed": 2}
    assert replay(flow, "--file", file)["counts"] == {"replayed": 2}
    flow.finish(name, sent.at_ms + 2 * HOUR_MS - 1)
    expected = batch(list(sent.rows.values()), model_of(name), METRICS, {}, "churned")
    await_equal(lambda: flow.values(name), expected, statuses=("early", "final", "revised"))
    assert call(flow, "show", typo["letter"]).count("replayed:") == 1
    assert "no such" not in call(flow, "list", "--code", "DLQ012")


def test_commands_ask_what_is_meant(flow: Flow) -> None:
    from fqlstream.errors import FqlstreamError, UsageError

    with pytest.raises(UsageError, match="which letters"):
        replay(flow)
    with pytest.raises(UsageError, match="is no place"):
        call(flow, "show", "17")
    with pytest.raises(FqlstreamError, match="there is no letter at 0@99999"):
        call(flow, "show", "0@99999")
    assert replay(flow, "0@99999", exit_code=1)["counts"] == {}
    assert json.loads(call(flow, "counts", "--json", "--topic", "nowhere")) == []
