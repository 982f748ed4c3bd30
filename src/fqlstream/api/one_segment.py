"""uvicorn's HTTP/1.1 protocol with each answer in one segment: head and body written together.

uvicorn writes them one after the other. Whoever posts one value at a time waits for both, and a client that acknowledges late makes
the second wait for it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: A large answer is passed on as it comes: joining it would copy it.
_HELD_BYTES_MAX: Final = 1 << 16


class OneSegmentProtocol(HttpToolsProtocol):
    """Speaks HTTP/1.1 through a transport that gathers what is written in one turn of the event loop."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it so too
        """Begin a connection."""
        super().connection_made(cast("asyncio.Transport", _Gathering(transport)))


class _Gathering:
    """A transport whose writes of one turn of the event loop leave together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._pass_on)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_BYTES_MAX:
            self._pass_on()

    def close(self) -> None:
        self._pass_on()
        self._transport.close()

    def _pass_on(self) -> None:
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
