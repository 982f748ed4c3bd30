"""Scripted situations of consumer groups on a real broker: for each of them it is known what is true."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from tests.waiting import wait_until

from fqlstream.local.jars import kafka_jars
from fqlstream.local.java import find_java
from fqlstream.local.progress import SILENT

_TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
_TOOL_S = 120
_OPEN_MS = 600_000


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of one partition. `seconds`: age of the first record that is left, now; None: nobody can know."""

    committed: int | None
    records: int | None
    rows: int | None
    seconds: float | None
    status: str | None
    partition: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """A group of its own, on a topic of its own."""

    name: str
    group: str
    topic: str
    truths: tuple[Truth, ...]


@dataclass(slots=True)
class Scripts:
    """Makes situations; holds their consumers until it is closed."""

    bootstrap: str
    tag: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    started_s: float = field(default_factory=time.time)
    #: What is done between looks, one after the other.
    steps: list[Callable[[], None]] = field(default_factory=list)
    admin: AdminClient = field(init=False)
    _open: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})

    def close(self) -> None:
        """Let every consumer leave, and end what transactions are open."""
        for each in reversed(self._open):
            each()

    def names(self, name: str) -> tuple[str, str]:
        """Give the names of a situation's group and topic."""
        return f"lag-{self.tag}-{name}", f"lag-{self.tag}-{name}-topic"

    def topic(self, name: str, partitions: int = 1, **config: str) -> str:
        _, topic = self.names(name)
        new = NewTopic(topic, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
        self.admin.create_topics([new])[topic].result(20)
        return topic

    def produce(
        self, topic: str, ages_s: list[float], partition: int = 0, *, keys: str = "", rows: int | None = None
    ) -> None:
        """Write a record for each age, older than now by so many seconds when the scripts began."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        headers = None if rows is None else {"rows": str(rows).encode()}
        for index, age_s in enumerate(ages_s):
            at_ms = int((self.started_s - age_s) * 1000)
            key = keys[index] if keys else None
            producer.produce(topic, b"value", key=key, partition=partition, timestamp=at_ms, headers=headers)
        assert producer.flush(20) == 0

    def transaction(self, topic: str, ages_s: list[float], *, end: str) -> None:
        """Write records in a transaction that is committed, aborted, or left open until the scripts are closed."""
        producer = Producer({
            "bootstrap.servers": self.bootstrap, "transactional.id": uuid.uuid4().hex, "logger": _QUIET,
            # on a busy machine what is left open must stay open until it has been looked at
            "transaction.timeout.ms": _OPEN_MS,
        })  # fmt: skip
        producer.init_transactions(30)
        producer.begin_transaction()
        for age_s in ages_s:
            producer.produce(topic, b"value", timestamp=int((self.started_s - age_s) * 1000))
        assert producer.flush(20) == 0
        if end == "commit":
            producer.commit_transaction(30)
        elif end == "abort":
            producer.abort_transaction(30)
        else:
            self._open.append(lambda: producer.abort_transaction(30))

    def consumer(self, group: str, **options: Any) -> Consumer:
        return Consumer({
            "bootstrap.servers": self.bootstrap, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
            "client.id": f"client-of-{group}", "logger": _QUIET, **{key.replace("_", "."): value for key, value in options.items()},
        })  # fmt: skip

    def commit(self, group: str, topic: str, *offsets: int) -> None:
        """Commit for a group without joining it; offset of each partition in turn."""
        consumer = self.consumer(group)
        partitions = [TopicPartition(topic, number, offset) for number, offset in enumerate(offsets)]
        wait_until(lambda: _committed(consumer, partitions), f"the coordinator of {group} takes a commit")
        consumer.close()

    def member(self, group: str, topic: str, **options: Any) -> Consumer:
        """Join a group, and wait until it has shared its partitions out."""
        consumer = self.consumer(group, **options)
        self._open.append(consumer.close)
        consumer.subscribe([topic])

        def has_partitions() -> bool:
            consumer.poll(0.05)
            return bool(consumer.assignment())

        wait_until(has_partitions, f"{group} shares its partitions out")
        return consumer

    def joining(self, group: str, topic: str) -> None:
        """Ask to join a group whose members do not answer: it shares out until they do."""
        consumer = self.consumer(group)
        self._open.append(consumer.close)
        consumer.subscribe([topic])
        warned = f"{group} rebalances"
        wait_until(lambda: consumer.poll(0.05) is None and self.state(group) == "PREPARING_REBALANCING", warned)

    def state(self, group: str) -> str:
        """Give a group's state, by the admin client's name."""
        listed = self.admin.list_consumer_groups().result(20).valid
        return next((str(each.state.name) for each in listed if each.group_id == group), "")

    def clean_soon(self) -> Callable[[], None]:
        """Have the brokers look for topics to compact every 100 ms; gives what undoes it."""
        name = "log.cleaner.backoff.ms"
        self._broker_setting(ConfigEntry(name, "100", incremental_operation=AlterConfigOpType.SET))
        return lambda: self._broker_setting(ConfigEntry(name, None, incremental_operation=AlterConfigOpType.DELETE))

    def _broker_setting(self, entry: ConfigEntry) -> None:
        for broker in self.admin.list_topics(timeout=20).brokers:
            resource = ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
            for future in self.admin.incremental_alter_configs([resource]).values():
                future.result(20)

    def first_offsets(self, topic: str) -> list[int]:
        """Give the offsets that a reader from the start gets of partition 0."""
        consumer = self.consumer(uuid.uuid4().hex, enable_partition_eof=True)
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[int] = []
        while (message := consumer.poll(10)) is not None and message.error() is None:
            found.append(message.offset())
        consumer.close()
        return found


class _Quiet:
    """A logger for clients whose complaints are the situation."""

    def log(self, *_: object) -> None:
        """Say nothing."""


_QUIET = _Quiet()


def _committed(consumer: Consumer, partitions: list[TopicPartition]) -> bool:
    from confluent_kafka import KafkaException

    try:
        consumer.commit(offsets=partitions, asynchronous=False)
    except KafkaException:
        return False
    return True


def kafka_tool(bootstrap: str, *arguments: str) -> str:
    """Run Kafka's own kafka-consumer-groups, from its jars."""
    java, _ = find_java()
    assert java is not None
    libs = kafka_jars(java, SILENT)
    done = subprocess.run(
        [str(java.command), "-Xmx128m", "-cp", f"{libs}/*", _TOOL, "--bootstrap-server", bootstrap, *arguments],
        capture_output=True, text=True, check=False, timeout=_TOOL_S, env={**os.environ, "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"},
    )  # fmt: skip
    return done.stdout


def tool_rows(text: str) -> dict[tuple[str, str, int], dict[str, str]]:
    """Read what `--describe` prints: rows by group, topic and partition, each by the names of its columns."""
    rows: dict[tuple[str, str, int], dict[str, str]] = {}
    head: list[str] = []
    for line in text.splitlines():
        cells = line.split()
        if cells[:2] == ["GROUP", "TOPIC"]:
            head = cells
        elif head and len(cells) == len(head):
            row = dict(zip(head, cells, strict=True))
            rows[row["GROUP"], row["TOPIC"], int(row["PARTITION"])] = row
    return rows
