"""FQL's words. Lazily, in one pass over the text; what is wrong is reported, and where the meaning is plain, read as meant.

Reading on as meant lets the parser and the checker find the other errors of the expression in the same run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fqlstream.errors import Diagnostic
from fqlstream.fql.ast import KEYWORDS

Report = Callable[[Diagnostic], None]


class Kind(StrEnum):
    """What a word is."""

    NUMBER = "number"
    STRING = "string"
    QUOTED = "quoted name"
    NAME = "name"
    KEYWORD = "keyword"
    OPERATOR = "operator"
    OPEN = "("
    CLOSE = ")"
    COMMA = ","
    EQUALS = "="
    INVALID = "invalid"
    END = "end"


@dataclass(slots=True)
class Token:
    """One word; `text` is its meaning (an unescaped String, a repaired operator), the offsets are its place."""

    kind: Kind
    text: str
    start: int
    end: int
    number: float = 0.0
    repaired: bool = False


#: What people paste from other languages, what it becomes here, and the hint.
_FOREIGN: Final = {
    "<>": ("!=", "write !="),
    "!==": ("!=", "write !="),
    "===": ("==", "write =="),
    "=>": (">=", "write >="),
    "=<": ("<=", "write <="),
    "&&": ("and", "write and"),
    "&": ("and", "write and"),
    "||": ("or", "write or (to join Strings has no function)"),
    "|": ("or", "write or"),
    "!": ("not", "write not"),
    "~": ("not", "write not"),
    "**": ("^", "write ^"),
    "//": ("/", "write /; for a whole number there is x - x % 1"),
    "≤": ("<=", "write <="),
    "≥": (">=", "write >="),
    "≠": ("!=", "write !="),
    "×": ("*", "write *"),
    "·": ("*", "write *"),
    "∗": ("*", "write *"),
    "÷": ("/", "write /"),
    "−": ("-", "write - (this is a typographic minus)"),
    "–": ("-", "write - (this is a dash)"),
    "—": ("-", "write - (this is a dash)"),
    "¬": ("not", "write not"),
    "∧": ("and", "write and"),
    "∨": ("or", "write or"),
    "`": ("", "write \"name\" for a column, 'text' for a String"),
}
_STRANGE: Final = {
    "#": "FQL has no comments",
    "[": "FQL has no lists: write x == 'a' or x == 'b'",
    "]": "FQL has no lists: write x == 'a' or x == 'b'",
    "{": "group with parentheses",
    "}": "group with parentheses",
    ";": "an expression ends by itself",
    "?": "write if(condition, value1, value2)",
    ":": "write if(condition, value1, value2)",
    ".": 'a column whose name has a dot is quoted: "a.b"',
    "\\": "drop the backslash: it is left over from Markdown",
}

_SINGLE: Final = "‘’‚‛′´"
_DOUBLE: Final = "“”„‟″"
#: Characters between a pair of typographic quotes. Bounded, so that a text full of lone quotes is read in linear time.
_TYPOGRAPHIC_MAX: Final = 256

_WORD: Final = re.compile(
    rf"""
    (?P<space>\s++)
  | (?P<number>(?:[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+(?![\w.]))
  | (?P<bad_number>\.?[0-9][\w.]*+)
  | (?P<name>[^\W\d]\w*+)
  | (?P<string>'(?:[^']++|'')*+')
  | (?P<quoted>"(?:[^"]++|"")*+")
  | (?P<open_quote>['"])
  | (?P<curly_string>[{_SINGLE}][^{_SINGLE}{_DOUBLE}'\n]{{0,{_TYPOGRAPHIC_MAX}}}+[{_SINGLE}'])
  | (?P<curly_name>[{_DOUBLE}][^{_SINGLE}{_DOUBLE}"\n]{{1,{_TYPOGRAPHIC_MAX}}}+[{_DOUBLE}"])
  | (?P<backtick>`[^`\n]{{1,{_TYPOGRAPHIC_MAX}}}+`)
  | (?P<curly>[{_SINGLE}{_DOUBLE}])
  | (?P<escaped>\\(?:[*^+\-/%]|[<>]=?|[=!]=))
  | (?P<foreign>!==|===|<>|=>|=<|&&|\|\||\*\*|//|!(?!=)|[&|~≤≥≠×·∗÷−–—¬∧∨`])
  | (?P<operator><=|>=|==|!=|[<>^*/%+\-])
  | (?P<punctuation>[(),=])
  | (?P<strange>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PUNCTUATION: Final = {"(": Kind.OPEN, ")": Kind.CLOSE, ",": Kind.COMMA, "=": Kind.EQUALS}


def tokens(text: str, report: Report) -> Iterator[Token]:
    """Give the words of a text, then END. What is wrong goes to `report`."""
    at = 0
    while at < len(text):
        found = _WORD.match(text, at)
        if found is None or found.lastgroup is None:  # `strange` takes every character
            break
        word = found[0]
        start, end = at, found.end()
        at = end
        match found.lastgroup:
            case "space":
                continue
            case "open_quote":
                yield _unterminated(text, word, start, report)
                break
            case group:
                yield _READERS[group](word, start, end, report)
    yield Token(Kind.END, "", len(text), len(text))


def _number(word: str, start: int, end: int, report: Report) -> Token:
    value = float(word)
    if value == float("inf"):
        report(Diagnostic("FQL004", "this number is too large", start, end, "numbers reach to about 1.8e308"))
        return Token(Kind.INVALID, word, start, end)
    return Token(Kind.NUMBER, word, start, end, value)


def _bad_number(word: str, start: int, end: int, report: Report) -> Token:
    digits = re.match(r"[0-9]*", word)
    lead = digits[0] if digits else ""
    rest = word[len(lead) :]
    if rest == ".":
        hint = f"write {_short(lead)} or {_short(lead)}.0"
    elif rest.lower() in KEYWORDS:
        hint = f"put a space between {_short(lead)} and {rest.lower()}"
    elif rest.isidentifier() and not rest.startswith("_"):
        hint = f'a column whose name begins with a digit is quoted: "{_short(word)}"'
    else:
        hint = "numbers look like 10, 2.34, .5 or 1e-3"
    report(Diagnostic("FQL004", f"{_short(word)} is no number", start, end, hint))
    return Token(Kind.INVALID, word, start, end)


def _name(word: str, start: int, end: int, report: Report) -> Token:
    if word in KEYWORDS:
        return Token(Kind.KEYWORD, word, start, end)
    lower = word.lower()
    if lower in KEYWORDS:
        report(
            Diagnostic(
                "FQL006",
                f"keywords are lower case: {word}",
                start,
                end,
                f'write {lower} (a column of that name is quoted: "{word}")',
            )
        )
        return Token(Kind.KEYWORD, lower, start, end, repaired=True)
    if not word.isascii():
        report(
            Diagnostic(
                "FQL001",
                f"a name without quotes has only A-Z a-z 0-9 _: {_short(word)}",
                start,
                end,
                f'write "{_short(word)}"',
            )
        )
        return Token(Kind.NAME, word, start, end, repaired=True)
    return Token(Kind.NAME, word, start, end)


def _string(word: str, start: int, end: int, report: Report) -> Token:
    if _broken_unicode(word, start, end, report):
        return Token(Kind.INVALID, word, start, end)
    return Token(Kind.STRING, word[1:-1].replace("''", "'"), start, end)


def _quoted(word: str, start: int, end: int, report: Report) -> Token:
    if len(word) == 2:
        report(Diagnostic("FQL005", "the column name is empty", start, end, "an empty String is written ''"))
        return Token(Kind.INVALID, word, start, end)
    if _broken_unicode(word, start, end, report):
        return Token(Kind.INVALID, word, start, end)
    return Token(Kind.QUOTED, word[1:-1].replace('""', '"'), start, end)


def _broken_unicode(word: str, start: int, end: int, report: Report) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError as error:
        at = start + error.start
        report(Diagnostic("FQL001", "half a surrogate pair is no character", at, min(at + 1, end)))
        return True
    return False


def _unterminated(text: str, word: str, start: int, report: Report) -> Token:
    what = "String" if word == "'" else "column name"
    curly = any(mark in text[start : start + _TYPOGRAPHIC_MAX] for mark in _SINGLE + _DOUBLE)
    hint = f"the quote that should end it is typographic: write {word}" if curly else f"end it with {word}"
    report(Diagnostic("FQL003", f"this {what} is never ended", start, len(text), hint))
    return Token(Kind.INVALID, "", start, len(text))


def _curly_string(word: str, start: int, end: int, report: Report) -> Token:
    _report_curly(start, end, f"write '{_short(word[1:-1])}'", report)
    return Token(Kind.STRING, word[1:-1], start, end, repaired=True)


def _curly_name(word: str, start: int, end: int, report: Report) -> Token:
    _report_curly(start, end, f'write "{_short(word[1:-1])}"', report)
    return Token(Kind.QUOTED, word[1:-1], start, end, repaired=True)


def _backtick(word: str, start: int, end: int, report: Report) -> Token:
    report(Diagnostic("FQL002", "a backtick quotes nothing here", start, end, f'write "{_short(word[1:-1])}"'))
    return Token(Kind.QUOTED, word[1:-1], start, end, repaired=True)


def _curly(word: str, start: int, end: int, report: Report) -> Token:
    hint = (
        "write '...' for a String, '' for the empty one"
        if word in "’”"
        else "write '...' for a String, \"...\" for a column"
    )
    _report_curly(start, end, hint, report)
    return Token(Kind.INVALID, word, start, end)


def _report_curly(start: int, end: int, hint: str, report: Report) -> None:
    report(Diagnostic("FQL002", "typographic quotes are no quotes", start, end, hint))


def _escaped(word: str, start: int, end: int, report: Report) -> Token:
    report(
        Diagnostic(
            "FQL007",
            f"{word} is an operator with a backslash before it",
            start,
            end,
            f"write {word[1:]} (the backslash is left over from Markdown)",
        )
    )
    return Token(Kind.OPERATOR, word[1:], start, end, repaired=True)


def _foreign(word: str, start: int, end: int, report: Report) -> Token:
    meant, hint = _FOREIGN[word]
    report(Diagnostic("FQL007", f"{word} is no operator of FQL", start, end, hint))
    if not meant:
        return Token(Kind.INVALID, word, start, end)
    kind = Kind.KEYWORD if meant in KEYWORDS else Kind.OPERATOR
    return Token(kind, meant, start, end, repaired=True)


def _operator(word: str, start: int, end: int, _: Report) -> Token:
    return Token(Kind.OPERATOR, word, start, end)


def _punctuation(word: str, start: int, end: int, _: Report) -> Token:
    return Token(_PUNCTUATION[word], word, start, end)


def _strange(word: str, start: int, end: int, report: Report) -> Token:
    shown = word if word.isprintable() else f"U+{ord(word):04X}"
    report(Diagnostic("FQL001", f"unexpected character {shown}", start, end, _STRANGE.get(word)))
    return Token(Kind.INVALID, word, start, end)


def _short(word: str) -> str:
    return word if len(word) <= 40 else f"{word[:37]}..."


_READERS: Final[dict[str, Callable[[str, int, int, Report], Token]]] = {
    "number": _number,
    "bad_number": _bad_number,
    "name": _name,
    "string": _string,
    "quoted": _quoted,
    "curly_string": _curly_string,
    "curly_name": _curly_name,
    "backtick": _backtick,
    "curly": _curly,
    "escaped": _escaped,
    "foreign": _foreign,
    "operator": _operator,
    "punctuation": _punctuation,
    "strange": _strange,
}
