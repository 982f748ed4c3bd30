from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fqlstream.local.ports import answers, find_free_port, is_free, keep_port, kept_port


@pytest.fixture
def busy() -> Iterator[int]:
    port = find_free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        yield port


def test_the_usual_port_is_taken_where_it_is_free_and_another_where_it_is_not(tmp_path: Path, busy: int) -> None:
    free = find_free_port(taken={busy})
    assert keep_port(tmp_path / "a", "kafka", free) == free
    other = keep_port(tmp_path / "b", "kafka", busy)
    assert other != busy
    assert is_free(other)


def test_a_directory_keeps_its_ports(tmp_path: Path) -> None:
    first = keep_port(tmp_path, "kafka", None)
    second = keep_port(tmp_path, "store", None)
    assert first != second
    assert keep_port(tmp_path, "kafka", find_free_port()) == first
    assert keep_port(tmp_path, "store", None) == second
    assert (kept_port(tmp_path, "kafka"), kept_port(tmp_path, "store")) == (first, second)


def test_a_kept_port_that_is_in_use_is_given_up(tmp_path: Path, busy: int) -> None:
    (tmp_path / "ports.json").write_text(f'{{"kafka": {busy}}}')
    assert keep_port(tmp_path, "kafka", busy) != busy


def test_two_parts_of_a_directory_never_share_a_port(tmp_path: Path) -> None:
    port = keep_port(tmp_path, "kafka", None)
    assert keep_port(tmp_path, "store", port) != port


def test_answers_says_whether_somebody_listens(busy: int) -> None:
    assert answers("127.0.0.1", busy)
    assert not answers("127.0.0.1", find_free_port())


def test_a_port_is_looked_at_in_the_family_of_its_address() -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port, "::1")
    assert is_free(port, "::1")
    assert not is_free(port, "no such host")
