"""How tests call an application: in this process, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


def call(app: Any, play: Callable[[httpx.AsyncClient], Awaitable[T]], *, base_url: str = "http://127.0.0.1:8080") -> T:
    """Play something with a client of an application. What it does not catch is answered as a server would."""

    async def playing() -> T:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            return await play(client)

    return asyncio.run(playing())


def ask(app: Any, method: str, path: str, *, base_url: str = "http://127.0.0.1:8080", **given: Any) -> httpx.Response:
    """Make one request."""
    return call(app, lambda client: client.request(method, path, **given), base_url=base_url)
