"""A worker's /metrics and /health: a small HTTP server in a thread of its own, so that it also answers while the engine is busy."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fqlstream import listening
from fqlstream.app.observed import Health
from fqlstream.listening import STOP_WAIT_S, listen, url_of
from fqlstream.settings import WorkerSettings

log = logging.getLogger("fqlstream.serving")


class Observed(Protocol):
    """A worker, as it is asked here: from a thread that is not its own."""

    def health(self) -> Health:
        """Say whether it does its work; never waits."""
        ...

    async def metrics(self) -> bytes:
        """Give its numbers in Prometheus' text form; raises TimeoutError where it starts, or its event loop does not answer in time."""
        ...


class Served:
    """The server, from `start` to `stop`."""

    def __init__(self, settings: WorkerSettings, observed: Observed) -> None:
        require_key(settings)
        self._settings = settings
        self._listener = listen(
            settings.host,
            settings.port,
            code="APP021",
            who="metrics",
            gives_way=settings.port_gives_way,
            option="FQLSTREAM_WORKER__PORT",
        )
        self._server = uvicorn.Server(listening.page_config(settings, application(settings, observed)))
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return url_of(self._settings.host, self._listener, "https" if self._settings.certificate_file else "http")

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        log.info("metrics and health at %s", self.url)  # perhaps not the port of the settings: that may be taken

    def stop(self) -> None:
        """Answer no more."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_WAIT_S + 1)
        self._listener.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except Exception:  # whoever watches a worker must not be able to end it
            log.exception("metrics and health are no longer served")


def application(settings: WorkerSettings, observed: Observed) -> Starlette:
    """Give the routes: /metrics asks for the key if there is one, /health asks for none and is never too busy."""
    at_once = asyncio.Semaphore(settings.requests_max)

    async def metrics(request: Request) -> Response:
        if not listening.may_read(settings, request.headers.get("authorization", "")):
            return Response("worker.key is asked for: Authorization: Bearer KEY\n", 401, {"www-authenticate": "Bearer"})
        if at_once.locked():
            return Response("too many ask at once\n", 503, {"retry-after": "1"})
        async with at_once:
            try:
                return Response(await observed.metrics(), media_type=CONTENT_TYPE_LATEST)
            except TimeoutError:
                return Response("the worker starts, or its event loop is busy\n", 503)

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
    listening.require_key(settings, code="APP020", what="this worker's numbers", variables="FQLSTREAM_WORKER__")


def _told(health: Health, *, is_fine: bool) -> Response:
    slowest = None if health.slowest is None else {"what": health.slowest[0], "for_s": round(health.slowest[1], 1)}
    content = {
        "status": health.status,
        "partitions": {topic: asdict(held) for topic, held in health.partitions.items()},
        "trouble": [{**asdict(each), "for_s": round(each.for_s, 1)} for each in health.trouble],
        "slowest": slowest,
    }
    return JSONResponse(content, 200 if is_fine else 503)


async def asked_in(loop: asyncio.AbstractEventLoop, wait_s: float, ask: Callable[[], bytes]) -> bytes:
    """Have something read on another event loop. Raises TimeoutError where that does not turn in time, or has ended."""
    answer: Future[bytes] = Future()

    def read() -> None:
        if not answer.set_running_or_notify_cancel():
            return  # nobody waits any more
        try:
            answer.set_result(ask())
        except Exception as error:  # any: it is raised where the answer is awaited
            answer.set_exception(error)

    try:
        loop.call_soon_threadsafe(read)
    except RuntimeError:  # closed: the worker stops
        raise TimeoutError from None
    async with asyncio.timeout(wait_s):
        return await asyncio.wrap_future(answer)
