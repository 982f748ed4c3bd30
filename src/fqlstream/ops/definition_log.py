"""Definitions as they stand on their topic: records, and a reader that folds them into a catalogue.

A record's key is kind/model/name (of a model kind/name/version, of what is registered kind/name), its value the definition as
JSON, a tombstone deletes it. Headers: `revision` (counts changes of a metric's text), `first_at` (Unix ms at which a model's
version, a code metric or an entry of the registry was first defined: compaction moves records, and the newest version is the one that was
defined last for the first time). The key sequence/job (or sequence/experiment) has the highest number ever given, once the one
that had it is deleted.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import ValidationError

from fqlstream.errors import BrokerError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.columns import TIMESTAMP_MS_MAX
from fqlstream.events.definitions import (
    DEFINITION,
    ENTRY_ID_MAX,
    BaselineDefinition,
    Computed,
    ExperimentDefinition,
    JobDefinition,
    MetricDefinition,
    ModelDefinition,
    Registered,
    SegmentDefinition,
    definition_key,
    parse_key,
    parse_registry_key,
)
from fqlstream.events.documents import REGISTERED_KINDS
from fqlstream.events.registry import EMPTY_REGISTRY, SEQUENCE, Registry, RegistryDraft
from fqlstream.ops.expressions import cells_count, check_expression
from fqlstream.ops.kafka_errors import AWAY, LEADERLESS, topic_trouble
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import FqlSettings, Settings
from fqlstream.stream.batches import DeadLetter

TOPIC: Final = "definitions"
#: All definitions are read within a second; a cluster that takes longer to say so is not there.
READ_S: Final = 30.0
#: One question: a worker that stops waits no longer for a broker that is away.
_ASK_S: Final = 5.0
#: Between two questions, where the answer was that it may be another one soon.
_PASSING_S: Final = 0.2
_RECORDS_PER_CALL: Final = 1_000
_FETCH_WAIT_S: Final = 0.05
#: What the store's column holds, with room to count on.
_REVISION_MAX: Final = 2**31


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic, as read. `value` None: a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    offset: int
    record_at_ms: int


@dataclass(frozen=True, slots=True)
class Registration:
    """A record of the registry: what stands under a name from an offset on. `definition` None: nothing, it was deleted."""

    kind: str
    name: str
    definition: Registered | None
    text: str  # the definition as it was written; empty where there is none
    created_ms: int
    changed_ms: int
    position: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A definition of what is computed that stands on the topic, whether or not it is adopted."""

    definition: Computed
    revision: int
    first_at_ms: int
    record: Record


@dataclass(frozen=True, slots=True)
class Folded:
    """What the records up to `position` say. `retired` has the last revision of metrics that were deleted."""

    stored: Mapping[str, Stored]
    retired: Mapping[str, int]
    position: int = -1
    registry: Registry = EMPTY_REGISTRY

    def of_model(self, model: str) -> tuple[Stored, ...]:
        """Give everything that belongs to a model, in the order of the log."""
        mine = [stored for key, stored in self.stored.items() if parse_key(key)[1] == model]
        return tuple(sorted(mine, key=lambda stored: stored.record.offset))


EMPTY: Final = Folded({}, {})


def fold(
    folded: Folded, records: Iterable[Record], *, topic: str = TOPIC, keeps_registry: bool = True
) -> tuple[Folded, frozenset[str], tuple[DeadLetter, ...]]:
    """Add records; give the new fold, the models that changed, and the records that are no definitions.

    A record that is no definition changes nothing: the definition before it stands. With `keeps_registry` false what is registered
    is looked at and not kept: it may be a hundred thousand entries, and a worker has no use for them.
    """
    folding = _Folding(folded)
    position = folded.position
    refused: list[DeadLetter] = []
    for record in records:
        position = max(position, record.offset)
        try:
            folding.take(record, keeps_registry=keeps_registry)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"][1:])
            refused.append(
                _refusal(topic, record, "bad_definition", f"{where}: {first['msg']}" if where else first["msg"])
            )
        except ValueError as error:
            refused.append(_refusal(topic, record, "bad_definition", str(error)))
    return folding.finish(position), frozenset(folding.touched), tuple(refused)


