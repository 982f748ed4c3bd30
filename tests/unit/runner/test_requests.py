from __future__ import annotations

import logging

import pytest

from fqlstream.events.payloads import CodeMetricTask
from fqlstream.runner.requests import RequestBook


def record(attempt: int) -> bytes:
    task = CodeMetricTask(type="validate", metric_id="a", dataset_id="serving/m/v1", code_hash="h", attempt=attempt)
    return task.model_dump_json().encode()


RECORD = record(1)


def test_what_is_not_done_holds_the_committed_offset_back() -> None:
    book = RequestBook()
    for offset, attempt in ((4, 1), (5, 2), (7, 3)):
        book.add(0, offset, record(attempt))
    assert book.offsets() == {0: 4}
    first, second, third = book.open()
    book.close(second)
    assert book.offsets() == {0: 4}
    book.close(first)
    assert book.offsets() == {0: 7}
    book.close(third)
    assert (book.offsets(), list(book.open())) == ({0: 8}, [])


def test_a_request_that_is_sent_again_while_it_waits_is_one() -> None:
    book = RequestBook()
    for offset in (4, 5):
        book.add(0, offset, RECORD)
    (only,) = book.open()
    assert (only.offset, book.offsets()) == (4, {0: 4})
    book.close(only)
    assert book.offsets() == {0: 6}


def test_a_partition_that_is_gone_takes_its_requests_along() -> None:
    book = RequestBook()
    book.add(0, 1, RECORD)
    book.add(1, 9, RECORD)
    (mine, _) = book.open()
    book.leave(0)
    book.close(mine)
    assert [request.partition for request in book.open()] == [1]
    assert book.offsets() == {1: 9}


@pytest.mark.parametrize(
    "value", [None, b"{", b'{"type": "run"}', b'{"type": "validate", "metric_id": "a", "code_hash": "h", "attempt": 0}']
)
def test_a_record_that_is_no_request_is_said_and_left_behind(
    value: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    book = RequestBook()
    with caplog.at_level(logging.WARNING, "fqlstream.runner"):
        book.add(2, 3, value)
    assert "code-metric-tasks[2]@3" in caplog.text
    assert (list(book.open()), book.offsets()) == ([], {2: 4})
