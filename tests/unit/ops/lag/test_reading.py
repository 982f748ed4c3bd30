from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.ops.lag.places import Log, Place, Span
from fqlstream.ops.lag.reading import _affordable, _turns, rows_said
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
