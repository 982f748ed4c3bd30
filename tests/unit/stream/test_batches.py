"""Fetches cut into parts, and what a dead letter keeps of its record."""

from __future__ import annotations

import numpy as np
import pytest

from fqlstream.stream.batches import DeadLetter, Fetch

OFFSETS = [3, 4, 8, 9]  # 5 to 7 are control records, or compacted


@pytest.fixture
def fetch() -> Fetch:
    return Fetch(
        "inference-events",
        2,
        np.array(OFFSETS),
        np.array([100, 101, 102, 103]),
        [b"a", None, b"c", b"d"],
        [b"A", b"B", None, b"D"],
        {1: (("rows", b"7"), ("model", b"m")), 3: (("note", b"x"),)},
        next_offset=12,
        bytes_count=500,
        start=1,
    )


@pytest.mark.parametrize("cut", range(len(OFFSETS) + 1))
def test_parts_hold_every_record_once_with_its_headers(fetch: Fetch, cut: int) -> None:
    parts = [fetch.part(0, cut), fetch.part(cut, len(fetch))]
    assert [len(part) for part in parts] == [cut, len(OFFSETS) - cut]
    for name in ("offsets", "record_at_ms", "keys", "values"):
        assert [one for part in parts for one in getattr(part, name)] == list(getattr(fetch, name))
    headers = {int(part.offsets[at]): of for part in parts for at, of in part.headers.items()}
    assert headers == {OFFSETS[at]: of for at, of in fetch.headers.items()}


@pytest.mark.parametrize(("start", "end", "next_offset"), [(0, 1, 4), (0, 2, 8), (1, 3, 9), (2, 4, 12), (0, 4, 12)])
def test_a_part_ends_where_the_next_one_begins_and_the_last_with_the_fetch(
    fetch: Fetch, start: int, end: int, next_offset: int
) -> None:
    assert fetch.part(start, end).next_offset == next_offset


def test_a_part_of_a_part_is_a_part(fetch: Fetch) -> None:
    part = fetch.part(1, 4).part(1, 3)
    assert (part.offsets.tolist(), part.next_offset, dict(part.headers)) == ([8, 9], 12, {1: (("note", b"x"),)})
    assert fetch.part(1, 4).part(0, 1).next_offset == 8


def test_a_refused_record_is_kept_as_it_was(fetch: Fetch) -> None:
    letter = DeadLetter.of(fetch, 3, "DLQ005", "no JSON", None)
    assert letter.origin == "inference-events[2]@9"
    assert (letter.key, letter.value, letter.record_at_ms, letter.row) == (b"d", b"D", 103, "0")
    assert letter.headers == (("note", b"x"),)
    assert DeadLetter.of(fetch, 2, "DLQ001", "no value", None).value is None


def test_refused_rows_of_a_batch_are_a_batch_of_their_own_that_says_how_many_they_are(fetch: Fetch) -> None:
    letter = DeadLetter.of(fetch, 1, "DLQ014", "too late", "application/arrow", ("0,3,6", b"three rows"))
    assert (letter.row, letter.value, letter.content_type) == ("0,3,6", b"three rows", "application/arrow")
    assert dict(letter.headers) == {"rows": b"3", "model": b"m"}
    assert DeadLetter.of(fetch, 1, "DLQ014", "too late", None, ("4", b"one")).headers[0] == ("rows", b"1")
