"""Owners that end without a word, as their successors see it: the killer is found, and nobody else is blamed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.fql.plan import Lane
from fqlstream.settings import StreamSettings
from fqlstream.stream.protocol import FlushRow, Suspicion, Version
from fqlstream.stream.suspects import Caution, caution, inherited, noted

SETTINGS = StreamSettings()
NOTHING = Suspicion()


def row(fence: int, known: Suspicion = NOTHING, owner: str = "before") -> FlushRow:
    return FlushRow("t", 0, Version(1, 1), owner, "", dict.fromkeys(Lane, fence), {}, suspicion=known)


@dataclass
class Partition:
    """A partition's log and its newest flush row; owners are born and die by `live`."""

    records: list[int]  # offsets
    killers: set[int]
    fetch: int  # records of one
    newest: FlushRow = field(default_factory=lambda: row(-1))
    aside: set[int] = field(default_factory=set)
    deaths: int = 0

    def write(self, **changes: object) -> None:
        self.newest = replace(self.newest, **changes)

    def flush(self, fence: int) -> None:
        known = noted(self.newest, fence, has_left=False)
        self.write(fences=dict.fromkeys(Lane, fence), suspicion=known)

    def live(self, owner: str) -> bool:
        """Own the partition until death or the log's end; says which it was."""
        self.write(suspicion=inherited(self.newest, owner), owner=owner)
        care = caution(self.newest.suspicion, self.newest.fence + 1, self.records[-1] + 1, SETTINGS)
        waiting = [offset for offset in self.records if offset > self.newest.fence]
        while waiting:
            if care is not None and waiting[0] >= care.until:
                care = None
            part = waiting[: self.fetch]
            if care is not None:
                upto = care.until if care.span is None else min(care.until, waiting[0] + care.span)
                part = [offset for offset in part if offset < upto]
                self.write(suspicion=replace(self.newest.suspicion, trying=(part[0], part[-1])))
            if care is not None and care.is_aside:
                self.aside.add(part[0])
            elif self.killers & set(part):
                self.deaths += 1
                return False
            self.flush(part[-1])
            waiting = waiting[len(part) :]
        return True


@given(st.sets(st.integers(0, 2_000), min_size=1), st.data())
def test_every_killer_and_nothing_else_is_set_aside(offsets: set[int], data: st.DataObject) -> None:
    records = sorted(offsets)
    killers = set(data.draw(st.lists(st.sampled_from(records), max_size=3)))
    partition = Partition(records, killers, fetch=data.draw(st.integers(1, 1_500)))
    lives = 0
    while not partition.live(f"w{lives}"):
        lives += 1
        assert lives < 10 * (1 + len(killers)), "a killer is not found"
    assert partition.aside == killers
    # at one fence, in its fetch, in a part of it, alone
    assert partition.deaths <= len(killers) * (SETTINGS.deaths_before_alone + 2 + SETTINGS.deaths_alone)


def test_a_death_without_progress_is_counted_and_progress_forgets_it() -> None:
    known = inherited(row(7), "next")
    assert known == Suspicion(deaths=1)
    assert inherited(row(7, known), "next but one") == Suspicion(deaths=2)
    assert noted(row(7, known), 7, has_left=False) == known
    assert noted(row(7, known), 8, has_left=False) == NOTHING


@pytest.mark.parametrize("known", [Suspicion(deaths=2), Suspicion(deaths=1, suspects=(4, 9))])
def test_an_owner_that_has_left_in_order_is_no_death(known: Suspicion) -> None:
    left = noted(row(3, known), 3, has_left=True)
    assert inherited(row(3, left), "next") == known


def test_an_owner_that_claims_again_has_not_died() -> None:
    known = Suspicion(deaths=2, trying=(4, 9))
    assert inherited(row(3, known, owner="me"), "me") == Suspicion(deaths=2)


def test_a_death_elsewhere_in_the_process_blames_no_suspect() -> None:
    known = Suspicion(deaths=1, suspects=(4, 4))
    assert inherited(row(3, known), "next") == known


def test_a_partition_without_anything_to_read_needs_no_caution() -> None:
    assert caution(Suspicion(deaths=50), 8, 8, SETTINGS) is None
    assert caution(Suspicion(deaths=50), 7, 8, SETTINGS) == Caution(until=8)


def test_one_death_alone_is_tried_again() -> None:
    first = inherited(row(3, Suspicion(deaths=1, suspects=(4, 8), trying=(4, 4))), "next")
    assert first == Suspicion(deaths=1, suspects=(4, 4))
    assert caution(first, 4, 100, SETTINGS) == Caution(until=5, span=1)
    second = inherited(row(3, replace(first, trying=(4, 4))), "next but one")
    assert caution(second, 4, 100, SETTINGS) == Caution(until=5, span=1, is_aside=True)
