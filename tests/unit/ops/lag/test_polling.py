from __future__ import annotations

import logging
import threading

import pytest
from tests.waiting import wait_until

from fqlstream.errors import BrokerError
from fqlstream.ops.lag.polling import Poller
from fqlstream.ops.lag.report import LagReport


class _Observer:
    """Fails until it is told otherwise."""

    def __init__(self) -> None:
        self.looks = 0
        self.is_away = True
        self.trouble: Exception = BrokerError("LAG002", "nobody answers")
        self.notes: tuple[str, ...] = ()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def look(self, *, with_rows: bool) -> LagReport:
        self.looks += 1
        assert self.may_go_on.wait(60)
        if self.is_away:
            raise self.trouble
        return LagReport(self.looks, "c", (), 0.1, self.notes)


def test_a_cluster_that_is_away_leaves_no_last_look_and_is_told_once_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = _Observer()
    with (
        caplog.at_level(logging.WARNING, logger="fqlstream.lag"),
        Poller(observer, 0.005, look_s=60, with_rows=False) as poller,
    ):
        assert poller.latest() is None, "the first look is taken before anybody asks"
        wait_until(lambda: observer.looks > 5, "it goes on looking")
        assert (
            [record.message for record in caplog.records].count(caplog.records[0].message) == len(caplog.records) == 1
        )
        observer.is_away = False
        wait_until(poller.latest, "it looks again once the cluster is back")
        observer.is_away = True
        wait_until(lambda: poller.latest() is None, "what was seen before is not told on")
    seen = observer.looks
    wait_until(lambda: not poller._thread.is_alive(), "a closed one ends")
    assert observer.looks <= seen + 1
    assert len(caplog.records) == 2


def test_a_note_is_logged_when_it_is_new(caplog: pytest.LogCaptureFixture) -> None:
    observer = _Observer()
    observer.is_away, observer.notes = False, ("a note",)

    def logged() -> list[str]:
        return [record.message for record in caplog.records]

    with caplog.at_level(logging.WARNING, logger="fqlstream.lag"), Poller(observer, 0.005, look_s=60, with_rows=True):
        wait_until(lambda: observer.looks > 3, "it goes on looking")
        assert logged() == ["a note"]
        observer.notes = ("a note", "another")
        wait_until(lambda: "another" in logged(), "it is told")
        observer.notes = ()
        seen = observer.looks
        wait_until(lambda: observer.looks > seen + 2, "it is over")
        observer.notes = ("a note",)
        wait_until(lambda: logged() == ["a note", "another", "a note"], "what comes again is new")


def test_a_bug_of_ours_leaves_no_last_look_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    observer = _Observer()
    observer.is_away = False
    with (
        caplog.at_level(logging.WARNING, logger="fqlstream.lag"),
        Poller(observer, 0.005, look_s=60, with_rows=False) as poller,
    ):
        assert poller.latest()
        observer.trouble, observer.is_away = ZeroDivisionError("a bug"), True
        wait_until(lambda: poller.latest() is None, "an old look is not told on")
        assert [record.exc_info is not None for record in caplog.records] == [True]
        observer.is_away = False
        wait_until(poller.latest, "it goes on")


def test_a_look_that_never_ends_leaves_no_last_look() -> None:
    observer = _Observer()
    observer.is_away = False
    with Poller(observer, 0.005, look_s=0.02, with_rows=False) as poller:
        observer.may_go_on.clear()
        try:
            wait_until(lambda: poller.latest() is None, "what is too old is not told on")
        finally:
            observer.may_go_on.set()
        wait_until(poller.latest, "it goes on")
