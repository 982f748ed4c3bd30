"""How the chunks of a streamed result become one answer: chDB gives each chunk as a whole document of its format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fqlstream.store.embedded.native import with_revision

#: Formats without a beginning or an end: chunks just follow each other.
_PLAIN = frozenset({
    "Native", "TSV", "TabSeparated", "TSVRaw", "TabSeparatedRaw", "CSV", "JSONEachRow", "JSONLines", "NDJSON", "JSONCompactEachRow",
    "JSONStringsEachRow", "JSONCompactStringsEachRow", "RowBinary", "TSKV", "LineAsString", "RawBLOB", "Null",
})  # fmt: skip


class Joiner(Protocol):
    """Turns the documents of the chunks into one."""

    def __call__(self, document: bytes) -> bytes:
        """Give the bytes that a chunk adds."""
        ...


def joiner(format_name: str, protocol_version: int = 0) -> Joiner | None:
    """Give what joins the chunks of a format; None where a result must be there as a whole (JSON, Parquet, Pretty...)."""
    if format_name == "Native" and protocol_version:
        return lambda document: with_revision(document, protocol_version)
    if format_name in _PLAIN:
        return _as_it_is
    if format_name == "ArrowStream":
        return _ArrowStream()
    header = _HEADERS.get(format_name)
    return _WithoutHeader(header) if header else None


def _as_it_is(document: bytes) -> bytes:
    return document


class _WithoutHeader:
    """Drops the header from every document but the first."""

    def __init__(self, length: Callable[[bytes], int]) -> None:
        self._length = length
        self._first = True

    def __call__(self, document: bytes) -> bytes:
        if self._first:
            self._first = False
            return document
        return document[self._length(document) :]


class _ArrowStream:
    """Joins Arrow IPC streams: one schema at the start; the end mark comes with `END`."""

    END = b"\xff\xff\xff\xff\x00\x00\x00\x00"

    def __init__(self) -> None:
        self._first = True

    def __call__(self, document: bytes) -> bytes:
        start = 0
        if not self._first:
            # continuation mark, length of the schema's metadata (padding included), metadata; a schema has no body
            start = 8 + int.from_bytes(document[4:8], "little")
        self._first = False
        end = len(document) - (len(self.END) if document.endswith(self.END) else 0)
        return document[start:end]


def ending(format_name: str) -> bytes:
    """Give what closes the joined document."""
    return _ArrowStream.END if format_name == "ArrowStream" else b""


def _lines(count: int) -> Callable[[bytes], int]:
    def length(document: bytes) -> int:
        at = 0
        for _ in range(count):
            at = document.index(b"\n", at) + 1
        return at

    return length


def _quoted_lines(count: int) -> Callable[[bytes], int]:
    """CSV quotes names, and a quoted name may hold a line break."""

    def length(document: bytes) -> int:
        at = 0
        quotes = 0
        seen = 0
        while seen < count:
            end = document.index(b"\n", at) + 1
            quotes += document.count(b'"', at, end)
            seen += quotes % 2 == 0
            at = end
        return at

    return length


_HEADERS: dict[str, Callable[[bytes], int]] = {
    "TSVWithNames": _lines(1),
    "TabSeparatedWithNames": _lines(1),
    "TSVWithNamesAndTypes": _lines(2),
    "TabSeparatedWithNamesAndTypes": _lines(2),
    "TSVRawWithNames": _lines(1),
    "TabSeparatedRawWithNames": _lines(1),
    "JSONCompactEachRowWithNames": _lines(1),
    "JSONCompactEachRowWithNamesAndTypes": _lines(2),
    "CSVWithNames": _quoted_lines(1),
    "CSVWithNamesAndTypes": _quoted_lines(2),
}

#: Media types of ClickHouse's formats, as its server names them.
_MEDIA_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONStrings": "application/json; charset=UTF-8",
    "JSONColumns": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "CSVWithNamesAndTypes": "text/csv; charset=UTF-8; header=present",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "RowBinaryWithNamesAndTypes": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "XML": "application/xml; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSVWithNames": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
}


def media_type(format_name: str) -> str:
    """Name the content of an answer."""
    return _MEDIA_TYPES.get(format_name, "text/plain; charset=UTF-8")
