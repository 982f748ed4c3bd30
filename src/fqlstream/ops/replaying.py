"""Sending dead letters again, as the records they were: once each, whoever asks how often.

Records and the marks that say so are written in one Kafka transaction, so that neither can be without the other. The
transaction's id is the same for everybody: whoever replays later ends whoever has not finished, and reads all marks first.

A record comes back with its key, value, headers and time, in the partition it was in; so it meets its labels, and rules about
times say what they would have said. Two headers tell where it comes from: a letter that fails again says so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import BrokerError
from fqlstream.events.refusals import KILLER
from fqlstream.ops.dead_letters import (
    MARK_HEADER,
    REPLAYED_FROM,
    REPLAYS,
    TOPIC,
    Headers,
    Letter,
    Mark,
    Selection,
    reading,
)
from fqlstream.ops.kafka_options import RECORD_BYTES_ANY, librdkafka_options, producer_options
from fqlstream.ops.topics import load_declarations, retention_ms
from fqlstream.settings import KafkaSettings

TRANSACTION_ID: Final = "fqlstream-replay"
#: A batch takes well below a second; one whose process died is ended after so long, and until then readers wait before it.
_TRANSACTION_TIMEOUT_MS: Final = 30_000
#: Records and bytes of one transaction: readers see nothing of it before its end.
_BATCH_RECORDS: Final = 500
_BATCH_BYTES: Final = 8 * 2**20
_CALL_S: Final = 30.0
_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})
#: Outcomes shown one by one in a report.
_SHOWN_MAX: Final = 20

#: Told how many letters of how many are done.
ProgressBar = Callable[[int, int], None]
#: Gives the letters to choose from, anew at each call.
Source = Callable[[], Iterator[Letter]]


class Outcome:
    """What becomes of a letter: the keys of a report."""

    REPLAYED: Final = "replayed"
    ALREADY: Final = "already_replayed"
    TWICE: Final = "same_record_again"
    RETURNED: Final = "returned_too_often"
    KILLER: Final = "ends_workers"
    NO_ORIGIN: Final = "without_origin"
    OMITTED: Final = "without_value"
    NO_SOURCE: Final = "not_a_source_topic"
    GONE: Final = "origin_is_gone"
    REFUSED: Final = "refused_by_kafka"


#: Outcomes that leave something for a person to do.
TROUBLES: Final = (
    Outcome.RETURNED, Outcome.KILLER, Outcome.NO_ORIGIN, Outcome.OMITTED, Outcome.NO_SOURCE, Outcome.GONE, Outcome.REFUSED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is to be sent again, and how.

    `again`: also what was sent again before. `by_key`: to the partition that the key belongs to now, where there is a key.
    `rate`: records a second. `returns_max`: a letter that came back so often needs `again`.
    """

    selection: Selection = field(default_factory=Selection)
    again: bool = False
    by_key: bool = False
    limit: int | None = None
    rate: float | None = None
    returns_max: int = 5


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of the letters that were chosen, counted by outcome; `letters` names the first of those not sent.

    `returned` of the letters sent had come back before. `expiring` of them are older than their topic's retention: Kafka may
    drop them before a worker that is not running reads them.
    """

    counts: dict[str, int]
    letters: tuple[str, ...]
    returned: int = 0
    expiring: int = 0
    labels: int = 0
    dry_run: bool = False

    @property
    def has_trouble(self) -> bool:
        """Whether a chosen letter could not be sent."""
        return any(self.counts.get(outcome) for outcome in TROUBLES)


@dataclass(slots=True)
class _Choice:
    """Which letters are to be sent, by place and id, and what becomes of the others."""

    places: set[tuple[int, int, str]] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    returned: int = 0
    expiring: int = 0
    labels: int = 0

    def skip(self, letter: Letter, outcome: str, why: str = "") -> None:
        self.counts[outcome] += 1
        if len(self.notes) < _SHOWN_MAX:
            self.notes.append(f"{letter.place} {letter.code or '-'} from {letter.origin}: {why or outcome}")

    def report(self, *, dry_run: bool) -> ReplayReport:
        return ReplayReport(
            dict(self.counts), tuple(self.notes), self.returned, self.expiring, self.labels, dry_run=dry_run
        )


def letters_of(settings: KafkaSettings, selection: Selection, topic: str = TOPIC) -> Source:
    """Give the letters of the topic, in its order."""

    def read() -> Iterator[Letter]:
        with reading(settings, topic) as reader:
            yield from (found for found in reader.read(selection.since_ms) if isinstance(found, Letter))

    return read


def plan_replay(
    settings: KafkaSettings, source: Source, plan: ReplayPlan, *, topic: str = TOPIC, clock: Clock | None = None
) -> ReplayReport:
    """Say what `replay` would do, and do nothing.

    Raises BrokerError where Kafka does not answer.
    """
    choice = _choose(settings, source, plan, topic, (clock or SystemClock()).now_ms())
    choice.counts[Outcome.REPLAYED] = len(choice.places)
    return choice.report(dry_run=True)


def replay(
    settings: KafkaSettings,
    source: Source,
    plan: ReplayPlan,
    progress: ProgressBar = lambda _done, _total: None,
    *,
    topic: str = TOPIC,
    clock: Clock | None = None,
) -> ReplayReport:
    """Send the chosen letters to where they came from, and wait until they are there.

    Raises BrokerError DLT020 where Kafka refuses the whole, DLT021 where somebody else has begun to replay: what was sent until
    then is marked.
    """
    clock = clock or SystemClock()
    producer = Producer(
        producer_options(
            settings,
            transactional_id=TRANSACTION_ID,
            message_max_bytes=RECORD_BYTES_ANY,
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            # librdkafka refuses requests that may outlive their transaction
            socket_timeout_ms=_TRANSACTION_TIMEOUT_MS,
        )
    )
    with reading(settings, topic) as reader:  # a missing topic is told of before a transaction waits for it
        next(reader.read(tail=1), None)
    try:
        # whoever replays at this moment is ended, and its marks are there to be read
        producer.init_transactions(_CALL_S)
        choice = _choose(settings, source, plan, topic, clock.now_ms())
        # a file may hold a letter twice: it is sent the first time it comes
        chosen = _once(source(), choice.places)
        total, started_s = len(choice.places), time.monotonic()
        for batch in _batches(chosen, plan.rate):
            _send_or_split(producer, batch, plan, topic, choice, clock)
            done = choice.counts[Outcome.REPLAYED] + choice.counts[Outcome.REFUSED]
            progress(done, total)
            if plan.rate is not None:
                time.sleep(max(0.0, started_s + done / plan.rate - time.monotonic()))
    except KafkaException as error:
        raise _refused(error) from error
    return choice.report(dry_run=False)


# ------------------------------------------------------------------------------------------------------ choosing


def _choose(settings: KafkaSettings, source: Source, plan: ReplayPlan, topic: str, now_ms: int) -> _Choice:
    with reading(settings, topic) as reader:
        marks = {found.id: found for found in reader.read() if isinstance(found, Mark)}
    origins = _Origins(settings, now_ms)
    choice = _Choice()
    seen: set[str] = set()
    for letter in source():
        if not plan.selection.holds(letter):
            continue
        if letter.id in seen:
            choice.skip(letter, Outcome.TWICE, "the same record was refused twice; it is sent once")
            continue
        seen.add(letter.id)
        if (mark := marks.get(letter.id)) is not None and not plan.again:
            choice.skip(letter, Outcome.ALREADY, f"replayed at {mark.replayed_at} to {mark.sent_to}")
        elif (problem := _problem(letter, plan, origins)) is not None:
            choice.skip(letter, *problem)
        elif plan.limit is None or len(choice.places) < plan.limit:
            choice.places.add(_place(letter))
            choice.returned += letter.replays > 0
            choice.expiring += origins.is_expiring(letter)
            choice.labels += _is_label(letter)
    return choice


def _problem(letter: Letter, plan: ReplayPlan, origins: _Origins) -> tuple[str, str] | None:
    """Say why a letter cannot be sent; None where it can."""
    if letter.code == KILLER.code and KILLER.code not in plan.selection.codes and not plan.selection.places:
        return Outcome.KILLER, f"name it, or say --code {KILLER.code}, once workers are safe from it"
    if letter.replays >= plan.returns_max and not plan.again:
        return Outcome.RETURNED, f"it came back {letter.replays} times; --again sends it all the same"
    if not letter.topic or letter.partition is None:
        return Outcome.NO_ORIGIN, "the letter does not say where it came from"
    if letter.omitted_bytes and letter.value is None:
        told = f"its {letter.omitted_bytes} bytes were too large for a letter: they are at its origin, if anywhere"
        return Outcome.OMITTED, f"{told}; replay --file sends a line that was given its value"
    return origins.problem(letter, by_key=plan.by_key)


class _Origins:
    """The topics that letters came from, as they are now."""

    def __init__(self, settings: KafkaSettings, now_ms: int) -> None:
        self._settings = settings
        self._now_ms = now_ms
        # others are fqlstream's own: what stands in a letter's header must not make anybody write there
        own = {declared.name for declared in load_declarations() if not declared.source}
        metadata = AdminClient(librdkafka_options(settings)).list_topics(timeout=_CALL_S)
        self._partitions = {name: len(found.partitions) for name, found in metadata.topics.items()}
        self._own = own
        self._retention: dict[str, int | None] = {}

    def problem(self, letter: Letter, *, by_key: bool) -> tuple[str, str] | None:
        """Say why nothing can be sent to a letter's origin."""
        if letter.topic in self._own:
            return Outcome.NO_SOURCE, f"{letter.topic} is fqlstream's own: nothing is replayed to it"
        count = self._partitions.get(letter.topic)
        if count is None:
            return Outcome.GONE, f"there is no topic {letter.topic} any more"
        if (letter.partition or 0) >= count and not (by_key and letter.key is not None):
            return Outcome.GONE, f"{letter.topic} has {count} partitions; --by-key chooses one by the record's key"
        return None

    def is_expiring(self, letter: Letter) -> bool:
        """Say whether a record is so old that its topic no longer has to keep it."""
        if letter.topic not in self._retention:
            self._retention[letter.topic] = retention_ms(self._settings, letter.topic)
        kept_ms = self._retention[letter.topic]
        return kept_ms is not None and letter.record_at_ms is not None and letter.record_at_ms < self._now_ms - kept_ms


