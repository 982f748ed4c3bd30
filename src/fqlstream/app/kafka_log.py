"""The delivery protocol's view of Kafka: topic ids, offsets, dead letters, notices, values, acknowledgements."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import msgspec

from fqlstream.app.retries import patiently, persist
from fqlstream.app.sharing import Sharing
from fqlstream.app.transport import SourcePartition
from fqlstream.clock import SystemClock
from fqlstream.errors import BrokerError
from fqlstream.events.refusals import OMITTED_HEADER, ORIGINAL_HEADER
from fqlstream.fql.plan import Lane
from fqlstream.ops.outbox import TOO_LARGE, OutboxProducer, Written
from fqlstream.settings import KafkaSettings
from fqlstream.stream.batches import DeadLetter, Headers
from fqlstream.stream.protocol import FlushRow, MetricValue
from fqlstream.stream.record_delivery import Verdict

PANE_UPDATES = "pane-updates"
METRIC_VALUES = "metric-values"
DEAD_LETTERS = "dead-letters"
RECORD_VERDICTS = "record-verdicts"
_LOG = logging.getLogger("fqlstream.kafka_log")
#: Characters of a header, and bytes of a key, in a letter that is sent without its record.
_STUB_TEXT_MAX: Final = 1_000


@dataclass(slots=True)
class KafkaLog:
    """Kafka, as `stream.delivery` and `stream.finalise` ask for it."""

    settings: KafkaSettings
    outbox: OutboxProducer
    #: partitions that this worker holds, by number
    sources: dict[int, SourcePartition] = field(default_factory=dict)
    #: told of every record that is refused, before it is sent
    on_refused: Callable[[Sequence[DeadLetter]], None] = lambda _: None
    #: what the group's consumer knows of topics that grow; None: nothing
    sharing: Sharing | None = None
    _durable: dict[int, int] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _counting: asyncio.Task[int] | None = None
    _noticed_ms: dict[int, Mapping[str, int]] = field(default_factory=dict)  # watermarks that were told, by partition

    async def topic_id(self, topic: str) -> str:
        """Identify the topic, asking the broker each time: between two takeovers it may have been recreated."""
        source = next((source for source in self.sources.values() if not source.lost), None)
        if source is None:
            raise BrokerError("KFK020", f"every partition of {topic} was given to another worker meanwhile")
        return await source.topic_id()

    async def offset_range(self, topic: str, partition: int) -> tuple[int, int]:
        """Give the first offset in the log and the next one to be written."""
        source = self.sources.get(partition)
        if source is None or source.lost:
            raise BrokerError("KFK020", f"{topic}[{partition}] was given to another worker meanwhile")
        return await source.log_start(), await source.log_end()

    async def partitions_count(self, topic: str) -> int:
        """Count the partitions of a topic, as the group's consumer last saw them."""
        return await self._count(topic, self.sharing.seen if self.sharing is not None else {})

    async def model_partition(self, model: str) -> int:
        """Say which partition of pane-updates a model's notices go to: whoever holds it publishes the model's values.

        By the count that was shared out: all workers have it alike, and each of these partitions is somebody's.
        """
        return zlib.crc32(model.encode()) % await self._count(PANE_UPDATES, self._shared)

    @property
    def _shared(self) -> Mapping[str, int]:
        return self.sharing.shared if self.sharing is not None else {}

    async def _count(self, topic: str, told: Mapping[str, int]) -> int:
        """Give what is told; for a topic that was deleted, what was told before; what the broker says where nothing was."""
        if topic in told:
            self._counts[topic] = told[topic]
        elif topic not in self._counts:
            self._counts[topic] = await patiently(f"topic {topic}", partial(self.outbox.partitions_count, topic))
        return self._counts[topic]

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write refused records to the dead-letter topic: the original bytes, the reasons in headers.

        One that the topic does not take for its size is written without its bytes: the log has to go on.
        """
        self.on_refused(letters)
        seen_at = _iso(SystemClock().now_ms())
        records = [_letter_record(letter, seen_at) for letter in letters]
        for at in await self._send_all(records):
            # together with others it may only have been the sum: so alone first
            for record in (records[at], _stub(letters[at], seen_at)):
                if not await self._send_all([record]):
                    break
            else:
                _LOG.error(
                    "the topic %s takes not even a letter without its record (%s of %s[%d]@%d): raise its max.message.bytes",
                    DEAD_LETTERS,
                    letters[at].code,
                    letters[at].topic,
                    letters[at].partition,
                    letters[at].offset,
                )

    async def send_notices(self, rows: Sequence[FlushRow]) -> None:
        """Tell the finalisers which panes changed. They look anyway: nobody waits for it, and losing one loses nothing.

        None before it is known how many partitions there are: a flush, whose lock is held, must not wait for Kafka here.
        """
        if PANE_UPDATES not in self._shared and PANE_UPDATES not in self._counts:
            if self._counting is None:
                self._counting = asyncio.create_task(self.partitions_count(PANE_UPDATES))
            elif self._counting.done():  # the topic is missing, for one
                counting, self._counting = self._counting, None
                counting.result()
            return
        notices: list[tuple[str, bytes]] = []
        for row in rows:
            # time that stood still changes no window: with many models, most of them are quiet in most flushes
            reached, before = row.watermarks.get(Lane.EVENTS, {}), self._noticed_ms.get(row.partition, {})
            models: dict[str, list[list[object]]] = {name: [] for name, at in reached.items() if before.get(name) != at}
            self._noticed_ms[row.partition] = reached
            for pane in row.panes:
                models.setdefault(pane.model, []).append([pane.version, pane.start_ms])
            for model, panes in models.items():
                notice = {
                    "topic": row.topic,
                    "partition": row.partition,
                    "epoch": row.version.epoch,
                    "flush": row.version.flush,
                    "model": model,
                    "panes": panes[:_NOTICE_PANES_MAX],
                }
                notices.append((model, msgspec.json.encode(notice)))
        for model, value in notices:
            self.outbox.hint(PANE_UPDATES, value, model.encode(), await self.model_partition(model))

    async def send_values(self, values: Sequence[MetricValue]) -> None:
        """Write published values to the metric-values topic."""
        records = [
            _Record(METRIC_VALUES, msgspec.json.encode(value_payload(value)), _value_key(value)) for value in values
        ]
        if too_large := await self._send_all(records):
            largest = max(len(records[at].value or b"") for at in too_large)
            raise BrokerError(
                TOO_LARGE,
                f"{len(too_large)} values of up to {largest} bytes are too large for {METRIC_VALUES}",
                "raise the topic's max.message.bytes: fqlstream topics check shows what it should be",
            )

    def send_verdict(self, verdict: Verdict) -> None:
        """Tell what became of metric events. Who waits asks ClickHouse where it does not arrive."""
        refused = sorted(verdict.refused.items())
        # many refusals go in several notices, each about what lies before its last one
        ends = [refused[at - 1][0] for at in range(_NOTICE_REFUSED_MAX, len(refused), _NOTICE_REFUSED_MAX)]
        first = verdict.first
        for applied in [*ends, verdict.applied]:
            notice = {
                "partition": verdict.partition,
                "first": first,
                "applied": applied,
                "refused": [
                    {"offset": offset, "code": one.code, "message": one.message, "stored": one.stored}
                    for offset, one in refused
                    if first <= offset <= applied
                ],
                "flushed": verdict.readable,
            }
            self.outbox.hint(RECORD_VERDICTS, msgspec.json.encode(notice), str(verdict.partition).encode(), 0)
            first = applied + 1

    def acknowledge(self, topic: str, partition: int, next_offset: int) -> None:  # noqa: ARG002  # one source topic
        """Let the commit follow what is durable; nothing where the partition was lost meanwhile."""
        self._durable[partition] = next_offset

    async def commit(self) -> None:
        """Commit what is durable of the partitions that this worker holds and has begun to read."""
        begun = [
            (source, self._durable.pop(partition))
            for partition, source in self.sources.items()
            if partition in self._durable and not source.lost and source.position is not None
        ]
        for source, next_offset in begun:
            # a partition that went and came back may not have been read so far again
            source.ack(min(next_offset, source.position or 0))
        for source, _ in begun[:1]:
            await source.commit()  # one request for all partitions

    def forget(self, source: SourcePartition) -> None:
        """Drop a partition that was lost, unless it has come back meanwhile."""
        if self.sources.get(source.partition) is source:
            del self.sources[source.partition]
            self._durable.pop(source.partition, None)

    async def _send_all(self, records: Sequence[_Record]) -> list[int]:
        """Send records; returns when all have arrived, however long Kafka is away or a topic is missing.

        Gives the places of those that Kafka does not take for their size. Raises BrokerError where one never will for
        another reason.
        """
        left: list[int] = list(range(len(records)))
        too_large: list[int] = []

        async def attempt() -> None:
            nonlocal left
            sent = [(at, await self._offer(records[at])) for at in left]
            failed: list[tuple[int, BrokerError]] = []
            for at, delivery in sent:
                error = delivery if isinstance(delivery, BrokerError) else await _failure(delivery)
                if error is not None and error.code == TOO_LARGE:
                    too_large.append(at)
                elif error is not None:
                    failed.append((at, error))
            left = [at for at, _ in failed]
            if failed:  # what will never arrive before what may
                raise min((refused for _, refused in failed), key=lambda refused: refused.retryable)

        if records:
            await persist(f"records for {records[0].topic}", attempt)
        return too_large

    async def _offer(self, record: _Record) -> asyncio.Future[Written] | BrokerError:
        """Queue a record, or say why it does not even get so far: the others do all the same."""
        try:
            return await self.outbox.send(record.topic, record.value, record.key, record.headers)
        except BrokerError as error:
            return error


async def _failure(delivery: asyncio.Future[Written]) -> BrokerError | None:
    try:
        await delivery
    except BrokerError as error:
        return error
    return None


@dataclass(frozen=True, slots=True)
class _Record:
    topic: str
    value: bytes | None
    key: bytes | None
    headers: Headers = ()


#: A notice is a hint: a longer list would only be a larger hint.
_NOTICE_PANES_MAX = 1_000
#: Refusals of one notice: with their reasons they stay below the topic's largest record.
_NOTICE_REFUSED_MAX = 500


def value_payload(value: MetricValue) -> dict[str, object]:
    """Give a published value as the metric-values topic carries it; times in RFC 3339, UTC."""
    return {
        "model": value.model,
        "version": value.version,
        "metric": value.metric,
        "segment": value.segment,
        "window_start": _iso(value.window_start_ms),
        "window_end": _iso(value.window_end_ms),
        "window_s": (value.window_end_ms - value.window_start_ms) // 1000,
        "value": value.value,
        "rows": value.rows,
        "labelled_rows": value.labelled_rows,
        "exact": value.exact,
        "error_bound": value.error_bound,
        "status": value.status,
        "value_version": value.value_version,
        "definition_revision": value.definition_revision,
        "updated_at": _iso(value.updated_at_ms),
    }


def _iso(ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat().replace("+00:00", "Z")


def _value_key(value: MetricValue) -> bytes:
    return msgspec.json.encode([value.model, value.metric, value.segment])


def _letter_record(letter: DeadLetter, seen_at: str) -> _Record:
    """Give the refused record itself, with why and where from in headers; its own come after that, each with a prefix."""
    original = [(f"{ORIGINAL_HEADER}{name}", value) for name, value in letter.headers]
    return _Record(DEAD_LETTERS, letter.value, letter.key, [*_told(letter, seen_at), *original])


def _stub(letter: DeadLetter, seen_at: str) -> _Record:
    """Give a letter that only says what was refused, why, and how many bytes are left out: the record is at its origin."""
    key = letter.key if len(letter.key or b"") <= _STUB_TEXT_MAX else None
    size = len(letter.value or b"") + len(letter.key or b"")
    size += sum(len(name.encode()) + len(value or b"") for name, value in letter.headers)
    cut = [(name, value.decode()[:_STUB_TEXT_MAX].encode()) for name, value in _told(letter, seen_at)]
    return _Record(DEAD_LETTERS, None, key, [*cut, (OMITTED_HEADER, str(size).encode())])


def _told(letter: DeadLetter, seen_at: str) -> list[tuple[str, bytes]]:
    texts = {
        "code": letter.code,
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": str(letter.partition),
        "offset": str(letter.offset),
        "row": letter.row,
        "seen_at": seen_at,
        "record_at": str(letter.record_at_ms),
    }
    if letter.content_type is not None:
        texts["content-type"] = letter.content_type
    return [(name, text.encode()) for name, text in texts.items()]
