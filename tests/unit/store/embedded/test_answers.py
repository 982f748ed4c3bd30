"""Answers as ClickHouse's HTTP interface gives them, also where something goes wrong on the way."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any

import pytest

from fqlstream.store.embedded.answers import Answer, encoded, error_answer, result_headers, send_answer, send_stream
from fqlstream.store.embedded.engine import Counts
from fqlstream.store.embedded.exceptions import AUTHENTICATION_FAILED, BAD_ARGUMENTS, EngineError, refusal
from fqlstream.store.embedded.requests import Request, read_request


def request(query: str = "", headers: Mapping[str, str] | None = None, method: str = "POST") -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    given = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return read_request(
        {"method": method, "path": "/", "query_string": query.encode(), "headers": given}, receive, 1_000
    )


class Sent:
    """What was sent, as a client sees it."""

    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(name.decode(), value.decode("latin-1")) for name, value in self.messages[0]["headers"]]
        assert len(dict(pairs)) == len(pairs), "each header once"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        assert [message.get("more_body", False) for message in self.messages[1:]][-1] is False
        return b"".join(message["body"] for message in self.messages[1:])


def stream(pieces: list[bytes | EngineError], asked: Request) -> Sent:
    async def give() -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, EngineError):
                raise piece
            yield piece

    sent = Sent()
    asyncio.run(send_stream(sent, asked, give(), {"content-type": "text/plain"}))
    return sent


def test_a_result_says_its_format_and_what_it_cost() -> None:
    headers = result_headers("JSONEachRow", Counts(read_rows=7, written_rows=2, elapsed_ns=5), has_result=True)
    assert headers["x-clickhouse-format"] == "JSONEachRow"
    summary = json.loads(headers["x-clickhouse-summary"])
    assert {name: summary[name] for name in ("read_rows", "written_rows", "elapsed_ns")} == {
        "read_rows": "7", "written_rows": "2", "elapsed_ns": "5",
    }  # fmt: skip
    assert "x-clickhouse-format" not in result_headers("TSV", Counts(), has_result=False)


def test_an_error_is_clickhouses_text_with_its_code_and_a_status() -> None:
    answer = error_answer(refusal(BAD_ARGUMENTS, "No."), "26.9")
    assert answer.status == 400
    assert answer.body == b"Code: 36. DB::Exception: No. (BAD_ARGUMENTS) (version 26.9)\n"
    assert answer.headers["x-clickhouse-exception-code"] == "36"
    assert error_answer(EngineError(36, "Code: 36. (version 1)"), "26.9").body == b"Code: 36. (version 1)\n"


def test_who_has_no_key_is_asked_for_one() -> None:
    error = EngineError(AUTHENTICATION_FAILED, "Code: 194. DB::Exception: none (REQUIRED_PASSWORD)")
    answer = error_answer(error, "1")
    assert (answer.status, "www-authenticate" in answer.headers) == (401, True)


def test_an_answer_has_its_length_and_a_head_has_no_body() -> None:
    for method, body in (("GET", b"Ok.\n"), ("HEAD", b"")):
        sent = Sent()
        asyncio.run(send_answer(sent, request(method=method), Answer(200, b"Ok.\n")))
        assert (sent.headers["content-length"], sent.body) == ("4", body)


def test_no_word_of_the_caller_becomes_a_header_of_its_own() -> None:
    sent = Sent()
    asked = request("query_id=a%0D%0Aset-cookie:%20x%E2%82%AC")
    asyncio.run(send_answer(sent, asked, Answer(200, b"")))
    assert "set-cookie" not in sent.headers
    assert sent.headers["x-clickhouse-query-id"] == "a  set-cookie: x?", "a header has no euro sign"


def test_a_stream_is_sent_as_it_comes_and_ends_once() -> None:
    sent = stream([b"1\n", b"", b"2\n"], request())
    assert sent.body == b"1\n2\n"
    assert [message["body"] for message in sent.messages[1:]] == [b"1\n", b"2\n", b""]


def test_an_error_in_a_stream_is_told_behind_a_mark_that_only_the_header_knows() -> None:
    text = "Code: 159. DB::Exception: Timeout: ünd aus (TIMEOUT_EXCEEDED)"
    sent = stream([b"1\n", EngineError(159, text)], request())
    tag = sent.headers["x-clickhouse-exception-tag"]
    told = text + "\n"
    assert sent.messages[0]["status"] == 200
    assert sent.body == (
        f"1\n\r\n__exception__\r\n{tag}\r\n{told}{len(told.encode())} {tag}\r\n__exception__\r\n".encode()
    )
    assert stream([], request()).headers["x-clickhouse-exception-tag"] != tag


@pytest.mark.parametrize("pieces", [[b"a" * 500, b"b" * 500], [b""], []])
def test_results_are_packed_as_the_client_likes_it_and_only_where_it_asked(pieces: list[bytes]) -> None:
    liked = {"accept-encoding": "gzip"}
    whole = b"".join(pieces)
    assert encoded(request("", liked), pieces, {}).body == whole
    answer = encoded(request("enable_http_compression=1", liked), pieces, {"x": "y"})
    if whole:
        assert answer.headers == {"x": "y", "content-encoding": "gzip"}
        assert gzip.decompress(answer.body) == whole
    else:
        assert (answer.body, answer.headers) == (b"", {"x": "y"})
    assert encoded(request("enable_http_compression=1"), pieces, {}).body == whole, "it named none"
    sent = stream(list(pieces), request("enable_http_compression=1", liked))
    assert gzip.decompress(sent.body) == whole
