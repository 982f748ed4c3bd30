"""A proxy in front of a real store that behaves as it is told: every way in which ClickHouse, or what is before it, goes wrong.

It stands between a worker and the store; tests look at the store itself. What it does with a request is a function that is
switched while events flow; the requests that pass are those of the store's own HTTP interface, byte for byte.
"""

from __future__ import annotations

import http.client
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})


@dataclass
class Request:
    """One request of a worker, whole."""

    proxy: MisbehavingStore
    handler: BaseHTTPRequestHandler
    body: bytes

    @property
    def statement(self) -> str:
        """The statement, wherever it travels."""
        asked = parse_qs(urlsplit(self.handler.path).query).get("query")
        return asked[0] if asked else self.body[:2_000].decode(errors="replace")

    @property
    def is_insert(self) -> bool:
        return self.statement.lstrip().upper().startswith("INSERT")

    def ask_store(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the real store; gives status, headers and body."""
        connection = http.client.HTTPConnection(*self.proxy.target, timeout=60)
        try:
            headers = {name: value for name, value in self.handler.headers.items() if name.lower() not in _HOP}
            connection.request(self.handler.command, self.handler.path, self.body, headers)
            response = connection.getresponse()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP]
            return response.status, kept, response.read()
        finally:
            connection.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, length: int | None = None) -> None:
        """Answer, with a Content-Length of its own if asked; one that is too long ends the connection."""
        self.handler.send_response(status)
        for name, value in headers:
            self.handler.send_header(name, value)
        self.handler.send_header("Content-Length", str(len(body) if length is None else length))
        if length not in (None, len(body)):
            self.handler.close_connection = True
        self.handler.end_headers()
        self.handler.wfile.write(body)
        self.handler.wfile.flush()

    def cut(self) -> None:
        """Reset the connection."""
        self.handler.close_connection = True
        connection = self.handler.connection
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()


Behaviour = Callable[[Request], None]


def well(request: Request) -> None:
    """Do as the store does."""
    request.answer(*request.ask_store())


def of_inserts(behaviour: Behaviour) -> Behaviour:
    """Misbehave for what writes, and only that."""
    return lambda request: (behaviour if request.is_insert else well)(request)


def of_reads(behaviour: Behaviour) -> Behaviour:
    """Misbehave for what reads, and only that."""
    return lambda request: (well if request.is_insert else behaviour)(request)


def slow(seconds: float) -> Behaviour:
    """Take so long for everything."""

    def behave(request: Request) -> None:
        request.proxy.released.wait(seconds)
        well(request)

    return behave


def silent(request: Request) -> None:
    """Never answer, until the behaviour changes; then it is too late."""
    request.proxy.released.wait(120)
    request.cut()


def refusing(code: int, name: str, text: str) -> Behaviour:
    """Answer with an error of ClickHouse's own."""

    def behave(request: Request) -> None:
        body = f"Code: {code}. DB::Exception: {text}. ({name}) (version 26.9.1.1)\n".encode()
        request.answer(500, [("X-ClickHouse-Exception-Code", str(code))], body)

    return behave


READ_ONLY = refusing(164, "READONLY", "Cannot execute query in readonly mode")
TABLE_READ_ONLY = refusing(242, "TABLE_IS_READ_ONLY", "Table is in readonly mode (replica path: /clickhouse/t)")
DISK_FULL = refusing(243, "NOT_ENOUGH_SPACE", "Cannot reserve 1.00 MiB, not enough space")


def page(status: int) -> Behaviour:
    """Answer as a proxy or a login page does that stands in the way."""
    body = b"<html><head><title>Welcome</title></head><body>Please sign in.</body></html>"
    return lambda request: request.answer(status, [("Content-Type", "text/html")], body)


def broken_off(request: Request) -> None:
    """End the connection in the middle of an answer."""
    status, headers, body = request.ask_store()
    request.answer(status, headers, body[: len(body) // 2], length=len(body) + (not body))


def shortened(request: Request) -> None:
    """Give half of an answer as if it were the whole: only its own format can tell."""
    status, headers, body = request.ask_store()
    request.answer(status, headers, body[: len(body) // 2])


def cut_between_batches(request: Request) -> None:
    """Give an Arrow stream without its end: a whole stream, to who does not look for the end, and perhaps fewer batches."""
    status, headers, body = request.ask_store()
    assert body.endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")
    request.answer(status, headers, body[:-8])


def failing_late(request: Request) -> None:
    """Say 200, give a part of the answer, then the error in its body, as ClickHouse does when it fails on the way."""
    _, _, body = request.ask_store()
    error = b"Code: 241. DB::Exception: (total) memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)\n"
    request.answer(200, [("X-ClickHouse-Query-Id", "late")], body[: len(body) // 2] + error)


def failing_in_a_header(request: Request) -> None:
    """Say 200, and in a header that it failed."""
    request.answer(200, [("X-ClickHouse-Exception-Code", "241")], b"Code: 241. DB::Exception: memory limit exceeded.\n")


def cut_before(request: Request) -> None:
    """Break the connection before the store has seen anything."""
    request.cut()


def cut_after(request: Request) -> None:
    """Do what was asked, and break the connection before saying so."""
    request.ask_store()
    request.cut()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@dataclass
class MisbehavingStore:
    """The proxy; `behaviour` decides what becomes of each request from now on."""

    target: tuple[str, int]
    behaviour: Behaviour = well
    asked: int = 0
    misbehaved: int = 0
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    _server: _Server | None = None
    _connections: set[socket.socket] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the same port each time."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                proxy._connections.add(self.connection)

            def finish(self) -> None:
                proxy._connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def do_POST(self) -> None:
                proxy.handle(self)

            do_GET = do_POST  # noqa: N815  # the name is the base's

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end those that are open."""
        if self._server is None:
            return
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request as the behaviour has it."""
        self.asked += 1
        with suppress(OSError, http.client.HTTPException, ValueError):
            request = Request(self, handler, _body(handler))
            behaviour = self.behaviour
            if behaviour is not well:
                self.misbehaved += 1
            try:
                behaviour(request)
            except (ConnectionError, http.client.HTTPException):  # the store itself is away
                request.cut()
            return
        handler.close_connection = True

    @contextmanager
    def behaving(self, behaviour: Behaviour) -> Iterator[None]:
        """Misbehave for a while."""
        self.released.clear()
        self.behaviour = behaviour
        try:
            yield
        finally:
            self.behaviour = well
            self.released.set()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)
