from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.definitions import DAY_MS, HOUR_MS, Window
from fqlstream.stream.windows import WEEK_MS, Block, Span, blocks_of, children_of, parents_of, spans_of

MINUTE_MS = 60_000


def window(size: str, every: str | None = None) -> Window:
    return Window.model_validate({"size": size, "every": every or size})


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_tumbling_hours_follow_the_clock() -> None:
    assert list(spans_of(window("1h"), at("2026-11-21T10:59:00"))) == [
        Span(at("2026-11-21T10:00"), at("2026-11-21T11:00"))
    ]


def test_weeks_start_on_monday() -> None:
    (span,) = spans_of(window("1w"), at("2026-11-21T10:00"))  # a Saturday
    assert span == Span(at("2026-11-16T00:00"), at("2026-11-23T00:00"))
    assert datetime.fromtimestamp(span.start_ms / 1000, UTC).weekday() == 0


def test_thirty_days_count_from_the_epoch() -> None:
    (span,) = spans_of(window("30d"), at("2026-11-21T10:00"))
    assert span.start_ms % (30 * DAY_MS) == 0


def test_a_hopping_window_holds_a_pane_size_over_every_times() -> None:
    # pane            |.|
    # windows  [------------)
    #             [------------)  ... 12 of them
    spans = list(spans_of(window("1h", "5m"), at("2026-11-21T10:03:00")))
    assert len(spans) == 12
    assert all(span.start_ms <= at("2026-11-21T10:03:00") < span.end_ms for span in spans)
    assert len(set(spans)) == 12


@given(
    pane=st.integers(-(10**9), 10**9).map(lambda n: n * MINUTE_MS),
    size=st.sampled_from(["1m", "1h", "1d", "1w", "2w", "30d", "7h"]),
)
def test_every_pane_lies_in_exactly_one_tumbling_window(pane: int, size: str) -> None:
    (span,) = spans_of(window(size), pane)
    assert span.start_ms <= pane
    assert pane + MINUTE_MS <= span.end_ms


@pytest.mark.parametrize("pane_ms", [1_000, MINUTE_MS, 7 * MINUTE_MS, HOUR_MS, DAY_MS])
@pytest.mark.parametrize("panes", [1, 7, 100, 3000])
@pytest.mark.parametrize("shift", [0, 1, 59])
def test_blocks_cover_a_window_without_gap_or_overlap(pane_ms: int, panes: int, shift: int) -> None:
    span = Span(shift * pane_ms, (shift + panes) * pane_ms)
    blocks = list(blocks_of(span, pane_ms))
    assert blocks[0].start_ms == span.start_ms
    assert [b.start_ms + b.size_ms for b in blocks] == [b.start_ms for b in blocks[1:]] + [span.end_ms]


def test_a_week_of_minutes_is_seven_days() -> None:
    span = next(spans_of(window("1w"), at("2026-11-21T10:00")))
    assert [block.size_ms for block in blocks_of(span, MINUTE_MS)] == [DAY_MS] * 7
    assert span.end_ms - span.start_ms == WEEK_MS


def test_a_block_is_made_of_its_children_and_known_to_its_panes() -> None:
    day = Block(DAY_MS, at("2026-11-21T00:00"))
    quarters = list(children_of(day, MINUTE_MS))
    hours = [hour for quarter in quarters for hour in children_of(quarter, MINUTE_MS)]
    assert (len(quarters), len(hours)) == (4, 24)
    assert [hour.start_ms for hour in hours] == [day.start_ms + number * HOUR_MS for number in range(24)]
    assert {hour.size_ms for hour in hours} == {HOUR_MS}
    panes = [pane for ten in children_of(hours[0], MINUTE_MS) for pane in children_of(ten, MINUTE_MS)]
    assert panes == [Block(MINUTE_MS, day.start_ms + number * MINUTE_MS) for number in range(60)]
    assert day in set(parents_of(at("2026-11-21T23:59"), MINUTE_MS))
    assert day not in set(parents_of(at("2026-11-22T00:00"), MINUTE_MS))
    assert [block.size_ms // MINUTE_MS for block in parents_of(at("2026-11-21T23:59"), MINUTE_MS)] == [
        1440,
        360,
        60,
        10,
    ]
    assert [block.size_ms // MINUTE_MS for block in parents_of(at("2026-11-21T23:59"), 15 * MINUTE_MS)] == [
        1440,
        360,
        60,
    ]
