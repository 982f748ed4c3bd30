"""The bookkeeping of held partitions: what may be committed, fetched and handed over."""

from __future__ import annotations

import numpy as np
import pytest

from fqlstream.app.ledger import WAITING_MAX, Held, Ledger, Partition, Verdict
from fqlstream.stream.batches import Fetch

P0, P1 = Partition("events", 0), Partition("events", 1)


def fetch(start: int, end: int, size: int = 10) -> Fetch:
    offsets = np.arange(start, end, dtype=np.int64)
    return Fetch("events", 0, offsets, offsets, [None] * len(offsets), [b""] * len(offsets), {}, end, size)


def held(ledger: Ledger, partition: Partition = P0) -> Held:
    entry = ledger.held(partition)
    assert entry is not None
    return entry


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(queued_bytes_max=100)
    ledger.assign([P0, P1], generation=1)
    return ledger


def give(ledger: Ledger, entry: Held, start: int, end: int) -> Verdict:
    one = fetch(start, end)
    ledger.sent(entry, one)
    verdict = ledger.accept(entry, start, one)
    ledger.finished(entry, one)
    return verdict


def test_nothing_is_fetched_before_the_owner_begins(ledger: Ledger) -> None:
    assert ledger.fetchable() == frozenset()
    ledger.begin(held(ledger), 5)
    assert ledger.fetchable() == {P0}


def test_a_fetch_that_continues_is_next_and_any_other_is_astray(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 5)
    assert give(ledger, entry, 5, 8) is Verdict.NEXT
    assert give(ledger, entry, 5, 8) is Verdict.ASTRAY
    assert give(ledger, entry, 9, 12) is Verdict.ASTRAY
    assert give(ledger, entry, 6, 12) is Verdict.ASTRAY
    assert entry.position == 8
    assert give(ledger, entry, 8, 12) is Verdict.NEXT
    assert entry.position == 12


def test_what_was_on_its_way_before_a_rebalance_is_stale(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 5)
    one = fetch(5, 8)
    ledger.sent(entry, one)
    ledger.assign([P0], generation=2)
    assert held(ledger) is entry
    assert ledger.queued_bytes == 0
    assert ledger.accept(entry, 5, one) is Verdict.STALE
    ledger.finished(entry, one)
    assert ledger.queued_bytes == 0


def test_a_lost_partition_takes_in_and_acknowledges_nothing(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 5)
    give(ledger, entry, 5, 8)
    ledger.ack(entry, 8)
    ledger.assign([P1], generation=2)
    assert entry.lost
    assert give(ledger, entry, 8, 9) is Verdict.STALE
    ledger.ack(entry, 8)
    assert ledger.to_commit() == {}


def test_a_partition_kept_through_the_next_generation_keeps_its_place(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 5)
    ledger.assign([P0], generation=2)
    assert held(ledger) is entry
    assert entry.position == 5
    ledger.assign([P0, P1], generation=3)
    assert held(ledger, P1).position is None


def test_a_missed_generation_loses_every_partition(ledger: Ledger) -> None:
    """Somebody else may have held it, written and committed in the generation that left us out."""
    entry = held(ledger)
    ledger.begin(entry, 5)
    assert not ledger.is_continued_by(3)
    ledger.assign([P0], generation=3)
    assert entry.lost
    assert held(ledger) is not entry
    assert held(ledger).position is None


def test_a_commit_is_what_was_acknowledged_and_never_goes_back(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 5)
    give(ledger, entry, 5, 20)
    assert ledger.to_commit() == {}
    ledger.ack(entry, 12)
    ledger.ack(entry, 9)
    assert ledger.to_commit() == {P0: 12}
    ledger.committed({P0: 12})
    assert ledger.to_commit() == {}
    ledger.ack(entry, 20)
    assert ledger.to_commit() == {P0: 20}


def test_an_acknowledgement_beyond_what_was_given_is_a_bug(ledger: Ledger) -> None:
    entry = held(ledger)
    with pytest.raises(ValueError, match=r"events\[0\]: acknowledged 1"):
        ledger.ack(entry, 1)
    ledger.begin(entry, 5)
    give(ledger, entry, 5, 8)
    with pytest.raises(ValueError, match="acknowledged 9, but read only up to 8"):
        ledger.ack(entry, 9)


def test_beginning_elsewhere_forgets_what_was_acknowledged(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 5)
    give(ledger, entry, 5, 8)
    ledger.ack(entry, 8)
    ledger.begin(entry, 2)
    assert ledger.to_commit() == {}
    assert give(ledger, entry, 2, 5) is Verdict.NEXT


def test_fetching_stops_while_an_owner_has_enough_waiting(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 0)
    ledger.begin(held(ledger, P1), 0)
    waiting = [fetch(at, at + 1) for at in range(WAITING_MAX)]
    for one in waiting:
        ledger.sent(entry, one)
    assert ledger.fetchable() == {P1}
    ledger.finished(entry, waiting[0])
    ledger.finished(entry, waiting[0])
    assert ledger.fetchable() == {P0, P1}
    assert ledger.queued_bytes == 10


def test_fetching_stops_for_all_while_the_worker_has_enough_bytes_queued(ledger: Ledger) -> None:
    ledger.begin(held(ledger), 0)
    ledger.begin(held(ledger, P1), 0)
    large = fetch(0, 1, size=100)
    ledger.sent(held(ledger), large)
    assert ledger.fetchable() == frozenset()
    ledger.finished(held(ledger), large)
    assert ledger.fetchable() == {P0, P1}


def test_a_paused_partition_is_not_fetched_but_kept(ledger: Ledger) -> None:
    entry = held(ledger)
    ledger.begin(entry, 3)
    ledger.pause(entry, paused=True)
    assert ledger.fetchable() == frozenset()
    ledger.pause(entry, paused=False)
    assert ledger.fetchable() == {P0}
    assert entry.position == 3


def test_every_change_of_what_may_be_fetched_is_announced() -> None:
    seen: list[frozenset[Partition]] = []
    ledger = Ledger(100, on_change=lambda: seen.append(ledger.fetchable()))
    ledger.assign([P0], generation=1)
    entry = held(ledger)
    one = fetch(0, 1, size=100)
    ledger.begin(entry, 0)
    ledger.sent(entry, one)
    ledger.finished(entry, one)
    ledger.pause(entry, paused=True)
    assert [bool(fetchable) for fetchable in seen] == [False, True, False, True, False]
