"""ClickHouse's HTTP interface over the engine: the part that clickhouse-connect, curl and Grafana use, as raw ASGI."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fqlstream.store.embedded import formats
from fqlstream.store.embedded.access import authenticate
from fqlstream.store.embedded.compression import Encoder, choose, decoder, too_large
from fqlstream.store.embedded.engine import Access, Counts, Engine, Inserting, Kind, Lease, Stream
from fqlstream.store.embedded.exceptions import BAD_ARGUMENTS, NOT_IMPLEMENTED, EngineError, engine_error, refusal
from fqlstream.store.embedded.statements import Insert, output_format, split_insert

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

#: Bytes of a result held back so that a late error still becomes a status, as the server's own buffer does.
_HELD_BYTES = 1 << 20
_HELD_BYTES_WAITING = 16 << 20  # with wait_end_of_query=1
#: Bytes of an INSERT handed to the engine at once: a hop between threads each.
_PIECE_BYTES = 1 << 20
#: An INSERT names its table within so many bytes.
_HEAD_BYTES = 1 << 16

#: Parameters of the interface itself; every other one is a setting of ClickHouse or, with `param_`, a query parameter.
_OWN_PARAMETERS = frozenset({
    "add_http_cors_header", "buffer_size", "cancel_http_readonly_queries_on_client_close", "client_protocol_version", "close_session",
    "compress", "database", "decompress", "default_format", "enable_http_compression", "http_headers_progress_interval_ms",
    "http_native_compression_disable_checksumming_on_decompress", "http_zlib_compression_level", "password", "query", "query_id",
    "quota_key", "role", "send_progress_in_http_headers", "session_check", "session_id", "session_timeout", "stacktrace", "user",
    "wait_end_of_query",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process takes on."""

    body_bytes_max: int
    statements_max: int


