from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from fqlstream.errors import StoreError, UsageError
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


class Driver:
    """A driver whose first answers cannot be read as rows, and what the server sends as Arrow."""

    def __init__(self, unreadable: int, arrow: bytes) -> None:
        self.unreadable, self.arrow = unreadable, arrow

    def query(self, *_arguments: object, **_keywords: object) -> Any:
        self.unreadable -= 1
        if self.unreadable >= 0:
            raise ValueError("no such type")
        return SimpleNamespace(result_rows=[[1]])

    def raw_query(self, *_arguments: object, **_keywords: object) -> bytes:
        if not self.arrow:
            raise ValueError("no such parameter")
        return self.arrow


def store_of(unreadable: int, arrow: bytes) -> Store:
    return Store(Driver(unreadable, arrow), None, quorum=None, compression=None, name="there")


def whole_answer() -> bytes:
    table = pa.table({"a": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def test_rows_that_cannot_be_read_are_waited_for_only_where_the_answer_is_not_clickhouses() -> None:
    whole = whole_answer()
    assert store_of(0, b"").query_rows("SELECT 1") == [(1,)]
    assert store_of(1, whole).query_rows("SELECT 1") == [(1,)], "cut once"
    for arrow, code, retryable in ((b"<html>", "STO006", True), (whole[:-9], "STO006", True), (whole, "STO007", False)):
        with pytest.raises(StoreError) as caught:
            store_of(9, arrow).query_rows("SELECT 1")
        assert (caught.value.code, caught.value.retryable) == (code, retryable)
    with pytest.raises(ValueError, match="no such parameter"):
        store_of(9, b"").query_rows("SELECT 1")


class BusyReplicas:
    """A driver of a server that refuses some inserts, as it does while another one's quorum has not been met."""

    def __init__(self, refusals: int, code: int) -> None:
        self.refusals, self.code, self.asked = refusals, code, 0

    def raw_insert(self, *_arguments: object, **_keywords: object) -> Any:
        self.asked += 1
        if self.asked <= self.refusals:
            raise DatabaseError(
                f"HTTPDriver returned error: Code: {self.code}. DB::Exception: Quorum for previous write"
            )
        return SimpleNamespace(query_id=lambda: "q")


@pytest.mark.parametrize(
    ("refusals", "code", "asked", "fails"),
    [(0, 286, 1, False), (7, 286, 8, False), (99, 286, 50, True), (1, 285, 1, True)],
)
def test_an_insert_waits_for_its_turn_among_those_of_other_writers_and_tells_nobody(
    monkeypatch: pytest.MonkeyPatch, refusals: int, code: int, asked: int, fails: bool
) -> None:
    monkeypatch.setattr("fqlstream.store.client._QUORUM_WAIT_S", 0.0)
    driver = BusyReplicas(refusals, code)
    store = Store(driver, None, quorum="2", compression=None, name="there")
    with pytest.raises(StoreError, match=str(code)) if fails else contextlib.nullcontext():
        store.insert_arrow("events", pa.table({"a": [1]}), store.quorum_write())
    assert driver.asked == asked
