"""When the demo's events happen, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from fqlstream.errors import StoreError
from fqlstream.events.definitions import DAY_MS, HOUR_MS
from fqlstream.local.demo import session
from fqlstream.local.demo.answers import Standing, standing
from fqlstream.store.client import Store


@pytest.mark.parametrize("hour", range(24))
def test_the_days_windows_are_over_when_the_watermark_has_passed(hour: int) -> None:
    now_ms = 20_000 * DAY_MS + hour * HOUR_MS
    day = session.plan_day(now_ms, 600_000)
    assert day.start_ms < day.end_ms < day.until_ms <= now_ms
    assert day.until_ms % DAY_MS == 0
    assert day.until_ms - DAY_MS <= day.start_ms
    # the engine refuses what lies further ahead of the clock
    assert day.until_ms < day.finish_ms <= now_ms + HOUR_MS


def test_runs_have_ids_of_their_own() -> None:
    assert session.plan_day(1_000, 0).run != session.plan_day(2_000, 0).run


class _Tables:
    """Answers the two questions of `standing`."""

    def __init__(self, fences: Mapping[int, Mapping[str, int]], published: Mapping[str, Mapping[int, int]]) -> None:
        self.fences = fences
        self.published = published

    def query_rows(self, sql: str, _parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        if "FROM flushes" in sql:
            return [(partition, 0, 7, fences) for partition, fences in self.fences.items()]
        return list(self.published.items())


def _standing(fences: Mapping[int, Mapping[str, int]], published: Mapping[str, Mapping[int, int]]) -> Standing:
    tables = cast("Store", _Tables(fences, published))
    return standing(tables, "inference-events", {0: 10, 1: 4, 2: 0}, ["phishing"])


def test_all_is_settled_when_both_lanes_reach_the_end_and_all_is_published() -> None:
    fences = {0: {"events": 9, "labels": 9}, 1: {"events": 3, "labels": 3}, 2: {"events": -1, "labels": -1}}
    assert _standing(fences, {"phishing": {0: 7, 1: 7, 2: 7}}).settled


def test_a_lane_that_lags_counts_as_unread() -> None:
    fences = {0: {"events": 9, "labels": 5}, 1: {"events": 3, "labels": 3}, 2: {"events": -1, "labels": -1}}
    found = _standing(fences, {"phishing": {0: 7, 1: 7, 2: 7}})
    assert (found.unread, found.settled) == (4, False)


def test_a_partition_without_an_owner_is_unread() -> None:
    assert _standing({0: {"events": 9, "labels": 9}}, {"phishing": {0: 7}}).unread == 4


def test_a_flush_that_is_not_published_is_missing() -> None:
    fences = {0: {"events": 9, "labels": 9}, 1: {"events": 3, "labels": 3}}
    assert _standing(fences, {"phishing": {0: 7, 1: 6}}).unpublished == ("phishing",)
    assert _standing(fences, {}).unpublished == ("phishing",)


def test_a_store_that_restarts_is_waited_for() -> None:
    def away() -> str | None:
        raise StoreError("STO001", "nobody answers", retryable=True)

    def wrong() -> str | None:
        raise StoreError("STO002", "no such table")

    assert session._patiently(away) == "waiting for ClickHouse: nobody answers"
    with pytest.raises(StoreError):
        session._patiently(wrong)
    nothing: Callable[[], str | None] = lambda: None  # noqa: E731  # of a declared type
    assert session._patiently(nothing) is None
