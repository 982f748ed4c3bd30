"""A worker's /metrics and /health: a small HTTP server in a thread of its own, so that it also answers while the engine is busy."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Final, Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fqlstream.app.observed import Health
from fqlstream.errors import UsageError
from fqlstream.listening import is_loopback, listen, url_of
from fqlstream.settings import WorkerSettings

log = logging.getLogger("fqlstream.serving")

_KEEP_ALIVE_S: Final = 30
_STOP_WAIT_S: Final = 2


class Observed(Protocol):
    """A worker, as it is asked here: from a thread that is not its own."""

    def health(self) -> Health:
        """Say whether it does its work; never waits."""
        ...

    async def metrics(self) -> bytes:
        """Give its numbers in Prometheus' text form; raises TimeoutError where its event loop does not answer in time."""
        ...


class Served:
    """The server, from `start` to `stop`."""

    def __init__(self, settings: WorkerSettings, observed: Observed) -> None:
        require_key(settings)
        self._settings = settings
        self._listener = listen(settings.host, settings.port, code="APP021", who="metrics", gives_way=True)
        self._server = uvicorn.Server(_config(settings, application(settings, observed)))
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return url_of(self._settings.host, self._listener, "https" if self._settings.certificate_file else "http")

    def start(self) -> None:
        """Answer from now on."""
        self._listener.listen()
        self._thread.start()
        log.info("metrics and health at %s", self.url)  # perhaps not the port of the settings: that may be taken

    def stop(self) -> None:
        """Answer no more."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_WAIT_S + 1)
        self._listener.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:  # whoever watches a worker must not be able to end it
            log.exception("metrics and health are no longer served")


def application(settings: WorkerSettings, observed: Observed) -> Starlette:
    """Give the routes: /metrics asks for the key if there is one, /health asks for none."""

    async def metrics(request: Request) -> Response:
        if settings.auth and settings.key is not None and not _has_key(request, settings.key.get_secret_value()):
            return Response("worker.key is asked for: Authorization: Bearer KEY\n", 401, {"www-authenticate": "Bearer"})
        try:
            return Response(await observed.metrics(), media_type=CONTENT_TYPE_LATEST)
        except TimeoutError:
            return Response("the event loop is busy\n", 503)

    async def live(_: Request) -> Response:
        health = observed.health()
        return _told(health, is_fine=health.is_live)

    async def ready(_: Request) -> Response:
        health = observed.health()
        return _told(health, is_fine=health.is_ready)

    routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/metrics": metrics,
        "/health": ready,
        "/health/ready": ready,
        "/health/live": live,
    }
    return Starlette(routes=[Route(path, answer) for path, answer in routes.items()])


def require_key(settings: WorkerSettings) -> None:
    """Refuse to tell everybody: raises UsageError APP020 where a worker would listen off loopback without asking for a key."""
    if settings.auth and settings.key is None and not is_loopback(settings.host):
        raise UsageError(
            "APP020",
            f"this worker's numbers would be told to everybody who reaches {settings.host}",
            "give FQLSTREAM_WORKER__KEY, or say that nobody is to be asked: FQLSTREAM_WORKER__AUTH=false",
        )


def _config(settings: WorkerSettings, app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=settings.requests_max,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_WAIT_S,
        ssl_certfile=str(settings.certificate_file) if settings.certificate_file else None,
        ssl_keyfile=str(settings.certificate_key_file) if settings.certificate_key_file else None,
    )


def _told(health: Health, *, is_fine: bool) -> Response:
    slowest = None if health.slowest is None else {"what": health.slowest[0], "for_s": round(health.slowest[1], 1)}
    content = {
        "status": health.status,
        "partitions": {topic: asdict(held) for topic, held in health.partitions.items()},
        "trouble": [{**asdict(each), "for_s": round(each.for_s, 1)} for each in health.trouble],
        "slowest": slowest,
    }
    return JSONResponse(content, 200 if is_fine else 503)


def _has_key(request: Request, key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


async def asked_in(loop: asyncio.AbstractEventLoop, wait_s: float, ask: Callable[[], bytes]) -> bytes:
    """Have something read on another event loop. Raises TimeoutError where that does not turn in time, or has ended."""
    answer: Future[bytes] = Future()

    def read() -> None:
        if not answer.set_running_or_notify_cancel():
            return  # nobody waits any more
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    try:
        loop.call_soon_threadsafe(read)
    except RuntimeError:  # closed: the worker stops
        raise TimeoutError from None
    async with asyncio.timeout(wait_s):
        return await asyncio.wrap_future(answer)
