"""Where a statement ends and its data begins. Everything else about SQL is left to ClickHouse's own parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Tokens of ClickHouse's SQL, as far as finding a clause needs them. A text cut short ends its last token at its end.
_TOKEN = re.compile(
    rb"""(?P<space>[\s;]+|--[^\n]*|\#[\ !][^\n]*|/\*.*?(?:\*/|\Z))
       | (?P<quoted>'(?:[^'\\]|\\.)*(?:'|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z)|`(?:[^`\\]|\\.)*(?:`|\Z))
       | (?P<heredoc>\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z))
       | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
       | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_BEFORE_DATA = re.compile(rb"[ \t\f]*\r?\n?")


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT whose data follows it: `sql` ends before FORMAT or VALUES, on a line of its own: a comment may stand last."""

    sql: bytes
    format: str
    data_start: int  # where in the text the data begins


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    @property
    def word(self) -> bytes:
        """The word in capitals, or nothing."""
        return self.text.upper() if self.kind == "word" else b""


def _tokens(text: bytes) -> Iterator[_Token]:
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        kind = "heredoc" if kind == "tag" else kind
        if kind == "space":
            continue
        token = match.group()
        if token in (b")", b"]", b"}"):
            depth -= 1
        yield _Token(kind, token, match.start(), match.end(), depth)
        if token in (b"(", b"[", b"{"):
            depth += 1


def first_word(text: bytes) -> bytes:
    """Give the first word of a statement in capitals, comments and brackets skipped."""
    return next((token.word for token in _tokens(text) if token.text != b"("), b"")


def split_insert(text: bytes) -> Insert | None:
    """Find the data of an INSERT; None where the statement is none, or takes its rows from a SELECT or a file."""
    named = False
    previous = b""
    waiting: _Token | None = None
    for index, token in enumerate(_tokens(text)):
        if index == 0 and token.word != b"INSERT":
            return None
        if waiting is not None:
            if token.kind == "word":
                end = _BEFORE_DATA.match(text, token.end)
                return Insert(text[: waiting.start] + b"\n", token.text.decode(), end.end() if end else token.end)
            waiting = None
        is_name = (
            not named and previous in (b"INTO", b"TABLE", b"FUNCTION", b"INSERT") and token.word not in _AFTER_INTO
        )
        named = named or is_name
        if token.depth == 0 and named and not is_name and previous != b".":
            if token.word == b"VALUES":
                return Insert(text[: token.start] + b"\n", "Values", token.end)
            if token.word in (b"SELECT", b"WITH", b"FROM", b"WATCH"):
                return None
            if token.word == b"FORMAT":
                waiting = token
        previous = token.word or token.text
    return None


_AFTER_INTO = (b"INTO", b"TABLE", b"FUNCTION")


def output_format(text: bytes) -> str | None:
    """Give the name in the trailing FORMAT clause of a query, if it has one."""
    found: str | None = None
    tokens = list(_tokens(text)) if re.search(rb"format", text, re.IGNORECASE) else []
    for token, after, beyond in zip(tokens, tokens[1:], [*tokens[2:], None], strict=False):
        closes = beyond is None or beyond.word in (b"SETTINGS", b"INTO")
        if token.depth == 0 and token.word == b"FORMAT" and after.kind == "word" and closes:
            found = after.text.decode()
    return found


def names_server_file(text: bytes) -> bool:
    """Tell whether the statement reads or writes a file beside the server: INTO OUTFILE or FROM INFILE."""
    if not re.search(rb"(?:in|out)file", text, re.IGNORECASE):
        return False
    previous = b""
    for token in _tokens(text):
        if (previous, token.word) in ((b"INTO", b"OUTFILE"), (b"FROM", b"INFILE")):
            return True
        previous = token.word
    return False


def names(canonical: bytes, identifier: bytes) -> bool:
    """Tell whether a statement in ClickHouse's own formatting names something without saying whose it is (`t.name`).

    A function is called by its name, through APPLY, or as an argument of another function.
    """
    previous = b""
    for token in _tokens(canonical):
        bare = token.text.strip(b'`"') if token.kind == "word" or token.text[:1] in (b"`", b'"') else b""
        if bare.lower() == identifier and previous != b".":
            return True
        previous = token.text
    return False
