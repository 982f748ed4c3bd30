"""Applying, showing and deleting definitions.

What is applied together is published in one Kafka transaction, so readers see all of it or nothing. The transaction's id is
the same for everyone: whoever starts later fences whoever started earlier and has not finished, who then starts again from
what stands by then. So revisions are counted by one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import BrokerError, DefinitionError, UsageError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import (
    BaselineDefinition,
    Definition,
    MetricDefinition,
    ModelDefinition,
    definition_key,
    key_of,
    parse_key,
)
from fqlstream.events.documents import KINDS, Document, parse_definition, read_documents, read_text
from fqlstream.ops import baselines
from fqlstream.ops.definition_log import TOPIC, DefinitionsReader, Folded, Stored
from fqlstream.ops.definition_rules import Proposal, find_problems
from fqlstream.ops.expressions import check_expression
from fqlstream.ops.kafka_options import producer_options
from fqlstream.settings import FqlSettings, Settings

TRANSACTION_ID: Final = "fqlstream-definitions"
#: A transaction takes milliseconds; one whose process died is ended after so long, and until then hides what follows it.
TRANSACTION_TIMEOUT_MS: Final = 10_000
_CALL_S: Final = 30.0
#: Being fenced means that somebody else applied: that happens again only as often as they do.
_TRIES: Final = 10
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.CONCURRENT_TRANSACTIONS})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What became of one definition: created, changed or unchanged. `id` is its key."""

    kind: str
    name: str
    id: str
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
    """What `delete` did: the keys that went. `catalogue` and `folded` are what stands now."""

    keys: tuple[str, ...]
    catalogue: Catalogue
    folded: Folded


@dataclass(frozen=True, slots=True)
class _Write:
    key: str
    value: bytes | None
    headers: Mapping[str, bytes]


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
    settings: Settings, documents: Sequence[Document], *, topic: str = TOPIC, clock: Clock | None = None
) -> Applied:
    """Check documents together, publish what is new or changed, and return once it is stored.

    Nothing is published if anything is wrong. Raises DefinitionError that names every problem with file, line and document;
    BrokerError where Kafka refuses.
    """
    proposals = _parse_all(documents)
    now_ms = (clock or SystemClock()).now_ms()

    def decide(reader: DefinitionsReader) -> tuple[list[_Write], tuple[tuple[ApplyResult, ...], tuple[str, ...]]]:
        after = _after(proposals, reader.catalogue)
        warnings = _check(proposals, reader.catalogue, after, settings.fql)
        counted = [_counted(proposal, after[proposal.model], settings.fql) for proposal in proposals]
        changed = _after(counted, reader.catalogue)
        warnings += _unfiltered([changed[name] for name in {item.model: None for item in counted}], settings.fql)
        written = [_proposed(proposal, reader.folded, now_ms + index) for index, proposal in enumerate(counted)]
        writes = [write for write, _ in written if write is not None]
        # models first: a reader that does not know transactions then still meets no metric before its model
        writes.sort(key=lambda write: not write.key.startswith("model/"))
        return writes, (tuple(result for _, result in written), warnings)

    (results, warnings), catalogue, folded = _transact(settings, topic, decide)
    return Applied(results, warnings, catalogue, folded)


def delete(
    settings: Settings,
    kind: str,
    name: str,
    *,
    model: str | None = None,
    version: str | None = None,
    topic: str = TOPIC,
) -> Deleted:
    """Delete a definition; a model goes with its metrics, segments and baselines when its last version goes.

    `version` None: all versions of the model. Raises UsageError for a call that makes no
    sense, DefinitionError where there is no such definition.
    """
    if kind not in KINDS:
        raise UsageError("DEF031", f"unknown kind {kind!r}", f"known kinds: {', '.join(KINDS)}")
    if kind != "model" and model is None:
        raise UsageError("DEF032", f"a {kind} belongs to a model", "name it with --model")

    def decide(reader: DefinitionsReader) -> tuple[list[_Write], tuple[str, ...]]:
        keys = _doomed(reader.folded, kind, name, model, version)
        if not keys:
            of = f" of model {model!r}" if kind != "model" else f" version {version!r}" if version else ""
            raise DefinitionError("DEF030", f"there is no {kind} {name!r}{of}", f"see: fqlstream get {kind}")
        if kind == "baseline" and model is not None:
            _refuse_if_read(reader.catalogue, model, name, settings.fql)
        return [_tombstone(key, reader.folded) for key in keys], keys

    return Deleted(*_transact(settings, topic, decide))


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


