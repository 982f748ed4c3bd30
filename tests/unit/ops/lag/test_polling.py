from __future__ import annotations

import logging

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

    def look(self, *, with_rows: bool) -> LagReport:
        self.looks += 1
        if self.is_away:
            raise BrokerError("LAG002", "nobody answers")
        return LagReport(self.looks, "c", (), 0.1, ("a note",) if with_rows else ())


def test_a_cluster_that_is_away_leaves_no_last_look_and_is_told_once_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = _Observer()
    with caplog.at_level(logging.WARNING, logger="fqlstream.lag"), Poller(observer, 0.005, with_rows=False) as poller:
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


def test_notes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    observer = _Observer()
    observer.is_away = False
    with caplog.at_level(logging.WARNING, logger="fqlstream.lag"), Poller(observer, 60, with_rows=True):
        assert [record.message for record in caplog.records] == ["a note"]
