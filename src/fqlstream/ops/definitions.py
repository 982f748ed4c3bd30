"""Applying, showing and deleting definitions.

What is applied together is published in one Kafka transaction, so readers see all of it or nothing. The transaction's id is
the same for everyone: whoever starts later fences whoever started earlier and has not finished, who then starts again from
what stands by then. So revisions, and the numbers of experiments and jobs, are counted by one at a time.

When an execution or a job is deleted, what was recorded of it is forgotten: the transaction has an event for metric-events too,
which goes to the record agent in the order of the log.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from fqlstream.client.payloads import forget_json
from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import BrokerError, DefinitionError, UsageError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import (
    BaselineDefinition,
    CodeMetricDefinition,
    Computed,
    ExperimentDefinition,
    JobDefinition,
    MetricDefinition,
    ModelDefinition,
    definition_key,
    key_of,
    parse_key,
    parse_registry_key,
)
from fqlstream.events.documents import (
    KINDS,
    REGISTERED_KINDS,
    Document,
    parse_definition,
    read_documents,
    read_text,
)
from fqlstream.events.registry import SEQUENCE, Registry
from fqlstream.ops import baselines, code_metric_definitions, registration
from fqlstream.ops.definition_log import TOPIC, DefinitionsReader, Folded, Stored
from fqlstream.ops.definition_rules import Proposal, find_problems
from fqlstream.ops.expressions import check_expression
from fqlstream.ops.kafka_options import producer_options
from fqlstream.ops.registration import Entrant
from fqlstream.ops.registry_mirror import RegistryMirror
from fqlstream.settings import FqlSettings, Settings

METRIC_EVENTS: Final = "metric-events"
TRANSACTION_ID: Final = "fqlstream-definitions"
#: A transaction takes milliseconds; one whose process died is ended after so long, and until then hides what follows it.
TRANSACTION_TIMEOUT_MS: Final = 10_000
_CALL_S: Final = 30.0
#: Being fenced means that somebody else applied: that happens again only as often as they do. (Or that nobody has for a week:
#: then brokers have forgotten the transaction's id.)
_TRIES: Final = 10
_FENCED: Final = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What became of one definition: created, changed or unchanged. `id` is its key, of an experiment or a job its number."""

    kind: str
    name: str
    id: str | int
    result: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did, in the order of the files. `catalogue` and `folded` are what stands now."""

    results: tuple[ApplyResult, ...]
    warnings: tuple[str, ...]
    catalogue: Catalogue
    folded: Folded


@dataclass(frozen=True, slots=True)
class Deleted:
    """What `delete` did: the keys that went. `catalogue` and `folded` are what stands now.

    `forgetting` has, by partition, the last offset on metric-events of what makes recorded metrics be forgotten.
    """

    keys: tuple[str, ...]
    catalogue: Catalogue
    folded: Folded
    forgetting: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Write:
    key: str
    value: bytes | None
    headers: Mapping[str, bytes]
    forgets: bool = False  # goes to metric-events


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a transaction's last records are: on the topic of definitions, and on metric-events by partition."""

    position: int = -1
    forgetting: Mapping[int, int] = field(default_factory=dict)


def read_files(paths: Sequence[Path]) -> tuple[Document, ...]:
    """Read definition files, in order.

    Raises DefinitionError that names every file that cannot be read as YAML.
    """
    documents: list[Document] = []
    problems: list[DefinitionError] = []
    for path in paths:
        try:
            documents += read_documents(read_text(path), str(path))
        except DefinitionError as error:
            problems.append(error)
    _raise_all(problems)
    return tuple(documents)


def apply(
    settings: Settings,
    documents: Sequence[Document],
    *,
    topic: str = TOPIC,
    clock: Clock | None = None,
    mirror: RegistryMirror | None = None,
) -> Applied:
    """Do what `DefinitionsWriter.apply` does, once. A `mirror` then knows what is registered."""
    with _reader(settings, topic, mirror) as reader:
        return DefinitionsWriter(settings, topic=topic, reader=reader, clock=clock).apply(documents)


def _reader(settings: Settings, topic: str, mirror: RegistryMirror | None) -> DefinitionsReader:
    return DefinitionsReader(settings, topic=topic, on_records=None if mirror is None else mirror.hear)


