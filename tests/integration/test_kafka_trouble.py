"""Kafka goes away, loses topics, loses records, comes back older: workers wait where that helps, and say what to do where it does not."""

from __future__ import annotations

import json
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from tests.integration.test_crash import HOUR_MS, TOPIC, check, documents, go, lag
from tests.integration.troubled import Troubled, Worker
from tests.misbehaving_store import Request, well
from tests.waiting import pause, wait_until

from fqlstream import client
from fqlstream.app import exit_codes
from fqlstream.bench.chaos import Sent
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import ModelDefinition
from fqlstream.local.joining import join
from fqlstream.settings import load

EVENTS = 3_000


def test_kafka_away_beyond_every_time_out_is_waited_out_and_said_in_a_few_lines(troubled: Troubled) -> None:
    worker = troubled.worker(
        FQLSTREAM_KAFKA__REQUEST_TIMEOUT_MS="3000",
        FQLSTREAM_KAFKA__DELIVERY_TIMEOUT_MS="3000",
        FQLSTREAM_STREAM__STUCK_MS="15000",
    )

    def trouble() -> None:
        worker.says("took over inference-events")
        wait_until(lambda: troubled.flushes() > 2, "something is counted")
        troubled.kill_broker()
        worker.says("Kafka is in trouble", 20)
        pause(16)  # beyond stuck_ms, the session, which is 6 s, and the other two
        troubled.start_broker()
        worker.says("Kafka works again")

    go(troubled.stack, 11, trouble, events=EVENTS)
    assert worker.alive
    assert worker.count("Kafka is in trouble") == 1
    assert worker.said.count("\n") < 80, worker.said


@dataclass
class Events:
    """Events of a model of their own, and what has become of them."""

    parts: Troubled
    model: str = field(init=False)
    sent: int = 0

    def __post_init__(self) -> None:
        self.model = self.parts.define()
        self.at_ms = time.time_ns() // 1_000_000 // 3_600_000 * 3_600_000

    def send(self, count: int) -> None:
        """Send events to every partition."""
        producer = Producer({"bootstrap.servers": self.parts.stack.bootstrap, "linger.ms": 20})
        for number in range(self.sent, self.sent + count):
            columns = {"x": 1.0, "score": 0.5}
            event = {"model": self.model, "event_id": str(number), "event_at": self.at_ms, "columns": columns}
            producer.produce(TOPIC, json.dumps(event).encode(), partition=number % 4)
        assert producer.flush(60) == 0
        self.sent += count

    def counted(self) -> tuple[int, int, float]:
        """Rows of history, distinct ones, and the metric over all of them."""
        with self.parts.store() as store:
            rows, ids = store.query_rows(f"SELECT count(), uniqExact(event_id) FROM events_{self.model}")[0]
            value = store.query_rows(
                "SELECT sum(value) FROM metric_series "
                "WHERE model = {model:String} AND version = 'all' AND metric = 'sum' AND segment = ''",
                {"model": self.model},
            )[0][0]
        return rows, ids, value

    def all_counted(self) -> None:
        """Wait until each counts once, in history and in the value, and the group has committed the log's end."""
        wait_until(
            lambda: self.counted() == (self.sent, self.sent, float(self.sent)) and lag(self.parts.stack) == 0,
            f"{self.sent} events are counted",
            90,
            saw=self.counted,
        )


def stop(worker: Worker) -> int:
    """Tell a worker to stop, as a supervisor does; it has 30 s."""
    worker.process.send_signal(signal.SIGTERM)
    return int(worker.process.wait(30))


def ends(worker: Worker, code: str) -> None:
    """See that a worker ends with an error that somebody has to do something about, and says what."""
    assert worker.process.wait(60) == exit_codes.NEEDS_SOMEBODY, worker.said
    assert code in worker.said
    assert "hint: " in worker.said.split(code, 1)[1]


# -- topics --------------------------------------------------------------------------------------------------------------


def test_topics_that_are_deleted_are_missed_aloud_and_found_again(troubled: Troubled) -> None:
    """Values, dead letters and notices wait for `topics apply`; nothing else is needed."""
    worker = troubled.worker(FQLSTREAM_STREAM__TROUBLE_SAID_MS="1000", FQLSTREAM_KAFKA__DELIVERY_TIMEOUT_MS="5000")
    events = Events(troubled)
    events.send(40)
    events.all_counted()
    for topic in ("metric-values", "dead-letters", "pane-updates"):
        troubled.delete_topic(topic)
    producer = Producer({"bootstrap.servers": troubled.stack.bootstrap})
    producer.produce(TOPIC, b"no event", partition=0)
    assert producer.flush(30) == 0
    events.send(40)
    worker.says("dead-letters")
    worker.says("make the topic: fqlstream topics apply")
    troubled.make_topics()
    events.all_counted()
    with troubled.store() as store:
        assert store.query_rows("SELECT count() FROM dead_letters") == [(1,)]
    assert worker.alive


