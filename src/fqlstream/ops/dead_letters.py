"""Reading the topic of what was refused: letters, and marks that say which of them were sent again.

A letter's id is a digest of its origin and bytes: the same record refused twice, by two owners of its partition, has one id.
A mark is a record without a value that names an id; it follows the letter in the same partition, so that it outlives it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fqlstream.errors import BrokerError, FqlstreamError, UsageError
from fqlstream.events.refusals import OMITTED_HEADER, ORIGINAL_HEADER, REFUSALS
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import KafkaSettings

TOPIC: Final = "dead-letters"
#: Names a mark's letter by its id; no letter has it.
MARK_HEADER: Final = "replayed"
#: On a record that was sent again, and so on the letter of one that was refused again.
REPLAYED_FROM: Final = "replayed_from"
REPLAYS: Final = "replays"
_ASK_S: Final = 10.0
#: No record for so long, though the end is not reached: the cluster is stuck.
_SILENCE_S: Final = 30.0
_RECORDS_PER_CALL: Final = 500
#: Bytes of a value that are shown in a list; `show` and `export` give all of them.
PREVIEW_BYTES: Final = 300
#: Records of a partition that are looked at first for the newest letters, then ever more of them.
_TAIL_RECORDS: Final = 1_000
_TAIL_GROWTH: Final = 8
_PLACE: Final = re.compile(r"(?:(?P<topic>[a-zA-Z0-9._-]+)\[(?P<of>\d{1,9})\]|(?P<own>\d{1,9}))@(?P<offset>\d{1,18})")
_REMEDIES: Final = {refusal.code: refusal.remedy for refusal in REFUSALS}
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record is or was; `topic` empty: a letter's own place on the topic of letters."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}" if self.topic else f"{self.partition}@{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read `0@17`, a letter's own place, or `inference-events[2]@4711`, its origin. Raises UsageError for other texts."""
        found = _PLACE.fullmatch(text)
        if found is None:
            hint = "write 0@17 (partition and offset of the letter) or inference-events[2]@4711 (of its origin)"
            raise UsageError("DLT001", f"{text!r} is no place of a letter", hint)
        return cls(found["topic"] or "", int(found["of"] or found["own"]), int(found["offset"]))


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, whole. `topic`, `partition`, `offset`, `row` say where its record was: empty or None where it does not say.

    `headers` are the refused record's own, `told` all that the letter has. `replays` counts how often the record had been
    sent again before this letter, the last time from the letter at `replayed_from`. `omitted_bytes`: the record was so large that
    the letter has neither its value nor its headers; that many bytes stand at the origin only.
    """

    id: str
    code: str
    reason: str
    topic: str
    partition: int | None
    offset: int | None
    row: str
    seen_at: str
    record_at_ms: int | None
    letter_partition: int
    letter_offset: int
    written_at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    told: Headers
    replays: int = 0
    replayed_from: str = ""
    omitted_bytes: int = 0

    @property
    def origin(self) -> str:
        """`topic[partition]@offset`, or a dash where the letter does not say."""
        return f"{self.topic}[{self.partition}]@{self.offset}" if self.topic else "-"

    @property
    def place(self) -> Place:
        """Where the letter itself is."""
        return Place("", self.letter_partition, self.letter_offset)

    @property
    def remedy(self) -> str:
        """What its producer or an operator can do."""
        return _REMEDIES.get(self.code, "")

    @property
    def content_type(self) -> str:
        """What the record said it was, in lower case and without parameters."""
        found = next((value for name, value in self.told if name.lower().endswith("content-type") and value), b"")
        return found.split(b";")[0].strip().lower().decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Mark:
    """Says that the letter of an id was sent again: when, and where to."""

    id: str
    replayed_at: str
    sent_to: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: all that match what is given. `since_ms` and `until_ms` (Unix ms, half-open) are of the letters."""

    codes: frozenset[str] = frozenset()
    topic: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    places: frozenset[Place] = frozenset()

    def __bool__(self) -> bool:
        return self != Selection()

    def holds(self, letter: Letter) -> bool:
        """Say whether a letter is meant."""
        if self.codes and letter.code not in self.codes:
            return False
        if self.topic and letter.topic != self.topic:
            return False
        if self.since_ms is not None and letter.written_at_ms < self.since_ms:
            return False
        if self.until_ms is not None and letter.written_at_ms >= self.until_ms:
            return False
        if not self.places:
            return True
        return letter.place in self.places or _origin(letter) in self.places


