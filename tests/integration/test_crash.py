"""Workers die, join, and sleep beyond their session, on a real broker and a real store: finals equal a recount.

The short form, one trouble of each kind. The long form is `fqlstream bench chaos`.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from tests.integration.deadly_worker import MARK

from fqlstream.settings import StoreSettings
from fqlstream.store.client import Store
from fqlstream.stream.arrow_events import ARROW_CONTENT_TYPE

TOPIC = "inference-events"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
EVENTS = 24_000
#: Everything has arrived so long after a broker that was away has come back, on a busy machine.
SENT_S = 120
ENVIRONMENT = {
    "FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS": "6000",
    "FQLSTREAM_STREAM__LABEL_FLUSH_MS": "1500",
    # small enough that labels also look for their event in ClickHouse
    "FQLSTREAM_STREAM__RECENT_BYTES_MAX": str(2**20),
    "FQLSTREAM_STREAM__WAITING_LABELS_MAX": "2000",
}


@dataclass
class Stack:
    """A stack without workers; the tests start and hurt those themselves."""

    data: Path
    described: dict[str, Any]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def bootstrap(self) -> str:
        return str(self.described["bootstrap"])

    def start_worker(self, module: str = "fqlstream.cli", **environment: str) -> subprocess.Popen[bytes]:
        with (self.data / f"worker-{uuid.uuid4().hex[:8]}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", module, "worker", "--data", str(self.data)],
                env={**os.environ, **ENVIRONMENT, **environment},
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    def stop_workers(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.terminate()
        for worker in self.workers:
            worker.wait(40)
        self.workers.clear()

    def store(self) -> Store:
        return Store.connect(StoreSettings(), url=self.described["store_url"], key=self.described["store_key"])

    def run(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "fqlstream.cli", *arguments, "--data", str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data = tmp_path_factory.mktemp("stack")
    command = [sys.executable, "-m", "fqlstream.cli", "up", "--workers", "0", "--data", str(data), "--json"]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert up.stdout is not None
    line = up.stdout.readline()
    assert line, "the stack did not come up"
    stack = Stack(data, json.loads(line))
    yield stack
    stack.stop_workers()
    up.terminate()
    up.wait(40)
    up.stdout.close()


def definitions(model: str) -> str:
    documents: list[dict[str, Any]] = [
        {
            "kind": "model", "name": model, "task": "binary_classification",
            "columns": [
                {"name": "x", "type": "float"},
                {"name": "score", "type": "float", "role": "output"},
                {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
            ],
            "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
            "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1m"},
        },
        *(
            {"kind": "metric", "model": model, "name": name, "definition": text}
            for name, text in {
                "traffic": "traffic()",
                "sum": "sum(x)",
                "cost": "average(if(fn(), -40, if(fp(), -400, 250)))",
                "precision": "precision()",
                "best_hit": "max(if(tp(), score, 0))",
                "median": "quantile(x, level=0.5)",
            }.items()
        ),
        {"kind": "segment", "model": model, "name": "high", "definition": "x >= 5"},
        {"kind": "segment", "model": model, "name": "wrong", "definition": "fp() or fn()"},
    ]  # fmt: skip
    return "---\n".join(yaml.safe_dump(document) for document in documents)


@dataclass
class Produced:
    """What was sent: columns per event, in the order of sending, and the last label."""

    x: np.ndarray
    score: np.ndarray
    event_at: np.ndarray
    label: list[str | None]
    labels_sent: int = 0


def produce(stack: Stack, model: str, seed: int, seconds: float, events: int = EVENTS) -> Produced:
    """Send events and labels over some seconds, labels late, early, corrected and taken back."""
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    begin = (time.time_ns() // 1_000_000 - 6 * HOUR_MS) // HOUR_MS * HOUR_MS
    sent = Produced(
        np.round(numbers.normal(5, 3, events), 6),
        np.round(numbers.random(events), 6),
        begin + numbers.integers(0, 3 * HOUR_MS, events),
        [None] * events,
    )
    producer = Producer({
        "bootstrap.servers": stack.bootstrap, "partitioner": "murmur2_random", "linger.ms": 20,
        "enable.idempotence": True,
    })  # fmt: skip
    queue: dict[int, list[tuple[int, str | None]]] = {}
    for number in range(events):
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            queue.setdefault(max(0, number + rng.randint(-20, events // 3)), []).append(
                (number, rng.choice(["no", "yes", "yes", None]))
            )
    started = time.monotonic()
    for number in range(events):
        columns = {"x": sent.x[number], "score": sent.score[number]}
        send(producer, model, number, columns=columns, event_at=int(sent.event_at[number]))
        for other, label in queue.pop(number, ()):
            send(producer, model, other, type="label", columns={"churned": label})
            sent.label[other] = label
            sent.labels_sent += 1
        if number % 200 == 0:
            producer.poll(0)
            ahead = number / events * seconds - (time.monotonic() - started)
            if ahead > 0:
                threading.Event().wait(ahead)
    for rest in queue.values():
        for other, label in rest:
            send(producer, model, other, type="label", columns={"churned": label})
            sent.label[other] = label
            sent.labels_sent += 1
    assert producer.flush(SENT_S) == 0
    for partition in range(len(producer.list_topics(TOPIC).topics[TOPIC].partitions)):
        mark = {"type": "watermark", "model": model, "event_at": begin + 4 * HOUR_MS}
        producer.produce(TOPIC, json.dumps(mark).encode(), partition=partition)
    assert producer.flush(SENT_S) == 0
    return sent


def send(producer: Producer, model: str, number: int, **fields: Any) -> None:
    key = f"{model}-{number}"
    producer.produce(TOPIC, json.dumps({"model": model, "event_id": key, **fields}).encode(), key=key)


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        threading.Event().wait(0.2)


def recount(sent: Produced, rows: np.ndarray) -> dict[str, float | None]:
    """Count anew with NumPy."""
    x, score = sent.x[rows], sent.score[rows]
    label = np.array([sent.label[row] or "" for row in rows])
    positive, predicted, labelled = label == "yes", score >= 0.5, label != ""
    tp, fp = labelled & positive & predicted, labelled & ~positive & predicted
    fn = labelled & positive & ~predicted
    cost = np.where(fn, -40, np.where(fp, -400, 250))
    return {
        "traffic": len(rows),
        "sum": math.fsum(x) if len(rows) else None,
        "cost": math.fsum(cost) / len(rows) if len(rows) else None,
        "precision": tp.sum() / (tp.sum() + fp.sum()) if tp.sum() + fp.sum() else None,
        "best_hit": float(np.where(tp, score, 0).max()) if len(rows) else None,
    }


def check(stack: Stack, model: str, sent: Produced) -> None:
    """Wait for finals, then compare everything."""
    store = stack.store()
    events = len(sent.x)
    hours = np.unique(sent.event_at // HOUR_MS)
    expected_rows = len(hours) * 6 * 3

    def finals() -> list[tuple[Any, ...]]:
        return store.query_rows(
            "SELECT metric, segment, toUnixTimestamp64Milli(window_start), value, rows, exact, error_bound "
            "FROM metric_series WHERE model = {model:String} AND version = 'all' AND status != 'early'",
            {"model": model},
        )

    def settled() -> bool:
        found = finals()
        total = sum(row[4] for row in found if row[:2] == ("traffic", ""))
        return len(found) == expected_rows and total == events and lag(stack) == 0

    wait_for("finals of every window", settled, 120)
    history = store.query_rows(f"SELECT count(), uniqExact(event_id) FROM events_{model}")[0]
    assert tuple(history) == (events, events)
    assert store.query_rows(f"SELECT count() FROM label_rows_{model} FINAL")[0][0] == sent.labels_sent
    wanted = {}
    label = np.array([text or "" for text in sent.label])
    wrong = (label != "") & ((label == "yes") != (sent.score >= 0.5))
    for hour in hours:
        inside = sent.event_at // HOUR_MS == hour
        for segment, mask in (("", inside), ("high", inside & (sent.x >= 5)), ("wrong", inside & wrong)):
            rows = np.flatnonzero(mask)
            for metric, value in recount(sent, rows).items():
                wanted[metric, segment, int(hour) * HOUR_MS] = value
            wanted["median", segment, int(hour) * HOUR_MS] = rows

    def differences() -> list[str]:
        out = []
        for metric, segment, start, value, _, exact, bound in finals():
            want = wanted[metric, segment, start]
            if metric == "median":
                ranked = np.sort(sent.x[want])
                rank = np.searchsorted(ranked, value, side="right") / max(1, len(ranked))
                if abs(rank - 0.5) > 2 * (bound or 0) + 2 / max(1, len(ranked)):
                    out.append(f"{metric}/{segment}: rank {rank}")
            elif value != want and not math.isclose(value, want, rel_tol=1e-12):
                out.append(f"{metric}/{segment}/{start}: {value}, a recount gives {want} (exact={exact})")
        return out

    wait_for("values equal to a recount", lambda: not differences(), 20)
    store.close()


def lag(stack: Stack) -> int:
    """Records between the group's commits and the end of the log."""
    consumer = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": "fqlstream", "enable.auto.commit": False})
    try:
        partitions = [TopicPartition(TOPIC, p) for p in consumer.list_topics(TOPIC, 10).topics[TOPIC].partitions]
        total = 0
        for found in consumer.committed(partitions, 10):
            _, end = consumer.get_watermark_offsets(found, 10)
            total += end - max(0, found.offset)
        return total
    finally:
        consumer.close()