@dataclass(slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    parameters: dict[str, str]
    peer: str
    receive: Receive
    query_id: str
    settings: dict[str, str] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)

    @property
    def read_only(self) -> bool:
        return self.method != "POST"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpInterface:
    """An ASGI application. Statements run in threads: writers never wait for readers' threads."""

    def __init__(self, engine: Engine, key: str, limits: Limits) -> None:
        self._engine = engine
        self._key = key
        self._limits = limits
        self._threads = {
            access: ThreadPoolExecutor(limits.statements_max, thread_name_prefix=f"store-{access}") for access in Access
        }

    def close(self) -> None:
        """Wait for the statements that run."""
        for threads in self._threads.values():
            threads.shutdown(wait=True, cancel_futures=True)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = _read_request(scope, receive)
        try:
            answer = _static(request) or await self._serve(request, send)
        except EngineError as error:
            answer = _error_answer(error, self._engine.version)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the answer says what failed; the connection stays usable
            answer = _error_answer(engine_error(error), self._engine.version)
        if answer is not None:
            await _send_answer(send, request, answer)

    async def _serve(self, request: _Request, send: Send) -> _Answer | None:
        access = authenticate(request.headers, request.parameters, request.peer, self._key)
        if request.path not in ("/", "/query"):
            return _Answer(404, f"There is no handle {request.path}: queries go to /, /ping answers Ok.\n".encode())
        if request.method not in ("GET", "POST", "HEAD"):
            return _Answer(501, b"This store answers GET and POST with a query, /ping and /replicas_status.\n")
        _refuse_unsupported(request)
        body = _Body(request, self._limits.body_bytes_max)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            request.parameters.update(_form(await body.read_all(), request.headers["content-type"]))
        _sort_parameters(request)
        query = request.parameters.get("query", "").encode()
        head = await body.read(_HEAD_BYTES if not query or split_insert(query) else self._limits.body_bytes_max)
        text = query + b"\n" + head if query and head else query or head
        if not text.strip():
            raise refusal(BAD_ARGUMENTS, "Empty query: send SQL in the body or in the parameter query")
        insert = split_insert(text)
        if insert is None or (insert.format == "Values" and request.bound):
            return await self._run(request, access, text + await body.read_all(), send)
        return await self._insert(request, access, insert, text, body)

    # ---- reading ---------------------------------------------------------------------------------------------

    async def _run(self, request: _Request, access: Access, sql: bytes, send: Send) -> _Answer | None:
        kind = self._engine.admit(sql, access)
        default = (
            request.parameters.get("default_format") or request.headers.get("x-clickhouse-format") or "TabSeparated"
        )
        format_name = output_format(sql) or default
        lease = await self._lease(request, access)
        try:
            join = formats.joiner(format_name) if kind is Kind.READ_ONLY else None
            stream = await self._thread(access, lease.stream, sql, format_name, request.bound) if join else None
            if stream is None or join is None:
                chunk = await self._thread(access, lease.query, sql, format_name, request.bound, kind)
                return _Answer(200, *_encoded(request, [chunk.data], _result_headers(format_name, chunk.counts)))
            return await self._answer_stream(request, access, stream, format_name, join, send)
        finally:
            await self._thread(access, lease.close)

    async def _answer_stream(
        self, request: _Request, access: Access, stream: Stream, format_name: str, join: formats.Joiner, send: Send
    ) -> _Answer | None:
        counts = Counts()
        held: list[bytes] = []
        held_max = _HELD_BYTES_WAITING if request.parameters.get("wait_end_of_query") == "1" else _HELD_BYTES
        size = 0
        try:
            while size < held_max:
                chunk = await self._thread(access, stream.fetch)
                if chunk is None:
                    closing = [formats.ending(format_name)] if held else []
                    return _Answer(200, *_encoded(request, [*held, *closing], _result_headers(format_name, counts)))
                counts = _added(counts, chunk.counts)
                held.append(join(chunk.data))
                size += len(held[-1])
            rest = self._rest(access, stream, format_name, join)
            await _send_stream(send, request, held, rest, _result_headers(format_name, counts))
        finally:
            await self._thread(access, stream.close)
        return None

    async def _rest(
        self, access: Access, stream: Stream, format_name: str, join: formats.Joiner
    ) -> AsyncIterator[bytes]:
        while (chunk := await self._thread(access, stream.fetch)) is not None:
            yield join(chunk.data)
        yield formats.ending(format_name)

    # ---- writing ---------------------------------------------------------------------------------------------

    async def _insert(self, request: _Request, access: Access, insert: Insert, text: bytes, body: _Body) -> _Answer:
        self._engine.admit(insert.sql, access)
        lease = await self._lease(request, access)
        try:
            inserting: Inserting = await self._thread(access, lease.insert, insert.sql, insert.format)
            try:
                data = text[insert.data_start :] + await body.read(_PIECE_BYTES)
                while data:
                    await self._thread(access, inserting.append, data)
                    data = await body.read(_PIECE_BYTES)
                counts = await self._thread(access, inserting.finish)
            except BaseException:
                await asyncio.shield(self._thread(access, inserting.close))
                raise
        finally:
            await self._thread(access, lease.close)
        return _Answer(200, b"", _summary_header(counts))

    # ---- both ------------------------------------------------------------------------------------------------

    async def _lease(self, request: _Request, access: Access) -> Lease:
        database = request.parameters.get("database") or request.headers.get("x-clickhouse-database")
        return await self._thread(
            access, self._engine.lease, access, request.settings, database, read_only=request.read_only
        )

    async def _thread(self, access: Access, function: Callable[..., T], *args: object, **keywords: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[access], lambda: function(*args, **keywords))


class _Body:
    """The body of a request, unpacked, at most so many bytes."""

    def __init__(self, request: _Request, bytes_max: int) -> None:
        self._receive = request.receive
        self._decoder = decoder(request.headers.get("content-encoding", "").strip().lower(), bytes_max)
        self._left = bytes_max
        self._bytes_max = bytes_max
        self._ended = False

    async def read(self, size: int) -> bytes:
        """Give the next bytes: at least `size` while there are so many, nothing at the end."""
        pieces: list[bytes] = []
        length = 0
        while length < size and not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise refusal(BAD_ARGUMENTS, "The client went away before its request was whole")
            data = message.get("body", b"")
            self._left -= len(data)
            if self._left < 0:
                raise too_large(self._bytes_max)
            piece = self._decoder.decode(data)
            if not message.get("more_body", False):
                self._ended = True
                self._decoder.finish()
            pieces.append(piece)
            length += len(piece)
        return b"".join(pieces)

    async def read_all(self) -> bytes:
        """Give everything that is left."""
        return await self.read(self._bytes_max + 1)


def _read_request(scope: MutableMapping[str, Any], receive: Receive) -> _Request:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    parameters = dict(
        parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
    )
    client = scope.get("client")
    query_id = parameters.get("query_id") or headers.get("x-clickhouse-query-id") or str(uuid.uuid4())
    return _Request(scope["method"], scope["path"], headers, parameters, client[0] if client else "", receive, query_id)


def _static(request: _Request) -> _Answer | None:
    """Answer what needs no rights: such as whether the store is there."""
    asks = request.method in ("GET", "HEAD")
    if asks and (request.path in ("/ping", "/replicas_status") or (request.path == "/" and not request.parameters)):
        return _Answer(200, b"Ok.\n", {"content-type": "text/html; charset=UTF-8"})
    return None


