"""The outermost layer of every request: its id, the limits of its body, its place in logs and numbers, and the last resort."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fqlstream.api.observed import Numbers, request_log
from fqlstream.api.problems import ApiError, refuse
from fqlstream.settings import ApiSettings

log = logging.getLogger("fqlstream.api")

#: A client may name its request, for its own logs; other signs than these could forge lines of ours.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADER: Final = b"x-request-id"
#: Never cached by anybody between, never taken for another type, never shown in a frame.
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
)

#: Answers an exception in the form of the request's client: (scope, exception) -> an ASGI application.
Answer = Callable[[Scope, Exception], ASGIApp]
#: Raises ApiError for a caller who may not send the file of a request.
Admit = Callable[[Scope], Awaitable[None]]


class Edge:
    """ASGI middleware; everything else of the application is inside."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        numbers: Numbers,
        answer: Answer,
        uploads: Callable[[str], bool],
        admit: Admit,
    ) -> None:
        self._app = app
        self._settings = settings
        self._numbers = numbers
        self._answer = answer
        self._uploads = uploads
        self._admit = admit
        self._uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        is_upload = self._uploads(scope["path"])
        limit = self._settings.upload_bytes_max if is_upload else self._settings.body_bytes_max
        body = _Body(receive, limit, self._settings)
        reply = _Reply(send, request_id)
        started_s = time.perf_counter()
        self._numbers.running.inc()
        try:
            try:
                _require_announced(scope, limit)
                async with self._place(scope) if is_upload else contextlib.nullcontext():
                    await self._app(scope, body.receive, reply.send)
            except ClientDisconnect:
                reply.status = reply.status or 499  # nobody is left to answer; the number is nginx's for it
            except Exception as error:  # any: who asked gets an answer, the log gets what nobody foresaw
                if reply.status:
                    raise
                if not isinstance(error, ApiError):
                    log.exception("unforeseen", extra={"fields": {"request_id": request_id}})
                await self._answer(scope, error)(scope, receive, reply.send)
        finally:
            self._numbers.running.dec()
            self._tell(scope, reply, body, request_id, time.perf_counter() - started_s)

    @contextlib.asynccontextmanager
    async def _place(self, scope: Scope) -> AsyncIterator[None]:
        """Take a place of an upload before any of it is read: FastAPI reads a form before it asks who sends it."""
        try:
            await self._admit(scope)
        except ApiError as error:
            raise _closing(error) from None
        if self._uploading >= self._settings.uploads_max:
            raise refuse(
                503,
                f"{self._uploading} files are being worked on",
                hint="send it again in some seconds; FQLSTREAM_API__UPLOADS_MAX sets how many may be",
                headers={"retry-after": "5", "connection": "close"},
            )
        self._uploading += 1
        try:
            yield
        finally:
            self._uploading -= 1

    def _tell(self, scope: Scope, reply: _Reply, body: _Body, request_id: str, took_s: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        method = scope["method"] if route is not None else "any"
        self._numbers.answered(method, route, reply.status, took_s)
        fields = {
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": reply.status,
            "ms": round(took_s * 1000, 2),
            "bytes_in": body.bytes,
            "bytes_out": reply.bytes,
            "caller": scope.get("caller"),
            "peer": scope["client"][0] if scope.get("client") else None,
        }
        level = logging.WARNING if reply.status >= 500 else logging.INFO
        request_log.log(level, "request", extra={"fields": fields})


class _Body:
    """A request's body as it comes: bounded in bytes, in how long it may stand still, and in how long it may take."""

    def __init__(self, receive: Receive, bytes_max: int, settings: ApiSettings) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self._wait_s = settings.body_wait_s
        self._whole_wait_s = settings.body_whole_wait_s
        self._end_s: float | None = None  # on the loop's clock
        self.bytes = 0
        self._ended = False

    async def receive(self) -> Message:
        if self._ended:
            return await self._receive()  # the client going away, whenever that is
        now_s = asyncio.get_running_loop().time()
        self._end_s = now_s + self._whole_wait_s if self._end_s is None else self._end_s
        try:
            async with asyncio.timeout_at(min(now_s + self._wait_s, self._end_s)):
                message = await self._receive()
        except TimeoutError:
            is_slow = now_s + self._wait_s > self._end_s
            why = (
                f"the body was not whole after {self._whole_wait_s:g} s"
                if is_slow
                else f"nothing of the body came for {self._wait_s:g} s"
            )
            raise refuse(408, why, headers={"connection": "close"}) from None
        if message["type"] == "http.request":
            self.bytes += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
            if self.bytes > self._bytes_max:
                raise _too_large(self._bytes_max)
        return message


class _Reply:
    """An answer on its way: its status, its size, and the headers that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._own = ((_HEADER, request_id.encode()), *_SECURITY)
        self.status = 0
        self.bytes = 0

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message.get("headers", ())}
            message["headers"] = [
                *message.get("headers", ()),
                *((name, value) for name, value in self._own if name not in given),
            ]
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _require_announced(scope: Scope, bytes_max: int) -> None:
    """Refuse a body by the length that its head gives, before any of it is read."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if length.isdigit() and int(length[:20]) > bytes_max:
        raise _too_large(bytes_max)


def _closing(error: ApiError) -> ApiError:
    """Let a refusal end the connection: what its client still sends is read by nobody."""
    headers = {**error.problem.headers, "connection": "close"}
    return ApiError(replace(error.problem, headers=headers))


def _too_large(bytes_max: int) -> ApiError:
    return refuse(
        413,
        f"the body is larger than {bytes_max:,} bytes",
        hint="send it in parts; FQLSTREAM_API__BODY_BYTES_MAX and UPLOAD_BYTES_MAX set the limits",
        headers={"connection": "close"},
    )
