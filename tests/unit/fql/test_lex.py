"""FQL's words, one by one: what they mean, where they stand, and what is said of those that are none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream.errors import Diagnostic
from fqlstream.fql.ast import KEYWORDS
from fqlstream.fql.lex import Kind, Token, tokens


def read(text: str) -> tuple[list[Token], list[Diagnostic]]:
    said: list[Diagnostic] = []
    return list(tokens(text, said.append)), said


def words(text: str) -> list[tuple[Kind, str]]:
    """Read a text that is sound; its end is left out."""
    found, said = read(text)
    assert said == []
    assert (found[-1].kind, found[-1].start) == (Kind.END, len(text))
    return [(token.kind, token.text) for token in found[:-1]]


def test_words_and_their_kinds() -> None:
    assert words("sum(x1) >= -2.5 and \"a b\" != 'it''s', level=.5") == [
        (Kind.NAME, "sum"), (Kind.OPEN, "("), (Kind.NAME, "x1"), (Kind.CLOSE, ")"), (Kind.OPERATOR, ">="),
        (Kind.OPERATOR, "-"), (Kind.NUMBER, "2.5"), (Kind.KEYWORD, "and"), (Kind.QUOTED, "a b"), (Kind.OPERATOR, "!="),
        (Kind.STRING, "it's"), (Kind.COMMA, ","), (Kind.NAME, "level"), (Kind.EQUALS, "="), (Kind.NUMBER, ".5"),
    ]  # fmt: skip


def test_white_space_and_nothing_have_no_words() -> None:
    assert words("") == words(" \t\r\n ") == []


@pytest.mark.parametrize("text", ["0", "10", "2.34", ".5", "1e3", "1E-3", "1.5e+10", "1e308", "5e-324", "007"])
def test_a_number_is_the_double_next_to_it(text: str) -> None:
    (token, _), said = read(text)
    assert (token.kind, token.number, said) == (Kind.NUMBER, float(text), [])


@pytest.mark.parametrize("text", ["1.", "1.2.3", "1e", "0x10", "1_000", "3abc", "1e309", "12and"])
def test_what_looks_like_a_number_and_is_none_is_one_error_over_all_of_it(text: str) -> None:
    found, said = read(text)
    assert [token.kind for token in found] == [Kind.INVALID, Kind.END]
    assert [(item.code, item.start, item.end) for item in said] == [("FQL004", 0, len(text))]
    assert said[0].hint


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_quoted_text_means_what_stands_in_it(text: str) -> None:
    assert words("'" + text.replace("'", "''") + "'") == [(Kind.STRING, text)]
    if text:
        assert words('"' + text.replace('"', '""') + '"') == [(Kind.QUOTED, text)]


@pytest.mark.parametrize(
    ("text", "code", "place", "kind", "meant"),
    [
        ("a <> b", "FQL007", (2, 4), Kind.OPERATOR, "!="),
        ("a && b", "FQL007", (2, 4), Kind.KEYWORD, "and"),
        ("a ≤ b", "FQL007", (2, 3), Kind.OPERATOR, "<="),
        ("a \\* b", "FQL007", (2, 4), Kind.OPERATOR, "*"),
        ("x AND y", "FQL006", (2, 5), Kind.KEYWORD, "and"),
        ("x == ‘FR’", "FQL002", (5, 9), Kind.STRING, "FR"),
        ("sum(“a b”)", "FQL002", (4, 9), Kind.QUOTED, "a b"),
        ("sum(`x`)", "FQL002", (4, 7), Kind.QUOTED, "x"),
        ("sum(größe)", "FQL001", (4, 9), Kind.NAME, "größe"),
    ],
)
def test_what_is_plainly_meant_is_said_and_read_as_meant(
    text: str, code: str, place: tuple[int, int], kind: Kind, meant: str
) -> None:
    found, said = read(text)
    assert [(item.code, (item.start, item.end)) for item in said] == [(code, place)]
    assert said[0].hint
    assert [(token.kind, token.text) for token in found if token.repaired] == [(kind, meant)]


@pytest.mark.parametrize(
    ("text", "code", "start"),
    [("x == 'FR", "FQL003", 5), ('sum("x', "FQL003", 4), ("'FR’ + 1", "FQL003", 0), ('sum("")', "FQL005", 4),
     ("x # y", "FQL001", 2), ("x\x00", "FQL001", 1), ("'\ud800'", "FQL001", 1), ("x == ”", "FQL002", 5)],
)  # fmt: skip
def test_what_nobody_can_read_is_an_error_where_it_stands(text: str, code: str, start: int) -> None:
    found, said = read(text)
    assert [(item.code, item.start) for item in said] == [(code, start)]
    assert any(token.kind is Kind.INVALID for token in found)


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from("ab1_.e '\"“”‘’`\\<>=!&|~≤−+-*/%^(),;?#é\n\ud800\x00"), max_size=60))
def test_words_stand_side_by_side_and_leave_out_nothing_but_white_space(text: str) -> None:
    found, said = read(text)
    at = 0
    for token in found:
        assert text[at : token.start].strip() == ""
        assert at <= token.start <= token.end
        at = token.end
    assert at == len(text)
    assert [token.kind for token in found].count(Kind.END) == 1
    assert all(0 <= item.start < item.end <= len(text) for item in said)
    assert bool(said) == any(token.repaired or token.kind is Kind.INVALID for token in found)


@pytest.mark.parametrize("piece", ["'", "“", "`", "‘a", "1.", "(", "ab ", "\\", '"a'])
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    def seconds(times: int) -> float:
        text = piece * times
        began = time.process_time()
        for _ in tokens(text, lambda _: None):
            pass
        return time.process_time() - began

    seconds(100)
    small, large = min(seconds(2_000) for _ in range(3)), min(seconds(32_000) for _ in range(3))
    assert large < 100 * small + 0.05  # in proportion: 16 times; by its square: 256 times


def test_every_keyword_is_one() -> None:
    assert words(" ".join(sorted(KEYWORDS))) == [(Kind.KEYWORD, word) for word in sorted(KEYWORDS)]
