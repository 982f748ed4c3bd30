from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.ops.lag.places import Log, Place, Span
from fqlstream.ops.lag.reading import _affordable, _records, _turns, rows_said
from fqlstream.ops.lag.sampling import unread_span

spans = st.builds(
    lambda partition, start, length: Span(Place("t", partition), start, start + length),
    st.integers(0, 3), st.integers(0, 9), st.integers(1, 9),
)  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "rows"),
    [([], 1), ([("rows", b"42")], 42), ([("model", b"m"), ("rows", b"0")], 0), ([("rows", None)], 1), ([("rows", b"")], 1),
     ([("rows", b"-3")], 1), ([("rows", b"many")], 1), ([("rows", "٣".encode())], 1), ([("Rows", b"4")], 1)],
)  # fmt: skip
def test_rows_are_what_the_header_says_else_one(headers: list[tuple[str, bytes | None]], rows: int) -> None:
    assert rows_said(headers) == rows


@given(st.lists(spans, unique=True))
def test_every_span_has_its_turn_and_no_turn_has_a_partition_twice(wanted: list[Span]) -> None:
    turns = [dict(turn) for turn in _turns(wanted)]
    assert sorted((s.place, s.start, s.end) for turn in turns for s in turn.values()) == sorted(
        (s.place, s.start, s.end) for s in wanted
    )
    assert all(place == span.place for turn in turns for place, span in turn.items())


@given(st.lists(spans, unique=True), st.integers(0, 60))
def test_the_shortest_spans_are_counted_as_long_as_there_is_room(wanted: list[Span], records_max: int) -> None:
    chosen = _affordable(wanted, records_max)
    lengths = [span.end - span.start for span in chosen]
    assert sum(lengths) <= records_max
    left = [span.end - span.start for span in wanted if span not in chosen]
    assert all(length >= max(lengths, default=0) for length in left)
    if left:
        assert sum(lengths) + min(left) > records_max


@pytest.mark.parametrize(
    ("committed", "log", "span"),
    [
        (5, Log(0, 10, 10), (5, 10)),
        (5, Log(7, 10, 10), (7, 10)),  # expired: what is gone cannot be read
        (5, Log(0, 10, 8), (5, 8)),  # an open transaction
        (8, Log(0, 10, 8), None),
        (10, Log(0, 10, 10), None),
        (12, Log(0, 10, 10), None),
        (0, Log(10, 10, 10), None),
    ],
)
def test_what_may_still_be_read(committed: int, log: Log, span: tuple[int, int] | None) -> None:
    found = unread_span(Place("t", 0), committed, log)
    assert (None if found is None else (found.start, found.end)) == span


class _Message:
    """A record, or an error that a consumer tells of a partition."""

    def __init__(self, partition: int, offset: int, code: int | None = None) -> None:
        self._place, self._offset = ("t", partition), offset
        self._error = None if code is None else KafkaError(code)

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return self._error


class _Consumer:
    """Gives messages that were prepared, one after the other, then nothing."""

    def __init__(self, *messages: _Message) -> None:
        self._messages = list(messages)
        self.assigned: list[tuple[int, int]] = []

    def assign(self, partitions: list[Any]) -> None:
        self.assigned = [(each.partition, each.offset) for each in partitions]

    def resume(self, _partitions: list[Any]) -> None:
        """Nothing is paused here."""

    def poll(self, _wait_s: float) -> _Message | None:
        return self._messages.pop(0) if self._messages else None

    def consume(self, _count: int, timeout: float) -> list[_Message]:
        assert timeout == 0, "what has come is taken; nothing is waited for"
        return []


def read(consumer: _Consumer, *wanted: Span, wait_s: float = 30.0) -> list[tuple[int, Any]]:
    """Give partition and offset of what comes, None for an end, a text for an error; each partition until it has ended."""
    turn = {span.place: span for span in wanted}
    found: list[tuple[int, Any]] = []
    for span, message in _records(consumer, turn, time.monotonic() + wait_s):
        error = message and message.error()
        found.append((span.place.partition, error.name() if error else message and message.offset()))
        if message is None or error:
            turn.pop(span.place)
    return found


def test_what_was_written_after_the_look_began_is_not_in_a_span() -> None:
    consumer = _Consumer(_Message(0, 5), _Message(0, 9))
    assert read(consumer, Span(Place("t", 0), 4, 8)) == [(0, 5), (0, None)]
    assert consumer.assigned == [(0, 4)]


def test_the_end_of_a_log_a_refusal_and_what_passes_by_itself() -> None:
    passing = _Message(0, 0, KafkaError.NOT_LEADER_FOR_PARTITION)
    ended = _Message(0, 0, KafkaError._PARTITION_EOF)
    refused = _Message(1, 0, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    done_with = _Message(1, 6)
    consumer = _Consumer(passing, refused, done_with, ended)
    spans = [Span(Place("t", number), 0, 8) for number in range(2)]
    assert read(consumer, *spans) == [(1, "TOPIC_AUTHORIZATION_FAILED"), (0, None)]


def test_reading_ends_with_its_time() -> None:
    assert read(_Consumer(), Span(Place("t", 0), 0, 8), wait_s=0.05) == []
