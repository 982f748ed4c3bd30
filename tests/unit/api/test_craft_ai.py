"""Pages and filters of the Craft AI form, where a client that counts rows would ask for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from starlette.requests import Request

from fqlstream.api import craft_ai
from fqlstream.api.craft_ai import _Wanted
from fqlstream.api.problems import ApiError, refuse
from fqlstream.api.services import Dependencies
from fqlstream.events.definitions import ExecutionDefinition
from fqlstream.events.registry import EMPTY_REGISTRY, Registry, RegistryDraft
from fqlstream.store.recorded import Page


class _Parts:
    store = None


PARTS = cast("Dependencies", _Parts())


def wanted(**given: Any) -> _Wanted:
    none = {"name": None, "pipeline": None, "deployment": None, "execution": None}
    return _Wanted(**{**none, "offset": 0, "limit": 5, "page": 1, **given})


def registry(*names: str, pipeline: str = "train", deployment: str | None = None) -> Registry:
    draft = RegistryDraft(EMPTY_REGISTRY)
    for name in names:
        draft.put(ExecutionDefinition(name=name, pipeline=pipeline, deployment=deployment), 0, 0, 0)
    return draft.finish()


def executions(known: Registry, present: Sequence[str], **given: Any) -> Sequence[str] | None:
    return craft_ai._executions(PARTS, known, wanted(**given), lambda _store, _name: list(present))


def test_all_executions_are_asked_for_at_once_where_all_that_have_metrics_are_registered() -> None:
    known = registry("a", "b", "c")
    assert executions(known, ["a", "c"]) is None
    assert executions(known, ["a", "stranger", "c"]) == ["a", "c"], (
        "what nobody registered is listed by our own routes only"
    )


def test_a_filter_gives_its_members_and_nothing_where_there_are_none() -> None:
    known = registry("a", "b", deployment="nightly")
    for given in ({"pipeline": "train"}, {"deployment": "nightly"}):
        assert sorted(executions(known, ["a", "stranger"], **given) or ()) == ["a", "b"]
    assert executions(known, ["a"], execution="a") == ["a"]
    for given in ({"pipeline": "x"}, {"deployment": "x"}, {"execution": "stranger"}):
        assert executions(known, ["a", "stranger"], **given) == []


def test_of_very_many_members_only_those_with_metrics_are_asked_for() -> None:
    known = registry(*(f"e-{index}" for index in range(craft_ai._NAMED_EXECUTIONS_MAX + 1)))
    assert executions(known, ["e-7", "stranger"], pipeline="train") == ["e-7"]
    assert executions(known, ["e-7"], pipeline="train") is None


@pytest.mark.parametrize(
    ("rows", "counted", "page", "expected"),
    [(3, 3, 1, 3), (3, 9, 1, 3), (5, 5, 1, 5), (5, 4, 1, 5), (5, 12, 1, 12), (2, 9, 2, 7), (0, 4, 1, 0)],
)
def test_the_total_is_what_the_rows_say_where_they_are_the_last(
    rows: int, counted: int, page: int, expected: int
) -> None:
    asked = wanted(page=page, offset=(page - 1) * 5)
    assert craft_ai._exact_count(Page(tuple(range(rows)), counted), asked) == expected


def test_an_empty_page_is_refused_but_for_the_first() -> None:
    craft_ai._require_rows(Page((), 0), wanted())
    with pytest.raises(ApiError, match="page 2 is beyond the end"):
        craft_ai._require_rows(Page((), 5), wanted(page=2))


def request(path: str, query: str = "") -> Request:
    return Request({"type": "http", "method": "PUT", "path": path, "query_string": query.encode(), "headers": [(b"host", b"h")], "server": ("h", 80)})  # fmt: skip


@pytest.mark.parametrize(("query", "name"), [("", "a"), ("b=c", "a?b=c"), ("b%20c", "a?b c"), ("x?y", "a?x?y")])
def test_what_http_takes_for_a_query_is_of_the_name(query: str, name: str) -> None:
    assert craft_ai._metric_name(request("/api/v1/metrics/single-value/a", query), "a", 256) == name


def test_refusals_have_four_keys_and_no_422() -> None:
    problem = refuse(422, "wrong", hint="right it", fields={"query.page": ["too small"]}).problem
    told = craft_ai.WIRE.render(problem, request("/x"), "r-1")
    assert told.status == 400
    assert dict(told.body) == {
        "message": "wrong", "name": "ValidationError", "request_id": "r-1",
        "additional_data": {"code": problem.code, "hint": "right it", "fields": {"query.page": ["too small"]}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "header", "expected"),
    [("/api/v1/metrics/x", False, True), ("/api/v1/nothing", True, True), ("/api/v1/nothing", False, False), ("/api/fqlstream/v1/values", True, False)],
)  # fmt: skip
def test_requests_are_its_own_by_path_or_by_the_clients_name(path: str, header: bool, expected: bool) -> None:
    headers = [(b"craft-ai-client", b"craft-ai-sdk@0.74.7")] if header else []
    assert craft_ai.WIRE.owns({"type": "http", "path": path, "headers": headers}) is expected
