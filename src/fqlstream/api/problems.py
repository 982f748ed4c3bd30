"""What the API answers when it does not do what was asked: one value, which each wire format writes in its own form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fqlstream.errors import (
    BrokerError,
    DefinitionError,
    FqlError,
    FqlstreamError,
    SettingsError,
    StoreError,
    UsageError,
)
from fqlstream.ops import outbox

#: What HTTP's own refusals are called, by status; `code` is stable, `name` is what clients of wire formats compare.
_OF_STATUS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("API001", "BadRequest"),
    401: ("API002", "Unauthorized"),
    403: ("API003", "Forbidden"),
    404: ("API004", "NotFound"),
    405: ("API005", "MethodNotAllowed"),
    406: ("API006", "NotAcceptable"),
    408: ("API007", "RequestTimeout"),
    409: ("API008", "Conflict"),
    413: ("API009", "PayloadTooLarge"),
    415: ("API010", "UnsupportedMediaType"),
    422: ("API011", "ValidationError"),
    429: ("API012", "TooManyRequests"),
    500: ("API013", "InternalServerError"),
    503: ("API014", "ServiceUnavailable"),
}
#: Codes that name something that is not there.
_NOT_FOUND: Final = frozenset({"DEF030", "DLT002", "ACC004", "ACC005"})
#: Codes that name a record which is larger than its topic takes.
_TOO_LARGE: Final = frozenset({outbox.TOO_LARGE})
#: Codes that name something that stands in the way.
_CONFLICT: Final = frozenset({"DEF033", "DEF034", "ACC006"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was refused. `fields` says what is wrong with each field of it, by its path; `extra` is for programs."""

    status: int
    code: str
    name: str
    message: str
    hint: str | None = None
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(HTTPException):
    """Raised to refuse a request. An HTTPException: of what stops the reading of a body, FastAPI lets nothing else through."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.message)
        self.problem = problem


def refuse(
    status: int,
    message: str,
    *,
    code: str | None = None,
    name: str | None = None,
    hint: str | None = None,
    fields: Mapping[str, Sequence[str]] | None = None,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ApiError:
    """Give the error that refuses a request; `code` and `name` are those of the status where they are not given."""
    usual_code, usual_name = _OF_STATUS.get(status, _OF_STATUS[500 if status >= 500 else 400])
    return ApiError(
        Problem(status, code or usual_code, name or usual_name, message, hint, fields or {}, extra or {}, headers or {})
    )


def problem_of(error: Exception) -> Problem:
    """Say what an exception means to a client. What nobody foresaw is 500 and tells nothing of the inside."""
    match error:
        case ApiError():
            return error.problem
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            return refuse(error.status_code, str(error.detail), headers=error.headers).problem
        case FqlstreamError():
            return _of_ours(error)
        case _:
            return refuse(500, "the server failed in a way that nobody foresaw; its log has the request's id").problem


def _of_ours(error: FqlstreamError) -> Problem:
    status = _status_of(error)
    extra: dict[str, Any] = {}
    if isinstance(error, FqlError):
        extra["diagnostics"] = [{**item.as_dict(), "severity": item.severity} for item in error.diagnostics]
    headers = {"retry-after": "1"} if status == 503 else {}
    name = _OF_STATUS[status][1]
    return Problem(status, error.code, name, error.message, error.hint, extra=extra, headers=headers)


def _status_of(error: FqlstreamError) -> int:
    if error.code in _NOT_FOUND:
        return 404
    if error.code in _CONFLICT:
        return 409
    if error.code in _TOO_LARGE:
        return 413
    match error:
        case FqlError() | DefinitionError():
            return 422
        case UsageError() if not isinstance(error, SettingsError):
            return 400
        case StoreError() if not error.retryable:
            return 500  # ClickHouse refused what we asked it: the slip is ours, and the same request meets it again
        case StoreError() | BrokerError():
            return 503
        case _:
            return 500


def _of_validation(error: RequestValidationError) -> Problem:
    """Name each field by its path: `body.values.3`, `query.limit`. What was given is not repeated: it may be a secret."""
    fields: dict[str, list[str]] = {}
    for found in error.errors():
        place = ".".join(str(step) for step in found["loc"])
        fields.setdefault(place, []).append(str(found["msg"]))
    broken = any(found["type"] == "json_invalid" for found in error.errors())
    first = next(iter(fields.items()), ("", ["invalid"]))
    message = f"{first[0]}: {first[1][0]}" + (f" (and {len(fields) - 1} more)" if len(fields) > 1 else "")
    return refuse(400 if broken else 422, message, fields=fields).problem


@dataclass(frozen=True, slots=True)
class Told:
    """A refusal as it is sent: status, JSON body, media type."""

    status: int
    body: Mapping[str, Any]
    media_type: str = "application/json"


#: Writes a problem in the form of one wire format. The last argument is the request's id.
Render = Callable[[Problem, Request, str], Told]


def render_own(problem: Problem, request: Request, request_id: str) -> Told:
    """Write a problem as our own routes do: RFC 9457, with the code, the hint, and what is wrong with which field."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.name,
        "status": problem.status,
        "detail": problem.message,
        "instance": request.url.path,
        "code": problem.code,
        "hint": problem.hint,
        "request_id": request_id,
        "fields": {name: list(messages) for name, messages in problem.fields.items()},
        **problem.extra,
    }
    return Told(problem.status, body, "application/problem+json")
