"""The embedded store as a process: one owner of a directory, answering ClickHouse's HTTP interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from fqlstream.errors import StoreError
from fqlstream.listening import TellingServer, listen, take_signals, url_of
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
    listener = listen(
        address, settings.port if port is None else port, code="STO012", who="the store", gives_way=port is None
    )
    with listener, open_engine(data, settings) as engine:
        key = load_key(data)
        interface = HttpInterface(engine, key, Limits(settings.body_bytes_max, settings.statements_max))
        url = url_of(address, listener)
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
        server = TellingServer(config, lambda: on_ready(StoreAddress(url, key)) if on_ready else None)
        take_signals()
        try:
            server.run(sockets=[listener])
        finally:
            interface.close()
