"""Reading what a group has not read: when its first record was written, and how many rows its records hold.

By a consumer that belongs to no group: it is assigned partitions, joins nothing and commits nothing. It reads as a read_committed
reader does, so that markers, records of aborted transactions and holes that compaction left are passed over, and an open
transaction ends what can be read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, TopicPartition

from fqlstream.ops.kafka_errors import may_pass
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.lag.places import Place, Span, Unread
from fqlstream.settings import KafkaSettings, LagSettings

#: No group has it: librdkafka wants a name, and asks nothing of a group under which it is only assigned partitions.
_NO_GROUP: Final = "fqlstream-lag"
_POLL_S: Final = 0.1
_RECORDS_PER_CALL: Final = 500
#: Only one record of each partition is wanted: librdkafka asks for more by itself where its batch is larger.
_FIRST_BYTES: Final = 16 * 2**10
_MANY_BYTES: Final = 2**20
_ROWS_HEADER: Final = "rows"
_LATE: Final = "it could not be read in time"


def read_first(kafka: KafkaSettings, limits: LagSettings, spans: Iterable[Span]) -> dict[Span, Unread]:
    """Find the first record of each span, many partitions at once; within `read_wait_ms`, else it is not known."""
    found: dict[Span, Unread] = {}
    wanted = list(spans)
    deadline_s = time.monotonic() + limits.read_wait_ms / 1000
    if not wanted:
        return found
    with _consumer(kafka, _FIRST_BYTES) as consumer:
        for turn in _turns(wanted):
            for span, message in _records(consumer, turn, deadline_s):
                if span not in found:
                    found[span] = _first(message)
                    consumer.pause([_partition(span)])
                    turn.pop(span.place, None)
    return {span: found.get(span, Unread(None, problem=_LATE)) for span in wanted}


def _first(message: Any) -> Unread:
    """Read a span's first record; None: there is none; an error: it cannot be known."""
    if message is None:
        return Unread(is_left=False, rows=0)
    if message.error() is not None:
        return Unread(None, problem=message.error().str())
    kind, at_ms = message.timestamp()
    return Unread(is_left=True, first_ms=None if kind == TIMESTAMP_NOT_AVAILABLE else at_ms)


def count_rows(kafka: KafkaSettings, limits: LagSettings, spans: Iterable[Span]) -> dict[Span, int]:
    """Count the rows of spans, the shortest first, as far as `rows_records_max`, `rows_bytes_max` and `read_wait_ms` reach.

    Spans that are too long are left out.
    """
    chosen = _affordable(spans, limits.rows_records_max)
    counts = dict.fromkeys(chosen, 0)
    done: set[Span] = set()
    read_bytes = 0
    deadline_s = time.monotonic() + limits.read_wait_ms / 1000
    if not chosen:
        return {}
    with _consumer(kafka, _MANY_BYTES) as consumer:
        for turn in _turns(chosen):
            for span, message in _records(consumer, turn, deadline_s):
                if message is not None and message.error() is None:
                    counts[span] += rows_said(message.headers() or ())
                    read_bytes += len(message.value() or b"")
                if message is None or message.error() is not None or message.offset() >= span.end - 1:
                    consumer.pause([_partition(span)])
                    turn.pop(span.place, None)
                    if message is None or message.error() is None:
                        done.add(span)
                if read_bytes > limits.rows_bytes_max:
                    return {span: counts[span] for span in done}
    return {span: counts[span] for span in done}


def rows_said(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Read how many rows a record holds from its headers; one, where they do not say."""
    for name, content in headers:
        if name == _ROWS_HEADER and content and content.isdigit():
            return int(content)
    return 1


def _affordable(spans: Iterable[Span], records_max: int) -> list[Span]:
    chosen = []
    for span in sorted(spans, key=lambda span: (span.end - span.start, span.place, span.start)):
        records_max -= span.end - span.start
        if records_max < 0:
            break
        chosen.append(span)
    return chosen


def _turns(spans: Sequence[Span]) -> Iterator[dict[Place, Span]]:
    """Share spans out so that each turn has one of a partition: several groups may stand at several places of it."""
    waiting = list(spans)
    while waiting:
        turn: dict[Place, Span] = {}
        waiting = [span for span in waiting if turn.setdefault(span.place, span) is not span]
        yield turn


def _records(consumer: Any, turn: Mapping[Place, Span], deadline_s: float) -> Iterator[tuple[Span, Any]]:
    """Give records of the turn's spans as they come, None for a span's end, or a message that says what is wrong.

    Until the caller has taken all out of `turn`, or the deadline.
    """
    partitions = [_partition(span) for span in turn.values()]
    consumer.assign(partitions)
    consumer.resume(partitions)  # a partition stays paused from one assignment to the next
    while turn and (wait_s := deadline_s - time.monotonic()) > 0:
        first = consumer.poll(min(wait_s, _POLL_S))
        if first is None:
            continue
        for message in (first, *consumer.consume(_RECORDS_PER_CALL, timeout=0)):
            error = message.error()
            span = turn.get(Place(message.topic(), message.partition()))
            if span is None:
                continue  # of a partition that is done with, or of no partition
            if error is None:
                yield span, (message if message.offset() < span.end else None)
            elif error.code() == KafkaError._PARTITION_EOF:
                yield span, None
            elif not may_pass(error):
                yield span, message


@contextmanager
def _consumer(kafka: KafkaSettings, partition_bytes: int) -> Iterator[Any]:
    options = librdkafka_options(
        kafka,
        group_id=_NO_GROUP,
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        enable_partition_eof=True,
        isolation_level="read_committed",
        # the log may lose its beginning between asking for it and reading
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        fetch_wait_max_ms=50,
        max_partition_fetch_bytes=partition_bytes,
        # what is not wanted is not fetched in advance
        queued_min_messages=1,
        # but at once when it is wanted, not a second later
        fetch_queue_backoff_ms=5,
    )
    consumer = Consumer(options)
    try:
        yield consumer
    finally:
        consumer.close()


def _partition(span: Span) -> TopicPartition:
    return TopicPartition(span.place.topic, span.place.partition, span.start)
