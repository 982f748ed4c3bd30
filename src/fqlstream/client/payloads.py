"""Events as JSON bytes, out of whatever a model server holds: Python, NumPy and pandas values."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from fqlstream.errors import UsageError
from fqlstream.events.payloads import JOB_METRIC_NAME

#: JSON has no infinity, but a number beyond every double: which the engine reads as one, and counts as a violation.
_INFINITIES: Final = {float("inf"): msgspec.Raw(b"1e999"), float("-inf"): msgspec.Raw(b"-1e999")}
_NO_JSON_NUMBERS: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_PLAIN: Final = frozenset({str, int, bool, type(None)})
_JSON_HINT: Final = "columns hold numbers, texts, Booleans, times, lists of numbers, or None"


def event_json(
    kind: Literal["inference", "label"],
    model: str,
    event_id: str | int,
    columns: Mapping[str, Any],
    event_at: Any = None,
    version: str | None = None,
) -> bytes:
    """Give an event as it travels; NaN becomes null.

    Raises UsageError for an event that the engine would refuse, or a value that JSON cannot say.
    """
    if not isinstance(model, str) or not model:
        raise UsageError(
            "SDK004", f"model is {model!r}, not a name", "name the model that `fqlstream apply` has defined"
        )
    event: dict[str, Any] = {"type": kind, "model": model}
    if version is not None:
        event["version"] = version
    event["event_id"] = checked_id(event_id)
    if event_at is not None:
        event["event_at"] = event_time(event_at)
    try:
        event["columns"] = {name: value if type(value) in _PLAIN else _value(value) for name, value in columns.items()}
        return _ENCODER.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise UsageError("SDK004", f"event {event_id!r} of model {model!r} is no JSON: {error}", _JSON_HINT) from None


def pipeline_metric_json(execution_id: str | int, name: str, value: Any, at: Any = None) -> bytes:
    """Give one number of an execution as it travels. Raises UsageError for an event that the engine would refuse."""
    event = {"type": "pipeline_metric", **_recorded(execution_id, name), "value": recorded_number(name, value)}
    return _ENCODER.encode(event | _recorded_at(at))


def list_metric_json(execution_id: str | int, name: str, values: Iterable[Any], at: Any = None) -> bytes:
    """Give numbers that are appended to a list of an execution, as they travel. Raises UsageError as above."""
    numbers = [recorded_number(name, value) for value in values]
    return _ENCODER.encode(
        {"type": "list_metric", **_recorded(execution_id, name), "values": numbers} | _recorded_at(at)
    )


def job_metric_json(job_id: str | int, name: str, value: Any, step: int = 0, at: Any = None) -> bytes:
    """Give one number of a job at a step as it travels. Raises UsageError as above, also for what is no name of a job metric."""
    if isinstance(step, bool) or not isinstance(step, int) or not -(2**63) <= step < 2**63:
        raise UsageError("SDK008", f"step of {name!r} is {step!r}", "a step is a whole number of at most 64 bits")
    event = {"type": "job_metric", **_recorded(job_id, name), "value": recorded_number(name, value), "step": step}
    if re.fullmatch(JOB_METRIC_NAME, name) is None:
        raise UsageError(
            "SDK008",
            f"{name!r} is no name of a job metric",
            "one letter, or letters, digits and _ that begin with no digit",
        )
    return _ENCODER.encode(event | _recorded_at(at))


def forget_json(kind: Literal["execution", "job"], name: str | int) -> bytes:
    """Say that everything recorded of an execution or job so far is gone."""
    return _ENCODER.encode({"type": "forget", "kind": kind, "id": checked_id(name)})


def recorded_number(name: str, value: Any) -> Any:
    """Give a number as JSON can say it, NaN and infinities by their names. Raises UsageError for what is no number."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else _NO_JSON_NUMBERS[str(plain)]
    if isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    if isinstance(plain, str) and plain in _NO_JSON_NUMBERS.values():
        return plain
    raise UsageError("SDK008", f"the value of {name!r} is {value!r}", "a recorded value is a number")


def _recorded(of: str | int, name: str) -> dict[str, str]:
    if not isinstance(name, str) or not name:
        raise UsageError("SDK008", f"the name of a metric is {name!r}", "a name is a text of one character or more")
    return {"id": checked_id(of), "name": name}


def _recorded_at(at: Any) -> dict[str, Any]:
    if at is None:
        return {}
    if isinstance(at, dt.datetime) and at.tzinfo is not None:
        return {"at": at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")}
    return {"at": event_time(at)}


def watermark_json(model: str, event_at: Any = None) -> bytes:
    """Give a watermark event: nothing of the model older than `event_at` (None: than now) comes any more."""
    event: dict[str, Any] = {"type": "watermark", "model": model}
    if event_at is not None:
        event["event_at"] = event_time(event_at)
    return _ENCODER.encode(event)


def checked_id(event_id: Any) -> str:
    """Give an event's id as text. Raises UsageError for what is none."""
    if isinstance(event_id, str) and event_id:
        return event_id
    plain = event_id.item() if hasattr(event_id, "item") else event_id
    if isinstance(plain, int) and not isinstance(plain, bool):
        return str(plain)
    raise UsageError("SDK004", f"event_id is {event_id!r}", "give every event a text or an integer that names it alone")


def event_time(event_at: Any) -> str | int:
    """Give a time as it travels: an aware datetime as RFC 3339, Unix milliseconds and texts as they are.

    Raises UsageError for a datetime without an offset, which is a different moment on every machine.
    """
    if isinstance(event_at, dt.datetime):
        if event_at.tzinfo is None:
            raise UsageError(
                "SDK004", f"event_at {event_at!r} has no time zone", "use datetime.now(UTC), or Unix milliseconds"
            )
        return event_at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(event_at, str):
        return event_at
    if type(event_at).__name__ == "datetime64":
        event_at = event_at.astype("datetime64[ms]").astype("int64")  # UTC by definition
    plain = event_at.item() if hasattr(event_at, "item") else event_at
    if isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    raise UsageError("SDK004", f"event_at is {event_at!r}", "give RFC 3339, Unix milliseconds or an aware datetime")


def _value(value: Any) -> Any:
    """Give a column's value as it is encoded; what JSON or its encoder would say in another sense is turned here."""
    if isinstance(value, float):
        return _INFINITIES.get(value, value)
    if isinstance(value, list | tuple):
        return [_value(item) for item in value] if any(infinity in value for infinity in _INFINITIES) else value
    if isinstance(value, dt.datetime):
        if value != value:  # pandas' NaT is a datetime that equals nothing, not even itself
            return None
        # times without an offset are UTC in columns of every form: JSON, Arrow, pandas
        return event_time(value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC))
    if isinstance(value, (bytes, bytearray, memoryview)):
        message = "bytes are no JSON value"
        raise TypeError(message)
    return value


def _plain(value: Any) -> Any:
    """Turn what msgspec does not know into what it does: NumPy's scalars and arrays, pandas' missing values."""
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    if type(value).__name__ == "datetime64":
        # of nanoseconds Python's own conversion makes a bare number
        return _plain_time(value)
    if hasattr(value, "tolist"):
        return _value(value.tolist())
    if isinstance(value, Mapping):
        return dict(value)
    message = f"a {type(value).__name__} is no JSON value"
    raise TypeError(message)


def _plain_time(value: Any) -> Any:
    moment = value.astype("datetime64[ms]").item()
    return None if moment is None else _value(moment)


# decimals are written as numbers, since a text would be ill-typed in a column of numbers
_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number")