def test_a_source_topic_that_is_deleted_and_made_again_stops_the_worker_until_somebody_decides(
    troubled: Troubled,
) -> None:
    worker = troubled.worker()
    events = Events(troubled)
    events.send(40)
    events.all_counted()
    troubled.delete_topic(TOPIC)
    pause(1)
    assert worker.alive, "there is nothing to read, and nothing is lost"
    troubled.make_topics()
    ends(worker, "DLV001")
    again = troubled.worker()
    ends(again, "DLV001")


# -- records -------------------------------------------------------------------------------------------------------------


def test_records_that_left_the_log_uncounted_stop_the_worker_and_are_named(troubled: Troubled) -> None:
    worker = troubled.worker()
    events = Events(troubled)
    events.send(40)
    events.all_counted()
    assert stop(worker) == 0
    events.send(80)
    admin = troubled.admin
    for future in admin.delete_records([TopicPartition(TOPIC, 1, 20)]).values():
        future.result(20)
    late = troubled.worker()
    ends(late, "DLV002")
    assert "inference-events[1]: offsets 10 to 19 have left the log" in late.said


def test_a_store_restored_from_an_older_copy_is_brought_up_from_its_own_fence(
    troubled: Troubled, tmp_path: Path
) -> None:
    """Kafka's committed offsets are ahead of it, and count for nothing."""
    worker = troubled.worker()
    events = Events(troubled)
    events.send(400)
    events.all_counted()
    assert stop(worker) == 0
    troubled.store_process.stop()
    troubled.copy_store(tmp_path / "copy")
    troubled.start_store()
    worker = troubled.worker()
    events.send(400)
    events.all_counted()
    worker.process.kill()
    worker.process.wait()
    troubled.kill_store()
    troubled.restore_store(tmp_path / "copy")
    troubled.start_store()
    assert events.counted() == (400, 400, 400.0)
    assert lag(troubled.stack) == 0, "Kafka believes that everything is done"
    troubled.worker()
    events.all_counted()


def test_a_broker_restored_from_an_older_copy_is_told_from_a_new_log(troubled: Troubled, tmp_path: Path) -> None:
    events = Events(troubled)
    events.send(40)
    troubled.kill_broker()
    there = troubled.data / "kafka" / "data"
    shutil.copytree(there, tmp_path / "copy")
    troubled.start_broker()
    worker = troubled.worker()
    events.send(400)
    events.all_counted()
    assert stop(worker) == 0
    troubled.kill_broker()
    shutil.rmtree(there)
    shutil.copytree(tmp_path / "copy", there)
    troubled.start_broker()
    ends(troubled.worker(), "DLV003")


# -- the group, and leaving it -------------------------------------------------------------------------------------------


def test_a_static_member_that_is_killed_and_comes_back_in_time_moves_nobody(troubled: Troubled) -> None:
    first = troubled.worker(FQLSTREAM_KAFKA__INSTANCE_ID="one", FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS="45000")
    second = troubled.worker(FQLSTREAM_KAFKA__INSTANCE_ID="two", FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS="45000")
    for worker in (first, second):
        worker.says("took over inference-events")
    events = Events(troubled)
    events.send(200)
    events.all_counted()
    moved = second.count("took over"), second.count("gave up")
    first.process.kill()
    first.process.wait()
    events.send(200)
    again = troubled.worker(FQLSTREAM_KAFKA__INSTANCE_ID="one", FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS="45000")
    again.says("took over inference-events")
    events.all_counted()
    assert (second.count("took over"), second.count("gave up")) == moved


def test_a_topic_that_grows_under_traffic_loses_nothing_and_counts_nothing_twice(troubled: Troubled) -> None:
    """Nobody restarts for it. Labels, late and early, reach other partitions than their events did."""
    quick = {
        "FQLSTREAM_KAFKA__TOPIC_LOOK_MS": "500",
        "FQLSTREAM_KAFKA__SESSION_TIMEOUT_MS": "30000",
        "FQLSTREAM_STREAM__LABEL_SEARCH_MS": "300",
    }
    workers = [troubled.worker(FQLSTREAM_KAFKA__INSTANCE_ID=name, **quick) for name in ("one", "two")]
    for worker in workers:
        worker.says("took over inference-events")
    workers[0].process.kill()
    workers[0].process.wait()
    # Kafka gives it its place back, and does not tell it if it leads the group
    workers[0] = troubled.worker(FQLSTREAM_KAFKA__INSTANCE_ID="one", **quick)
    workers[0].says("took over inference-events")
    model = troubled.define()
    settings = join(troubled.data, load())
    with ExitStack() as producers:
        traffic = Traffic(model, [producers.enter_context(client.Producer(settings=settings))])
        traffic.send(400)
        more = ("--partitions", f"{TOPIC}=7", "--partitions", "pane-updates=5")
        troubled.stack.run("topics", "apply", *more, "--repartition")
        # producers learn of it at different times: until then some go on with the partitions that they know
        traffic.producers.append(producers.enter_context(client.Producer(settings=settings)))

        def taken() -> bool:
            traffic.send(10)
            return all(any(worker.count(f"took over {TOPIC}[{part}]") for worker in workers) for part in range(4, 7))

        wait_until(taken, "the new partitions are taken over", look_s=0.1)
        del traffic.producers[0]
        traffic.send(400, more=False)
        traffic.finish()
    check(troubled.stack, model, traffic.sent())
    with troubled.store() as store:
        partitions = store.query_rows(f"SELECT DISTINCT partition FROM events_{model} ORDER BY partition")
    assert [partition for (partition,) in partitions] == list(range(7))
    assert all(worker.alive for worker in workers)