def delete(
    settings: Settings,
    kind: str,
    name: str,
    *,
    model: str | None = None,
    version: str | None = None,
    force: bool = False,
    topic: str = TOPIC,
    mirror: RegistryMirror | None = None,
) -> Deleted:
    """Do what `DefinitionsWriter.delete` does, once. A `mirror` then knows what is registered."""
    with _reader(settings, topic, mirror) as reader:
        writer = DefinitionsWriter(settings, topic=topic, reader=reader)
        return writer.delete(kind, name, model=model, version=version, force=force)


class DefinitionsWriter:
    """Applies and deletes, from one thread at a time. Between calls it keeps its reader and its place among writers.

    A `reader` that is given stays its owner's, who must not use it meanwhile; it must keep the registry.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        topic: str = TOPIC,
        reader: DefinitionsReader | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._clock = clock or SystemClock()
        self._resources = ExitStack()
        self._reader = reader or self._resources.enter_context(DefinitionsReader(settings, topic=topic))
        self._producer: Producer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the broker."""
        self._producer = None
        self._resources.close()

    def apply(self, documents: Sequence[Document]) -> Applied:
        """Check documents together, publish what is new or changed, and return once it is stored.

        Nothing is published if anything is wrong. Raises DefinitionError that names every problem with file, line and document;
        BrokerError where Kafka refuses.
        """
        parsed = _parse_all(documents)
        proposals = tuple(item for item in parsed if isinstance(item, Proposal))
        entrants = tuple(item for item in parsed if isinstance(item, Entrant))
        now_ms = self._clock.now_ms()

        def decide(reader: DefinitionsReader) -> tuple[list[_Write], tuple[tuple[ApplyResult, ...], tuple[str, ...]]]:
            numbered, problems = _checked(entrants, reader.folded.registry)
            counted, warnings = _accepted(proposals, problems, reader.catalogue, self._settings.fql)
            written = iter([_proposed(item, reader.folded, now_ms + at) for at, item in enumerate(counted)])
            entered = iter([_entered(item, reader.folded.registry, now_ms) for item in numbered])
            # results are in the order of the files, whichever of the two a document is
            decided = [next(written) if isinstance(item, Proposal) else next(entered) for item in parsed]
            writes = [write for write, _ in decided if write is not None]
            # models first: a reader that does not know transactions then still meets no metric before its model
            writes.sort(key=lambda write: not write.key.startswith("model/"))
            return writes, (tuple(result for _, result in decided), warnings)

        (results, warnings), _ = self._transact(decide)
        return Applied(results, warnings, self._reader.catalogue, self._reader.folded)

    def delete(
        self, kind: str, name: str, *, model: str | None = None, version: str | None = None, force: bool = False
    ) -> Deleted:
        """Delete a definition; a model goes with all that belongs to it when its last version goes.

        `version` None: all versions of the model. What is registered and has members (a pipeline its executions) goes only by
        `force`, with them; metrics that executions and jobs recorded are forgotten. A job or an experiment may be named by its
        number. Raises UsageError for a call that makes no sense, DefinitionError where there is no such definition.
        """
        if kind not in KINDS:
            raise UsageError("DEF031", f"unknown kind {kind!r}", f"known kinds: {', '.join(KINDS)}")
        if kind in REGISTERED_KINDS:
            keys, stored = self._transact(lambda reader: _unregistered(reader.folded.registry, kind, name, force=force))
            return Deleted(keys, self._reader.catalogue, self._reader.folded, stored.forgetting)
        if kind != "model" and model is None:
            raise UsageError("DEF032", f"a {kind} belongs to a model", "name it with --model")

        def decide(reader: DefinitionsReader) -> tuple[list[_Write], tuple[str, ...]]:
            keys = _doomed(reader.folded, kind, name, model, version)
            if not keys:
                of = f" of model {model!r}" if kind != "model" else f" version {version!r}" if version else ""
                raise DefinitionError("DEF030", f"there is no {kind} {name!r}{of}", f"see: fqlstream get {kind}")
            if kind == "baseline" and model is not None:
                _refuse_if_read(reader.catalogue, model, name, self._settings.fql)
            return [_tombstone(key, reader.folded) for key in keys], keys

        keys, stored = self._transact(decide)
        return Deleted(keys, self._reader.catalogue, self._reader.folded, stored.forgetting)

    def _transact(self, decide: Callable[[DefinitionsReader], tuple[list[_Write], T]]) -> tuple[T, _Stored]:
        """Read what stands, decide, write; again from the start when somebody else wrote meanwhile.

        Gives what was decided, and where it was written. Whoever has written since this writer claimed its place has fenced it,
        so what it decided upon is what stood when it wrote.
        """
        # before anything is claimed: without its topic the transaction would wait for it
        self._reader.read_to_end()
        for attempt in range(_TRIES):
            try:
                if self._producer is None:
                    self._producer = self._claim()
                    self._reader.read_to_end()
                writes, decided = decide(self._reader)
                stored = _write(self._producer, self._topic, writes) if writes else _Stored()
                # a commit is durable when it returns, and seen by readers a moment later
                self._reader.read_to_end(at_least=stored.position)
            except KafkaException as error:
                self._producer = None
                if error.args[0].code() not in _FENCED or attempt == _TRIES - 1:
                    raise _refused(self._topic, error) from error
                time.sleep(0.05 * (attempt + 1))
                continue
            return decided, stored
        raise AssertionError  # the last attempt returned or raised

    def _claim(self) -> Producer:
        """Become the writer: whoever was it before is fenced."""
        producer = Producer(
            producer_options(
                self._settings.kafka,
                transactional_id=TRANSACTION_ID,
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                # librdkafka refuses requests that may outlive their transaction
                socket_timeout_ms=TRANSACTION_TIMEOUT_MS,
            )
        )
        producer.init_transactions(_CALL_S)
        return producer