def send_deadly(stack: Stack, model: str) -> tuple[int, int, bytes]:
    """Send a batch that ends whoever decodes it; gives its partition, its offset and its bytes."""
    batch = pa.table({"event_id": [f"{MARK}-1", f"{MARK}-2"], "x": [1.0, 2.0], "score": [0.1, 0.9]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch)
    sent: list[Message] = []
    producer = Producer({"bootstrap.servers": stack.bootstrap})
    headers = {"content-type": ARROW_CONTENT_TYPE, "model": model}
    producer.produce(
        TOPIC, sink.getvalue(), partition=1, headers=headers, on_delivery=lambda _, message: sent.append(message)
    )
    assert producer.flush(30) == 0
    offset = sent[0].offset()
    assert sent[0].error() is None
    assert offset is not None
    return 1, offset, sink.getvalue()


def killers(stack: Stack) -> list[tuple[Any, ...]]:
    store = stack.store()
    try:
        return list(store.query_rows("SELECT partition, offset, topic, row FROM dead_letters WHERE code = 'DLQ019'"))
    finally:
        store.close()


def letters(stack: Stack, code: str) -> dict[tuple[int, int], bytes]:
    """Read the topic: the original bytes of what was refused with this code, by where it was."""
    consumer = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": "t", "enable.auto.commit": False})
    found: dict[tuple[int, int], bytes] = {}
    try:
        topic = "dead-letters"
        for number in consumer.list_topics(topic, 10).topics[topic].partitions:
            end = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)[1]
            consumer.assign([TopicPartition(topic, number, 0)])
            while (message := consumer.poll(10)) is not None and message.offset() < end:
                headers = dict(message.headers() or ())
                if headers["code"] == code.encode():
                    found[int(headers["partition"]), int(headers["offset"])] = message.value() or b""
                if message.offset() == end - 1:
                    break
        return found
    finally:
        consumer.close()


