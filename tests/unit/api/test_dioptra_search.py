"""Dioptra's query language: what a query means, and what is none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.api.dioptra_search import CHARACTERS_MAX, SearchError, matches, parse_search

FIELDS = ("description", "status", "tag")


def fits(search: str, **texts: tuple[str, ...]) -> bool:
    return matches(parse_search(search, FIELDS), texts)


@pytest.mark.parametrize(
    ("search", "text", "expected"),
    [
        ("run", "a RUN of it", True), ("description:run", "a run", False), ("description:*run", "a run", True), ("description:r?n", "RUN", True),
        ("first last", "first and last", True), ("last first", "first and last", False), ("  run  ", "run", True), ("description: run", "run", True),
        ('description:"a, b"', "a, b", True), ("description:'it\\'s'", "it's", True), ("description:50\\*", "50*", True), ("description:50\\*", "500", False),
        ("description:a\\nb", "a\nb", True), ("description:*", "two\nlines", True), ("a.c", "abc", False), ("é", "É", True), ("'a' , 'b'", "b a", True),
    ],
)  # fmt: skip
def test_a_text_fits(search: str, text: str, expected: bool) -> None:
    assert fits(search, description=(text,)) is expected


def test_a_term_without_a_field_looks_in_all_and_one_of_several_texts_is_enough() -> None:
    item = {"description": ("x",), "status": ("queued",), "tag": ("red", "blue")}
    assert fits("queue", **item)
    assert fits("tag:blue", **item)
    assert fits("tag:blue, status:queued, x", **item)
    assert not fits("tag:blue, status:finished", **item)
    assert not fits("tag:*", description=("x",), tag=())


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("job:1", "there is no field 'job': fields are description, status, tag"), ("status:", "a text is missing at 8"), ("'a", "the quote at 1 is not closed"),
        ("a\\", "nothing to escape after the backslash at 2"), ("a\\x", "nothing to escape"), ("a,,b", "a text is missing at 3"), ("a,", "a text is missing at 3"),
        ("status:a b", "'b' at 10 is not expected"), ("'a'b", "'b' at 4 is not expected"), ("a:b:c", "there is no field 'a'"), ("x" * (CHARACTERS_MAX + 1), "characters"),
    ],
)  # fmt: skip
def test_what_is_no_query_says_where(search: str, said: str) -> None:
    with pytest.raises(SearchError) as caught:
        parse_search(search, FIELDS)
    assert said in str(caught.value)


@given(st.text(alphabet="ab,:'\"\\*? \n", max_size=12))
def test_any_text_is_a_query_or_refused(search: str) -> None:
    try:
        terms = parse_search(search, FIELDS)
    except SearchError:
        return
    matches(terms, {"description": (search,), "tag": ()})


def test_many_wildcards_take_no_longer_than_the_text() -> None:
    terms = parse_search("*a" * 900 + "b", FIELDS)
    started_s = time.process_time()
    assert not matches(terms, {"description": ("a" * 5_000,)})
    assert time.process_time() - started_s < 2
