"""The query language of Dioptra's lists: terms joined by commas, all of which must hold.

A term is a text to look for in any field, or `field:text` for the whole of one. A text is plain or in quotes of either kind, has the
wildcards `*` (anything) and `?` (one sign), and takes signs that mean something after a backslash. Letters match in either case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

#: Signs that a backslash makes plain; `n` becomes a line's end.
_ESCAPED: Final = frozenset("\\?*\"':,n")
_FIELD: Final = re.compile(r"\s*([A-Za-z_]+)\s*:")
#: A longer query is a slip, and would only cost time.
CHARACTERS_MAX: Final = 2_000


class SearchError(ValueError):
    """A query is none; says where."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term: `field` None is any."""

    field: str | None
    pattern: Any


def parse_search(text: str, fields: Sequence[str]) -> tuple[Term, ...]:
    """Read a query; an empty one has no terms. Raises SearchError for a broken one and for a field that there is not."""
    if len(text) > CHARACTERS_MAX:
        message = f"it has {len(text)} characters; {CHARACTERS_MAX} may be"
        raise SearchError(message)
    if not text.strip():
        return ()
    terms: list[Term] = []
    at = 0
    while True:
        term, at = _term(text, at, fields)
        terms.append(term)
        if at == len(text):
            return tuple(terms)
        at += 1  # the comma


def matches(terms: Sequence[Term], read: Mapping[str, Sequence[str]]) -> bool:
    """Say whether an item, given by the texts of its fields, fits all terms."""
    return all(
        any(
            term.pattern.fullmatch(text)
            for field, texts in read.items()
            if term.field in (None, field)
            for text in texts
        )
        for term in terms
    )


def _term(text: str, at: int, fields: Sequence[str]) -> tuple[Term, int]:
    """Read a term; gives it and the place of the comma behind it, or of the end."""
    field = None
    if (found := _FIELD.match(text, at)) is not None:
        field, at = found[1], found.end()
        if field not in fields:
            message = f"there is no field {field!r}: fields are {', '.join(fields)}"
            raise SearchError(message)
    while at < len(text) and text[at].isspace():
        at += 1
    quote = text[at] if at < len(text) and text[at] in "\"'" else None
    pattern, at = _text(text, at + 1, quote) if quote else _text(text, at, None, spaces=field is None)
    if quote:
        at += 1
    while at < len(text) and text[at].isspace():
        at += 1
    if at < len(text) and text[at] != ",":
        message = f"{text[at]!r} at {at + 1} is not expected: put a text with signs like it in quotes"
        raise SearchError(message)
    body = "".join(pattern)
    # a text without a field may stand anywhere in one, its words with anything between them
    # RE2 takes time in proportion to the text, however many wildcards there are
    return Term(field, re2.compile(f"(?is){body}" if field is not None else f"(?is).*{body}.*")), at


def _text(text: str, at: int, quote: str | None, *, spaces: bool = True) -> tuple[list[str], int]:
    """Read a text as parts of a regular expression, up to its quote, a comma or the end; it is never empty."""
    start, parts = at, list[str]()
    while at < len(text) and text[at] != quote:
        sign = text[at]
        if sign == "\\":
            at += 1
            if at == len(text) or text[at] not in _ESCAPED:
                message = f"nothing to escape after the backslash at {at}"
                raise SearchError(message)
            parts.append(re2.escape("\n" if text[at] == "n" else text[at]))
        elif sign in "*?":
            parts.append(".*" if sign == "*" else ".")
        elif quote is None and sign in "\"':,":
            break
        elif quote is None and sign.isspace():
            if not spaces:
                break
            while at + 1 < len(text) and text[at + 1].isspace():
                at += 1
            if at + 1 < len(text) and text[at + 1] != ",":
                parts.append(".*")
        else:
            parts.append(re2.escape(sign))
        at += 1
    if quote is not None and at == len(text):
        message = f"the quote at {start} is not closed"
        raise SearchError(message)
    if not parts:
        message = f"a text is missing at {start + 1}"
        raise SearchError(message)
    return parts, at
