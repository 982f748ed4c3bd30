"""The SDK against a real broker: what it sends is read back and decoded by the engine's own decoder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from confluent_kafka import Message
from tests.topic_records import read_topic
from tests.unit.stream.test_decode import CATALOGUE

from fqlstream.client import DeliveryError, DeliveryFailure, Producer
from fqlstream.errors import BrokerError, UsageError
from fqlstream.settings import ClientSettings, KafkaSettings, Settings, StreamSettings
from fqlstream.stream.batches import Decoded, Fetch
from fqlstream.stream.decode import decode

WAIT_S = 30.0


def fetch_of(messages: list[Message], partition: int) -> Fetch:
    mine = sorted((m for m in messages if m.partition() == partition), key=lambda m: m.offset())
    return Fetch(
        topic="t",
        partition=partition,
        offsets=np.array([m.offset() for m in mine], np.int64),
        record_at_ms=np.array([m.timestamp()[1] for m in mine], np.int64),
        keys=[m.key() for m in mine],
        values=[m.value() for m in mine],
        headers={at: m.headers() for at, m in enumerate(mine) if m.headers()},
        next_offset=len(mine),
    )


def decoded(messages: list[Message], partition: int) -> Decoded:
    return decode(fetch_of(messages, partition), CATALOGUE, StreamSettings())


def settings_of(kafka_settings: KafkaSettings, **client: Any) -> Settings:
    return Settings(kafka=kafka_settings, client=ClientSettings(**client))


@pytest.fixture
def producer(kafka_settings: KafkaSettings, make_topic: Callable[..., str]) -> Iterator[Producer]:
    with Producer(settings=settings_of(kafka_settings), topic=make_topic(5)) as open_producer:
        yield open_producer


def test_batches_go_where_librdkafka_puts_the_same_ids(producer: Producer, kafka_settings: KafkaSettings) -> None:
    ids = [f"request-{number}" for number in range(700)] + ["é", "a", "\U0001f600 long id " * 5]
    for event_id in ids:
        producer.log_inference("fraud", event_id, {"age": 20})
    assert producer.log_inferences("fraud", pa.table({"event_id": ids, "age": [30] * len(ids)})) == len(ids)
    producer.log_labels("fraud", pd.DataFrame({"id": ids, "churned": "yes"}), event_id="id")
    producer.flush()
    messages = read_topic(kafka_settings.bootstrap, producer.topic)
    homes: dict[str, set[int]] = {}
    forms: dict[tuple[str, int], int] = {}
    for partition in range(5):
        found = decoded(messages, partition)
        assert not found.dead_letters
        for rows in found.rows:
            for event_id in rows.table["event_id"].to_pylist():
                homes.setdefault(event_id, set()).add(partition)
            forms[rows.kind.value, partition] = rows.table.num_rows
    assert homes.keys() == set(ids)
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert set.union(*homes.values()) == set(range(5))
    assert sum(count for (kind, _), count in forms.items() if kind == "inference") == 2 * len(ids)
    assert sum(count for (kind, _), count in forms.items() if kind == "label") == len(ids)


def test_a_ranking_models_rows_stay_together_by_key(producer: Producer, kafka_settings: KafkaSettings) -> None:
    queries = [f"q-{number % 40}" for number in range(400)]
    ids = [f"item-{number}" for number in range(400)]
    producer.log_inferences("fraud", pa.table({"event_id": ids, "query": queries, "country": queries}), key="query")
    for event_id, query in zip(ids, queries, strict=True):
        producer.log_label("fraud", event_id, {"churned": query}, key=query)
    producer.flush()
    messages = read_topic(kafka_settings.bootstrap, producer.topic)
    for partition in range(5):
        rows = {rows.kind.value: rows.table for rows in decoded(messages, partition).rows}
        if rows:
            assert set(rows["inference"]["country"].to_pylist()) == set(rows["label"]["churned"].to_pylist())


def test_finish_promises_every_partition_after_what_was_sent(producer: Producer, kafka_settings: KafkaSettings) -> None:
    for number in range(50):
        producer.log_inference("fraud", number, {})
    producer.finish("fraud", 1_795_255_200_000)
    producer.flush()
    messages = read_topic(kafka_settings.bootstrap, producer.topic)
    for partition in range(5):
        mine = fetch_of(messages, partition)
        assert mine.values[-1] == b'{"type":"watermark","model":"fraud","event_at":1795255200000}'
        assert sum(b"watermark" in (value or b"") for value in mine.values) == 1


def test_a_frame_with_a_column_of_several_types_arrives_all_the_same(
    producer: Producer, kafka_settings: KafkaSettings
) -> None:
    now = pd.Timestamp.now("UTC").floor("ms")
    frame = pd.DataFrame(
        {"event_id": ["a", "b", "c"], "event_at": [now.tz_localize(None)] * 3, "age": [20, "old", None]}
    )
    assert producer.log_inferences("fraud", frame) == 3
    producer.flush()
    messages = read_topic(kafka_settings.bootstrap, producer.topic)
    lines = {
        line["event_id"]: (line["age"], line["_type_violations"], line["event_at"])
        for partition in range(5)
        for rows in decoded(messages, partition).rows
        for line in rows.table.to_pylist()
    }
    at = now.value // 1_000_000
    assert lines == {"a": (20, [], at), "b": (None, ["age"], at), "c": (None, [], at)}


def test_a_record_that_no_broker_takes_is_raised_on_flush_with_its_bytes(
    producer: Producer, kafka_settings: KafkaSettings
) -> None:
    producer.log_inference("fraud", "good", {})
    huge = "x" * (kafka_settings.record_bytes_max + 2**21)
    producer.log_inference("fraud", "huge", {"plan name (x)": huge})
    with pytest.raises(DeliveryError) as caught:
        producer.flush()
    assert (caught.value.code, caught.value.count) == ("SDK002", 1)
    assert (caught.value.failures[0].key, len(caught.value.failures[0].value or b"") > len(huge)) == (b"huge", True)
    producer.flush()  # told once
    assert len(read_topic(kafka_settings.bootstrap, producer.topic)) == 1


def test_what_the_broker_refuses_is_given_to_the_callback(
    kafka_settings: KafkaSettings, make_topic: Callable[..., str]
) -> None:
    failures: list[DeliveryFailure] = []
    topic = make_topic(1, {"max.message.bytes": "2000"})
    with Producer(settings=settings_of(kafka_settings), topic=topic, on_error=failures.append) as producer:
        producer.log_inference("fraud", "small", {})
        producer.flush()  # a request is refused whole
        producer.log_inference("fraud", "large", {"plan name (x)": "".join(map(chr, range(33, 4_000)))})
    assert [failure.key for failure in failures] == [b"large"]
    assert failures[0].topic == topic
    assert failures[0].reason


def test_an_error_in_the_block_stays_the_news(kafka_settings: KafkaSettings, make_topic: Callable[..., str]) -> None:
    topic = make_topic(1)

    def fail() -> None:
        with producer:
            producer.log_inference("fraud", "before", {})
            raise ZeroDivisionError

    producer = Producer(settings=settings_of(kafka_settings), topic=topic)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(read_topic(kafka_settings.bootstrap, topic)) == 1
    with pytest.raises(UsageError, match="closed"):
        producer.log_inference("fraud", "after", {})


def test_threads_share_a_producer(producer: Producer, kafka_settings: KafkaSettings) -> None:
    def send(first: int) -> None:
        for number in range(first, first + 250):
            producer.log_inference("fraud", number, {"age": number})

    threads = [threading.Thread(target=send, args=(first,)) for first in range(0, 1000, 250)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    producer.flush()
    messages = read_topic(kafka_settings.bootstrap, producer.topic)
    ids = [name for p in range(5) for rows in decoded(messages, p).rows for name in rows.table["event_id"].to_pylist()]
    assert sorted(map(int, ids)) == list(range(1000))


# --------------------------------------------------------------------------------------------- no broker


@contextmanager
def nowhere(**client: Any) -> Iterator[Producer]:
    """A producer whose broker never answers."""
    producer = Producer(settings=settings_of(KafkaSettings(bootstrap="127.0.0.1:1"), **client))
    try:
        yield producer
    finally:
        producer._kafka.purge()


def test_a_full_queue_makes_the_caller_wait_and_then_raises() -> None:
    with nowhere(queue_records_max=20, queue_wait_s=0.5) as producer:
        for number in range(20):
            producer.log_inference("fraud", number, {})
        started_s = time.monotonic()
        with pytest.raises(DeliveryError) as caught:
            producer.log_inference("fraud", "one too many", {})
        assert 0.4 <= time.monotonic() - started_s < 5
        assert caught.value.code == "SDK001"
        assert len(producer) >= 20


def test_room_in_the_queue_lets_a_waiting_caller_go_on(
    kafka_settings: KafkaSettings, make_topic: Callable[..., str]
) -> None:
    few = settings_of(kafka_settings, queue_records_max=10, linger_ms=0)
    with Producer(settings=few, topic=make_topic(1)) as producer:
        for number in range(2_000):
            producer.log_inference("fraud", number, {})
    assert len(read_topic(kafka_settings.bootstrap, producer.topic)) == 2_000


def test_a_flush_that_takes_too_long_says_what_is_left() -> None:
    with nowhere(flush_wait_s=0.3) as producer:
        producer.log_inference("fraud", 1, {})
        with pytest.raises(DeliveryError) as caught:
            producer.flush()
        assert (caught.value.code, caught.value.count) == ("SDK003", 1)


def test_no_broker_and_no_topic_say_so(kafka_settings: KafkaSettings) -> None:
    with nowhere(queue_wait_s=0.3) as producer, pytest.raises(BrokerError, match=r"127\.0\.0\.1:1") as caught:
        producer.finish("fraud")
    assert caught.value.code == "SDK006"
    lost = Producer(settings=settings_of(kafka_settings), topic="never-made")
    with lost, pytest.raises(BrokerError, match="never-made"):
        lost.partitions_count()


def test_secrets_are_never_shown() -> None:
    kafka = KafkaSettings(
        bootstrap="127.0.0.1:1",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="u",
        sasl_password="hush",  # noqa: S106  # no password of anything
    )
    producer = Producer(settings=settings_of(kafka, queue_wait_s=0.2))
    with pytest.raises(BrokerError) as caught:
        producer.partitions_count()
    assert "hush" not in repr(producer) + repr(caught.value) + str(caught.value) + repr(producer.__dict__)


def test_importing_the_client_is_cheap() -> None:
    code = "import sys, fqlstream.client; print(sorted({'confluent_kafka', 'pandas', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
