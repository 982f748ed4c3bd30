"""The API's process: where it listens, and when it refuses to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fqlstream.api import server
from fqlstream.errors import UsageError
from fqlstream.listening import listen
from fqlstream.settings import ApiSettings, Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_without_keys_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(UsageError, match="without a key") as refused:
        server.serve(Settings(api=ApiSettings(auth=False, host=host)))
    assert refused.value.code == "API030"
    assert refused.value.exit_code == 2


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1:{port}") as refused:
            server.serve(Settings(api=ApiSettings(port=port)))
    assert refused.value.code == "API032"


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        ({"host": "127.0.0.1"}, "http://127.0.0.1:"),
        ({"host": "::1"}, "http://[::1]:"),
        ({"certificate_file": Path("c.pem")}, "https://127.0.0.1:"),
    ],
)
def test_its_address_is_one_that_a_client_can_use(settings: dict[str, Any], begins: str) -> None:
    api = ApiSettings(port=0, **settings)
    with listen(api.host, 0, code="API032", who="the API") as listener:
        assert server.address_of(api, listener) == f"{begins}{listener.getsockname()[1]}"


def test_closing_has_a_deadline_and_begins_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    codes: list[int] = []
    waiting: list[Future[bool]] = []

    class StoppedServer:
        def __init__(self, *_: Any) -> None: ...

        async def serve(self, sockets: list[socket.socket]) -> None: ...

    @contextlib.asynccontextmanager
    async def stuck(_: Settings) -> AsyncIterator[Any]:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(ended.wait, 10)
            waiting.append(threads.submit(ended.wait, 10))
            yield SimpleNamespace(threads=threads, upload_threads=threads)
            await asyncio.to_thread(ended.wait, 10)

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(server, "open_dependencies", stuck)
    monkeypatch.setattr(server, "TellingServer", StoppedServer)
    monkeypatch.setattr(server, "_config", lambda *_: None)
    monkeypatch.setattr(server, "take_signals", lambda: None)
    monkeypatch.setattr(server, "_CLOSE_WAIT_S", 0.05)
    monkeypatch.setattr("os._exit", end)
    server.serve(Settings(api=ApiSettings(port=0)))
    assert codes == [0]
    assert waiting[0].cancelled()
