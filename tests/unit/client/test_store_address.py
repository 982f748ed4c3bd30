"""Addresses of ClickHouse: what they say, what is filled in, and what is never shown."""

from __future__ import annotations

import pytest

from fqlstream.client.store_address import StoreAddress
from fqlstream.errors import UsageError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h", ("http", "h", 8123, "", "", "default", None)),
        ("https://h/", ("https", "h", 8443, "", "", "default", None)),
        ("http://h:1/d", ("http", "h", 1, "", "", "d", None)),
        ("http://[::1]:9/d", ("http", "::1", 9, "", "", "d", None)),
        ("http://me:p%40ss%2Fword@h/my%20db", ("http", "h", 8123, "me", "p@ss/word", "my db", None)),
        ("https://h:443/d?compression=lz4", ("https", "h", 443, "", "", "d", "lz4")),
    ],
)
def test_an_address_is_taken_apart(url: str, expected: tuple[object, ...]) -> None:
    found = StoreAddress.parse(url, "X")
    assert (
        found.scheme,
        found.host,
        found.port,
        found.user,
        found.password,
        found.database,
        found.compression,
    ) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8123",
        "tcp://someone:hid@den@localhost:9000",
        "http://",
        "http://h:1/d?compression=brotli",
        "http://someone:hidden@h:8123a/d",
        "http://h:99999/d",
        "http://[::1/d",
    ],
)
def test_what_is_no_address_is_refused_with_a_hint_and_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        StoreAddress.parse(url, "STO005")
    assert (caught.value.code, bool(caught.value.hint)) == ("STO005", True)
    assert "hid" not in f"{caught.value}{caught.value.__cause__}"


def test_a_password_is_not_shown() -> None:
    found = StoreAddress.parse("https://me:hidden@[::1]/d", "X")
    assert found.shown == "https://[::1]:8443/d"
    assert "hidden" not in repr(found)
