"""Topics as they are declared in `topics/*.yaml`, as they are, and what it takes to make them so.

Nothing is ever shrunk or deleted: more partitions, or more replicas, than declared are the operator's own choice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fqlstream.errors import BrokerError, SettingsError
from fqlstream.events.documents import Document, read_documents, read_text
from fqlstream.events.durations import DurationMs
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.packaged import packaged
from fqlstream.settings import KafkaSettings

#: An admin request that takes longer has failed; a controller answers in milliseconds.
REQUEST_S: Final = 20.0
#: Kafka's log.retention.check.interval.ms, and then file.delete.delay.ms.
_CLEANING_MS: Final = 6 * 60_000
#: New partitions have leaders within a second or two.
LEADERS_S: Final = 30.0
REPARTITION_HINT: Final = (
    "with --repartition it is done: from then on an event_id belongs to another partition, so a label may come to another "
    "partition than its event did. Such labels are found through ClickHouse and repaired in the event's partition: none is "
    "lost, but they are slower. An event sent again across the change is not seen as a duplicate. "
    "The steps, and when to take them, are in deploy/README.md under Growing a source topic"
)
_EARLY_HINT: Final = (
    "records may leave the log before their retention, and before they are counted: unset it (kafka-configs --alter "
    "--delete-config retention.bytes), or declare it under settings"
)
#: Where a topic's own setting comes from, in librdkafka's words; the others are defaults of brokers.
_OF_TOPIC: Final = ConfigSource.DYNAMIC_TOPIC_CONFIG.value


class TopicDeclaration(BaseModel):
    """One file of `topics/`. `partitions` is the least number; `replication` is lowered to the number of brokers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")
    owner: str
    why: str
    key: str
    value: tuple[str, ...]
    partitions: int = Field(ge=1)
    replication: int = Field(ge=1)
    cleanup: Literal["delete", "compact"]
    retention_ms: DurationMs | None = Field(None, alias="retention")
    record_bytes_max: int = Field(ge=1024)
    timestamp: Literal["CreateTime", "LogAppendTime"]
    source: bool = False
    settings: dict[str, str] = Field(default_factory=dict)

    def config(self, replication: int) -> dict[str, str]:
        """Give the topic's settings in Kafka's own names, for so many replicas."""
        config = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.record_bytes_max),
            "message.timestamp.type": self.timestamp,
            # one replica may be away without stopping producers, and none of what was acknowledged is lost with it
            "min.insync.replicas": str(max(1, replication - 1)),
            **self.settings,
        }
        if self.retention_ms is not None:
            config["retention.ms"] = str(self.retention_ms)
        return config


class Action(StrEnum):
    """What a difference between declaration and cluster comes to."""

    CREATE = "create"
    SET = "set"
    GROW = "grow"
    REFUSED = "refused"  # only a person can decide or do it
    KEPT = "kept"  # more than was declared: left as it is


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. `actual` None: the topic does not exist."""

    topic: str
    setting: str
    declared: str
    actual: str | None
    action: Action
    note: str = ""


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What differs, topic by topic. `applied` says whether the differences were dealt with."""

    brokers: int
    topics: tuple[str, ...]
    differences: tuple[Difference, ...]
    applied: bool = False

    @property
    def pending(self) -> tuple[Difference, ...]:
        """What `apply` does."""
        return tuple(d for d in self.differences if d.action in {Action.CREATE, Action.SET, Action.GROW})

    @property
    def refused(self) -> tuple[Difference, ...]:
        """What `apply` leaves to a person."""
        return tuple(d for d in self.differences if d.action is Action.REFUSED)


@dataclass(frozen=True, slots=True)
class _Actual:
    partitions: int
    replication: int
    config: dict[str, str]
    overrides: frozenset[str]  # settings that somebody gave this topic


def load_declarations(directory: Path | None = None) -> tuple[TopicDeclaration, ...]:
    """Read the declared topics, those that ship with fqlstream unless told otherwise.

    Raises DefinitionError or SettingsError with file and line for a file that is wrong.
    """
    directory = directory or packaged("topics")
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise SettingsError("TOP001", f"no topic is declared in {directory}", "one file *.yaml per topic")
    return tuple(_declaration(document) for path in files for document in read_documents(read_text(path), str(path)))