class _Folding:
    """What stands, while records are added. Nothing is copied before it changes: most records concern one half or the other."""

    def __init__(self, before: Folded) -> None:
        self._before = before
        self._stored: dict[str, Stored] | None = None
        self._retired: dict[str, int] = {}
        self._registry: RegistryDraft | None = None
        self.touched: set[str] = set()

    def take(self, record: Record, *, keeps_registry: bool) -> None:
        """Add a record. Raises ValueError (pydantic's too) for one that is no definition."""
        key = (record.key or b"").decode()
        kind = key.partition("/")[0]
        # all that is told is looked at, so that the dead letters have what is no definition
        if kind == SEQUENCE:
            numbered, last = _parse_sequence(key, record)
            if keeps_registry:
                self._draft().count_from(numbered, last)
        elif kind in REGISTERED_KINDS:
            registration = _parse_registration(key, record)
            if keeps_registry:
                self._register(registration)
        else:
            self._define(key, record)

    def _draft(self) -> RegistryDraft:
        if self._registry is None:
            self._registry = RegistryDraft(self._before.registry)
        return self._registry

    def _register(self, found: Registration) -> None:
        if found.definition is None:
            self._draft().remove(found.kind, found.name)
        else:
            self._draft().put(found.definition, found.created_ms, found.changed_ms, found.position)

    def _define(self, key: str, record: Record) -> None:
        kind, model, _ = parse_key(key)
        stored = _parse(key, record) if record.value is not None else None
        if self._stored is None:
            self._stored, self._retired = dict(self._before.stored), dict(self._before.retired)
        if stored is not None:
            self._stored[key] = stored
        else:
            gone = self._stored.pop(key, None)
            if kind == "metric":
                last = min(_header(record, "revision"), _REVISION_MAX)
                self._retired[key] = max(last, gone.revision if gone else 0)
        self.touched.add(model)

    def finish(self, position: int) -> Folded:
        registry = self._before.registry if self._registry is None else self._registry.finish()
        if self._stored is None:
            return replace(self._before, position=position, registry=registry)
        return Folded(self._stored, self._retired, position, registry)


def _parse(key: str, record: Record) -> Stored:
    definition = _validated(key, record)
    if not isinstance(definition, Computed):  # its key would have said so
        raise TypeError(key)  # a slip of ours, and no record's
    revision = min(max(1, _header(record, "revision")), _REVISION_MAX)
    return Stored(definition, revision, _first_at_ms(record), record)


def registration_of(record: Record) -> Registration | None:
    """Read a record of the registry; None for one that is of something else, or no definition."""
    try:
        key = (record.key or b"").decode()
        return _parse_registration(key, record) if key.partition("/")[0] in REGISTERED_KINDS else None
    except ValueError:  # pydantic's too
        return None


def _parse_registration(key: str, record: Record) -> Registration:
    kind, name = parse_registry_key(key)
    definition = None if record.value is None else _parse_registered(key, record)
    text = (record.value or b"").decode()
    changed_ms = min(record.record_at_ms, TIMESTAMP_MS_MAX)  # whoever writes to the topic may give its records any time
    return Registration(kind, name, definition, text, _first_at_ms(record), changed_ms, record.offset)


def _parse_registered(key: str, record: Record) -> Registered:
    definition = _validated(key, record)
    if isinstance(definition, ExperimentDefinition | JobDefinition) and definition.id is None:
        message = f"the {definition.kind} has no id: `fqlstream apply` gives it one"
        raise ValueError(message)
    if isinstance(definition, Computed):
        raise TypeError(key)  # a slip of ours, and no record's
    return definition


def _validated(key: str, record: Record) -> Computed | Registered:
    definition = DEFINITION.validate_json(record.value or b"")
    if definition_key(definition) != key:
        message = f"the key {key!r} is not the definition's own, {definition_key(definition)!r}"
        raise ValueError(message)
    return definition


