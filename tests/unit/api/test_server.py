"""The API's process: where it listens, and when it refuses to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from fqlstream.api import server
from fqlstream.errors import UsageError
from fqlstream.settings import ApiSettings, Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104  # what is refused
def test_without_keys_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(UsageError, match="without a key") as refused:
        server.serve(Settings(api=ApiSettings(auth=False, host=host)))
    assert refused.value.code == "API030"
    assert refused.value.exit_code == 2


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1:{port}") as refused:
            server.serve(Settings(api=ApiSettings(port=port)))
    assert refused.value.code == "API032"


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        ({"host": "127.0.0.1"}, "http://127.0.0.1:"),
        ({"host": "::1"}, "http://[::1]:"),
        ({"certificate_file": Path("c.pem")}, "https://127.0.0.1:"),
    ],
)
def test_its_address_is_one_that_a_client_can_use(settings: dict[str, Any], begins: str) -> None:
    api = ApiSettings(port=0, **settings)
    with server._listen(api) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert server.address_of(api, listener) == f"{begins}{listener.getsockname()[1]}"
