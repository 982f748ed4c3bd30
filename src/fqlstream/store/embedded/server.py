"""The embedded store as a process: one owner of a directory, answering ClickHouse's HTTP interface."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from fqlstream.errors import StoreError, UsageError
from fqlstream.settings import StoreSettings
from fqlstream.store.embedded.access import load_key
from fqlstream.store.embedded.config import EngineLimits, write_config
from fqlstream.store.embedded.engine import Engine
from fqlstream.store.embedded.exceptions import EngineError
from fqlstream.store.embedded.interface import HttpInterface, Limits
from fqlstream.store.embedded.process import lock_directory

#: Statements that run when SIGTERM comes get so long to end; with the engine's own shutdown the process ends within 10 s.
_GRACE_S = 5


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a running store answers, and what it takes to write."""

    url: str
    key: str


@contextlib.contextmanager
def open_engine(data: Path, settings: StoreSettings) -> Iterator[Engine]:
    """Own a data directory and open the engine over its `store` folder."""
    with lock_directory(data):
        limits = EngineLimits(settings.memory_ram_ratio_max, settings.background_threads, settings.fsync)
        config = write_config(data / "store-config", limits)
        try:
            engine = Engine((data / "store").resolve(), config.resolve())
        except EngineError as error:
            raise StoreError("STO011", f"the store in {data} does not open: {error.text}") from None
        try:
            yield engine
        finally:
            engine.close()


def serve(
    data: Path,
    settings: StoreSettings,
    *,
    port: int | None = None,
    host: str | None = None,
    on_ready: Callable[[StoreAddress], None] | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT. `on_ready` is called once the port listens; port 0 takes a free one."""
    address = host or settings.host
    with _listen(address, port, settings.port) as listener, open_engine(data, settings) as engine:
        key = load_key(data)
        interface = HttpInterface(engine, key, Limits(settings.body_bytes_max, settings.statements_max))
        bound_port = listener.getsockname()[1]
        shown = f"[{address}]" if ":" in address else address
        config = uvicorn.Config(
            interface,
            http="httptools",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=300,
            timeout_graceful_shutdown=_GRACE_S,
            backlog=1024,
        )
        server = _Server(
            config, lambda: on_ready(StoreAddress(f"http://{shown}:{bound_port}", key)) if on_ready else None
        )
        _take_signals()
        try:
            server.run(sockets=[listener])
        finally:
            interface.close()


class _Server(uvicorn.Server):
    """Tells when the port listens; uvicorn has no other place for it."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()


def _take_signals() -> None:
    """Let SIGTERM and SIGINT end the serving, not the process: uvicorn raises them again when it has stopped."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)


def _listen(host: str, port: int | None, preferred: int) -> socket.socket:
    """Listen on the port that was asked for; without one on the preferred port, or a free one where that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # accepted connections inherit it: small answers must not wait for an acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        try:
            listener.bind((host, preferred if port is None else port))
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise
            listener.bind((host, 0))
    except OSError as error:
        listener.close()
        raise UsageError(
            "STO012",
            f"the store cannot listen on {host}:{port}: {error.strerror}",
            "give another port, or 0 for a free one",
        ) from None
    return listener
