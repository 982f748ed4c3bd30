"""ClickHouse's HTTP interface over the engine: the part that clickhouse-connect, curl and Grafana use, as raw ASGI."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fqlstream.store.embedded.access import authenticate
from fqlstream.store.embedded.answers import (
    Answer,
    Send,
    encoded,
    error_answer,
    result_headers,
    send_answer,
    send_stream,
    summary_headers,
)
from fqlstream.store.embedded.engine import Access, Counts, Engine
from fqlstream.store.embedded.exceptions import BAD_ARGUMENTS, EngineError, engine_error, refusal
from fqlstream.store.embedded.requests import Receive, Request, read_request
from fqlstream.store.embedded.statements import Insert, split_insert
from fqlstream.store.embedded.work import Call, Reading, Writing, read, write

T = TypeVar("T")

#: Bytes of a result held back so that a late error still becomes a status, as the server's own buffer does.
_HELD_BYTES = 1 << 20
_HELD_BYTES_WAITING = 16 << 20  # with wait_end_of_query=1
#: Bytes of an INSERT handed to the engine at once: a hop between threads each.
_PIECE_BYTES = 4 << 20
#: An INSERT names its table within so many bytes.
_HEAD_BYTES = 1 << 16
#: Longest query of a caller without the key: nobody writes one by hand, and each is read, parsed and formatted whole.
_QUERY_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process takes on."""

    body_bytes_max: int
    statements_max: int


class HttpInterface:
    """An ASGI application. Statements run in threads: writers never wait for readers' threads."""

    def __init__(self, engine: Engine, key: str, limits: Limits) -> None:
        self._engine = engine
        self._key = key
        self._limits = limits
        self._numbers = itertools.count(1)  # of requests, so that one can be told from all others
        self._threads = {
            access: ThreadPoolExecutor(limits.statements_max, thread_name_prefix=f"store-{access}") for access in Access
        }

    def close(self) -> None:
        """Take no more statements, and interrupt those that run."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        self._engine.interrupt_all()
        for threads in self._threads.values():
            threads.shutdown(wait=True)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            request = read_request(scope, receive, self._limits.body_bytes_max)
        except EngineError as error:
            request = read_request({**scope, "headers": [], "query_string": b""}, receive, 0)
            await send_answer(send, request, error_answer(error, self._engine.version))
            return
        try:
            answer = _static(request) or await self._serve(request, send)
        except EngineError as error:
            answer = error_answer(error, self._engine.version)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the answer says what failed; the connection stays usable
            answer = error_answer(engine_error(error), self._engine.version)
        if answer is not None:
            await send_answer(send, request, answer)

    async def _serve(self, request: Request, send: Send) -> Answer | None:
        access = authenticate(request.headers, request.parameters, request.peer, self._key)
        if request.path not in ("/", "/query"):
            return Answer(404, f"There is no handle {request.path}: queries go to /, /ping answers Ok.\n".encode())
        if request.method not in ("GET", "POST", "HEAD"):
            return Answer(501, b"This store answers GET and POST with a query, /ping and /replicas_status.\n")
        if access is Access.READ:
            request.body.limit(_QUERY_BYTES_MAX)
        await request.read_form()
        request.sort_parameters()
        query = request.parameters.get("query", "").encode(errors="surrogateescape")
        head = await request.body.read(_HEAD_BYTES)
        text = query + b"\n" + head if query and head else query or head
        if not text.strip():
            raise refusal(BAD_ARGUMENTS, "Empty query: send SQL in the body or in the parameter query")
        insert = split_insert(text)
        if insert is None or (insert.format == "Values" and request.bound):
            return await self._read(request, access, text + await request.body.read_all(), send)
        return await self._write(request, access, insert, text[insert.data_start :])

    def _call(self, request: Request, access: Access, sql: bytes) -> Call:
        return Call(
            sql,
            access,
            request.settings,
            request.bound,
            request.database,
            request.read_only,
            request.default_format,
            _HELD_BYTES_WAITING if request.is_set("wait_end_of_query") else _HELD_BYTES,
            request.protocol_version,
            # without the key there is nothing that a session could keep
            request.session if access is Access.WRITE else None,
            next(self._numbers),
        )

    # ---- reading -------------------------------------------------------------------------------------------------

    async def _read(self, request: Request, access: Access, sql: bytes, send: Send) -> Answer | None:
        call = self._call(request, access, sql)
        reading = await self._interruptible(request, call)
        headers = result_headers(reading.format, reading.counts, has_result=reading.has_result)
        if not reading.more:
            return encoded(request, reading.pieces, headers)
        try:
            await send_stream(send, request, self._pieces(request, access, reading), headers)
        finally:
            await asyncio.shield(self._thread(access, reading.close))
        return None

    async def _pieces(self, request: Request, access: Access, reading: Reading) -> AsyncIterator[bytes]:
        for piece in reading.pieces:
            yield piece
        gone = asyncio.create_task(request.body.gone())
        try:
            while reading.more and not gone.done():
                for piece in await self._thread(access, reading.next):
                    yield piece
        finally:
            gone.cancel()

    # ---- writing -------------------------------------------------------------------------------------------------

    async def _write(self, request: Request, access: Access, insert: Insert, data: bytes) -> Answer:
        call = self._call(request, access, insert.sql)
        data += await request.body.read(_PIECE_BYTES)
        begun = await self._thread(access, write, self._engine, call, insert, data, whole=request.body.ended)
        counts = begun if isinstance(begun, Counts) else await self._write_rest(request, access, begun)
        return Answer(200, b"", summary_headers(counts))

    async def _write_rest(self, request: Request, access: Access, writing: Writing) -> Counts:
        try:
            while data := await request.body.read(_PIECE_BYTES):
                await self._thread(access, writing.append, data)
            return await self._thread(access, writing.finish)
        except BaseException:
            await asyncio.shield(self._thread(access, writing.cancel))
            raise

    # ---- threads -------------------------------------------------------------------------------------------------

    async def _thread(self, access: Access, function: Callable[..., T], *args: object, **keywords: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[access], lambda: function(*args, **keywords))

    async def _interruptible(self, request: Request, call: Call) -> Reading:
        """Read in a thread; where the client goes away, interrupt it: nobody waits for it any more."""
        work = asyncio.ensure_future(self._thread(call.access, read, self._engine, call))
        gone = asyncio.ensure_future(request.body.gone())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._thread(Access.WRITE, self._engine.interrupt, call.number)
            return await work
        finally:
            gone.cancel()


def _static(request: Request) -> Answer | None:
    """Answer what needs no rights, such as whether the store is there."""
    asks = request.method in ("GET", "HEAD")
    if asks and (request.path in ("/ping", "/replicas_status") or (request.path == "/" and not request.parameters)):
        return Answer(200, b"Ok.\n", {"content-type": "text/html; charset=UTF-8"})
    return None