def _declaration(document: Document) -> TopicDeclaration:
    try:
        return TopicDeclaration.model_validate(document.value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise SettingsError("TOP002", f"{document.place(first['loc'])}: {where}: {first['msg']}") from None


def plan(
    admin: AdminClient,
    declarations: Sequence[TopicDeclaration],
    *,
    replication: int | None = None,
    repartition: bool = False,
    partitions: Mapping[str, int] | None = None,
) -> TopicReport:
    """Compare the declarations with the cluster; changes nothing.

    `replication` overrides the declared one, and `partitions` those of the topics named. `repartition` allows a source topic to grow. Raises BrokerError where the
    cluster does not answer, SettingsError TOP006 where `partitions` names a topic that is not declared.
    """
    declarations = with_partitions(declarations, partitions or {})
    with _asking():
        metadata = admin.list_topics(timeout=REQUEST_S)
    brokers = len(metadata.brokers)
    existing = [declared.name for declared in declarations if declared.name in metadata.topics]
    configs = _entries(admin, existing)
    differences: list[Difference] = []
    for declared in declarations:
        replicas = min(replication or declared.replication, brokers)
        if declared.name not in configs:
            differences += _creation(declared, replicas)
            continue
        there, entries = metadata.topics[declared.name].partitions, configs[declared.name]
        actual = _Actual(
            len(there),
            min(len(p.replicas) for p in there.values()),
            {name: entry.value for name, entry in entries.items()},
            frozenset(name for name, entry in entries.items() if entry.source == _OF_TOPIC),
        )
        differences += _sizes(declared, replicas, actual, repartition=repartition)
        differences += _settings(declared, replicas, actual)
    return TopicReport(brokers, tuple(declared.name for declared in declarations), tuple(differences))


def with_partitions(
    declarations: Sequence[TopicDeclaration], partitions: Mapping[str, int]
) -> tuple[TopicDeclaration, ...]:
    """Declare other numbers of partitions. Raises SettingsError TOP006 for a topic that is not declared."""
    names = [declared.name for declared in declarations]
    if unknown := sorted(partitions.keys() - set(names)):
        raise SettingsError("TOP006", f"topic {unknown[0]} is not declared", f"there are: {', '.join(names)}")
    return tuple(
        declared.model_copy(update={"partitions": partitions.get(declared.name, declared.partitions)})
        for declared in declarations
    )


def _creation(declared: TopicDeclaration, replicas: int) -> list[Difference]:
    sizes = {"partitions": str(declared.partitions), "replication": str(replicas)}
    note = f"{declared.replication} declared, lowered to what there is" if replicas < declared.replication else ""
    return [
        Difference(declared.name, name, value, None, Action.CREATE, note if name == "replication" else "")
        for name, value in {**sizes, **declared.config(replicas)}.items()
    ]


def _sizes(declared: TopicDeclaration, replicas: int, actual: _Actual, *, repartition: bool) -> list[Difference]:
    found = []
    name = declared.name
    if actual.partitions > declared.partitions:
        found.append((Action.KEPT, "partitions", declared.partitions, actual.partitions, "never shrunk"))
    elif actual.partitions < declared.partitions and (repartition or not declared.source):
        found.append((Action.GROW, "partitions", declared.partitions, actual.partitions, ""))
    elif actual.partitions < declared.partitions:
        found.append((Action.REFUSED, "partitions", declared.partitions, actual.partitions, REPARTITION_HINT))
    if actual.replication > replicas:
        found.append((Action.KEPT, "replication", replicas, actual.replication, "more than declared"))
    elif actual.replication < replicas:
        note = "move the replicas with Kafka's own kafka-reassign-partitions"
        found.append((Action.REFUSED, "replication", replicas, actual.replication, note))
    return [Difference(name, what, str(want), str(is_), action, note) for action, what, want, is_, note in found]


def _settings(declared: TopicDeclaration, replicas: int, actual: _Actual) -> list[Difference]:
    # as many as there really are: a topic that was made on one broker must stay writable
    wanted = declared.config(min(replicas, actual.replication))
    found = [
        Difference(declared.name, name, value, actual.config.get(name, ""), Action.SET)
        for name, value in wanted.items()
        if actual.config.get(name) != value
    ]
    for name in sorted(actual.overrides - wanted.keys()):
        # somebody's own choice, unless it makes the log forget what the declaration keeps
        early = name == "retention.bytes" and declared.cleanup == "delete" and actual.config[name] != "-1"
        action, note = (Action.REFUSED, _EARLY_HINT) if early else (Action.KEPT, "set by somebody, not declared")
        found.append(Difference(declared.name, name, "none", actual.config[name], action, note))
    return found


def partitions_count(settings: KafkaSettings, topic: str) -> int:
    """Ask how many partitions a topic has.

    Raises BrokerError where the cluster does not answer or has no such topic.
    """
    with _asking(topic):
        metadata = AdminClient(librdkafka_options(settings)).list_topics(topic, timeout=REQUEST_S).topics[topic]
    if metadata.error is not None:
        raise BrokerError("TOP005", f"topic {topic}: {metadata.error.str()}", "make it: fqlstream topics apply")
    return len(metadata.partitions)


@dataclass(frozen=True, slots=True)
class TopicHealth:
    """A topic as it is: partitions without a leader, and those with replicas that are missing or behind.

    `topic_id` is in base64 as flush rows have it; empty where the broker is too old to know (before Kafka 2.8).
    """

    topic: str
    topic_id: str
    partitions: int
    leaderless: tuple[int, ...]
    under_replicated: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogRange:
    """The first offset of a partition's log, and the next one that will be written."""

    start: int
    end: int


def brokers_count(admin: AdminClient, wait_s: float) -> int:
    """Ask how many brokers there are. Raises BrokerError where none answers within a time."""
    with _asking():
        return len(admin.list_topics(timeout=wait_s).brokers)


def health(admin: AdminClient, names: Sequence[str]) -> tuple[TopicHealth, ...]:
    """Look at topics; those that are missing are left out. Raises BrokerError where the cluster does not answer."""
    with _asking():
        metadata = admin.list_topics(timeout=REQUEST_S).topics
        there = [name for name in names if name in metadata and metadata[name].error is None]
        if not there:
            return ()
        futures = admin.describe_topics(TopicCollection(there), request_timeout=REQUEST_S)
        described = {name: future.result(REQUEST_S) for name, future in futures.items()}
    found = []
    for name in there:
        partitions = described[name].partitions
        no_leader = tuple(each.id for each in partitions if each.leader is None)
        behind = tuple(each.id for each in partitions if len(each.isr) < len(each.replicas))
        found.append(TopicHealth(name, _topic_id(described[name].topic_id), len(partitions), no_leader, behind))
    return tuple(found)


def _topic_id(uuid: Any) -> str:
    """Give an id as flush rows have it: librdkafka prints - and _ for + and /."""
    text = str(uuid).replace("-", "+").replace("_", "/").rstrip("=")
    return "" if set(text) == {"A"} else text


def log_ranges(admin: AdminClient, topic: TopicHealth) -> dict[int, LogRange]:
    """Ask how far the logs of a topic reach, as a read_committed reader sees it; those without a leader are left out.

    Raises BrokerError where the cluster does not answer.
    """
    places = [TopicPartition(topic.topic, n) for n in range(topic.partitions) if n not in topic.leaderless]
    if not places:
        return {}
    with _asking(topic.topic):
        asked = [
            admin.list_offsets(
                dict.fromkeys(places, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_S
            )
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
        ]
        return {
            place.partition: LogRange(*(futures[place].result(REQUEST_S).offset for futures in asked))
            for place in places
        }


def retention_ms(settings: KafkaSettings, topic: str) -> int | None:
    """Ask for how long a topic keeps records at least; None where it keeps them for ever.

    Raises BrokerError where the cluster does not answer or has no such topic.
    """
    return _kept_ms(_describe(AdminClient(librdkafka_options(settings)), [topic])[topic])


def longest_kept_ms(settings: KafkaSettings, topic: str) -> int | None:
    """Ask for how long a topic may keep a record at most; None where it keeps them for ever.

    Kafka deletes a segment as a whole, once its youngest record is older than the retention: a segment takes records for
    `segment.ms`, and what is to go is looked for every few minutes. Raises BrokerError as `retention_ms`.
    """
    config = _describe(AdminClient(librdkafka_options(settings)), [topic])[topic]
    kept = _kept_ms(config)
    return None if kept is None else kept + int(config.get("segment.ms", "604800000")) + _CLEANING_MS


def _kept_ms(config: Mapping[str, str]) -> int | None:
    kept = int(config.get("retention.ms", "-1"))
    return kept if kept >= 0 and "delete" in config.get("cleanup.policy", "delete") else None


def _describe(admin: AdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    found = _entries(admin, topics)
    return {topic: {name: entry.value for name, entry in entries.items()} for topic, entries in found.items()}


def _entries(admin: AdminClient, topics: Sequence[str]) -> dict[str, dict[str, ConfigEntry]]:
    if not topics:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    with _asking():
        futures = admin.describe_configs(resources, request_timeout=REQUEST_S)
        return {resource.name: dict(future.result(REQUEST_S)) for resource, future in futures.items()}


def apply(admin: AdminClient, report: TopicReport) -> TopicReport:
    """Do what a plan says, and wait until every partition has a leader. What it refused stays undone.

    Raises BrokerError where the cluster refuses.
    """
    by_topic: dict[str, dict[Action, dict[str, str]]] = {}
    for difference in report.pending:
        actions = by_topic.setdefault(difference.topic, {})
        actions.setdefault(difference.action, {})[difference.setting] = difference.declared
    for topic, actions in by_topic.items():
        with _asking(topic):
            if Action.CREATE in actions:
                _create(admin, topic, dict(actions[Action.CREATE]))
            if Action.GROW in actions:
                count = int(actions[Action.GROW]["partitions"])
                admin.create_partitions([NewPartitions(topic, count)], request_timeout=REQUEST_S)[topic].result(
                    REQUEST_S
                )
            if Action.SET in actions:
                _set(admin, topic, actions[Action.SET])
    _await_leaders(admin, report.topics)
    return TopicReport(report.brokers, report.topics, report.differences, applied=True)


def _create(admin: AdminClient, topic: str, settings: dict[str, str]) -> None:
    partitions, replicas = int(settings.pop("partitions")), int(settings.pop("replication"))
    new = NewTopic(topic, num_partitions=partitions, replication_factor=replicas, config=settings)
    try:
        admin.create_topics([new], request_timeout=REQUEST_S)[topic].result(REQUEST_S)
    except KafkaException as error:
        # somebody else applies at the same moment: the same declarations
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def _set(admin: AdminClient, topic: str, settings: dict[str, str]) -> None:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource], request_timeout=REQUEST_S).values():
        future.result(REQUEST_S)


def _await_leaders(admin: AdminClient, topics: Sequence[str]) -> None:
    deadline = time.monotonic() + LEADERS_S
    while True:
        with _asking():
            known = admin.list_topics(timeout=REQUEST_S).topics
        missing = [t for t in topics if t not in known or any(p.leader < 0 for p in known[t].partitions.values())]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise BrokerError("TOP003", f"topic {missing[0]} has partitions without a leader", "are brokers down?")
        time.sleep(0.1)


@contextmanager
def _asking(topic: str | None = None) -> Iterator[None]:
    """Turn what the Kafka client raises into an error that says what to do."""
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        first: Any = error.args[0] if error.args else error
        text = first.str() if isinstance(first, KafkaError) else "no answer in time"
        where = f"topic {topic}: " if topic else ""
        hint = "is the cluster up, and may you do this?"
        raise BrokerError("TOP004", f"{where}Kafka refused: {text}", hint) from error