@dataclass(frozen=True, slots=True)
class LetterRow:
    """One dead letter in a list. `topic`, `partition`, `offset`, `row` say where the record was; `letter_offset` where the letter is.

    `replayed_at` is empty until it is sent again.
    """

    id: str
    code: str
    reason: str
    topic: str
    partition: int | None
    offset: int | None
    row: str
    seen_at: str
    letter_partition: int
    letter_offset: int
    bytes: int
    preview: str
    replays: int
    replayed_at: str


@dataclass(frozen=True, slots=True)
class CodeCount:
    """Letters of one code and origin topic; `replayed` of them were sent again, `returned` had been before they came (back)."""

    code: str
    topic: str
    letters: int
    bytes: int
    first_seen_at: str
    last_seen_at: str
    replayed: int
    returned: int
    remedy: str


def list_dead_letters(
    settings: KafkaSettings, selection: Selection | None = None, *, limit: int = 100, topic: str = TOPIC
) -> tuple[LetterRow, ...]:
    """Give the newest letters of a selection, oldest of them first.

    Raises BrokerError where the topic is missing or does not answer.
    """
    chosen = selection or Selection()
    tail = max(_TAIL_RECORDS, limit)
    while True:
        letters: list[tuple[int, LetterRow]] = []
        marks: dict[str, Mark] = {}
        with reading(settings, topic) as reader:
            for found in reader.read(chosen.since_ms, tail):
                if isinstance(found, Mark):
                    marks[found.id] = found
                elif chosen.holds(found):
                    letters.append((found.written_at_ms, _row(found)))
                    if len(letters) > 2 * limit + _TAIL_RECORDS:
                        letters = _newest(letters, limit)
        if len(letters) >= limit or reader.was_whole:
            break
        tail *= _TAIL_GROWTH
    rows = [row for _, row in _newest(letters, limit)]
    return tuple(replace(row, replayed_at=marks[row.id].replayed_at) if row.id in marks else row for row in rows)


def _newest(letters: list[tuple[int, LetterRow]], limit: int) -> list[tuple[int, LetterRow]]:
    return sorted(letters, key=lambda pair: pair[0])[-limit:]


def count_dead_letters(
    settings: KafkaSettings, selection: Selection | None = None, *, topic: str = TOPIC
) -> tuple[CodeCount, ...]:
    """Count the letters of a selection by code and origin topic, the most frequent first.

    Raises BrokerError where the topic is missing or does not answer.
    """
    chosen = selection or Selection()
    counts: dict[tuple[str, str], CodeCount] = {}
    keys: dict[str, Counter[tuple[str, str]]] = {}  # by the letters' ids
    marked: set[str] = set()
    with reading(settings, topic) as reader:
        for found in reader.read(chosen.since_ms):
            if isinstance(found, Mark):
                marked.add(found.id)
            elif chosen.holds(found):
                key = found.code, found.topic
                counts[key] = _counted(counts.get(key), found)
                keys.setdefault(found.id, Counter())[key] += 1
    for letter_id in marked & keys.keys():
        for key, number in keys[letter_id].items():
            counts[key] = replace(counts[key], replayed=counts[key].replayed + number)
    return tuple(sorted(counts.values(), key=lambda count: (-count.letters, count.code, count.topic)))


