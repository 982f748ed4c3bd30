"""An answer leaves in one write: head and body together, a large one as it comes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Response
from tests.waiting import wait_in_loop

from fqlstream.api import one_segment
from fqlstream.api.one_segment import OneSegmentProtocol


async def play(app: Any, requests: list[bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], bytes]:
    """Send requests over one connection; gives what was written, write by write, and what arrived."""
    written: list[bytes] = []
    pass_on = one_segment._Gathering._pass_on

    def noting(self: Any) -> None:
        if self._held:
            written.append(b"".join(self._held))
        pass_on(self)

    monkeypatch.setattr(one_segment._Gathering, "_pass_on", noting)
    config = uvicorn.Config(app, http=OneSegmentProtocol, ws="none", lifespan="off", log_level="warning", port=0)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    await wait_in_loop(lambda: server.started, "the server listens")
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"".join(requests))
    arrived = await reader.read()
    writer.close()
    server.should_exit = True
    await serving
    return written, arrived


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/small")
    async def small() -> dict[str, int]:
        return {"value": 1}

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * 1_000_000)

    return app


def request(path: str, *, last: bool) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n{'connection: close' if last else 'x: y'}\r\n\r\n".encode()


def test_head_and_body_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request("/small", last=False), request("/small", last=True)]
    written, arrived = asyncio.run(play(application(), requests, monkeypatch))
    assert len(written) == 2
    for answer in written:
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'{"value":1}')
    assert arrived == b"".join(written)


def test_a_large_answer_arrives_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request("/large", last=False), request("/small", last=True)]
    _, arrived = asyncio.run(play(application(), requests, monkeypatch))
    assert arrived.count(b"x" * 1_000_000) == 1
    assert arrived.endswith(b'{"value":1}')
