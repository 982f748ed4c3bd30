"""Workers die, join, and sleep beyond their session, on a real broker and a real store: finals equal a recount.

The short form, one trouble of each kind. The long form is `fqlstream bench chaos`.
"""

from __future__ import annotations

import io
import json
import math
import os
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
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from sklearn.metrics import roc_auc_score
from tests.integration.deadly_worker import MARK
from tests.running_stack import RunningStack
from tests.topic_records import read_topic
from tests.waiting import wait_equal, wait_until

from fqlstream.bench import chaos
from fqlstream.bench.chaos import Sent
from fqlstream.events.definitions import ModelDefinition
from fqlstream.local.joining import join
from fqlstream.ops.kafka_errors import may_pass
from fqlstream.settings import StoreSettings, load
from fqlstream.store.client import Store
from fqlstream.stream.arrow_events import ARROW_CONTENT_TYPE

TOPIC = "inference-events"
GROUP = "fqlstream"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
EVENTS = 24_000
#: Everything has been sent so long after a broker that was away has come back, on a busy machine.
SENT_S = 240
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
    running = RunningStack.start(tmp_path_factory.mktemp("stack"), "--workers", "0")
    stack = Stack(running.data, running.said)
    yield stack
    stack.stop_workers()
    running.stop()


def documents(model: str) -> list[dict[str, Any]]:
    """Everything that is defined of a model: what the long form has, and a metric that is a sketch."""
    median = {"kind": "metric", "model": model, "name": "median", "definition": "quantile(x, level=0.5)"}
    return [*chaos.definitions(model), median]


def definitions(model: str) -> str:
    """Write a model's documents as YAML."""
    return yaml.safe_dump_all(documents(model))


def produce(stack: Stack, model: str, seed: int, seconds: float, events: int = EVENTS) -> Sent:
    """Send events and labels over some seconds, labels late, early, corrected and taken back."""
    definition = ModelDefinition.model_validate(documents(model)[0])
    return chaos.send(join(stack.data, load()), definition, seed, events, seconds)


def recount(x: np.ndarray, score: np.ndarray, label: np.ndarray) -> dict[str, float | None]:
    """Count anew with NumPy and scikit-learn."""
    positive, predicted, labelled = label == "yes", score >= 0.5, label != ""
    tp, fp = labelled & positive & predicted, labelled & ~positive & predicted
    fn = labelled & positive & ~predicted
    bill = np.where(fn, -40, np.where(fp, -400, 250))
    cost = bill[labelled]
    return {
        "traffic": len(x),
        "sum": math.fsum(x) if len(x) else None,
        "bill": math.fsum(bill) / len(bill) if len(bill) else None,
        "cost": math.fsum(cost) / len(cost) if len(cost) else None,
        "precision": tp.sum() / (tp.sum() + fp.sum()) if tp.sum() + fp.sum() else None,
        "recall": tp.sum() / (tp.sum() + fn.sum()) if tp.sum() + fn.sum() else None,
        "best_hit": float(np.where(tp, score, 0).max()) if len(x) else None,
        "auroc": roc_auc_score(positive[labelled], score[labelled]) if len(set(positive[labelled])) == 2 else None,
    }


def differs(value: float | None, want: float | None, bound: float | None) -> bool:
    if value is None or want is None:
        return value is not want
    return not math.isclose(value, want, rel_tol=1e-12, abs_tol=bound or 0)


