"""One hierarchy of errors. Every error has a stable code, says what happened, and if it can what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding about a text: `start` and `end` are character offsets, half-open."""

    code: str
    message: str
    start: int
    end: int
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"

    def as_dict(self) -> dict[str, object]:
        """Give the five keys of the JSON contract."""
        return {"code": self.code, "message": self.message, "start": self.start, "end": self.end, "hint": self.hint}


class FqlstreamError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.code} {self.message}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class FqlError(FqlstreamError):
    """An expression is wrong; carries every finding, not only the first."""

    def __init__(self, text: str, diagnostics: Sequence[Diagnostic]) -> None:
        self.text = text
        self.diagnostics = tuple(diagnostics)
        first = self.diagnostics[0]
        super().__init__(first.code, first.message, first.hint)

    def __str__(self) -> str:
        return "\n".join(render(self.text, item) for item in self.diagnostics)


class DefinitionError(FqlstreamError):
    """A model, metric, segment or baseline definition is wrong."""


class SettingsError(FqlstreamError):
    """A setting is missing, unknown or out of its bounds."""

    exit_code = 2


class UsageError(FqlstreamError):
    """The call itself makes no sense here: wrong arguments, or a directory that is in use."""

    exit_code = 2


class BrokerError(FqlstreamError):
    """Kafka cannot be had, reached or used as asked; `retryable` says whether the same call may succeed later."""

    def __init__(self, code: str, message: str, hint: str | None = None, *, retryable: bool = False) -> None:
        super().__init__(code, message, hint)
        self.retryable = retryable


class StoreError(FqlstreamError):
    """ClickHouse refused or did not answer; `retryable` says whether the same call may succeed later."""

    def __init__(self, code: str, message: str, hint: str | None = None, *, retryable: bool = False) -> None:
        super().__init__(code, message, hint)
        self.retryable = retryable


def render(text: str, item: Diagnostic) -> str:
    """Show a finding with its line, a caret under its place, and its hint."""
    line_start = text.rfind("\n", 0, item.start) + 1
    line_end = text.find("\n", item.start)
    line = text[line_start : line_end if line_end >= 0 else len(text)]
    column = item.start - line_start
    line_number = text.count("\n", 0, item.start) + 1
    # A very long line is cut around the place, so that the caret stays on the screen.
    cut = max(0, column - 60)
    shown = line[cut : cut + 120].replace("\t", " ")
    width = max(1, min(item.end - item.start, len(shown) - (column - cut)))
    label = "" if item.severity == "error" else "warning: "
    rows = [
        f"{item.code} {label}{item.message} at {line_number}:{column + 1}",
        f"  {shown}",
        "  " + " " * (column - cut) + "^" * width,
    ]
    if item.hint:
        rows.append(f"  hint: {item.hint}")
    return "\n".join(rows)
