"""The rules of events, written out slowly: what the decoder is held to. Plain Python over one record, no batch anywhere."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import Column, ModelDefinition
from fqlstream.settings import StreamSettings

RECORD_BYTES_MAX = 2_000
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?([Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


@dataclass(frozen=True)
class Row:
    model: str
    version: str
    kind: str
    event_id: str
    event_at: int
    columns: dict[str, Any]
    type_violations: tuple[str, ...]
    range_violations: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    model: str
    event_at: int


@dataclass(frozen=True)
class Dead:
    code: str


def read(value: bytes | None, record_at: int, catalogue: Catalogue, settings: StreamSettings) -> Row | Mark | Dead:
    if not value:
        return Dead("DLQ001")
    if len(value) > RECORD_BYTES_MAX:
        return Dead("DLQ002")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return Dead("DLQ003")
    if _depth(text) > settings.json_depth_max:
        return Dead("DLQ004")
    try:
        event = json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except ValueError:
        return Dead("DLQ005")
    if _has_surrogate(event):
        return Dead("DLQ005")
    if not isinstance(event, dict):
        return Dead("DLQ006")
    return _event(event, record_at, catalogue, settings)


def _event(event: dict[str, Any], record_at: int, catalogue: Catalogue, settings: StreamSettings) -> Row | Mark | Dead:
    name = event.get("model")
    if not isinstance(name, str) or name == "":
        return Dead("DLQ008")
    if name not in catalogue.models:
        return Dead("DLQ009")
    entry = catalogue.models[name]
    version = event.get("version")
    if version is not None and not (isinstance(version, str) and version in entry.versions):
        return Dead("DLQ010")
    model = entry.newest if version is None else entry.versions[version]
    assert model is not None
    kind = event.get("type")
    at = time_of(event.get("event_at"))
    at = record_at if event.get("event_at") is None else at
    time_fault = None
    if at is None:
        time_fault = "DLQ013"
    elif at > record_at + settings.future_ms_max:
        time_fault = "DLQ014"
    elif at < record_at - settings.past_ms_max:
        time_fault = "DLQ015"
    if kind == "watermark":
        return Dead(time_fault) if time_fault else Mark(name, at or 0)
    if kind is None:
        kind = "inference"
    if kind not in ("inference", "label"):
        return Dead("DLQ007")
    event_id = event.get("event_id")
    if isinstance(event_id, int) and not isinstance(event_id, bool):
        event_id = str(event_id)
    if not isinstance(event_id, str) or event_id == "":
        return Dead("DLQ011")
    if not isinstance(event.get("columns"), dict):
        return Dead("DLQ012")
    if time_fault:
        return Dead(time_fault)
    return _row(model, kind, event_id, at or 0, event["columns"])


def _row(model: ModelDefinition, kind: str, event_id: str, at: int, values: dict[str, Any]) -> Row:
    typed, wrong, outside = {}, [], []
    for column in model.columns:
        if kind == "label" and column.role.value not in ("target", "metadata"):
            continue
        value, verdict = cell(values.get(column.name), column)
        typed[column.name] = value
        if verdict == "type":
            wrong.append(column.name)
        if verdict == "range":
            outside.append(column.name)
    return Row(model.name, model.version, kind, event_id, at, typed, tuple(wrong), tuple(outside))


def cell(value: Any, column: Column) -> tuple[Any, str | None]:
    """A value as its column has it, and its violation."""
    if value is None or (value == "" and column.type.value not in {"string", "category"}):
        return None, None
    match column.type.value:
        case "int" | "float":
            return _number(value, column)
        case "bool":
            if isinstance(value, bool):
                return value, None
            return (bool(value), None) if isinstance(value, (int, float)) and value in (0, 1) else (None, "type")
        case "string":
            return (value, None) if isinstance(value, str) else (None, "type")
        case "category":
            if not isinstance(value, str):
                return None, "type"  # the test's categories are texts
            return value, None if value in (*(column.categories or ()), "") else "range"
        case "timestamp":
            at = time_of(value)
            return (at, None) if at is not None and _ms(1900) <= at < _ms(2300) else (None, "type")
        case "vector":
            numbers = isinstance(value, list) and all(
                isinstance(x, (int, float)) and not isinstance(x, bool) for x in value
            )
            if not numbers:
                return None, "type"
            return [_double(x) for x in value], None if len(value) == column.n_dimensions else "range"
    raise AssertionError(column.type)


def _number(value: Any, column: Column) -> tuple[Any, str | None]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None, "type"
    bounded = column.min is not None or column.max is not None
    is_infinite = _double(value) in (float("inf"), float("-inf"))
    if column.type.value == "int":
        if isinstance(value, float) and is_infinite:
            return None, "range" if bounded else None
        if value != int(value) or not -(2**63) <= value < 2**63:
            return None, "type"
        value = int(value)
    elif is_infinite:
        return None, "range" if bounded else None
    else:
        value = float(value)
    low = column.min is not None and value < column.min and not _near(value, column.min)
    high = column.max is not None and value > column.max and not _near(value, column.max)
    return value, "range" if low or high else None


def _near(value: float, limit: float) -> bool:
    return abs(value - limit) <= 1e-9 * abs(max(value, limit))


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _ms(year: int) -> int:
    return (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def time_of(value: Any) -> int | None:
    """Unix milliseconds of an RFC 3339 text or of a whole number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return int(value) if value not in (float("inf"), float("-inf")) and value == int(value) else None
    found = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    sign, hours, minutes = found[9], int(found[10] or 0), int(found[11] or 0)
    if hours > 23 or minutes > 59:
        return None
    offset = timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1)
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=timezone(timedelta(0))) - _EPOCH
    except ValueError:
        return None
    fraction = Fraction(Decimal("0" + (found[7] or ".0"))) * 1000
    return ((at - offset) // timedelta(milliseconds=1)) + int(fraction)


def _depth(text: str) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for letter in text:
        if in_string:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                in_string = False
        elif letter == '"':
            in_string = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 4_000 else float(digits)


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, list):
        return any(map(_has_surrogate, value))
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(item) for key, item in value.items())
    return False
