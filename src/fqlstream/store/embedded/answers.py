"""Answers of ClickHouse's HTTP interface: headers, encodings, errors before and inside a result."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fqlstream.store.embedded.compression import Encoder, choose, encoder
from fqlstream.store.embedded.engine import Counts
from fqlstream.store.embedded.exceptions import EngineError
from fqlstream.store.embedded.formats import media_type
from fqlstream.store.embedded.requests import Request

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is there as a whole."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def summary_headers(counts: Counts) -> dict[str, str]:
    """Tell what a statement read and wrote."""
    summary = {
        "read_rows": str(counts.read_rows),
        "read_bytes": str(counts.read_bytes),
        "written_rows": str(counts.written_rows),
        "written_bytes": str(counts.written_bytes),
        "total_rows_to_read": "0",
        "result_rows": str(counts.result_rows),
        "result_bytes": "0",
        "elapsed_ns": str(counts.elapsed_ns),
    }
    return {"x-clickhouse-summary": json.dumps(summary, separators=(",", ":"))}


def result_headers(format_name: str, counts: Counts, *, has_result: bool) -> dict[str, str]:
    """Tell what a result is; a statement that gives none has no format."""
    named = {"x-clickhouse-format": format_name} if has_result else {}
    return {"content-type": media_type(format_name), **named, **summary_headers(counts)}


def error_answer(error: EngineError, version: str) -> Answer:
    """Answer with an error as ClickHouse's server would."""
    text = error.text if "(version " in error.text else f"{error.text} (version {version})"
    headers = {"x-clickhouse-exception-code": str(error.code), "content-type": "text/plain; charset=UTF-8"}
    if error.status == 401:
        headers["www-authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return Answer(error.status, (text + "\n").encode(errors="surrogateescape"), headers)


def encoded(request: Request, pieces: list[bytes], headers: Mapping[str, str]) -> Answer:
    """Answer with a result that is there, encoded as the client likes it."""
    chosen, named = _encoder(request)
    if chosen is None or not any(pieces):
        return Answer(200, b"".join(pieces), headers)
    return Answer(200, chosen.whole(pieces), {**headers, **named})


async def send_answer(send: Send, request: Request, answer: Answer) -> None:
    """Send an answer."""
    headers = {"content-type": "text/plain; charset=UTF-8", **answer.headers, "content-length": str(len(answer.body))}
    await send({"type": "http.response.start", "status": answer.status, "headers": _header_list(request, headers)})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else answer.body})


async def send_stream(send: Send, request: Request, pieces: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
    """Send a result whose end is not known yet; an error on the way is told in the body, marked as ClickHouse marks it."""
    tag = secrets.token_hex(8)
    chosen, named = _encoder(request)
    headers = {**headers, **named, "x-clickhouse-exception-tag": tag}
    await send({"type": "http.response.start", "status": 200, "headers": _header_list(request, headers)})

    async def push(data: bytes) -> None:
        data = chosen.encode(data) if chosen and data else data
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    try:
        async for piece in pieces:
            await push(piece)
    except EngineError as error:
        message = error.text + "\n"
        mark = f"\r\n__exception__\r\n{tag}\r\n{message}{len(message.encode())} {tag}\r\n__exception__\r\n"
        await push(mark.encode())
    await send({"type": "http.response.body", "body": chosen.finish() if chosen else b""})


def _encoder(request: Request) -> tuple[Encoder | None, dict[str, str]]:
    if request.is_set("compress"):
        return encoder("native"), {}
    if not request.is_set("enable_http_compression"):
        return None, {}
    name = choose(request.headers.get("accept-encoding", ""))
    return (encoder(name), {"content-encoding": name}) if name else (None, {})


def _header_list(request: Request, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    own = {
        "x-clickhouse-query-id": request.query_id,
        "x-clickhouse-timezone": "UTC",
        "x-clickhouse-server-display-name": "fqlstream",
    }
    # a caller's query id is text of the caller's: nothing of it may become another header
    return [
        (name.encode(), value.encode("latin-1", "replace").replace(b"\r", b" ").replace(b"\n", b" "))
        for name, value in {**own, **headers}.items()
    ]
