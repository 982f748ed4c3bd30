from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.fql.plan import Lane
from fqlstream.stream.panes import LANES, Pane, PaneCodes, Panes, pane_codes
from fqlstream.stream.protocol import PaneKey

MINUTE_MS = 60_000
#: Dense times are sorted by a table, sparse ones by their values.
TIMES = st.one_of(st.integers(-(10**4), 10**6), st.integers(-(10**12), 10**13))


def key(start: int) -> PaneKey:
    return PaneKey("m", "v1", start)


def empty(events: int = -1, labels: int = -1) -> Pane:
    return Pane(dict.fromkeys(LANES, ()), {Lane.EVENTS: events, Lane.LABELS: labels})


@given(st.lists(TIMES, max_size=60), st.sampled_from([1_000, MINUTE_MS, 7 * MINUTE_MS]))
def test_every_row_is_in_the_pane_of_its_time(times: list[int], pane_ms: int) -> None:
    codes = pane_codes("m", "v1", np.array(times, np.int64), pane_ms)
    assert [codes.keys[code].start_ms for code in codes.codes] == [time // pane_ms * pane_ms for time in times]
    assert list(codes.keys) == sorted(set(codes.keys)), "each pane once, in order"
    assert len(codes.keys) == len({time // pane_ms for time in times})


def test_a_fence_contains_its_own_offset() -> None:
    codes = PaneCodes((key(0), key(1)), np.array([0, 0, 1, 0, 1]))
    panes = {key(0): empty(events=11), key(1): empty(events=12)}
    offsets = np.array([10, 11, 12, 12, 13])
    mask = codes.fence_mask(offsets, panes, Lane.EVENTS)
    assert mask is not None
    assert mask.tolist() == [False, False, False, True, True]


def test_lanes_have_fences_of_their_own_and_where_none_reaches_nothing_is_masked() -> None:
    codes = PaneCodes((key(0),), np.array([0, 0]))
    panes = {key(0): empty(events=9, labels=10)}
    assert codes.fence_mask(np.array([10, 11]), panes, Lane.EVENTS) is None
    mask = codes.fence_mask(np.array([10, 11]), panes, Lane.LABELS)
    assert mask is not None
    assert mask.tolist() == [False, True]
    assert codes.fence_mask(np.array([], np.int64), panes, Lane.LABELS) is None


def test_panes_that_wait_to_be_written_are_kept_and_of_the_others_those_used_last() -> None:
    panes = Panes()
    for start in range(6):
        panes.put(key(start), empty(), 100)
    panes.dirty[Lane.EVENTS].add(key(0))
    panes.dirty[Lane.LABELS].add(key(2))
    panes.put(key(1), empty(), 100)
    panes.evict(3, 2**40)
    assert list(panes.held) == [key(0), key(2), key(1)]
    panes.evict(1, 2**40)
    assert list(panes.held) == [key(0), key(2)], "beyond the bound, rather than lose a number"


def test_panes_that_a_flush_under_way_has_taken_are_kept_until_it_is_durable() -> None:
    """ClickHouse holds an older state of them, or one lane only: they must not be read from there."""
    panes = Panes()
    for start in range(4):
        panes.put(key(start), empty(), 100)
    panes.writing = frozenset({key(0), key(1)})
    panes.evict(1, 2**40)
    assert list(panes.held) == [key(0), key(1)]
    panes.writing = frozenset()
    panes.evict(1, 2**40)
    assert list(panes.held) == [key(1)]


@pytest.mark.parametrize("panes_max", [6, 7])
def test_nothing_goes_while_there_is_room(panes_max: int) -> None:
    panes = Panes()
    for start in range(6):
        panes.put(key(start), empty(), 100)
    panes.evict(panes_max, 2**40)
    assert len(panes.held) == 6


def test_panes_are_bounded_in_bytes_too_and_what_waits_to_be_written_stays() -> None:
    panes = Panes()
    for start in range(6):
        panes.put(key(start), empty(), 100 * (start + 1))
    assert panes.bytes_count == 2_100
    panes.dirty[Lane.LABELS].add(key(5))
    assert panes.unwritten_bytes() == 600
    panes.evict(1_000, 1_500)
    assert list(panes.held) == [key(3), key(4), key(5)]
    panes.evict(1_000, 0)
    assert list(panes.held) == [key(5)]
    assert panes.bytes_count == 600


def test_a_pane_that_changed_counts_once() -> None:
    panes = Panes()
    panes.put(key(0), empty(), 100)
    panes.put(key(0), empty(), 300)
    assert panes.bytes_count == 300
    assert panes.pop(key(0)) == empty()
    assert panes.bytes_count == 0


def test_how_large_a_pane_will_be_is_known_of_those_seen_and_rather_too_large() -> None:
    panes = Panes()
    assert panes.expected_bytes(key(0)) is None
    panes.put(key(0), empty(), 100)
    panes.put(key(1), empty(), 900)
    assert panes.expected_bytes(key(7)) == 900
    for start in range(60):
        panes.put(key(start), empty(), 100)
    assert 100 <= (panes.expected_bytes(key(7)) or 0) < 120, "it comes down again"
    assert panes.expected_bytes(PaneKey("m", "v2", 0)) is None