def _counted(count: CodeCount | None, letter: Letter) -> CodeCount:
    size, returned, seen_at = len(letter.value or b""), letter.replays > 0, letter.seen_at
    if count is None:
        return CodeCount(letter.code, letter.topic, 1, size, seen_at, seen_at, 0, returned, letter.remedy)
    return replace(
        count,
        letters=count.letters + 1,
        bytes=count.bytes + size,
        first_seen_at=min(count.first_seen_at, seen_at),
        last_seen_at=max(count.last_seen_at, seen_at),
        returned=count.returned + returned,
    )


def find_letter(settings: KafkaSettings, place: Place, *, topic: str = TOPIC) -> tuple[Letter, Mark | None]:
    """Give the letter at a place, the newest where several came from it, and whether it was sent again.

    Raises FqlstreamError DLT002 where there is none, BrokerError where the topic is missing or does not answer.
    """
    letter: Letter | None = None
    marks: dict[str, Mark] = {}
    selection = Selection(places=frozenset([place]))
    with reading(settings, topic) as reader:
        for found in reader.read():
            if isinstance(found, Mark):
                marks[found.id] = found
            elif selection.holds(found):
                letter = found
    if letter is None:
        message = f"there is no letter at {place}" if not place.topic else f"no letter came from {place}"
        raise FqlstreamError("DLT002", message, "see: fqlstream dead-letters list; letters are kept for 30 days")
    return letter, marks.get(letter.id)


# ---------------------------------------------------------------------------------------------------- the topic


class Reader:
    """Reads the topic of letters from its beginning, or from somewhere, to its end."""

    def __init__(self, consumer: Any, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self.was_whole = True

    def read(self, since_ms: int | None = None, tail: int | None = None) -> Iterator[Letter | Mark]:
        """Give letters and marks from a time on, each partition in its order, of the last `tail` records of each where given."""
        starts, ends = self._span(since_ms, tail)
        self._consumer.assign([TopicPartition(self._topic, partition, start) for partition, start in starts.items()])
        for message in _read(self._consumer, starts, ends):
            headers: Headers = tuple(message.headers() or ())
            yield mark_of(headers) or letter_of(
                headers,
                message.key(),
                message.value(),
                message.partition(),
                message.offset(),
                max(0, message.timestamp()[1]),
            )

    def _span(self, since_ms: int | None, tail: int | None) -> tuple[dict[int, int], dict[int, int]]:
        """Say from where to where each partition is to be read."""
        metadata = self._consumer.list_topics(self._topic, timeout=_ASK_S).topics[self._topic]
        if metadata.error is not None:
            raise BrokerError(
                "KFK132", f"topic {self._topic}: {metadata.error.str()}", "make it: fqlstream topics apply"
            )
        first: dict[int, int] = {}
        if since_ms is not None:
            asked = [TopicPartition(self._topic, partition, since_ms) for partition in metadata.partitions]
            first = {found.partition: found.offset for found in self._consumer.offsets_for_times(asked, _ASK_S)}
        starts, ends = {}, {}
        self.was_whole = True
        for partition in metadata.partitions:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_ASK_S)
            start = first.get(partition, low)
            start = high if start < 0 else max(low, start)  # nothing that young: the end
            if tail is not None and high - tail > start:
                start, self.was_whole = high - tail, False
            if high > start:
                starts[partition], ends[partition] = start, high
        return starts, ends


@contextmanager
def reading(settings: KafkaSettings, topic: str = TOPIC) -> Iterator[Reader]:
    """Give a reader of the topic. Kafka's own errors become BrokerError."""
    consumer = Consumer(
        librdkafka_options(
            settings, group_id="fqlstream-dead-letters", enable_auto_commit=False, enable_partition_eof=True,
            fetch_wait_max_ms=50, isolation_level="read_committed",
        )
    )  # fmt: skip
    try:
        yield Reader(consumer, topic)
    except KafkaException as error:
        raise BrokerError("KFK131", f"topic {topic} cannot be read: {error.args[0].str()}", "is Kafka up?") from error
    finally:
        consumer.close()


