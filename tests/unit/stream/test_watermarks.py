"""How far time has come for a model, over what its partitions have said."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fqlstream.fql.plan import Lane
from fqlstream.stream.protocol import CAUGHT_UP, FlushRow, Version
from fqlstream.stream.watermarks import model_watermark

NOW, IDLE_MS = 1_000_000, 30_000
ENDED = frozenset({CAUGHT_UP})  # read to its end
QUIET = frozenset({CAUGHT_UP, "m"})  # and without rows of the model for a while


def row(
    events: int | None, labels: int | None = -1, idle: frozenset[str] = frozenset(), partition: int = 0
) -> FlushRow:
    """A flush row; the label lane is as far as the other where it is not given."""
    marks = {Lane.EVENTS: events, Lane.LABELS: events if labels == -1 else labels}
    watermarks: Mapping[Lane, Mapping[str, int]] = {
        lane: {"other": 5, **({} if at is None else {"m": at})} for lane, at in marks.items()
    }
    return FlushRow("t", partition, Version(1, 1), "a", "id", {}, watermarks, idle)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([row(500)], 500, id="the highest event time of the one partition"),
        pytest.param([row(500), row(300), row(400)], 300, id="the lowest of them all"),
        pytest.param([row(500, 200)], 200, id="the slower lane: its labels are not counted yet"),
        pytest.param([row(500, None)], None, id="a lane that has said nothing"),
        pytest.param([row(500), row(300, idle=QUIET)], 500, id="one that is idle does not hold the others up"),
        pytest.param([row(500), row(300, idle=ENDED)], 300, id="one that was only read to its end does"),
        pytest.param([row(500), row(None, idle=ENDED)], 500, id="nor does one that never had a row of the model"),
        pytest.param([row(500), row(None)], None, id="unless it may still hold one: it is not read to its end"),
        pytest.param([row(300, idle=QUIET), row(200, idle=QUIET)], NOW - IDLE_MS, id="all idle: time goes on by itself"),
        pytest.param([row(NOW + 7, idle=QUIET)], NOW + 7, id="but not back, behind what was promised"),
        pytest.param([row(None, idle=ENDED)], None, id="no row anywhere"),
        pytest.param([], None, id="no partition has an owner"),
    ],
)  # fmt: skip
def test_time_is_as_far_as_the_slowest_partition_that_counts(rows: list[FlushRow], expected: int | None) -> None:
    assert model_watermark("m", rows, max(1, len(rows)), NOW, IDLE_MS, None) == expected


def test_a_partition_that_nobody_has_owned_yet_holds_time_where_it_was() -> None:
    assert model_watermark("m", [row(500)], 2, NOW, IDLE_MS, None) is None
    assert model_watermark("m", [row(500)], 2, NOW, IDLE_MS, 400) == 400


@pytest.mark.parametrize("rows", [[row(500)], [row(None)], [row(None, idle=ENDED)], [row(100, idle=QUIET)]])
def test_time_never_goes_back(rows: list[FlushRow]) -> None:
    later = 2 * NOW
    assert model_watermark("m", rows, 1, NOW, IDLE_MS, later) == later