def _checked(entrants: Sequence[Entrant], registry: Registry) -> tuple[tuple[Entrant, ...], list[str]]:
    """Give entrants with their numbers, and what is wrong with them."""
    numbered, problems = registration.number(entrants, registry)
    return numbered, [*problems, *registration.find_problems(numbered, registration.after(numbered, registry))]


def _accepted(
    proposals: Sequence[Proposal], problems: Sequence[str], catalogue: Catalogue, limits: FqlSettings
) -> tuple[list[Proposal], tuple[str, ...]]:
    """Refuse everything if anything is wrong; else give the proposals, baselines with their counts, code metrics with their code, and warnings."""
    after = _after(proposals, catalogue)
    warnings = _check(proposals, problems, catalogue, after, limits)
    counted = [_counted(proposal, after[proposal.model], limits) for proposal in proposals]
    changed = _after(counted, catalogue)
    return counted, warnings + _unfiltered([changed[name] for name in {item.model: None for item in counted}], limits)


def _entered(entrant: Entrant, registry: Registry, now_ms: int) -> tuple[_Write | None, ApplyResult]:
    """Say what registering comes to, and what is to be written for it."""
    definition, key = entrant.definition, entrant.key
    number = definition.id if isinstance(definition, ExperimentDefinition | JobDefinition) else None
    old = registry.standing(definition)
    verdict = "created" if old is None else "unchanged" if old.definition == definition else "changed"
    result = ApplyResult(definition.kind, definition.name or str(number), number or key, verdict)
    if verdict == "unchanged":
        return None, result
    headers = {"first_at": str(old.created_ms if old else now_ms).encode()}
    return _Write(key, definition.model_dump_json(exclude_none=True).encode(), headers), result


def _unregistered(registry: Registry, kind: str, name: str, *, force: bool) -> tuple[list[_Write], tuple[str, ...]]:
    """Say what is to be written so that an entry goes, with its members and with what they recorded."""
    entry = registry.find(kind, name)
    if entry is None:
        raise DefinitionError("DEF030", f"there is no {kind} {name!r}", f"see: fqlstream get {kind}")
    own = parse_registry_key(definition_key(entry.definition))
    members = registration.members(registry, *own)
    if members and not force:
        counts = Counter(kind for kind, _ in members)
        has = " and ".join(f"{count} {item}{'s' if count > 1 else ''}" for item, count in sorted(counts.items()))
        raise DefinitionError(
            "DEF034",
            f"{kind} {name!r} has {has}",
            "delete them first, or all of it and what they recorded with --force",
        )
    doomed = (*members, own)
    writes = [_Write(key_of(*item), None, {}) for item in doomed]
    writes += [_forgetting(*item) for item in doomed if item[0] in ("execution", "job")]
    return writes + _kept_numbers(registry, doomed), tuple(key_of(*item) for item in doomed)