def _parse_sequence(key: str, record: Record) -> tuple[str, int]:
    """Read of which kind it is the highest number, and that. Raises ValueError for what is none."""
    _, numbered = parse_registry_key(key)
    value = record.value or b""
    if numbered not in ("experiment", "job") or not value.isdigit() or int(value[:20]) > ENTRY_ID_MAX:
        message = "a sequence is a whole number, of experiments or jobs"
        raise ValueError(message)
    return numbered, int(value)


def _header(record: Record, name: str) -> int:
    text = record.headers.get(name, b"0")
    # anybody may write to the topic: a number that fits nowhere is none
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _first_at_ms(record: Record) -> int:
    given = _header(record, "first_at")
    return given if 0 < given <= TIMESTAMP_MS_MAX else min(record.record_at_ms, TIMESTAMP_MS_MAX)


def _refusal(topic: str, record: Record, code: str, reason: str) -> DeadLetter:
    return DeadLetter(code, reason, topic, 0, record.offset, "0", record.key, record.value, record.record_at_ms)


def adopt(
    folded: Folded, model: str, limits: FqlSettings, *, topic: str = TOPIC
) -> tuple[ModelEntry | None, tuple[DeadLetter, ...]]:
    """Build a model from what is stored: its versions, and of its metrics and segments those that check against all of them.

    None where the model has no version. Gives also what was not adopted, and why. Beyond a limit the newest are left out.
    """
    versions: list[tuple[int, ModelDefinition]] = []
    others: list[Stored] = []
    for stored in folded.of_model(model):
        if isinstance(stored.definition, ModelDefinition):
            versions.append((stored.first_at_ms, stored.definition))
        else:
            others.append(stored)
    versions.sort(key=lambda pair: (pair[0], pair[1].version))
    # baselines have no expression to object to, and metrics name them
    baselines = {s.definition.name: s.definition for s in others if isinstance(s.definition, BaselineDefinition)}
    entry = ModelEntry(model, {definition.version: definition for _, definition in versions}, baselines=baselines)
    refused: list[DeadLetter] = []
    fit: list[Stored] = []
    for stored in others:
        objection = _objection(stored.definition, entry, limits)
        if objection is None:
            fit.append(stored)
        else:
            refused.append(_refusal(topic, stored.record, *objection))
    # the largest number, oldest first, that keeps all limits; usually all of them
    kept = len(fit) if over_limit(_filled(entry, fit), limits) is None else bisect_left(
        range(len(fit)), True, key=lambda count: over_limit(_filled(entry, fit[: count + 1]), limits) is not None
    )  # fmt: skip
    for stored in fit[kept:]:
        reason = over_limit(_filled(entry, fit[: kept + 1]), limits) or "beyond a limit"
        refused.append(_refusal(topic, stored.record, "too_many", reason))
    return (_filled(entry, fit[:kept]) if versions else None), tuple(refused)


def _filled(entry: ModelEntry, others: Iterable[Stored]) -> ModelEntry:
    catalogue = Catalogue({entry.name: entry})
    for stored in others:
        catalogue = catalogue.with_definition(stored.definition, revision=stored.revision)
    return catalogue.models[entry.name]


def _objection(definition: Computed, entry: ModelEntry, limits: FqlSettings) -> tuple[str, str] | None:
    """Say why a definition cannot be adopted into a model; None where it can."""
    what = f"{definition.kind} {definition.name!r}"
    if not entry.versions:
        return "unknown_model", f"{what}: its model {entry.name!r} is not defined"
    if isinstance(definition, MetricDefinition | SegmentDefinition):
        for model in entry.versions.values():
            wrong = [found for found in check_expression(definition, entry, model, limits) if found.severity == "error"]
            if wrong:
                return wrong[0].code, f"{what} under model version {model.version!r}: {wrong[0].message}"
    return None