def _is_label(letter: Letter) -> bool:
    """Guess whether it may be a label: a replayed one is the last one sent, and so the one that counts."""
    types = [content for name, content in letter.headers if name == "type"]
    return types[-1] == b"label" if types else b'"label"' in (letter.value or b"")[:_LOOK_BYTES]


#: A JSON event says its type near its beginning.
_LOOK_BYTES: Final = 4_096


def _place(letter: Letter) -> tuple[int, int, str]:
    return letter.letter_partition, letter.letter_offset, letter.id


def _once(letters: Iterable[Letter], places: Set[tuple[int, int, str]]) -> Iterator[Letter]:
    left = set(places)
    for letter in letters:
        if _place(letter) in left:
            left.remove(_place(letter))
            yield letter


def _batches(letters: Iterable[Letter], rate: float | None) -> Iterator[list[Letter]]:
    """Cut letters into transactions; at a rate, into such as take no longer than about a second."""
    most = _BATCH_RECORDS if rate is None else max(1, min(_BATCH_RECORDS, int(rate)))
    batch: list[Letter] = []
    size = 0
    for letter in letters:
        batch.append(letter)
        size += len(letter.value or b"")
        if len(batch) >= most or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# ------------------------------------------------------------------------------------------------------- sending


def _send_or_split(
    producer: Any, batch: Sequence[Letter], plan: ReplayPlan, topic: str, choice: _Choice, clock: Clock
) -> None:
    """Send letters in one transaction; where Kafka refuses a record, the others in smaller ones."""
    try:
        _send(producer, batch, plan, topic, clock)
    except _RecordRefusedError as error:
        producer.abort_transaction(_CALL_S)
        if len(batch) == 1:
            choice.skip(batch[0], Outcome.REFUSED, error.reason)
            return
        _send_or_split(producer, batch[: len(batch) // 2], plan, topic, choice, clock)
        _send_or_split(producer, batch[len(batch) // 2 :], plan, topic, choice, clock)
    else:
        choice.counts[Outcome.REPLAYED] += len(batch)


class _RecordRefusedError(Exception):
    """Kafka does not take one of the records of a transaction."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _send(producer: Any, batch: Sequence[Letter], plan: ReplayPlan, topic: str, clock: Clock) -> None:
    sent_to: dict[int, str] = {}
    problems: list[str] = []

    def note(at: int) -> Callable[[KafkaError | None, Any], None]:
        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                sent_to[at] = f"{message.topic()}[{message.partition()}]@{message.offset()}"
            else:
                problems.append(error.str())

        return delivered

    producer.begin_transaction()
    for at, letter in enumerate(batch):
        _produce(producer, _record_of(letter, by_key=plan.by_key), note(at))
    _await_delivery(producer, problems)
    replayed_at = datetime.fromtimestamp(clock.now_ms() / 1000, UTC).isoformat(timespec="milliseconds")
    for at, letter in enumerate(batch):
        headers = [
            (MARK_HEADER, letter.id.encode()),
            ("replayed_at", replayed_at.replace("+00:00", "Z").encode()),
            ("sent_to", sent_to[at].encode()),
            ("letter", str(letter.place).encode()),
            ("origin", letter.origin.encode()),
        ]
        mark = {"topic": topic, "partition": letter.letter_partition, "headers": headers, "value": None}
        _produce(producer, mark, note(-1))
    _await_delivery(producer, problems)
    producer.commit_transaction(_CALL_S)


def _produce(producer: Any, record: dict[str, Any], on_delivery: Callable[[KafkaError | None, Any], None]) -> None:
    while True:
        try:
            producer.produce(**record, on_delivery=on_delivery)
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:
            if error.args[0].code() in _FENCED or error.args[0].fatal():
                raise
            raise _RecordRefusedError(error.args[0].str()) from error
        else:
            return


def _await_delivery(producer: Any, problems: Sequence[str]) -> None:
    left = producer.flush(_CALL_S)
    if problems:
        raise _RecordRefusedError(problems[0])
    if left:
        raise BrokerError("DLT020", f"{left} records were not taken within {_CALL_S:.0f} s", "is the cluster up?")


def _record_of(letter: Letter, *, by_key: bool) -> dict[str, Any]:
    """Give the record that a letter was, with two headers more."""
    told = [(name, content) for name, content in letter.headers if name not in (REPLAYED_FROM, REPLAYS)]
    record: dict[str, Any] = {
        "topic": letter.topic,
        "value": letter.value,
        "key": letter.key,
        "headers": [*_typed(letter, tuple(told)), (REPLAYED_FROM, str(replace(letter.place, topic=TOPIC)).encode()),
                    (REPLAYS, str(letter.replays + 1).encode())],
    }  # fmt: skip
    if not (by_key and letter.key is not None):
        record["partition"] = letter.partition
    if letter.record_at_ms is not None:
        record["timestamp"] = letter.record_at_ms
    return record


def _typed(letter: Letter, headers: Headers) -> Headers:
    """Say what the bytes are also where only the letter itself says so: whoever wrote it by hand may have left that out."""
    if any(name.lower() == "content-type" for name, _ in headers) or not letter.content_type:
        return headers
    return (*headers, ("content-type", letter.content_type.encode()))


def _refused(error: KafkaException) -> BrokerError:
    first = error.args[0]
    if first.code() in _FENCED:
        hint = "what was sent until then is marked; run it again for the rest"
        return BrokerError("DLT021", "somebody else has begun to replay dead letters meanwhile", hint)
    hint = f"replaying writes to the letters' origins and to {TOPIC} with the transactional id {TRANSACTION_ID}"
    return BrokerError("DLT020", f"Kafka refused the replay: {first.str()}", hint)
