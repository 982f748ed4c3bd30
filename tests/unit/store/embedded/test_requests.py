"""Requests taken apart as ClickHouse's own server does."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

import pytest
from urllib3.filepost import encode_multipart_formdata

from fqlstream.store.embedded.exceptions import EngineError
from fqlstream.store.embedded.requests import Request, read_request
from fqlstream.store.embedded.sessions import TIMEOUT_S, TIMEOUT_S_MAX


def request(
    query: str = "", *pieces: bytes, headers: Mapping[str, str] | None = None, method: str = "POST", limit: int = 1_000
) -> Request:
    """Make a request whose body comes in these pieces; then the client goes away."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": at + 1 < len(pieces)} for at, piece in enumerate(pieces)
    ] or [{"type": "http.request"}]
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    scope = {
        "type": "http", "method": method, "path": "/", "query_string": query.encode(), "client": ("10.0.0.7", 4711),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }  # fmt: skip
    return read_request(scope, receive, limit)


def body_of(asked: Request, size: int | None = None) -> bytes:
    return asyncio.run(asked.body.read_all() if size is None else asked.body.read(size))


def test_settings_parameters_and_the_interfaces_own_words_are_told_apart() -> None:
    asked = request("query=SELECT+1&database=d&param_x=a%20b&param_=odd&max_threads=3&session_id=s&wait_end_of_query=1")
    asked.sort_parameters()
    assert asked.settings == {"max_threads": "3"}
    assert asked.bound == {"x": "a b", "": "odd"}
    assert (asked.database, asked.peer, asked.parameters["query"]) == ("d", "10.0.0.7", "SELECT 1")
    assert asked.is_set("wait_end_of_query")
    assert not asked.is_set("compress")


def test_what_a_parameter_leaves_open_a_header_may_say() -> None:
    headers = {"X-ClickHouse-Database": "h", "X-ClickHouse-Format": "CSV", "X-ClickHouse-Query-Id": "mine"}
    asked = request(headers=headers)
    assert (asked.database, asked.default_format, asked.query_id) == ("h", "CSV", "mine")
    asked = request("database=p&default_format=JSON&query_id=yours", headers=headers)
    assert (asked.database, asked.default_format, asked.query_id) == ("p", "JSON", "yours")
    plain = request()
    assert (plain.database, plain.default_format, plain.session) == (None, "TabSeparated", None)
    assert plain.query_id != request().query_id, "everybody else's number is their own"


def test_only_a_post_may_write() -> None:
    assert [request(method=method).read_only for method in ("POST", "GET", "HEAD", "PUT")] == [False, True, True, True]


@pytest.mark.parametrize(("text", "seconds"), [("", TIMEOUT_S), ("7", 7), ("-1", TIMEOUT_S), ("9" * 12, TIMEOUT_S_MAX)])
def test_a_session_lasts_as_long_as_was_asked_for_within_a_bound(text: str, seconds: int) -> None:
    session = request(f"session_id=s&session_timeout={text}").session
    assert session is not None
    assert (session.name, session.timeout_s) == ("s", seconds)


def test_a_role_is_refused_rather_than_passed_over() -> None:
    with pytest.raises(EngineError, match="Roles are not supported"):
        request("role=admin").sort_parameters()


def test_a_body_is_given_in_pieces_of_a_size() -> None:
    asked = request("", b"abc", b"", b"defg", b"h")
    assert (body_of(asked, 4), asked.body.ended) == (b"abcdefg", False)
    assert (body_of(asked), asked.body.ended) == (b"h", True)
    assert body_of(asked) == b""


def test_a_body_is_bounded_as_sent_and_as_unpacked() -> None:
    assert body_of(request("", b"x" * 6, b"x" * 4, limit=10)) == b"x" * 10
    for pieces, headers in (
        ((b"x" * 6, b"x" * 5), {}),
        ((gzip.compress(b"x" * 100_000),), {"Content-Encoding": "gzip"}),
    ):
        with pytest.raises(EngineError, match="TOO_MANY_BYTES") as caught:
            body_of(request("", *pieces, headers=headers, limit=10 if not headers else 1_000))
        assert caught.value.status == 413
    asked = request("", b"x" * 20)
    asked.body.limit(10)
    with pytest.raises(EngineError, match="TOO_MANY_BYTES"):
        body_of(asked)


def test_a_packed_body_is_unpacked_wherever_it_is_cut_and_must_be_whole() -> None:
    packed = gzip.compress(b"INSERT " * 20)
    for cut in range(len(packed) + 1):
        asked = request("", packed[:cut], packed[cut:], headers={"content-encoding": " GZIP "})
        assert body_of(asked) == b"INSERT " * 20
    with pytest.raises(EngineError):
        body_of(request("", packed[:-9], headers={"content-encoding": "gzip"}))


def test_a_client_that_goes_away_in_the_middle_has_asked_for_nothing() -> None:
    messages = [{"type": "http.request", "body": b"INSERT", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    scope = {"method": "POST", "path": "/", "query_string": b"", "headers": []}
    with pytest.raises(EngineError, match="went away"):
        body_of(read_request(scope, receive, 100))


def test_a_form_is_read_as_parameters() -> None:
    fields = {"query": "SELECT {x:String}\r\n-- ü", "param_x": "a\r\n--b", "param_empty": "", "max_threads": "2"}
    body, content_type = encode_multipart_formdata(fields)  # as clickhouse-connect sends it
    asked = request("database=d", body, headers={"content-type": content_type})
    asyncio.run(asked.read_form())
    assert asked.parameters == {"database": "d", **fields}


def test_a_body_that_is_no_form_is_left_to_the_statement() -> None:
    asked = request("", b"SELECT 1", headers={"content-type": "text/plain"})
    asyncio.run(asked.read_form())
    assert (asked.parameters, body_of(asked)) == ({}, b"SELECT 1")


def test_a_table_in_a_form_is_refused() -> None:
    body, content_type = encode_multipart_formdata({"query": "SELECT * FROM t", "t": ("t.csv", "1,2", "text/csv")})
    with pytest.raises(EngineError, match="External tables") as caught:
        asyncio.run(request("", body, headers={"content-type": content_type}).read_form())
    assert caught.value.status == 501
