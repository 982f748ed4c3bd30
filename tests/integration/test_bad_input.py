"""Bad records of every kind on the real broker: a dead letter each, with its bytes; the worker goes on; the rest counts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import KafkaException, Producer
from tests.integration import test_crash
from tests.integration.test_crash import TOPIC, Stack, definitions, lag
from tests.topic_records import read_topic
from tests.waiting import wait_until

stack = test_crash.stack
ARROW = [("content-type", b"application/vnd.apache.arrow.stream")]
LIMIT_BYTES = 2**20


@pytest.fixture
def model(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(test_crash.ENVIRONMENT, "FQLSTREAM_KAFKA__RECORD_BYTES_MAX", str(LIMIT_BYTES))
    name = f"m{uuid.uuid4().hex[:8]}"
    file = stack.data / f"{name}.yaml"
    file.write_text(definitions(name))
    stack.run("apply", "-f", str(file))
    stack.start_worker()
    yield name
    stack.stop_workers()


def arrow_stream(rows: int, name: str) -> bytes:
    table = pa.table({
        "event_id": pa.array([f"{name}-a{number}" for number in range(rows)]),
        "x": pa.array(np.arange(rows, dtype=float)),
        "score": pa.array(np.full(rows, 0.5)),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def bad_records(model: str) -> dict[str, tuple[bytes | None, list[tuple[str, bytes]]]]:
    now_ms = time.time_ns() // 1_000_000

    def event(**fields: Any) -> bytes:
        return json.dumps({"model": model, "event_id": "bad", "columns": {"x": 1.0}} | fields).encode()

    no_id = {"model": model, "columns": {"x": 1.0}}
    return {
        "broken JSON": (b'{"model": "m", ', []),
        "not UTF-8": (b'{"model": "' + b"\xff\xfe" + b'"}', []),
        "deep nesting": (b"[" * 5_000 + b"]" * 5_000, []),
        "unknown model": (event(model="nobody"), []),
        "unknown version": (event(version="v999"), []),
        "no event_id": (json.dumps(no_id).encode(), []),
        "far future": (event(event_at=now_ms + 48 * 3_600_000), []),
        "far past": (event(event_at=86_400_000), []),
        "no time": (event(event_at="yesterday"), []),
        "columns are a list": (event(columns=[1, 2]), []),
        "a tombstone": (None, []),
        "too large": (event(columns={"x": 1.0, "note": "y" * (LIMIT_BYTES + 1)}), []),
        "an Arrow stream cut short": (arrow_stream(50, model)[:-30], [*ARROW, ("model", model.encode())]),
    }


def test_bad_records_are_dead_letters_and_nothing_else_is_lost(stack: Stack, model: str) -> None:
    producer = Producer({"bootstrap.servers": stack.bootstrap, "message.max.bytes": 16 * 2**20})
    bad = bad_records(model)
    sent: dict[tuple[int, int], bytes | None] = {}
    started_at = (time.time_ns() // 1_000_000) // 3_600_000 * 3_600_000 - 2 * 3_600_000

    def note(error: object, message: Any) -> None:
        assert error is None
        sent[message.partition(), message.offset()] = message.value()

    good = 0
    for value, headers in bad.values():
        for _ in range(20):  # in one fetch with good ones, before and behind
            fields = {
                "model": model,
                "event_id": f"{model}-{good}",
                "event_at": started_at + good,
                "columns": {"x": 1.0},
            }
            producer.produce(TOPIC, json.dumps(fields).encode(), partition=0)
            good += 1
        producer.produce(TOPIC, value, headers=headers, partition=0, on_delivery=note)
    for partition in range(4):
        mark = {"type": "watermark", "model": model, "event_at": started_at + 2 * 3_600_000}
        producer.produce(TOPIC, json.dumps(mark).encode(), partition=partition)
    assert producer.flush(30) == 0
    with stack.store() as store:

        def traffic() -> list[tuple[Any, ...]]:
            return store.query_rows(
                "SELECT value, status FROM metric_series WHERE model = {model:String} AND version = 'all' "
                "AND metric = 'traffic' AND segment = ''",
                {"model": model},
            )

        wait_until(lambda: traffic() == [(float(good), "final")], "the good ones, final", 60)
        wait_until(lambda: lag(stack) == 0, "commits at the log's end", 30)
        rows = store.query_rows(
            "SELECT partition, offset, code, reason, origin FROM dead_letters WHERE topic = {topic:String} ORDER BY offset",
            {"topic": TOPIC},
        )
    found = {(partition, offset): (code, reason, origin) for partition, offset, code, reason, origin in rows}
    assert found.keys() == sent.keys()
    for (partition, offset), (code, reason, origin) in found.items():
        assert code.startswith("DLQ")
        assert reason
        assert origin == f"{TOPIC}[{partition}]@{offset}"
    assert len({code for code, _, _ in found.values()}) >= 10  # one code for each kind of fault
    assert stack.workers[-1].poll() is None
    letters = dead_letters_of(stack)
    assert {place: value for place, (value, _) in letters.items()} == {
        place: value or None for place, value in sent.items()
    }
    for place, (_, headers) in letters.items():
        assert headers["code"].decode() == found[place][0]
        assert headers["reason"].decode() == found[place][1]
        assert {"topic", "row", "seen_at"} <= headers.keys()


def test_a_record_beyond_the_topics_limit_is_refused_to_its_producer(stack: Stack) -> None:
    producer = Producer({"bootstrap.servers": stack.bootstrap, "message.max.bytes": 64 * 2**20})
    refused: list[str] = []
    producer.produce(
        TOPIC, b"x" * (20 * 2**20), on_delivery=lambda error, _: refused.append(error.name() if error else "")
    )
    try:
        producer.flush(30)
    except KafkaException as error:
        refused.append(str(error))
    assert refused == ["MSG_SIZE_TOO_LARGE"]


def dead_letters_of(stack: Stack) -> dict[tuple[int, int], tuple[bytes | None, dict[str, bytes]]]:
    """Everything on the dead-letter topic that came from the source topic, by its origin."""
    out: dict[tuple[int, int], tuple[bytes | None, dict[str, bytes]]] = {}
    for message in read_topic(stack.bootstrap, "dead-letters"):
        headers = dict(message.headers() or ())
        if headers["topic"] == TOPIC.encode():
            out[int(headers["partition"]), int(headers["offset"])] = (message.value(), headers)
    return out
