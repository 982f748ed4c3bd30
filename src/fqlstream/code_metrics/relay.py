"""Passes a sandbox's calls on to a Spark Connect server: the sandbox has no network and never sees the server's token."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from fqlstream.code_metrics.request import CodeMetricsRefusedError

_SERVICE: Final = "/spark.connect.SparkConnectService/"
_PORT: Final = 15002  # Spark Connect's own
#: Parameters of an address that are the client's own and no header.
_NO_HEADERS: Final = frozenset({"token", "use_ssl", "user_id", "user_agent", "session_id"})
_MESSAGE_BYTES_MAX: Final = 128 * 2**20  # what Spark's own client allows
_PLAN_BYTES_MAX: Final = 72 * 2**20  # rows up to 64 MiB travel in a plan, larger ones in pieces
_CALLS_MAX: Final = 16  # a client has a few open at once: results, keeping its session, releasing it
_STOP_WAIT_S: Final = 5.0
_RELEASE: Final = f"{_SERVICE}ReleaseSession"
_RELEASE_WAIT_S: Final = 5.0  # a server that does not answer lets the session go by itself, after an hour


class Relay:
    """Listens on a Unix socket until closed. `address` is Spark's own form, sc://host:port/;token=...;use_ssl=true.

    `session` is the id of the session that the sandbox opens: it is released with the relay, with all that the server holds of it.
    Raises CodeMetricsRefusedError for another form of address.
    """

    def __init__(self, address: str, socket: Path, uid: int | None, session: str) -> None:
        self._grpc = import_module("grpc")
        self._session = session
        self._is_used = False
        target, secure, self._headers = _read_address(address)
        limits = [
            ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ]
        # What a sandbox sends is held on this side: so much at once, times the calls
        own = [
            ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.max_receive_message_length", _PLAN_BYTES_MAX),
        ]
        credentials = self._grpc.ssl_channel_credentials() if secure else None
        self._channel = (
            self._grpc.secure_channel(target, credentials, limits)
            if secure
            else self._grpc.insecure_channel(target, limits)
        )
        self._threads = ThreadPoolExecutor(_CALLS_MAX, thread_name_prefix="spark-relay")
        self._server = self._grpc.server(
            self._threads, handlers=(self._handler(),), options=own, maximum_concurrent_rpcs=_CALLS_MAX
        )
        # by a descriptor of its directory: a socket's path has 107 bytes at most, and a data directory may lie deep
        self._directory = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)
        self._server.add_insecure_port(f"unix:/proc/self/fd/{self._directory}/{socket.name}")
        self._server.start()
        if uid is not None:
            socket.chmod(0o666)  # nobody but this sandbox's user comes here

    def close(self) -> None:
        """End every call, and the session."""
        self._server.stop(0).wait(_STOP_WAIT_S)
        if self._is_used:
            self._release()
        self._channel.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        os.close(self._directory)

    def _release(self) -> None:
        call = self._channel.unary_unary(_RELEASE)
        with contextlib.suppress(self._grpc.RpcError):  # it ends by itself, later
            call(release_request(self._session), metadata=self._headers, timeout=_RELEASE_WAIT_S)

    def _handler(self) -> Any:
        service = self._service

        class Handler(self._grpc.GenericRpcHandler):  # type: ignore[name-defined]  # gRPC asks for a subclass, and is imported late
            def service(self, details: Any) -> Any:
                return service(details.method)

        return Handler()

    def _service(self, method: str) -> Any:
        if not method.startswith(_SERVICE):
            return None
        # Whatever a method's own form is, on the wire it is messages each way.
        return self._grpc.stream_stream_rpc_method_handler(self._passing(method))

    def _passing(self, method: str) -> Callable[[Iterator[bytes], Any], Iterator[bytes]]:
        def pass_on(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            self._is_used = True
            call = self._channel.stream_stream(method)(requests, metadata=self._headers)
            context.add_callback(call.cancel)
            try:
                yield from call
            except self._grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata() or ())
                context.abort(error.code(), error.details() or "")
            context.set_trailing_metadata(call.trailing_metadata() or ())

        return pass_on


def release_request(session: str) -> bytes:
    """Write a ReleaseSessionRequest: its id in field 1. Nobody is named in field 2, as the sandbox names nobody either.

    By hand: the generated classes come with all of PySpark, which a runner has no use for.
    """
    text = session.encode("ascii")
    return bytes([0x0A, len(text)]) + text


def _read_address(address: str) -> tuple[str, bool, list[tuple[str, str]]]:
    parts = urlsplit(address)
    if parts.scheme != "sc" or not parts.hostname:
        raise CodeMetricsRefusedError(
            "CBM107", "SPARK_REMOTE is no address of Spark Connect", "write sc://host:port/;token=...;use_ssl=true"
        )
    given = dict(part.partition("=")[::2] for part in parts.path.lstrip("/").split(";") if "=" in part)
    token = given.get("token")
    # Spark's client turns TLS on wherever there is a token, but for the machine itself
    secure = given.get("use_ssl", "").lower() == "true" or (
        token is not None and parts.hostname not in {"localhost", "127.0.0.1"}
    )
    headers = [(name.lower(), unquote(value)) for name, value in given.items() if name not in _NO_HEADERS]
    if token is not None:
        headers.append(("authorization", f"Bearer {unquote(token)}"))
    return f"{parts.hostname}:{parts.port or _PORT}", secure, headers