def _parse_all(documents: Sequence[Document]) -> tuple[Proposal, ...]:
    proposals: list[Proposal] = []
    problems: list[DefinitionError] = []
    for document in documents:
        try:
            proposals.append(Proposal(document, parse_definition(document)))
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
    """Count the rows of a baseline's file: the definition is stored with its counts."""
    if not isinstance(proposal.definition, BaselineDefinition):
        return proposal
    folder = Path(proposal.document.source).parent
    return replace(proposal, definition=baselines.with_counts(proposal.definition, folder, entry, limits))


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
    proposals: Sequence[Proposal], catalogue: Catalogue, after: Mapping[str, ModelEntry], limits: FqlSettings
) -> tuple[str, ...]:
    """Refuse proposals that cannot stand beside what does; gives warnings."""
    findings = list(find_problems(proposals, catalogue.models, after, limits))
    problems = [finding.text for finding in findings if not finding.is_warning]
    if problems:
        raise DefinitionError("DEF010", "\n".join(problems), "nothing was published")
    return tuple(finding.text for finding in findings)


def _proposed(proposal: Proposal, folded: Folded, now_ms: int) -> tuple[_Write | None, ApplyResult]:
    """Say what a proposal comes to, and what is to be written for it."""
    definition, key = proposal.definition, proposal.key
    old = folded.stored.get(key)
    verdict = "created" if old is None else "unchanged" if old.definition == definition else "changed"
    result = ApplyResult(definition.kind, definition.name, key, verdict)
    if verdict == "unchanged":
        return None, result
    headers = {"revision": str(_revision(definition, old, folded.retired.get(key, 0))).encode()}
    if isinstance(definition, ModelDefinition):
        newest = max((s.first_at_ms for s in folded.stored.values() if s.definition.kind == "model"), default=0)
        headers["first_at"] = str(old.first_at_ms if old else max(now_ms, newest + 1)).encode()
    return _Write(key, definition.model_dump_json(by_alias=True).encode(), headers), result


def _revision(definition: Definition, old: Stored | None, retired: int) -> int:
    """Count the texts that a name has had: values carry the number, so that each says which text it is of."""
    if old is None:
        return retired + 1
    same = (
        isinstance(definition, MetricDefinition)
        and isinstance(old.definition, MetricDefinition)
        and definition.definition == old.definition.definition
    )
    return old.revision if same else old.revision + 1


def _transact(
    settings: Settings, topic: str, decide: Callable[[DefinitionsReader], tuple[list[_Write], T]]
) -> tuple[T, Catalogue, Folded]:
    """Read what stands, decide, write; again from the start when somebody else wrote meanwhile.

    Gives what was decided and what stands after it.
    """
    options = producer_options(
        settings.kafka,
        transactional_id=TRANSACTION_ID,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        # librdkafka refuses requests that may outlive their transaction
        socket_timeout_ms=TRANSACTION_TIMEOUT_MS,
    )
    with DefinitionsReader(settings, topic=topic) as reader:
        # before anything is claimed: without its topic the transaction would wait for it
        reader.read_to_end()
        for attempt in range(_TRIES):
            producer = Producer(options)
            try:
                producer.init_transactions(_CALL_S)
                reader.read_to_end()
                writes, decided = decide(reader)
                if writes:
                    # a commit is durable when it returns, and seen by readers a moment later
                    reader.read_to_end(at_least=_write(producer, topic, writes))
            except KafkaException as error:
                if error.args[0].code() not in _FENCED or attempt == _TRIES - 1:
                    raise _refused(topic, error) from error
                time.sleep(0.05 * (attempt + 1))
                continue
            return decided, reader.catalogue, reader.folded
    raise AssertionError  # the last attempt returned or raised


def _write(producer: Any, topic: str, writes: Sequence[_Write]) -> int:
    """Write all or nothing; gives the offset of the last record."""
    offsets: list[int] = []

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is None:
            offsets.append(message.offset())

    producer.begin_transaction()
    for write in writes:
        headers = list(write.headers.items())
        producer.produce(topic, key=write.key.encode(), value=write.value, headers=headers, on_delivery=delivered)
    try:
        producer.commit_transaction(_CALL_S)
    except KafkaException as error:
        if error.args[0].txn_requires_abort():
            producer.abort_transaction(_CALL_S)
        raise
    return max(offsets)


def _refused(topic: str, error: KafkaException) -> BrokerError:
    first = error.args[0]
    hint = f"applying needs to write to the topic {topic} with the transactional id {TRANSACTION_ID}"
    return BrokerError("DEF023", f"Kafka refused the definitions: {first.str()}", hint)