def _refuse_unsupported(request: _Request) -> None:
    for name, what in (("compress", "compressed"), ("decompress", "takes compressed")):
        if request.parameters.get(name) in ("1", "true"):
            raise refusal(
                NOT_IMPLEMENTED,
                f"{name}=1 (ClickHouse's own block format, {what} answers) is not supported by the embedded store: "
                "use HTTP compression (Accept-Encoding, Content-Encoding: lz4, zstd, gzip) or none",
            )
    if request.parameters.get("role"):
        raise refusal(NOT_IMPLEMENTED, "Roles are not supported by the embedded store: the key decides what is allowed")


def _form(body: bytes, content_type: str) -> dict[str, str]:
    """Read a form: clickhouse-connect sends long queries and parameters so. Files would be external tables."""
    _, _, boundary = content_type.partition("boundary=")
    fields: dict[str, str] = {}
    for part in body.split(b"--" + boundary.strip('"').encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0].decode()
        if b"filename=" in head and not (name == "query" or name.startswith("param_")):
            raise refusal(
                NOT_IMPLEMENTED, "External tables are not supported by the embedded store: insert the rows into a table"
            )
        fields[name] = value.removesuffix(b"\r\n").decode(errors="surrogateescape")
    return fields


def _sort_parameters(request: _Request) -> None:
    for name, value in request.parameters.items():
        if name.startswith("param_"):
            request.bound[name.removeprefix("param_")] = value
        elif name not in _OWN_PARAMETERS:
            request.settings[name] = value


def _added(left: Counts, right: Counts) -> Counts:
    return replace(
        left,
        read_rows=left.read_rows + right.read_rows,
        read_bytes=left.read_bytes + right.read_bytes,
        result_rows=left.result_rows + right.result_rows,
        elapsed_ns=left.elapsed_ns + right.elapsed_ns,
    )


def _summary_header(counts: Counts) -> dict[str, str]:
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


def _result_headers(format_name: str, counts: Counts) -> dict[str, str]:
    headers = {"content-type": formats.media_type(format_name), **_summary_header(counts)}
    if counts.result_rows or counts.read_rows or not counts.written_rows:
        headers["x-clickhouse-format"] = format_name
    return headers


def _error_answer(error: EngineError, version: str) -> _Answer:
    text = error.text if "(version " in error.text else f"{error.text} (version {version})"
    headers = {"x-clickhouse-exception-code": str(error.code), "content-type": "text/plain; charset=UTF-8"}
    if error.status == 401:
        headers["www-authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return _Answer(error.status, (text + "\n").encode(errors="surrogateescape"), headers)


def _encoding(request: _Request) -> str | None:
    if request.parameters.get("enable_http_compression") not in ("1", "true"):
        return None
    return choose(request.headers.get("accept-encoding", ""))


def _encoded(request: _Request, pieces: list[bytes], headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    encoding = _encoding(request)
    if encoding is None or not any(pieces):
        return b"".join(pieces), headers
    return Encoder(encoding).whole(pieces), {**headers, "content-encoding": encoding}


def _header_list(request: _Request, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
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


async def _send_answer(send: Send, request: _Request, answer: _Answer) -> None:
    headers = {"content-type": "text/plain; charset=UTF-8", **answer.headers, "content-length": str(len(answer.body))}
    await send({"type": "http.response.start", "status": answer.status, "headers": _header_list(request, headers)})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else answer.body})


async def _send_stream(
    send: Send, request: _Request, held: list[bytes], rest: AsyncIterator[bytes], headers: dict[str, str]
) -> None:
    """Send a result whose end is not known yet; an error on the way is told in the body, marked as ClickHouse marks it."""
    tag = secrets.token_hex(8)
    encoding = _encoding(request)
    encoder = Encoder(encoding) if encoding else None
    if encoding:
        headers = {**headers, "content-encoding": encoding}
    headers = {**headers, "x-clickhouse-exception-tag": tag}
    await send({"type": "http.response.start", "status": 200, "headers": _header_list(request, headers)})

    async def push(data: bytes) -> None:
        data = encoder.encode(data) if encoder and data else data
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    try:
        for piece in held:
            await push(piece)
        async for piece in rest:
            await push(piece)
    except EngineError as error:
        message = error.text + "\n"
        mark = f"\r\n__exception__\r\n{tag}\r\n{message}{len(message.encode())} {tag}\r\n__exception__\r\n"
        await push(mark.encode())
    await send({"type": "http.response.body", "body": encoder.finish() if encoder else b""})