def _read(consumer: Any, starts: dict[int, int], ends: dict[int, int]) -> Iterator[Any]:
    left = set(starts)
    heard_s = time.monotonic()
    while left:
        message = consumer.poll(0.5)
        if message is None:
            if time.monotonic() - heard_s > _SILENCE_S:
                raise BrokerError("KFK133", f"no answer from Kafka for {_SILENCE_S:.0f} s", "is the cluster up?")
            continue
        heard_s = time.monotonic()
        for each in (message, *consumer.consume(_RECORDS_PER_CALL, timeout=0)):
            error = each.error()
            if error is None and each.offset() < ends[each.partition()]:
                yield each
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            # control records leave holes, so that the last offset may never be seen: then the end is told
            if error is not None or each.offset() >= ends[each.partition()] - 1:
                left.discard(each.partition())


def mark_of(headers: Headers) -> Mark | None:
    """Read a mark; None for what is a letter."""
    text = {name: (content or b"").decode(errors="replace") for name, content in headers}
    letter_id = text.get(MARK_HEADER)
    return Mark(letter_id, text.get("replayed_at", ""), text.get("sent_to", "")) if letter_id else None


def letter_of(
    headers: Headers, key: bytes | None, value: bytes | None, partition: int, offset: int, written_at_ms: int
) -> Letter:
    """Read a letter; what its headers lack is empty or None, as anybody may write to the topic."""
    text: dict[str, str] = {}
    original: list[tuple[str, bytes | None]] = []
    for name, content in headers:
        if name.startswith(ORIGINAL_HEADER):
            original.append((name.removeprefix(ORIGINAL_HEADER), content))
        else:
            text[name] = (content or b"").decode(errors="replace")
    before = {name: (content or b"").decode(errors="replace") for name, content in original}
    letter = Letter(
        id="",
        code=text.get("code", ""),
        reason=text.get("reason", ""),
        topic=text.get("topic", ""),
        partition=_number(text.get("partition")),
        offset=_number(text.get("offset")),
        row=text.get("row", ""),
        seen_at=text.get("seen_at", "") or _iso(written_at_ms),
        record_at_ms=_number(text.get("record_at")),
        letter_partition=partition,
        letter_offset=offset,
        written_at_ms=written_at_ms,
        key=key,
        value=value,
        headers=tuple(original),
        told=headers,
        replays=_number(before.get(REPLAYS)) or 0,
        replayed_from=before.get(REPLAYED_FROM, ""),
        omitted_bytes=_number(text.get(OMITTED_HEADER)) or 0,
    )
    return replace(letter, id=_identity(letter))


def _identity(letter: Letter) -> str:
    """Name a letter by its origin and its bytes; by its own place where it has no origin."""
    origin = f"{letter.origin}#{letter.row}" if _origin(letter) is not None else f"letter {letter.place}"
    digest = hashlib.sha256()
    for part in (origin.encode(), letter.key, letter.value):
        # lengths keep the parts apart, -1 keeps null and empty apart
        digest.update((-1 if part is None else len(part)).to_bytes(8, "big", signed=True))
        digest.update(part or b"")
    return digest.hexdigest()[:32]


def _origin(letter: Letter) -> Place | None:
    """Say where the record stood; None where the letter does not say it whole."""
    if not letter.topic or letter.partition is None or letter.offset is None:
        return None
    return Place(letter.topic, letter.partition, letter.offset)


def _row(letter: Letter) -> LetterRow:
    value = letter.value or b""
    return LetterRow(
        id=letter.id,
        code=letter.code,
        reason=letter.reason,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        row=letter.row,
        seen_at=letter.seen_at,
        letter_partition=letter.letter_partition,
        letter_offset=letter.letter_offset,
        bytes=len(value),
        preview=value[:PREVIEW_BYTES].decode(errors="replace"),
        replays=letter.replays,
        replayed_at="",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
