"""What the Dioptra client sends, read by its server's rules: looser than ours where that server is, and never with a surprise."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from fqlstream.api.problems import refuse
from fqlstream.events.payloads import JOB_METRIC_NAME

_NAME: Final = re.compile(JOB_METRIC_NAME)
_NUMBER: Final = re.compile(
    r"\s*[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf|infinity)\s*", re.ASCII | re.IGNORECASE
)
_WHOLE: Final = re.compile(r"\s*[+-]?[0-9]{1,40}\s*", re.ASCII)
#: A time of day must be there; `datetime.fromisoformat` takes a date alone for midnight.
_TIME_OF_DAY: Final = re.compile(r"[T ][0-9]{2}", re.ASCII)
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_FIELDS: Final = ("name", "value", "step", "timestamp")
_NO_MOMENT: Final = "Not a valid datetime: ISO 8601 with a time of day."
_MISSING: Final = "Missing data for required field."


@dataclass(frozen=True, slots=True)
class GivenMetric:
    """A metric as it is to be recorded. `at` None: now."""

    name: str
    value: float
    step: int
    at: datetime | None


def read_metric(body: bytes, *, name_characters_max: int) -> GivenMetric:
    """Read the body of a metric. Raises ApiError 400 that says what is wrong with each field."""
    given = read_object(body)
    wrong: dict[str, list[str]] = {name: ["Unknown field."] for name in given if name not in _FIELDS}
    name = _read(_metric_name, given, "name", wrong)
    value = _read(_value, given, "value", wrong)
    step = _read(_step, given, "step", wrong) if "step" in given else 0
    at = _read(_moment, given, "timestamp", wrong) if "timestamp" in given else None
    if name is not None and len(name) > name_characters_max:
        wrong["name"] = [f"Longer than maximum length {name_characters_max}."]
    if wrong or name is None or value is None or step is None:
        raise _wrong_fields(wrong)
    return GivenMetric(name, value, step, at)


def read_credentials(body: bytes) -> tuple[str, str]:
    """Read the body of a login. Raises ApiError 400."""
    given = read_object(body)
    wrong: dict[str, list[str]] = {name: ["Unknown field."] for name in given if name not in ("username", "password")}
    username, password = _read(_text, given, "username", wrong), _read(_text, given, "password", wrong)
    if wrong or username is None or password is None:
        raise _wrong_fields(wrong)
    return username, password


def read_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object; bare NaN and Infinity are numbers. Raises ApiError 400 for anything else."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refuse(400, f"the body is no JSON: {error}", fields={"body": ["Not valid JSON."]}) from None
    if not isinstance(given, dict):
        raise refuse(400, "the body is no JSON object", fields={"body": ["Invalid input type."]})
    return given


def echoed(value: float) -> float | str:
    """Give a value as answers have it: a number, or `nan`, `inf`, `-inf`."""
    return value if math.isfinite(value) else str(value)


def _wrong_fields(wrong: Mapping[str, list[str]]) -> Exception:
    first = next(iter(wrong.items()))
    return refuse(400, f"{first[0]}: {first[1][0]}", fields=wrong)


def _read(reader: Any, given: Mapping[str, Any], name: str, wrong: dict[str, list[str]]) -> Any:
    """Read one field; where that fails, note why and give None."""
    if name not in given:
        wrong[name] = [_MISSING]
        return None
    try:
        return reader(given[name])
    except ValueError as error:
        wrong[name] = [str(error)]
        return None


def _wrong(what: str) -> ValueError:
    """Give the fault of a field, whatever is wrong with it: all of them are told alike."""
    return ValueError(what)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("Not a valid string.")
    return value


def _metric_name(value: Any) -> str:
    if _NAME.fullmatch(_text(value)) is None:
        raise _wrong("A letter, or a letter or underscore followed by letters, digits and underscores.")
    return str(value)


def _value(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong("Not a valid number.")
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        raise _wrong("Not a valid number.")
    try:
        return float(value)
    except OverflowError:
        raise _wrong("Number too large.") from None


def _step(value: Any) -> int:
    is_text = isinstance(value, str) and _WHOLE.fullmatch(value) is not None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_text or is_number):
        raise _wrong("Not a valid integer.")
    step = int(value)
    if not _INT64_MIN <= step <= _INT64_MAX:
        raise _wrong("Beyond 64 bits.")
    return step


def _moment(value: Any) -> datetime | None:
    """Read a time in UTC; one without an offset is UTC. Null is now."""
    if value is None:
        return None
    if not isinstance(value, str) or _TIME_OF_DAY.search(value) is None:
        raise _wrong(_NO_MOMENT)
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _wrong(_NO_MOMENT) from None