def over_limit(entry: ModelEntry, limits: FqlSettings) -> str | None:
    """Say which limit a model breaks; None where it keeps all. Its expressions must have been checked."""
    for count, limit, what, name in (
        (len(entry.metrics), limits.metrics_max, "metrics", "METRICS_MAX"),
        (len(entry.segments), limits.segments_max, "segments", "SEGMENTS_MAX"),
        (len(entry.code_metrics), limits.code_metrics_max, "code metrics", "CODE_METRICS_MAX"),
    ):
        if count > limit:
            return f"model {entry.name!r} has {count} {what}; FQLSTREAM_FQL__{name} allows {limit}"
    cells = max((cells_count(entry, model, limits) for model in entry.versions.values()), default=0)
    if cells > limits.cells_max:
        return f"model {entry.name!r} keeps {cells} states per pane; FQLSTREAM_FQL__CELLS_MAX allows {limits.cells_max}"
    return None


class DefinitionsReader:
    """Follows the topic. `catalogue` is what stands; models that did not change keep their identity from poll to poll.

    With `keeps_registry` false it has no registry, and stays the same value when only that changes. `on_records` is told every
    record, in the thread that reads.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        topic: str = TOPIC,
        keeps_registry: bool = True,
        on_records: Callable[[Sequence[Record]], None] | None = None,
    ) -> None:
        self._topic = topic
        self._on_records = on_records
        self._keeps_registry = keeps_registry
        self._limits = settings.fql
        self.folded = EMPTY
        self.catalogue = Catalogue()
        self._refused_at: set[tuple[int, str]] = set()
        self._end_at = 0  # the end of the log when it was last reached
        # read, and not folded, or refused, and not told: a failure in between must lose neither
        self._unfolded: list[Record] = []
        self._untold: list[DeadLetter] = []
        self._away: KafkaError | None = None  # what the client has said since a broker last answered
        self._consumer = Consumer({
            **librdkafka_options(settings.kafka),
            "error_cb": self._note,
            # librdkafka wants a group even from a reader that never joins or commits
            "group.id": "fqlstream-definitions", "enable.auto.commit": False, "enable.partition.eof": True,
            # several definitions that are applied together are seen together
            "isolation.level": "read_committed", "auto.offset.reset": "earliest",
            # the end of the log is only told when a fetch comes back empty
            "fetch.wait.max.ms": int(_FETCH_WAIT_S * 1000), "fetch.error.backoff.ms": 50,
        })  # fmt: skip
        self._consumer.assign([TopicPartition(topic, 0, 0)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def poll(self, timeout_s: float = 0.0) -> tuple[DeadLetter, ...]:
        """Take in what has come, waiting so long for a first record; gives what was refused, each only once.

        Raises BrokerError where the topic is missing or may not be read, or no broker answers.
        """
        self._poll(timeout_s)
        return self._told()

    def _note(self, error: KafkaError) -> None:
        """Remember that brokers are away: reading would only find nothing new."""
        if error.code() in AWAY:
            self._away = error

    def _poll(self, timeout_s: float) -> None:
        if self._away is not None:
            self._ask()
        deadline = time.monotonic() + READ_S
        messages = self._receive(timeout_s)
        at_end = not messages
        while not at_end and time.monotonic() < deadline:
            # what was applied together is taken in together: read on until the log's end
            at_end = self._sort(messages)
            messages = [] if at_end else self._receive(_FETCH_WAIT_S * 4)
        self._take()

    def _told(self) -> tuple[DeadLetter, ...]:
        told, self._untold = tuple(self._untold), []
        return told

    def _receive(self, timeout_s: float) -> list[Any]:
        """Wait for one message, then take what else is there: `consume` alone would wait until it has as many as it may."""
        message = self._consumer.poll(timeout_s)
        return [] if message is None else [message, *self._consumer.consume(_RECORDS_PER_CALL, timeout=0)]

    def _sort(self, messages: Sequence[Any]) -> bool:
        """Keep records, note the end of the log; says whether it was the last thing seen."""
        at_end = False
        for message in messages:
            error = message.error()
            at_end = error is not None
            if error is None:
                self._unfolded.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._end_at = message.offset()
            else:
                raise _unreadable(self._topic, error)
        return at_end

    def read_to_end(self, timeout_s: float = READ_S, *, at_least: int = -1) -> tuple[DeadLetter, ...]:
        """Take in everything that stands on the topic now, the record at offset `at_least` included.

        Gives what was refused, each only once. Raises BrokerError where that does not come to an end in time.
        """
        deadline = time.monotonic() + timeout_s
        end = self._log_end(deadline)
        while self._end_at < end or self.folded.position < at_least:
            if time.monotonic() > deadline:
                raise BrokerError(
                    "DEF022",
                    f"topic {self._topic} could not be read to its end in {timeout_s:.0f} s",
                    "is Kafka up, and may you read it?",
                    retryable=True,
                )
            self._poll(0.1)
        return self._told()

    def _log_end(self, deadline: float) -> int:
        while True:
            try:
                return self._told_log_end()
            except KafkaException as error:
                # a topic that was made a moment ago, or a broker that has just started: it passes
                if error.args[0].code() not in LEADERLESS or time.monotonic() > deadline:
                    raise _unreadable(self._topic, error.args[0]) from error
            time.sleep(_PASSING_S)

    def _ask(self) -> None:
        """See whether a broker answers again. Raises BrokerError where none does."""
        try:
            error = self._metadata_error()
        except KafkaException as away:
            raise _unreadable(self._topic, away.args[0]) from away
        if error is not None and error.code() not in LEADERLESS:
            raise _unreadable(self._topic, error)
        self._away = None

    def _metadata_error(self) -> KafkaError | None:
        return self._consumer.list_topics(self._topic, timeout=_ASK_S).topics[self._topic].error

    def _told_log_end(self) -> int:
        """Ask for the end that a read_committed reader sees.

        Not by an AdminClient: its requests can end the process when the broker dies under them.
        """
        if (error := self._metadata_error()) is not None:
            raise KafkaException(error)
        return int(self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), _ASK_S, cached=False)[1])

    def _take(self) -> None:
        """Fold what was read."""
        if not self._unfolded:
            return
        self.folded, touched, refused = fold(
            self.folded, self._unfolded, topic=self._topic, keeps_registry=self._keeps_registry
        )
        read, self._unfolded = self._unfolded, []
        if self._on_records is not None:
            self._on_records(read)
        if touched or self._keeps_registry:
            self._adopt(touched)
        self._untold += refused

    def _adopt(self, touched: Iterable[str]) -> None:
        models = dict(self.catalogue.models)
        not_adopted: list[DeadLetter] = []
        for name in touched:
            entry, left_out = adopt(self.folded, name, self._limits, topic=self._topic)
            not_adopted += left_out
            models.pop(name, None)
            if entry is not None:
                models[name] = entry
        self.catalogue = Catalogue(models, self.folded.position, self.folded.registry)
        new = [letter for letter in not_adopted if (letter.offset, letter.code) not in self._refused_at]
        self._refused_at.update((letter.offset, letter.code) for letter in new)
        self._untold += new


def _record(message: Any) -> Record:
    headers = {name: value or b"" for name, value in message.headers() or ()}
    return Record(message.key(), message.value(), headers, message.offset(), max(0, message.timestamp()[1]))


def _unreadable(topic: str, error: KafkaError) -> BrokerError:
    return topic_trouble(
        topic, error, missing="DEF020", failed="DEF021", what=f"the topic {topic} cannot be read",
        hint="is Kafka up, and may you read it?",
    )  # fmt: skip


def read_catalogue(settings: Settings) -> Catalogue:
    """Read all models that stand now, with what belongs to them.

    Raises BrokerError where they cannot be read.
    """
    with DefinitionsReader(settings, keeps_registry=False) as reader:
        reader.read_to_end()
        return reader.catalogue
