"""The API as a process: its parts are opened, requests answered until SIGTERM, and all of it closed in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import uvicorn

from fqlstream.api.application import create_app
from fqlstream.api.following import DefinitionsFollower
from fqlstream.api.gate import Gate
from fqlstream.api.observed import configure_logging
from fqlstream.api.one_segment import OneSegmentProtocol
from fqlstream.api.services import Dependencies
from fqlstream.clock import SystemClock
from fqlstream.errors import UsageError
from fqlstream.listening import TellingServer, is_loopback, listen, take_signals, url_of
from fqlstream.ops import access
from fqlstream.ops.code_metric_tasks import CodeMetricRequests, TaskSender
from fqlstream.ops.recording import Recorder
from fqlstream.settings import ApiSettings, Settings
from fqlstream.store import migrations
from fqlstream.store.client import Store

log = logging.getLogger("fqlstream.api")

#: An idle connection of a client that posts now and then is worth more than its few kilobytes.
_KEEP_ALIVE_S: Final = 75
_BACKLOG: Final = 1024
#: Time to close in, after requests have had `stop_wait_s` to end: supervisors kill after 30 s.
_CLOSE_WAIT_S: Final = 18.0
#: Rows of keys and users that are asked for at once, beside what is hashed for keys and, as many, for logins.
_LOOKS_AT_ONCE: Final = 2


@contextlib.asynccontextmanager
async def open_dependencies(settings: Settings) -> AsyncIterator[Dependencies]:
    """Open the parts of an API process, and close them in order.

    Raises UsageError API031 where ClickHouse lacks tables, StoreError and BrokerError where ClickHouse or Kafka cannot be had.
    """
    clock = SystemClock()
    secret = access.load_secret(settings.api, settings.data)
    with (
        Store.connect(settings.store) as store,
        ThreadPoolExecutor(settings.api.threads_max, "request") as threads,
        ThreadPoolExecutor(settings.api.uploads_max, "upload") as upload_threads,
        # who is calling is found out beside slow answers, not behind them
        Store.connect(settings.store) as access_store,
        ThreadPoolExecutor(2 * settings.api.hashes_at_once + _LOOKS_AT_ONCE, "access") as access_threads,
    ):
        if waiting := await asyncio.to_thread(migrations.pending, store):
            raise UsageError(
                "API031", f"ClickHouse lacks what {', '.join(waiting)} make", "apply them: fqlstream schema apply"
            )
        async with contextlib.AsyncExitStack() as opened:
            definitions = DefinitionsFollower(settings, clock, store=store)
            opened.push_async_callback(definitions.close)
            await definitions.start()
            recorder = await opened.enter_async_context(Recorder(settings, store))
            gate = Gate(settings.api, access_store, secret, clock, access_threads)
            requests = CodeMetricRequests(store, TaskSender(settings.kafka), settings.runner, clock)
            yield Dependencies(settings, clock, store, gate, definitions, recorder, requests, threads, upload_threads)


def serve(
    settings: Settings,
    *,
    on_ready: Callable[[str], None] | None = None,
    on_first_key: Callable[[str], None] | None = None,
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    `on_ready` is told the address once it listens, `on_first_key` an administrator's key where there was no key at all. Raises
    UsageError where the address is taken or must not be served without keys.
    """
    _require_loopback_without_keys(settings.api)
    with listen(settings.api.host, settings.api.port, code="API032", who="the API") as listener:
        deadline = _end_process_after(_CLOSE_WAIT_S)
        try:
            asyncio.run(_serve(settings, listener, deadline, on_ready, on_first_key))
        finally:
            deadline.cancel()


async def _serve(
    settings: Settings,
    listener: socket.socket,
    deadline: threading.Timer,
    on_ready: Callable[[str], None] | None,
    on_first_key: Callable[[str], None] | None,
) -> None:
    async with open_dependencies(settings) as parts:
        if settings.api.auth and on_first_key is not None:
            made = await parts.thread(_first_key, parts.store)
            if made is not None:
                on_first_key(made)
        config = _config(settings, parts)
        server = TellingServer(config, lambda: on_ready(address_of(settings.api, listener)) if on_ready else None)
        take_signals()
        await server.serve(sockets=[listener])
        deadline.start()
        # nobody is left whom an answer could reach: what waits for a thread is not begun
        for threads in (parts.threads, parts.upload_threads):
            threads.shutdown(wait=False, cancel_futures=True)


def _end_process_after(wait_s: float) -> threading.Timer:
    """Give a timer that ends the process: a thread that waits for ClickHouse or Kafka cannot be stopped otherwise.

    Nothing is lost by it: what was acknowledged is durable, and what was not its client sends again.
    """

    def end() -> None:
        log.warning("not closed within %.0f s: the process is ended", wait_s)
        os._exit(0)

    timer = threading.Timer(wait_s, end)
    timer.daemon = True
    return timer


def _config(settings: Settings, parts: Dependencies) -> uvicorn.Config:
    api = settings.api
    config = uvicorn.Config(
        create_app(parts),
        loop="asyncio",
        http=OneSegmentProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=api.stop_wait_s,
        backlog=_BACKLOG,
        ssl_certfile=str(api.certificate_file) if api.certificate_file else None,
        ssl_keyfile=str(api.certificate_key_file) if api.certificate_key_file else None,
    )
    configure_logging()  # uvicorn has just configured its own
    return config


def _first_key(store: Store) -> str | None:
    """Make an administrator's key where there is no key yet, so that no default password is needed."""
    if access.list_keys(store):
        return None
    return access.create_key(store, [access.Scope.ADMIN], "made at the first start").key


def address_of(settings: ApiSettings, listener: socket.socket) -> str:
    """Give the URL of a listening socket."""
    scheme = "https" if settings.certificate_file else "http"
    return url_of(settings.host, listener, scheme)


def _require_loopback_without_keys(settings: ApiSettings) -> None:
    if settings.auth or is_loopback(settings.host):
        return
    raise UsageError(
        "API030",
        f"the API would answer everybody on {settings.host} without a key",
        "leave --no-auth out, or listen on 127.0.0.1",
    )
