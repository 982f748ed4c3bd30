"""Envelopes, orders and refusals of the Dioptra form."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from fqlstream.api import dioptra
from fqlstream.api.dioptra import _Order
from fqlstream.api.problems import ApiError, refuse
from fqlstream.events.definitions import ExperimentDefinition, JobDefinition
from fqlstream.events.registry import EMPTY_REGISTRY, Registry, RegistryDraft


@given(st.integers(0, 40), st.integers(1, 12))
def test_whoever_follows_next_sees_every_row_once(total: int, length: int) -> None:
    seen: list[int] = []
    index, pages = 0, 0
    while True:
        rows = list(range(index, min(index + length, total)))
        envelope = dioptra._envelope("/x", {}, index, length, len(rows), total)
        seen += rows
        pages += 1
        assert envelope["is_complete"] is (envelope["next"] is None)
        if envelope["next"] is None:
            break
        query = dict(parse_qsl(urlsplit(envelope["next"]).query))
        index, length = int(query["index"]), int(query["pageLength"])
    assert seen == list(range(total))
    assert pages == max(1, -(-total // length))


def test_links_repeat_what_was_asked_and_quote_it() -> None:
    envelope = dioptra._envelope("/experiments/1/metrics", {"search": "tag:a b,c&d"}, 10, 5, 5, 30)
    assert envelope["first"] == "/api/v1/experiments/1/metrics?index=0&pageLength=5&search=tag%3Aa%20b%2Cc%26d"
    assert [dict(parse_qsl(urlsplit(envelope[name]).query))["index"] for name in ("prev", "next")] == ["5", "15"]
    assert dioptra._envelope("/x", {}, 3, 5, 5, 30)["prev"] == "/api/v1/x?index=0&pageLength=5"


def registry(*statuses: str) -> Registry:
    draft = RegistryDraft(EMPTY_REGISTRY)
    draft.put(ExperimentDefinition(name="digits", id=1), 0, 0, 0)
    for number, status in enumerate(statuses, 1):
        draft.put(JobDefinition.model_validate({"id": number, "experiment": "digits", "status": status}), 0, 0, number)
    return draft.finish()


def order(**asked: Any) -> _Order:
    return _Order(**{"experiment": 1, "sort_by": "id", "descending": False, "search": "", **asked})


def test_equal_jobs_follow_each_other_by_number_in_both_directions() -> None:
    known = registry("queued", "failed", "queued", "failed")
    assert dioptra._ordered(known, order(sort_by="status")) == [2, 4, 1, 3]
    assert dioptra._ordered(known, order(sort_by="status", descending=True)) == [1, 3, 2, 4]
    assert dioptra._ordered(known, order(experiment=2)) == []


def test_an_order_is_kept_until_jobs_change() -> None:
    orders = dioptra._Orders()
    known = registry("queued", "failed")
    first = orders.of(known, order())
    assert orders.of(known, order()) is first
    draft = RegistryDraft(known)
    draft.remove("job", "1")
    assert list(orders.of(draft.finish(), order())) == [2]
    with pytest.raises(ApiError, match="no field 'x'"):
        orders.of(known, order(search="x:1"))


def request(path: str, query: str = "") -> Request:
    return Request({"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": [(b"host", b"h")], "server": ("h", 80)})  # fmt: skip


def told(error: ApiError, path: str = "/api/v1/jobs/1/metrics", query: str = "") -> tuple[int, dict[str, Any]]:
    answer = dioptra.WIRE.render(error.problem, request(path, query), "r-1")
    return answer.status, dict(answer.body)


def test_wrong_fields_are_told_by_their_names_alone() -> None:
    error = refuse(422, "x", fields={"query.pageLength": ["too large"], "name": ["missing"]})
    assert told(error) == (400, {"errors": {"pageLength": ["too large"], "name": ["missing"]}})


def test_a_path_without_a_number_is_not_found() -> None:
    assert told(refuse(422, "x", fields={"path.id": ["no number"]}))[0] == 404


def test_a_missing_login_is_a_message_and_a_failed_one_an_error() -> None:
    assert told(refuse(401, "log in")) == (401, {"message": "log in"})
    assert set(told(refuse(401, "wrong"), "/api/v1/auth/login")[1]) == {
        "error",
        "message",
        "detail",
        "originating_path",
    }


def test_other_errors_name_themselves_and_where_they_came_from() -> None:
    status, body = told(refuse(404, "no job", name="EntityDoesNotExistError", extra={"id": 7}), query="index=1")
    assert (status, body["error"], body["message"]) == (404, "EntityDoesNotExistError", "no job")
    assert body["detail"]["id"] == 7
    assert body["originating_path"] == "/api/v1/jobs/1/metrics?index=1"
