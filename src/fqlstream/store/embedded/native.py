"""Blocks of ClickHouse's Native format as clients of a newer protocol read them.

The engine writes plain blocks (revision 0). A client that names its revision (`client_protocol_version`) reads a block's
info before it, and, since 54454, one byte per column that says how it is serialised. To put that byte in, a column's end has
to be found, and so its type read; types without a fixed layout are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fqlstream.store.embedded.exceptions import NOT_IMPLEMENTED, refusal

#: Since this revision each column says how it is serialised.
CUSTOM_SERIALIZATION = 54_454
#: No overflow, bucket -1: what a query's blocks always say.
BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"

_FIXED_BYTES = {
    "Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32, "UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8,
    "UInt128": 16, "UInt256": 32, "Float32": 4, "Float64": 8, "BFloat16": 2, "Bool": 1, "Date": 2, "Date32": 4, "DateTime": 4,
    "DateTime32": 4, "DateTime64": 8, "Time": 4, "Time64": 8, "Enum8": 1, "Enum16": 2, "UUID": 16, "IPv4": 4, "IPv6": 16, "Nothing": 1,
    "Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32,
}  # fmt: skip
_ALIASES = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Tuple(Float64, Float64))",
    "LineString": "Array(Tuple(Float64, Float64))",
    "Polygon": "Array(Array(Tuple(Float64, Float64)))",
    "MultiLineString": "Array(Array(Tuple(Float64, Float64)))",
    "MultiPolygon": "Array(Array(Array(Tuple(Float64, Float64))))",
}
_HEAD = re.compile(r"([A-Za-z0-9]+)(?:\((.*)\))?", re.DOTALL)
_NAMED = re.compile(r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_]*)\s+(?=[A-Z])")
_KEYS_FOLLOW = 1 << 9


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    parts: tuple[_Type, ...] = ()
    bytes_each: int = 0


def with_revision(block: bytes, revision: int) -> bytes:
    """Give one plain block as a client of a revision reads it."""
    if revision <= 0 or not block:
        return block
    if revision < CUSTOM_SERIALIZATION:
        return BLOCK_INFO + block
    return all_with_revision(block, revision)


def all_with_revision(blocks: bytes, revision: int) -> bytes:
    """Give any number of plain blocks as a client of a revision reads them."""
    pieces: list[bytes] = []
    at = 0
    while at < len(blocks) and revision > 0:
        at = _rewrite(blocks, at, revision, pieces)
    return b"".join(pieces) if revision > 0 else blocks


def _rewrite(data: bytes, at: int, revision: int, pieces: list[bytes]) -> int:
    start = at
    columns, at = _varint(data, at)
    rows, at = _varint(data, at)
    pieces += [BLOCK_INFO, data[start:at]]
    for _ in range(columns):
        start = at
        _, at = _text(data, at)
        kind, at = _text(data, at)
        pieces.append(data[start:at] + (b"\x00" if revision >= CUSTOM_SERIALIZATION else b""))
        if rows:
            parsed = parse_type(kind)
            end = _skip(data, _skip_prefix(data, at, parsed), parsed, rows)
            pieces.append(data[at:end])
            at = end
    return at


def parse_type(text: str) -> _Type:
    """Read a type's name. Raises EngineError for one whose layout is not fixed."""
    found = _HEAD.fullmatch(_ALIASES.get(text, text).strip())
    if found is None:
        raise _unsupported(text)
    name, inner = found[1], found[2] or ""
    match name:
        case "String":
            return _Type("String")
        case "FixedString":
            return _Type("Fixed", bytes_each=int(inner))
        case "Decimal":
            digits = int(inner.split(",")[0])
            return _Type("Fixed", bytes_each=4 if digits <= 9 else 8 if digits <= 18 else 16 if digits <= 38 else 32)
        case "Nullable" | "Array" | "LowCardinality":
            return _Type(name, (parse_type(inner),))
        case "Tuple":
            return _Type("Tuple", tuple(parse_type(_unnamed(part)) for part in _arguments(inner)))
        case "Map":
            return _Type("Array", (_Type("Tuple", tuple(parse_type(part) for part in _arguments(inner))),))
        case "Nested":
            return _Type("Array", (_Type("Tuple", tuple(parse_type(_unnamed(part)) for part in _arguments(inner))),))
        case "SimpleAggregateFunction":
            return parse_type(_arguments(inner)[-1])
    if name in _FIXED_BYTES:
        return _Type("Fixed", bytes_each=_FIXED_BYTES[name])
    raise _unsupported(text)


def _unsupported(text: str) -> Exception:
    return refusal(
        NOT_IMPLEMENTED,
        f"The embedded store cannot send a column of type {text} to a client of this protocol version: convert it, "
        "for example with toString or toJSONString",
    )


def _unnamed(part: str) -> str:
    return _NAMED.sub("", part, count=1) if _NAMED.match(part) else part


def _arguments(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, start, quote = [], 0, 0, ""
    skip = False
    for at, char in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = char == "\\"
            quote = "" if char == quote else quote
        elif char in "'`":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(data: bytes, at: int) -> tuple[str, int]:
    length, at = _varint(data, at)
    return data[at : at + length].decode(errors="replace"), at + length


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _skip_prefix(data: bytes, at: int, kind: _Type) -> int:
    """Skip what stands before a column's values: the version of each dictionary's layout."""
    if kind.name == "LowCardinality":
        return at + 8
    for part in kind.parts:
        at = _skip_prefix(data, at, part)
    return at


def _skip(data: bytes, at: int, kind: _Type, rows: int) -> int:
    return _SKIP[kind.name](data, at, kind, rows)


def _skip_fixed(_data: bytes, at: int, kind: _Type, rows: int) -> int:
    return at + kind.bytes_each * rows


def _skip_strings(data: bytes, at: int, _kind: _Type, rows: int) -> int:
    for _ in range(rows):
        length = data[at]
        at += 1
        if length >= 0x80:
            length, at = _varint(data, at - 1)
        at += length
    return at


def _skip_nullable(data: bytes, at: int, kind: _Type, rows: int) -> int:
    return _skip(data, at + rows, kind.parts[0], rows)


def _skip_array(data: bytes, at: int, kind: _Type, rows: int) -> int:
    items = _number(data, at + 8 * (rows - 1)) if rows else 0
    return _skip(data, at + 8 * rows, kind.parts[0], items)


def _skip_tuple(data: bytes, at: int, kind: _Type, rows: int) -> int:
    if not kind.parts:
        return at + rows
    for part in kind.parts:
        at = _skip(data, at, part, rows)
    return at


def _skip_dictionary(data: bytes, at: int, kind: _Type, rows: int) -> int:
    if not rows:
        return at
    flags = _number(data, at)
    at += 8
    if flags & _KEYS_FOLLOW:
        keys = _number(data, at)
        inner = kind.parts[0]
        at = _skip(data, at + 8, inner.parts[0] if inner.name == "Nullable" else inner, keys)
    return at + 8 + (1 << (flags & 0xFF)) * _number(data, at)


_SKIP: dict[str, Callable[[bytes, int, _Type, int], int]] = {
    "Fixed": _skip_fixed,
    "String": _skip_strings,
    "Nullable": _skip_nullable,
    "Array": _skip_array,
    "Tuple": _skip_tuple,
    "LowCardinality": _skip_dictionary,
}
