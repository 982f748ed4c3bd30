from __future__ import annotations

import pytest

from fqlstream.errors import UsageError
from fqlstream.settings import StoreSettings
from fqlstream.store.client import Store


@pytest.mark.parametrize(
    "url", ["localhost:8123", "tcp://localhost:9000", "http://", "http://h:1/d?compression=brotli"]
)
def test_what_is_no_address_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Store.connect(StoreSettings(), url=url)
    assert (caught.value.code, caught.value.hint is not None) == ("STO005", True)


def test_secrets_are_in_no_message() -> None:
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as caught:
        Store.connect(StoreSettings(), url="http://someone:hidden@127.0.0.1:1/db", key="hidden too")
    assert "hidden" not in str(caught.value)
