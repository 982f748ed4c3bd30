"""Topics as tests read them: whole, up to the ends that they have now."""

from __future__ import annotations

import time
import uuid

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

READ_S = 60.0


def read_topic(bootstrap: str | None, topic: str) -> list[Message]:
    """Give every committed record of a topic, partition after partition, each in its order."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
        "enable.partition.eof": True, "auto.offset.reset": "earliest",
    })  # fmt: skip
    try:
        partitions = sorted(consumer.list_topics(topic, 20).topics[topic].partitions)
        records: dict[int, list[Message]] = {partition: [] for partition in partitions}
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        left, end_s = set(partitions), time.monotonic() + READ_S
        while left:
            assert time.monotonic() < end_s, f"partitions {sorted(left)} of {topic} were not read within {READ_S:g} s"
            for message in consumer.consume(1_000, 0.5):
                error = message.error()
                if error is None:
                    records[message.partition()].append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition())
        return [message for partition in partitions for message in records[partition]]
    finally:
        consumer.close()
