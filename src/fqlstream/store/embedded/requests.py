"""A request of ClickHouse's HTTP interface, taken apart: headers, parameters, settings, and the body as it comes."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from fqlstream.store.embedded.compression import body_decoder, too_large
from fqlstream.store.embedded.engine import SessionName
from fqlstream.store.embedded.exceptions import BAD_ARGUMENTS, NOT_IMPLEMENTED, refusal
from fqlstream.store.embedded.sessions import TIMEOUT_S, TIMEOUT_S_MAX

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: Parameters of the interface itself; every other one is a setting of ClickHouse or, with `param_`, a query parameter.
_OWN_PARAMETERS = frozenset({
    "add_http_cors_header", "buffer_size", "cancel_http_readonly_queries_on_client_close", "client_protocol_version", "close_session",
    "compress", "database", "decompress", "default_format", "enable_http_compression", "http_headers_progress_interval_ms",
    "http_native_compression_disable_checksumming_on_decompress", "http_zlib_compression_level", "password", "query", "query_id",
    "quota_key", "role", "send_progress_in_http_headers", "session_check", "session_id", "session_timeout", "stacktrace", "user",
    "wait_end_of_query",
})  # fmt: skip


@dataclass(slots=True)
class Request:
    """What was asked, and by whom."""

    method: str
    path: str
    headers: Mapping[str, str]
    parameters: dict[str, str]
    peer: str
    query_id: str
    body: Body
    settings: dict[str, str] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)

    @property
    def read_only(self) -> bool:
        """Whether the method itself forbids writing, as ClickHouse has it."""
        return self.method != "POST"

    @property
    def database(self) -> str | None:
        """The database that unqualified names are looked up in."""
        return self.parameters.get("database") or self.headers.get("x-clickhouse-database")

    @property
    def default_format(self) -> str:
        """The format of a result whose statement names none."""
        return self.parameters.get("default_format") or self.headers.get("x-clickhouse-format") or "TabSeparated"

    @property
    def protocol_version(self) -> int:
        """The revision of the native protocol whose blocks the client reads; 0: plain ones."""
        text = self.parameters.get("client_protocol_version", "0")
        return int(text) if text.isdigit() else 0

    @property
    def session(self) -> SessionName | None:
        """The session that the request belongs to."""
        name = self.parameters.get("session_id")
        text = self.parameters.get("session_timeout", "")
        timeout_s = min(int(text), TIMEOUT_S_MAX) if text.isdigit() else TIMEOUT_S
        return SessionName(name, timeout_s) if name else None

    def is_set(self, name: str) -> bool:
        """Whether a parameter says yes."""
        return self.parameters.get(name) in ("1", "true")

    async def read_form(self) -> None:
        """Read a multipart form: clickhouse-connect sends long queries and parameters so."""
        content_type = self.headers.get("content-type", "")
        if content_type.startswith("multipart/form-data"):
            self.parameters.update(_form(await self.body.read_all(), content_type))

    def sort_parameters(self) -> None:
        """Tell settings, query parameters and the interface's own parameters apart."""
        for name, value in self.parameters.items():
            if name.startswith("param_"):
                self.bound[name.removeprefix("param_")] = value
            elif name not in _OWN_PARAMETERS:
                self.settings[name] = value
        if self.parameters.get("role"):
            raise refusal(
                NOT_IMPLEMENTED, "Roles are not supported by the embedded store: the key decides what is allowed"
            )


class Body:
    """The body of a request, unpacked, at most so many bytes."""

    def __init__(self, receive: Receive, encoding: str, bytes_max: int, *, native: bool) -> None:
        self._receive = receive
        self._encoding = encoding
        self._native = native
        self._decoder = None if not encoding and not native else body_decoder(encoding, bytes_max, native=native)
        self._left = bytes_max
        self._bytes_max = bytes_max
        self._ended = False

    def limit(self, bytes_max: int) -> None:
        """Take fewer bytes than was said at first."""
        self._left = min(self._left, bytes_max)
        self._bytes_max = min(self._bytes_max, bytes_max)

    @property
    def ended(self) -> bool:
        """Whether everything has been read."""
        return self._ended

    async def read(self, size: int) -> bytes:
        """Give the next bytes: at least `size` while there are so many, nothing at the end."""
        pieces: list[bytes] = []
        length = 0
        while length < size and not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise refusal(BAD_ARGUMENTS, "The client went away before its request was whole")
            piece = message.get("body", b"")
            self._left -= len(piece)
            if self._left < 0:
                raise too_large(self._bytes_max)
            self._ended = not message.get("more_body", False)
            if self._decoder is not None:
                piece = self._decoder.decode(piece)
                if self._ended:
                    self._decoder.finish()
            pieces.append(piece)
            length += len(piece)
        return b"".join(pieces)

    async def read_all(self) -> bytes:
        """Give everything that is left."""
        return await self.read(self._bytes_max + 1)

    async def gone(self) -> None:
        """Wait until the client has gone away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def read_request(scope: MutableMapping[str, Any], receive: Receive, bytes_max: int) -> Request:
    """Take an ASGI request apart."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    parameters = dict(
        parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
    )
    client = scope.get("client")
    body = Body(
        receive,
        headers.get("content-encoding", "").strip().lower(),
        bytes_max,
        native=parameters.get("decompress") in ("1", "true"),
    )
    query_id = parameters.get("query_id") or headers.get("x-clickhouse-query-id") or str(uuid.uuid4())
    return Request(scope["method"], scope["path"], headers, parameters, client[0] if client else "", query_id, body)


def _form(body: bytes, content_type: str) -> dict[str, str]:
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
