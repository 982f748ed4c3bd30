from __future__ import annotations

import base64

import pytest

from fqlstream.store.embedded.access import authenticate
from fqlstream.store.embedded.engine import Access
from fqlstream.store.embedded.exceptions import EngineError

KEY = "the-key"
HERE = "127.0.0.1"


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        (basic("default", KEY), {}), (basic("", KEY), {}), ({"authorization": f"Bearer {KEY}"}, {}), ({"x-clickhouse-key": KEY}, {}),
        ({}, {"user": "default", "password": KEY}), ({**basic("default", KEY), "origin": "http://x", "host": "x"}, {}),
    ],
)  # fmt: skip
def test_the_key_opens_from_anywhere(headers: dict[str, str], parameters: dict[str, str]) -> None:
    for peer in (HERE, "10.1.2.3"):
        assert authenticate(headers, parameters, peer, KEY) is Access.WRITE


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        (basic("default", "other"), {}), (basic("someone", KEY), {}), ({"x-clickhouse-key": "other"}, {}), ({}, {"password": "x"}),
        ({"authorization": "Basic !!"}, {}), ({"x-clickhouse-user": "someone"}, {}),
    ],
)  # fmt: skip
def test_a_wrong_key_opens_nothing(headers: dict[str, str], parameters: dict[str, str]) -> None:
    with pytest.raises(EngineError) as caught:
        authenticate(headers, parameters, HERE, KEY)
    assert (caught.value.code, caught.value.status) == (516, 403)
    assert KEY not in caught.value.text


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_without_a_key_loopback_reads(peer: str) -> None:
    assert authenticate({}, {}, peer, KEY) is Access.READ
    assert authenticate(basic("default", ""), {}, peer, KEY) is Access.READ


@pytest.mark.parametrize("peer", ["10.0.0.1", "", "::2", "testclient"])
def test_without_a_key_nobody_reads_from_afar(peer: str) -> None:
    with pytest.raises(EngineError):
        authenticate({}, {}, peer, KEY)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost"},
        {"host": "evil.example"},
        {"host": "evil.example:8123"},
        {"host": "localhost.evil.example"},
    ],
)
def test_without_a_key_no_page_reads(headers: dict[str, str]) -> None:
    with pytest.raises(EngineError) as caught:
        authenticate(headers, {}, HERE, KEY)
    assert caught.value.status == 403


@pytest.mark.parametrize("host", ["localhost:8123", "127.0.0.1", "[::1]:8123", "192.168.0.2:1", ""])
def test_names_of_this_machine_are_fine(host: str) -> None:
    assert authenticate({"host": host}, {}, HERE, KEY) is Access.READ
