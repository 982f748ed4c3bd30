"""Refusals: what an exception means to a client, and how our own routes say it."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fqlstream.api.problems import problem_of, refuse, render_own
from fqlstream.errors import (
    BrokerError,
    DefinitionError,
    Diagnostic,
    FqlError,
    FqlstreamError,
    SettingsError,
    StoreError,
    UsageError,
)
from fqlstream.ops import outbox

REQUEST = Request(
    {"type": "http", "path": "/here", "method": "GET", "headers": [], "query_string": b"", "server": ("x", 80)}
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FqlError("x", [Diagnostic("FQL001", "no", 0, 1)]), 422),
        (DefinitionError("DEF010", "no"), 422),
        (DefinitionError("DEF030", "no"), 404),
        (DefinitionError("DEF033", "no"), 409),
        (UsageError("SNP001", "no"), 400),
        (UsageError("ACC004", "no"), 404),
        (UsageError("ACC006", "no"), 409),
        (SettingsError("SET001", "no"), 500),
        (BrokerError("KFK001", "no"), 503),
        (BrokerError(outbox.TOO_LARGE, "too large"), 413),
        (BrokerError("KFK111", "no such partition"), 503),
        (StoreError("STO001", "no", retryable=True), 503),
        (StoreError("STO002", "no"), 500),
        (FqlstreamError("XXX001", "no"), 500),
        (HTTPException(405), 405),
        (HTTPException(418), 418),
        (refuse(429, "slowly"), 429),
        (RuntimeError("the password is hunter2"), 500),
    ],
)
def test_an_error_has_its_status(error: Exception, status: int) -> None:
    assert problem_of(error).status == status


def test_what_nobody_foresaw_tells_nothing_of_the_inside() -> None:
    problem = problem_of(RuntimeError("the password is hunter2"))
    assert "hunter2" not in problem.message
    assert problem.code == "API013"


def test_an_error_of_ours_keeps_its_code_and_its_hint() -> None:
    problem = problem_of(StoreError("STO001", "nothing answers", "is it up?", retryable=True))
    assert (problem.code, problem.message, problem.hint) == ("STO001", "nothing answers", "is it up?")
    assert problem.headers["retry-after"] == "1"


def test_every_finding_about_an_expression_is_told_with_its_place() -> None:
    found = [Diagnostic("FQL001", "one", 0, 1, "h"), Diagnostic("FQL002", "two", 2, 3)]
    problem = problem_of(FqlError("abc", found))
    assert [each["code"] for each in problem.extra["diagnostics"]] == ["FQL001", "FQL002"]
    assert problem.extra["diagnostics"][0]["start"] == 0


def test_fields_are_named_by_their_path_and_what_was_given_is_not_repeated() -> None:
    error = RequestValidationError(
        [
            {"type": "missing", "loc": ("body", "values", 3), "msg": "Field required", "input": "hunter2"},
            {"type": "int_parsing", "loc": ("query", "limit"), "msg": "no integer", "input": "hunter2"},
        ]
    )
    problem = problem_of(error)
    assert problem.status == 422
    assert problem.fields == {"body.values.3": ["Field required"], "query.limit": ["no integer"]}
    assert problem.message == "body.values.3: Field required (and 1 more)"
    assert "hunter2" not in repr(problem)


def test_json_that_cannot_be_read_is_a_bad_request_and_no_field() -> None:
    error = RequestValidationError(
        [{"type": "json_invalid", "loc": ("body", 0), "msg": "JSON decode error", "input": {}}]
    )
    assert problem_of(error).status == 400


def test_our_own_form_is_that_of_rfc_9457() -> None:
    told = render_own(refuse(404, "no such thing", hint="look there", extra={"more": 1}).problem, REQUEST, "r-1")
    assert told.media_type == "application/problem+json"
    assert told.body == {
        "type": "about:blank",
        "title": "NotFound",
        "status": 404,
        "detail": "no such thing",
        "instance": "/here",
        "code": "API004",
        "hint": "look there",
        "request_id": "r-1",
        "fields": {},
        "more": 1,
    }
