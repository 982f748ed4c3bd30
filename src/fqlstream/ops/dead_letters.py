"""Reading the topic of what was refused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from fqlstream.errors import BrokerError
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import KafkaSettings

TOPIC: Final = "dead-letters"
_ASK_S: Final = 10.0
#: No record for so long, though the end is not reached: the cluster is stuck.
_SILENCE_S: Final = 30.0
_RECORDS_PER_CALL: Final = 500
#: Bytes of a value that are shown; the whole value is in the topic.
PREVIEW_BYTES: Final = 300


@dataclass(frozen=True, slots=True)
class LetterRow:
    """One dead letter. `topic`, `partition`, `offset`, `row` say where the record was; `letter_offset` where the letter is."""

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


def list_dead_letters(
    settings: KafkaSettings, *, limit: int = 100, code: str | None = None, topic: str = TOPIC
) -> tuple[LetterRow, ...]:
    """Give the newest letters, oldest of them first; with `code` only those of this code.

    Raises BrokerError where the topic is missing or does not answer.
    """
    consumer = Consumer(
        librdkafka_options(
            settings, group_id="fqlstream-dead-letters", enable_auto_commit=False, enable_partition_eof=True,
            fetch_wait_max_ms=50,
        )
    )  # fmt: skip
    try:
        starts, ends = _span(consumer, topic, None if code else limit)
        consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
        newest: dict[int, deque[tuple[int, LetterRow]]] = {partition: deque(maxlen=limit) for partition in starts}
        for message in _read(consumer, starts, ends):
            row = letter_row(message.headers() or (), message.value(), message.partition(), message.offset())
            if code is None or row.code == code:
                newest[message.partition()].append((message.timestamp()[1], row))
    except KafkaException as error:
        raise BrokerError("KFK131", f"topic {topic} cannot be read: {error.args[0].str()}", "is Kafka up?") from error
    finally:
        consumer.close()
    merged = sorted((pair for rows in newest.values() for pair in rows), key=lambda pair: pair[0])
    return tuple(row for _, row in merged[-limit:])


def _span(consumer: Any, topic: str, limit: int | None) -> tuple[dict[int, int], dict[int, int]]:
    """Say from where to where each partition is to be read; the last `limit` records of each are enough where given."""
    metadata = consumer.list_topics(topic, timeout=_ASK_S).topics[topic]
    if metadata.error is not None:
        raise BrokerError("KFK132", f"topic {topic}: {metadata.error.str()}", "make it: fqlstream topics apply")
    starts, ends = {}, {}
    for partition in metadata.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ASK_S)
        if high > low:
            starts[partition] = low if limit is None else max(low, high - limit)
            ends[partition] = high
    return starts, ends


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


def letter_row(headers: Sequence[tuple[str, bytes]], value: bytes | None, partition: int, offset: int) -> LetterRow:
    """Read a letter; what its headers lack is empty or None, as anybody may write to the topic."""
    text = {name: (content or b"").decode(errors="replace") for name, content in headers}
    return LetterRow(
        code=text.get("code", ""),
        reason=text.get("reason", ""),
        topic=text.get("topic", ""),
        partition=_number(text.get("partition")),
        offset=_number(text.get("offset")),
        row=text.get("row", ""),
        seen_at=text.get("seen_at", ""),
        letter_partition=partition,
        letter_offset=offset,
        bytes=len(value or b""),
        preview=(value or b"")[:PREVIEW_BYTES].decode(errors="replace"),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