def _forgetting(kind: str, name: str) -> _Write:
    return _Write(name, forget_json("execution" if kind == "execution" else "job", name), {}, forgets=True)


def _kept_numbers(registry: Registry, doomed: Sequence[tuple[str, str]]) -> list[_Write]:
    """Write down the highest numbers when what has them goes: its tombstone will be compacted away, and no number comes twice."""
    jobs = {int(name) for kind, name in doomed if kind == "job"}
    experiments = {registry.experiment_ids[name] for kind, name in doomed if kind == "experiment"}
    last = (("job", jobs, registry.job_id_last), ("experiment", experiments, registry.experiment_id_last))
    return [_Write(key_of(SEQUENCE, kind), str(number).encode(), {}) for kind, gone, number in last if number in gone]


def _refuse_if_read(catalogue: Catalogue, model: str, name: str, limits: FqlSettings) -> None:
    """Keep a baseline that metrics compare with."""
    after = catalogue.without("baseline", model, name).models.get(model, ModelEntry(model))
    readers = [
        repr(metric.name)
        for metric in after.metrics.values()
        if any(
            found.severity == "error"
            for version in after.versions.values()
            for found in check_expression(metric, after, version, limits)
        )
    ]
    if readers:
        message = f"baseline {name!r} of model {model!r} is read by the metrics {', '.join(readers)}"
        raise DefinitionError("DEF033", message, "delete or change them first")


def _doomed(folded: Folded, kind: str, name: str, model: str | None, version: str | None) -> tuple[str, ...]:
    if kind != "model":
        key = key_of(kind, model or "", name)
        return (key,) if key in folded.stored else ()
    mine = [definition_key(stored.definition) for stored in folded.of_model(name)]
    versions = [key for key in mine if parse_key(key)[0] == "model"]
    going = [key for key in versions if version is None or parse_key(key)[2] == version]
    # what belongs to the model first: no reader may meet a metric without its model
    return tuple(key for key in mine if key not in versions) + tuple(going) if going == versions else tuple(going)


def _tombstone(key: str, folded: Folded) -> _Write:
    return _Write(key, None, {"revision": str(folded.stored[key].revision).encode()})


def _parse_all(documents: Sequence[Document]) -> tuple[Proposal | Entrant, ...]:
    proposals: list[Proposal | Entrant] = []
    problems: list[DefinitionError] = []
    for document in documents:
        try:
            definition = parse_definition(document)
            if isinstance(definition, Computed):
                proposals.append(Proposal(document, definition))
            else:
                proposals.append(Entrant(document, definition))
        except DefinitionError as error:
            problems.append(error)
    _raise_all(problems)
    return tuple(proposals)