def new_model() -> str:
    return f"m{uuid.uuid4().hex[:8]}"


def go(stack: Stack, seed: int, trouble: Callable[[], None], model: str | None = None, events: int = EVENTS) -> None:
    model = model or new_model()
    file = stack.data / f"{model}.yaml"
    file.write_text(definitions(model))
    stack.run("apply", "-f", str(file))
    sent: list[Produced] = []
    producing = threading.Thread(target=lambda: sent.append(produce(stack, model, seed, 8.0, events)))
    producing.start()
    trouble()
    producing.join(2 * SENT_S)
    check(stack, model, sent[0])


def counted(stack: Stack, at_least: int) -> Callable[[], bool]:
    """Whether the group has committed so much since the test began."""
    before = lag(stack)
    return lambda: before - lag(stack) >= at_least or lag(stack) > 0


@pytest.fixture(autouse=True)
def no_workers_left(stack: Stack) -> Iterator[None]:
    yield
    stack.stop_workers()


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_a_worker_killed_in_mid_stream_changes_no_number(stack: Stack) -> None:
    def trouble() -> None:
        for _ in range(3):
            worker = stack.start_worker()
            pause(5)
            worker.kill()
            worker.wait()
        stack.start_worker()

    go(stack, 1, trouble)


def test_a_record_that_ends_every_worker_is_set_aside_and_nothing_else_is(stack: Stack) -> None:
    model = new_model()
    deadly: list[tuple[int, int, bytes]] = []
    deaths = 0

    def trouble() -> None:
        nonlocal deaths
        environment = {
            # as `up` starts a worker again: in its own place of the group
            "FQLSTREAM_KAFKA__INSTANCE_ID": f"deadly-{model}",
            "FQLSTREAM_STREAM__DEATHS_BEFORE_ALONE": "1",
            "FQLSTREAM_STREAM__DEATHS_ALONE": "1",
        }
        worker = stack.start_worker("tests.integration.deadly_worker", **environment)
        pause(5)
        deadly.append(send_deadly(stack, model))
        deadline = time.monotonic() + 150
        while not killers(stack):
            assert time.monotonic() < deadline, f"not found after {deaths} deaths"
            if worker.poll() is not None:
                assert worker.returncode == -signal.SIGKILL, "it did not die of a record"
                deaths += 1
                worker = stack.start_worker("tests.integration.deadly_worker", **environment)
            pause(0.1)

    go(stack, 4, trouble, model, events=4_000)
    partition, offset, value = deadly[0]
    assert killers(stack) == [(partition, offset, TOPIC, "0")]
    assert letters(stack, "DLQ019") == {(partition, offset): value}
    # one that nobody suspects, one with its fetch, and at least one alone
    assert deaths >= 3


def test_a_second_worker_that_joins_and_one_that_dies_change_no_number(stack: Stack) -> None:
    def trouble() -> None:
        first = stack.start_worker()
        pause(4)
        stack.start_worker()
        pause(5)
        first.kill()
        first.wait()

    go(stack, 2, trouble)


def test_a_worker_that_sleeps_beyond_its_session_and_wakes_changes_no_number(stack: Stack) -> None:
    def trouble() -> None:
        first = stack.start_worker()
        pause(5)
        stack.start_worker()
        pause(1)
        first.send_signal(signal.SIGSTOP)
        pause(9)
        first.send_signal(signal.SIGCONT)

    go(stack, 3, trouble)
