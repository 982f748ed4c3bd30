"""Sockets of servers."""

from __future__ import annotations

import socket

import pytest

from fqlstream.errors import UsageError
from fqlstream.listening import is_loopback, listen, url_of


def test_small_answers_do_not_wait_for_an_acknowledgement() -> None:
    with listen("127.0.0.1", 0, code="X001", who="it") as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_port_in_use_is_refused_or_given_way_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"it cannot listen on 127.0.0.1:{port}") as refused:
            listen("127.0.0.1", port, code="X001", who="it")
        assert (refused.value.code, refused.value.hint) == (
            "X001",
            "give another port with --port, or 0 for a free one",
        )
        with listen("127.0.0.1", port, code="X001", who="it", gives_way=True) as listener:
            assert listener.getsockname()[1] not in (0, port)


def test_of_two_that_begin_at_once_the_second_gives_way() -> None:
    """Bound and not yet listening, a port is no other's: the system lets both bind it, and only one listen."""
    with listen("127.0.0.1", 0, code="X001", who="it") as first:
        port = first.getsockname()[1]
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        with listen("127.0.0.1", port, code="X001", who="it", gives_way=True) as second:
            assert second.getsockname()[1] != port


def test_an_address_of_another_machine_is_refused_without_giving_way() -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1") as refused:
        listen("192.0.2.1", 0, code="X001", who="it", gives_way=True)
    assert refused.value.hint is None


def test_an_address_in_brackets_where_it_has_colons() -> None:
    with listen("::1", 0, code="X001", who="it") as listener:
        assert url_of("::1", listener, "https") == f"https://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
     ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("", False), ("example.org", False),
     ("192.168.1.5", False), ("::ffff:192.168.1.5", False)],
)  # fmt: skip
def test_who_is_on_this_machine(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local
