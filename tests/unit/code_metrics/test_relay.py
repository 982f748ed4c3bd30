from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest

from fqlstream.code_metrics.relay import Relay
from fqlstream.code_metrics.request import CodeMetricsRefusedError
from fqlstream.local.ports import find_free_port

SESSION = "0b1cbb6e-5a1c-4d4e-9d6f-3f2f1f6a7b10"
EXECUTE = "/spark.connect.SparkConnectService/ExecutePlan"
RELEASE = "/spark.connect.SparkConnectService/ReleaseSession"


class Server(grpc.GenericRpcHandler):
    """Answers every message with its bytes twice, and keeps what it was asked and what it was told beside that."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.calls: list[tuple[str, bytes]] = []

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            self.calls.append((details.method, request))
            self.headers.append({str(name): str(value) for name, value in context.invocation_metadata() or ()})
            if request == b"fail":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such column")
            yield request
            yield request

        return grpc.unary_stream_rpc_method_handler(answer)


@pytest.fixture
def server() -> Iterator[tuple[Server, int]]:
    handler = Server()
    served = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    port = served.add_insecure_port("127.0.0.1:0")
    served.start()
    yield handler, port
    served.stop(0).wait(5)


def call(socket: Path, method: str, message: bytes) -> list[bytes]:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        return list(channel.unary_stream(method)(message, metadata=(("authorization", "Bearer forged"),), timeout=20))


def test_calls_pass_with_the_token_of_this_side_only(server: tuple[Server, int], tmp_path: Path) -> None:
    handler, port = server
    relay = Relay(
        f"sc://127.0.0.1:{port}/;token=s%20ecret;use_ssl=false;user_id=me;X-Tenant=a",
        tmp_path / "spark.sock",
        None,
        SESSION,
    )
    try:
        assert call(tmp_path / "spark.sock", EXECUTE, b"plan") == [b"plan", b"plan"]
        sent = handler.headers[0]
        assert (sent["authorization"], sent["x-tenant"]) == ("Bearer s ecret", "a")
        assert "user_id" not in sent
    finally:
        relay.close()


def test_it_listens_however_deep_its_directory_lies(server: tuple[Server, int], tmp_path: Path) -> None:
    _, port = server
    deep = tmp_path.joinpath(*["d" * 40] * 4)
    deep.mkdir(parents=True)
    relay = Relay(f"sc://127.0.0.1:{port}", deep / "spark.sock", None, SESSION)
    try:
        assert (deep / "spark.sock").is_socket()
    finally:
        relay.close()


def test_errors_pass_and_other_services_do_not(server: tuple[Server, int], tmp_path: Path) -> None:
    handler, port = server
    relay = Relay(f"sc://127.0.0.1:{port}", tmp_path / "spark.sock", None, SESSION)
    try:
        with pytest.raises(grpc.RpcError) as failed:
            call(tmp_path / "spark.sock", EXECUTE, b"fail")
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no such column")
        with pytest.raises(grpc.RpcError) as refused:
            call(tmp_path / "spark.sock", "/grpc.reflection.v1.ServerReflection/X", b"x")
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert len(handler.headers) == 1
    finally:
        relay.close()


def test_its_session_is_released_when_it_is_closed(server: tuple[Server, int], tmp_path: Path) -> None:
    handler, port = server
    relay = Relay(f"sc://127.0.0.1:{port}/;token=secret", tmp_path / "spark.sock", None, SESSION)
    call(tmp_path / "spark.sock", EXECUTE, b"plan")
    relay.close()
    assert [method for method, _ in handler.calls] == [EXECUTE, RELEASE]
    sent = import_module("pyspark.sql.connect.proto").ReleaseSessionRequest.FromString(handler.calls[-1][1])
    assert (sent.session_id, sent.user_context.user_id) == (SESSION, "")
    assert handler.headers[-1]["authorization"] == "Bearer secret"


def test_a_session_that_was_never_opened_is_not_released(server: tuple[Server, int], tmp_path: Path) -> None:
    handler, port = server
    Relay(f"sc://127.0.0.1:{port}", tmp_path / "spark.sock", None, SESSION).close()
    assert handler.calls == []


def test_a_server_that_is_gone_keeps_nobody_from_closing(server: tuple[Server, int], tmp_path: Path) -> None:
    relay = Relay(f"sc://127.0.0.1:{find_free_port()}", tmp_path / "spark.sock", None, SESSION)
    with pytest.raises(grpc.RpcError):
        call(tmp_path / "spark.sock", EXECUTE, b"plan")
    relay.close()


@pytest.mark.parametrize("address", ["", "http://x", "sc://", "local[2]"])
def test_another_form_of_address_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(CodeMetricsRefusedError) as refused:
        Relay(address, tmp_path / "spark.sock", None, SESSION)
    assert refused.value.code == "CBM107"