def check(stack: Stack, model: str, sent: Sent) -> None:
    """Wait for finals, then compare everything."""
    store = stack.store()
    events = len(sent.table)
    x, score = (sent.table.column(name).to_numpy() for name in ("x", "score"))
    label = np.array([text or "" for text in sent.table.column("churned").to_pylist()])
    wrong = (label != "") & ((label == "yes") != (score >= 0.5))
    hours = np.unique(sent.event_at_ms // HOUR_MS)
    wanted: dict[tuple[str, str, int], float | None] = {}
    ranked: dict[tuple[str, int], np.ndarray] = {}
    for hour in hours:
        inside = sent.event_at_ms // HOUR_MS == hour
        for segment, rows in (("", inside), ("high", inside & (x >= 5)), ("wrong", inside & wrong)):
            place = segment, int(hour) * HOUR_MS
            wanted |= {(name, *place): value for name, value in recount(x[rows], score[rows], label[rows]).items()}
            ranked[place] = np.sort(x[rows])

    def finals() -> list[tuple[Any, ...]]:
        return store.query_rows(
            "SELECT metric, segment, toUnixTimestamp64Milli(window_start), value, rows, error_bound "
            "FROM metric_series WHERE model = {model:String} AND version = 'all' AND status != 'early'",
            {"model": model},
        )

    def progress() -> tuple[int, int, int]:
        """Give how many finals there are, how many rows they count, and how much of the log is left."""
        found = finals()
        return len(found), sum(row[4] for row in found if row[:2] == ("traffic", "")), lag(stack)

    wait_equal(progress, (len(wanted) + len(ranked), events, 0), "finals of every window", 120, look_s=0.2)
    history = store.query_rows(f"SELECT count(), uniqExact(event_id) FROM events_{model}")[0]
    assert tuple(history) == (events, events)
    assert store.query_rows(f"SELECT count() FROM label_rows_{model} FINAL")[0][0] == sent.labels

    def differences() -> list[str]:
        out = []
        for metric, segment, start, value, _, bound in finals():
            if metric == "median":
                values = ranked[segment, start]
                rank = np.searchsorted(values, value, side="right") / max(1, len(values))
                if abs(rank - 0.5) > 2 * (bound or 0) + 2 / max(1, len(values)):
                    out.append(f"{metric}/{segment}: rank {rank}")
            elif differs(value, want := wanted[metric, segment, start], bound):
                out.append(f"{metric}/{segment}/{start}: {value}, a recount gives {want} (within {bound})")
        return out

    wait_equal(differences, [], "values equal to a recount", 20, look_s=0.2)
    store.close()


def offsets(stack: Stack) -> dict[int, tuple[int, int]]:
    """Give for each partition how far the group has committed and where the log ends."""
    consumer = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": GROUP, "enable.auto.commit": False})
    try:
        partitions = [TopicPartition(TOPIC, p) for p in consumer.list_topics(TOPIC, 10).topics[TOPIC].partitions]
        return {
            found.partition: (max(0, found.offset), consumer.get_watermark_offsets(found, 10)[1])
            for found in wait_until(lambda: committed(consumer, partitions), "the coordinator answers")
        }
    finally:
        consumer.close()


def committed(consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition] | None:
    """Ask what the group has committed; None while a broker that has just started is not yet the group's coordinator."""
    try:
        return consumer.committed(partitions, 10)
    except KafkaException as error:
        if not may_pass(error.args[0]):
            raise
        return None


def lag(stack: Stack) -> int:
    """Records between the group's commits and the end of the log."""
    return sum(end - committed for committed, end in offsets(stack).values())


def log_length(stack: Stack) -> int:
    return sum(end for _, end in offsets(stack).values())


def await_progress(stack: Stack) -> None:
    """Wait until the workers have counted and written something more of every partition, or all of it.

    Of every partition: one at whose fence owners die again and again is suspected to hold a record that kills.
    """
    before = offsets(stack)

    def moved() -> bool:
        return all(at > before[partition][0] or at == end for partition, (at, end) in offsets(stack).items())

    wait_until(moved, f"commits beyond {before}", 90, saw=lambda: offsets(stack))


def await_members(stack: Stack, count: int) -> None:
    """Wait until the group has so many members."""
    admin = AdminClient({"bootstrap.servers": stack.bootstrap})

    def members() -> int:
        return len(admin.describe_consumer_groups([GROUP])[GROUP].result(10).members)

    wait_equal(members, count, "members of the group", 60)


def send_deadly(stack: Stack, model: str) -> tuple[int, int, bytes]:
    """Send a batch that ends whoever decodes it; gives its partition, its offset and its bytes.

    Between two harmless records, in one batch of Kafka's: so it never comes alone in its fetch.
    """
    batch = pa.table({"event_id": [f"{MARK}-1", f"{MARK}-2"], "x": [1.0, 2.0], "score": [0.1, 0.9]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch)
    sent: list[Message] = []
    producer = Producer({"bootstrap.servers": stack.bootstrap, "linger.ms": 1_000})
    headers = {"content-type": ARROW_CONTENT_TYPE, "model": model}
    past = json.dumps({"type": "watermark", "model": model, "event_at": time.time_ns() // 1_000_000 - 8 * HOUR_MS})
    producer.produce(TOPIC, past, partition=1)
    producer.produce(
        TOPIC, sink.getvalue(), partition=1, headers=headers, on_delivery=lambda _, message: sent.append(message)
    )
    producer.produce(TOPIC, past, partition=1)
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
    found: dict[tuple[int, int], bytes] = {}
    for message in read_topic(stack.bootstrap, "dead-letters"):
        headers = dict(message.headers() or ())
        if headers["code"] == code.encode():
            found[int(headers["partition"]), int(headers["offset"])] = message.value() or b""
    return found


def new_model() -> str:
    return f"m{uuid.uuid4().hex[:8]}"


def go(stack: Stack, seed: int, trouble: Callable[[], None], model: str | None = None, events: int = EVENTS) -> None:
    model = model or new_model()
    file = stack.data / f"{model}.yaml"
    file.write_text(definitions(model))
    stack.run("apply", "-f", str(file))
    sent: list[Sent] = []
    producing = threading.Thread(target=lambda: sent.append(produce(stack, model, seed, 8.0, events)))
    length = log_length(stack)
    producing.start()
    wait_until(lambda: log_length(stack) > length, "the first records")
    trouble()
    producing.join(SENT_S)
    check(stack, model, sent[0])


@pytest.fixture(autouse=True)
def no_workers_left(stack: Stack) -> Iterator[None]:
    yield
    stack.stop_workers()


def test_a_worker_killed_in_mid_stream_changes_no_number(stack: Stack) -> None:
    def trouble() -> None:
        for _ in range(3):
            worker = stack.start_worker()
            await_progress(stack)
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
        await_progress(stack)
        deadly.append(send_deadly(stack, model))

        def found() -> bool:
            nonlocal deaths, worker
            if worker.poll() is not None:
                assert worker.returncode == -signal.SIGKILL, "it did not die of a record"
                deaths += 1
                worker = stack.start_worker("tests.integration.deadly_worker", **environment)
            return bool(killers(stack))

        wait_until(found, "the record that kills", 150, saw=lambda: f"{deaths} deaths", look_s=0.1)

    go(stack, 4, trouble, model, events=4_000)
    partition, offset, value = deadly[0]
    assert killers(stack) == [(partition, offset, TOPIC, "0")]
    assert letters(stack, "DLQ019") == {(partition, offset): value}
    # one that nobody suspects, one with its fetch, and at least one alone
    assert deaths >= 3


def test_a_second_worker_that_joins_and_one_that_dies_change_no_number(stack: Stack) -> None:
    def trouble() -> None:
        first = stack.start_worker()
        await_progress(stack)
        stack.start_worker()
        await_members(stack, 2)
        await_progress(stack)
        first.kill()
        first.wait()

    go(stack, 2, trouble)


def test_a_worker_that_sleeps_beyond_its_session_and_wakes_changes_no_number(stack: Stack) -> None:
    def trouble() -> None:
        first = stack.start_worker()
        await_progress(stack)
        stack.start_worker()
        await_members(stack, 2)
        first.send_signal(signal.SIGSTOP)
        await_members(stack, 1)
        await_progress(stack)
        first.send_signal(signal.SIGCONT)

    go(stack, 3, trouble)