def _raise_all(problems: Sequence[DefinitionError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        text = "\n".join(f"{error.message}{f' ({error.hint})' if error.hint else ''}" for error in problems)
        raise DefinitionError(problems[0].code, text)


def _after(proposals: Sequence[Proposal], catalogue: Catalogue) -> dict[str, ModelEntry]:
    """Give the models as they would stand with these proposals."""
    after: dict[str, ModelEntry] = dict(catalogue.models)
    for proposal in proposals:
        # also a model that is not defined gets an entry: its metrics are refused with their place
        single = Catalogue({proposal.model: after.get(proposal.model, ModelEntry(proposal.model))})
        after[proposal.model] = single.with_definition(proposal.definition).models[proposal.model]
    return after


def _counted(proposal: Proposal, entry: ModelEntry, limits: FqlSettings) -> Proposal:
    """Read the file that a definition names: of a baseline its rows' counts are stored with it, of a code metric its code."""
    folder = Path(proposal.document.source).parent
    match proposal.definition:
        case BaselineDefinition() as baseline:
            return replace(proposal, definition=baselines.with_counts(baseline, folder, entry, limits))
        case CodeMetricDefinition() as metric:
            return replace(proposal, definition=code_metric_definitions.with_code(metric, folder))
        case _:
            return proposal


def _unfiltered(models: Iterable[ModelEntry], limits: FqlSettings) -> tuple[str, ...]:
    """Warn of bins and segments that came after the file of a baseline was counted."""
    warnings = []
    for entry in models:
        for baseline in entry.baselines.values():
            names = baselines.uncounted_segments(entry, baseline, limits)
            what = f"model {entry.name!r}: baseline {baseline.name!r} was counted"
            again = f"Apply the baseline again, with {baseline.file}"
            if "" in names:
                warnings.append(f"{what} in other bins than columns have now: their drift has no values. {again}.")
            elif names:
                segments = ", ".join(map(repr, names))
                warnings.append(
                    f"{what} without the segments {segments}, which are compared with all of its rows. {again}."
                )
    return tuple(warnings)


def _check(
    proposals: Sequence[Proposal],
    others: Sequence[str],
    catalogue: Catalogue,
    after: Mapping[str, ModelEntry],
    limits: FqlSettings,
) -> tuple[str, ...]:
    """Refuse proposals that cannot stand beside what does, and all of them for what is wrong with others; gives warnings."""
    findings = list(find_problems(proposals, catalogue.models, after, limits))
    problems = [finding.text for finding in findings if not finding.is_warning] + list(others)
    if problems:
        raise DefinitionError("DEF010", "\n".join(problems), "nothing was published")
    return tuple(finding.text for finding in findings)


def _proposed(proposal: Proposal, folded: Folded, now_ms: int) -> tuple[_Write | None, ApplyResult]:
    """Say what a proposal comes to, and what is to be written for it."""
    definition, key = proposal.definition, proposal.key
    old = folded.stored.get(key)
    if isinstance(definition, CodeMetricDefinition):
        standing = old.definition if old is not None and isinstance(old.definition, CodeMetricDefinition) else None
        definition = code_metric_definitions.with_id(definition, standing)
    verdict = "created" if old is None else "unchanged" if old.definition == definition else "changed"
    result = ApplyResult(definition.kind, definition.name, key, verdict)
    if verdict == "unchanged":
        return None, result
    headers = {"revision": str(_revision(definition, old, folded.retired.get(key, 0))).encode()}
    if isinstance(definition, ModelDefinition):
        newest = max((s.first_at_ms for s in folded.stored.values() if s.definition.kind == "model"), default=0)
        headers["first_at"] = str(old.first_at_ms if old else max(now_ms, newest + 1)).encode()
    elif isinstance(definition, CodeMetricDefinition):
        headers["first_at"] = str(old.first_at_ms if old else now_ms).encode()
    return _Write(key, definition.model_dump_json(by_alias=True).encode(), headers), result


def _revision(definition: Computed, old: Stored | None, retired: int) -> int:
    """Count the texts that a name has had: values carry the number, so that each says which text it is of."""
    if old is None:
        return retired + 1
    same = (
        isinstance(definition, MetricDefinition)
        and isinstance(old.definition, MetricDefinition)
        and definition.definition == old.definition.definition
    )
    return old.revision if same else old.revision + 1


def _write(producer: Any, topic: str, writes: Sequence[_Write]) -> _Stored:
    """Write all or nothing; gives where the last records are."""
    positions: list[int] = []
    forgetting: dict[int, int] = {}

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is not None:
            return
        if message.topic() == topic:
            positions.append(message.offset())
        else:
            forgetting[message.partition()] = max(message.offset(), forgetting.get(message.partition(), -1))

    producer.begin_transaction()
    for write in writes:
        to = METRIC_EVENTS if write.forgets else topic
        _produce(
            producer,
            to,
            key=write.key.encode(),
            value=write.value,
            headers=[*write.headers.items()],
            on_delivery=delivered,
        )
    try:
        producer.commit_transaction(_CALL_S)
    except KafkaException as error:
        if error.args[0].txn_requires_abort():
            producer.abort_transaction(_CALL_S)
        raise
    return _Stored(max(positions, default=-1), forgetting)


def _produce(producer: Any, topic: str, **record: Any) -> None:
    """Hand over a record; where the producer's queue is full, some are sent first."""
    while True:
        try:
            producer.produce(topic, **record)
        except BufferError:
            producer.poll(0.1)
        else:
            return


def _refused(topic: str, error: KafkaException) -> BrokerError:
    first = error.args[0]
    hint = f"applying needs to write to the topic {topic} with the transactional id {TRANSACTION_ID}"
    return BrokerError("DEF023", f"Kafka refused the definitions: {first.str()}", hint)
