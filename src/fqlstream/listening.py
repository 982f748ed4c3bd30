"""Listening: the socket of a server of ours, its address, and a process that serves until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import uvicorn
from pydantic import SecretStr
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fqlstream.errors import UsageError

_KEEP_ALIVE_S: Final = 30
#: A connection that asks nothing is closed: whoever holds many open must not keep others from being answered.
_SILENT_S: Final = 10
#: Nor may the head of a further request take for ever.
_HEAD_S: Final = 30
#: More than anybody who reads a page needs, fewer than a process may have files open.
_CONNECTIONS_MAX: Final = 512
#: An empty key, as of a variable that nobody filled in, would let everybody in.
KEY_CHARACTERS_MIN: Final = 16
#: How long a page's readers get to end when its server is told to.
STOP_WAIT_S: Final = 2


def listen(
    host: str, port: int, *, code: str, who: str, gives_way: bool = False, option: str = "--port"
) -> socket.socket:
    """Listen on an address; port 0 takes a free one, and so does one that is in use where the server gives way.

    Raises UsageError of that code, which says who cannot listen, where the address cannot be had, and the option that gives another.
    """
    try:
        try:
            return _listening(host, port)
        except OSError as error:
            if not gives_way or error.errno != errno.EADDRINUSE:
                raise
            return _listening(host, 0)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        hint = f"give another port with {option}, or 0 for a free one" if taken else None
        raise UsageError(code, f"{who} cannot listen on {host}:{port}: {error.strerror}", hint) from None


def _listening(host: str, port: int) -> socket.socket:
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # accepted connections inherit it: small answers must not wait for an acknowledgement
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        # two sockets may be bound to one port until the first of them listens
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def url_of(host: str, listener: socket.socket, scheme: str = "http") -> str:
    """Give the URL of a socket that listens on a host."""
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address. Of names only localhost is known to be one."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return bool((mapped or address).is_loopback)


class Told(Protocol):
    """Settings of a page that programs read: where it is, and who may read it."""

    @property
    def host(self) -> str:
        """Address it listens on."""
        ...

    @property
    def auth(self) -> bool:
        """Whether it asks for a key wherever it is not on loopback."""
        ...

    @property
    def key(self) -> SecretStr | None:
        """The key."""
        ...

    @property
    def certificate_file(self) -> Path | None:
        """Its certificate; None: plain HTTP."""
        ...

    @property
    def certificate_key_file(self) -> Path | None:
        """The certificate's key."""
        ...


def require_key(settings: Told, *, code: str, what: str, variables: str) -> None:
    """Refuse to tell everybody: raises UsageError of that code where others could read it and no key is asked for, or one that is guessed.

    `what` is told, `variables` is how the settings' variables of the environment begin.
    """
    if settings.auth and settings.key is not None and len(settings.key.get_secret_value()) < KEY_CHARACTERS_MIN:
        raise UsageError(
            code, f"{variables}KEY has fewer than {KEY_CHARACTERS_MIN} characters", "make one: openssl rand -hex 32"
        )
    if settings.auth and settings.key is None and not is_loopback(settings.host):
        raise UsageError(
            code,
            f"{what} would be told to everybody who reaches {settings.host}",
            f"give {variables}KEY, or say that nobody is to be asked: {variables}AUTH=false",
        )


def may_read(settings: Told, authorization: str) -> bool:
    """Say whether who shows this header may read: everybody where there is no key, or nobody is to be asked."""
    if not settings.auth or settings.key is None:
        return True
    scheme, _, given = authorization.partition(" ")
    key = settings.key.get_secret_value()
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


class _ImpatientProtocol(HttpToolsProtocol):
    """Speaks HTTP/1.1 with who asks something: uvicorn itself waits for ever for a first request, and for the rest of any head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it so too
        """Begin a connection."""
        super().connection_made(transport)
        self._looked: object = None
        self._look_again = self.loop.call_later(_SILENT_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._look_again.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        """Close where no request has come since the last look, and none is being answered."""
        is_answered = self.cycle is None or self.cycle.response_complete
        if is_answered and self.cycle is self._looked:
            self.transport.close()
            return
        self._looked = self.cycle
        self._look_again = self.loop.call_later(_HEAD_S, self._close_if_silent)


def page_config(settings: Told, app: Any) -> uvicorn.Config:
    """Configure a server of pages for programs: quiet, small, over TLS where there is a certificate."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=_ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_WAIT_S,
        ssl_certfile=str(settings.certificate_file) if settings.certificate_file else None,
        ssl_keyfile=str(settings.certificate_key_file) if settings.certificate_key_file else None,
    )


class TellingServer(uvicorn.Server):
    """Tells when the port listens; uvicorn has no other place for it."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()


def take_signals() -> None:
    """Let SIGTERM and SIGINT end the serving, not the process: uvicorn raises them again when it has stopped."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
