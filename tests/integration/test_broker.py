from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Consumer, Producer, TopicPartition

from fqlstream.local.broker import Broker
from fqlstream.local.kafka_node import broker_ready
from fqlstream.ops.kafka_options import librdkafka_options, producer_options
from fqlstream.settings import KafkaSettings


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