@dataclass
class Traffic:
    """Events of a model, and a label for most of them: before its event, or after it."""

    model: str
    producers: list[client.Producer]
    rows: list[tuple[float, float, int]] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = np.random.default_rng(7)
        self.begin_ms = (time.time_ns() // 1_000_000 - 6 * HOUR_MS) // HOUR_MS * HOUR_MS

    def send(self, count: int, *, more: bool = True) -> None:
        """Send so many events by turns over the producers, and labels by the one that knows most partitions.

        Where no more will come, no labels of events to come.
        """
        for number in range(len(self.rows), len(self.rows) + count):
            x, score = round(float(self.numbers.normal(5, 3)), 6), round(float(self.numbers.random()), 6)
            at_ms = self.begin_ms + int(self.numbers.integers(0, 2 * HOUR_MS))
            self.rows.append((x, score, at_ms))
            producer = self.producers[number % len(self.producers)]
            producer.log_inference(self.model, f"e-{number}", {"x": x, "score": score}, event_at=at_ms)
            late, early = number - 150, number + 40
            for other in ([late] if late >= 0 and late % 3 else []) + ([early] if more and early % 6 == 0 else []):
                self.labels[other] = ("no", "yes")[int(self.numbers.integers(2))]
                self.producers[-1].log_label(self.model, f"e-{other}", {"churned": self.labels[other]})

    def finish(self) -> None:
        """Promise that nothing more comes."""
        self.producers[-1].finish(self.model, self.begin_ms + 3 * HOUR_MS)
        for producer in self.producers:
            producer.flush(30)

    def sent(self) -> Sent:
        """Give what was sent, for a recount."""
        x, score, at_ms = zip(*self.rows, strict=True)
        churned = pa.array([self.labels.get(number) for number in range(len(self.rows))], pa.string())
        definition = ModelDefinition.model_validate(documents(self.model)[0])
        table = coerce_table(pa.table({"x": x, "score": score, "churned": churned}), definition)
        return Sent(definition, table, np.array(at_ms), len(self.labels))


@pytest.mark.parametrize("where", ["idle", "under load", "without ClickHouse", "without Kafka", "in a takeover"])
def test_a_worker_that_is_told_to_stop_does_so_in_time_wherever_it_is(troubled: Troubled, where: str) -> None:
    """A deadline, no claim of speed: `stream.stop_wait_ms` is 28 s, and its end would be exit code 1."""
    events = Events(troubled)
    events.send(200)
    if where == "in a takeover":
        troubled.worker().says("took over inference-events")
        troubled.stack.stop_workers()
        troubled.proxy.behaviour = hold_takeovers
        worker = troubled.worker()
        wait_until(lambda: troubled.proxy.misbehaved > 50 and worker.count("ready"), "it takes partitions over")
    else:
        worker = troubled.worker()
        events.all_counted()
    if where == "under load":
        events.send(4_000)
    if where == "without ClickHouse":
        troubled.proxy.stop()
        events.send(200)
        worker.says("ClickHouse is in trouble")
    if where == "without Kafka":
        troubled.kill_broker()
        worker.says("Kafka is in trouble")
    begun = time.monotonic()
    try:
        assert stop(worker) == exit_codes.STOPPED, worker.said
    finally:
        took_s = time.monotonic() - begun
        troubled.proxy.behaviour = well
        if where == "without ClickHouse":
            troubled.proxy.start()
        if where == "without Kafka":
            troubled.start_broker()
    assert took_s < 28
    assert "has not stopped within" not in worker.said
    troubled.worker()
    events.all_counted()


def hold_takeovers(request: Request) -> None:
    """Answer everything but what a takeover asks for first."""
    if "FROM flushes" in request.statement and "LIMIT 1 BY" not in request.statement:
        request.proxy.released.wait(0.5)
        request.cut()
    else:
        well(request)
