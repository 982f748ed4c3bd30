"""The order in which things become durable, and what every possible end of a process leaves to its successor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.simulation.world import TOPIC, MemoryStore
from tests.unit.stream.one_partition import (
    HOUR_MS,
    MINUTE_MS,
    RECORD_MS,
    START_MS,
    EndedError,
    Place,
    catalogue,
    event,
    fetch,
    in_a_loop,
    label,
    mark,
    model,
    pane,
    place,
    reading,
    stored,
)

from fqlstream.errors import FqlstreamError, StoreError
from fqlstream.fql.plan import Lane
from fqlstream.settings import FqlSettings
from fqlstream.stream.delivery import Owner, take_over
from fqlstream.stream.engines import Engines
from fqlstream.stream.panes import LANES
from fqlstream.stream.protocol import CAUGHT_UP, FlushRow, RepairNeed, Version

UNLABELLED, FALSE_ALARM = 250.0, -400.0


def newest(there: Place, partition: int = 0) -> FlushRow:
    rows = [row for (p, _, _), row in there.world.flushes.items() if p == partition]
    return max(rows, key=lambda row: row.version)


# -- FLUSH ---------------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_flush_takes_its_steps_in_the_order_of_the_promise() -> None:
    there = place()
    owner = await there.take()
    await there.apply(owner, 0, event("a", s=0.9), b"broken", label("a", 0))
    assert await there.flush(owner) == [
        "send dead letters",
        "write dead letters",
        "write events",
        "write labels",
        "write states",  # of the event lane
        "write states",  # of the label lane
        "write flush row",
        "read all flush rows",
        "send notices",
        "acknowledge",
    ]
    assert stored(there)["cost"] == FALSE_ALARM
    row = newest(there)
    assert row.version == Version(1, 1)
    assert row.fences == {Lane.EVENTS: 2, Lane.LABELS: 2}
    assert row.panes == (pane(0),)
    assert there.log.acknowledged == [(0, 3)]
    assert {record.version for record in there.world.states.values()} == {row.version}
    assert {record.fence for record in there.world.states.values()} == {2}


@in_a_loop
async def test_where_there_is_nothing_to_say_nothing_is_written_but_the_first_flush_always_speaks() -> None:
    """A predecessor may have ended before its commit."""
    there = place()
    owner = await there.take()
    assert await there.flush(owner) == ["write flush row", "read all flush rows", "send notices", "acknowledge"]
    assert await there.flush(owner) == []
    await there.apply(owner, 0, mark(3))
    assert "write flush row" in await there.flush(owner), "time and offsets go on without rows"
    assert newest(there).watermarks[Lane.LABELS] == {"m": START_MS + 3 * MINUTE_MS}


@in_a_loop
async def test_a_lane_that_waits_keeps_its_older_fence_and_watermark_and_its_panes() -> None:
    there = place(label_flush_ms=10_000)
    owner = await there.take()
    await there.apply(owner, 0, event("a", 0.1, s=0.9))
    await there.flush(owner, labels=False)  # a pane's worth of time has gone by: from nothing
    assert newest(there).fences == {Lane.EVENTS: 0, Lane.LABELS: 0}
    await there.apply(owner, 1, event("b", 0.2, s=0.9))
    await there.flush(owner, labels=False)
    row = newest(there)
    assert row.fences == {Lane.EVENTS: 1, Lane.LABELS: 0}
    assert row.watermarks[Lane.LABELS] == {"m": START_MS + MINUTE_MS // 10}
    assert (stored(there)["traffic"], stored(there)["unlabelled"]) == (2, 1)
    there.clock.advance(10_000)
    await there.flush(owner, labels=False)
    assert newest(there).fences == {Lane.EVENTS: 1, Lane.LABELS: 1}
    assert stored(there)["unlabelled"] == 2


@in_a_loop
async def test_the_label_lane_is_written_when_time_moves_on_by_a_pane() -> None:
    """A window may wait for it to be final."""
    there = place(label_flush_ms=10_000)
    owner = await there.take()
    await there.apply(owner, 0, event("a", 0.1))
    await there.flush(owner, labels=False)
    await there.apply(owner, 1, event("b", 0.9))
    await there.flush(owner, labels=False)
    assert newest(there).fences[Lane.LABELS] == 0
    await there.apply(owner, 2, event("c", 1))
    await there.flush(owner, labels=False)
    assert newest(there).fences[Lane.LABELS] == 2


@in_a_loop
async def test_a_lane_without_work_moves_along() -> None:
    there = place()
    owner = await there.take()
    await there.apply(owner, 0, event("a"))
    await there.flush(owner)
    await there.apply(owner, 1, label("nobody", 1), mark(0.5))
    await there.flush(owner, labels=False)
    assert newest(there).fences == {Lane.EVENTS: 2, Lane.LABELS: 2}


@in_a_loop
async def test_a_broken_pane_is_made_whole_before_it_is_written() -> None:
    there = place()
    owner = await there.take()
    await there.apply(owner, 0, event("a", s=0.9), event("b", s=0.8), label("a", 1), label("b", 1))
    await there.flush(owner)
    assert stored(there)["best_hit"] == 0.9
    await there.apply(owner, 4, label("a", 0))
    steps = await there.flush(owner)
    assert steps.index("write labels") < steps.index("read pane rows") < steps.index("write states"), (
        "it reads what it writes"
    )
    assert stored(there)["best_hit"] == 0.8
    assert stored(there)["traffic"] == 2


@in_a_loop
async def test_several_partitions_are_flushed_together_and_each_speaks_for_itself() -> None:
    there = place()
    there.log.partitions = 2
    owners = [await there.take(partition=partition) for partition in (0, 1)]
    await there.apply(owners[0], 0, event("a"), event("b"))
    await there.apply(owners[1], 0, event("c"))
    await there.flush(*owners)
    assert [newest(there, partition).fences[Lane.EVENTS] for partition in (0, 1)] == [1, 0]
    assert there.log.acknowledged == [(0, 2), (1, 1)]
    assert stored(there)["traffic"] == 3


@in_a_loop
async def test_models_are_idle_once_the_partition_was_read_and_they_were_silent_for_long_enough() -> None:
    there = place(idle_ms=1_000)
    owner = await there.take()
    await owner.apply(fetch(0, event("a")), caught_up=False, is_known=True)
    there.clock.advance(5_000)
    await there.flush(owner)
    assert newest(there).idle == frozenset(), "it may not have been read to its end"
    await there.apply(owner, 1, event("b"))
    await there.flush(owner)
    assert newest(there).idle == {CAUGHT_UP}
    there.clock.advance(999)
    assert await there.flush(owner) == []
    there.clock.advance(1)
    await there.flush(owner)
    assert newest(there).idle == {CAUGHT_UP, "m"}
    await there.apply(owner, 2, mark(4))
    await there.flush(owner)
    assert newest(there).idle == {CAUGHT_UP}


# -- every end of a process ------------------------------------------------------------------------------------------------

#: Two fetches and what they hold: events of two panes, one of them twice; labels before and after their event, one of them
#: takes back the best hit; what cannot be read; time.
FIRST = (event("a", 0, x=1, s=0.9), label("c", 0), event("b", 1, x=2, s=0.8), b"broken", label("a", 1), label("b", 1))
SECOND = (event("a", 0, x=1, s=0.9), event("c", 0, x=4, s=0.7), label("a", 0), event("d", 1, x=8, s=0.2), mark(5))


async def live(there: Place, ends_before: int | None) -> None:
    """Take over, apply and flush twice; the end comes before the step of this number."""
    there.world.ends_before = None if ends_before is None else len(there.world.taken) + ends_before
    owner = await there.take("one")
    start = owner.state.next_offset
    for first, records in ((0, FIRST), (len(FIRST), SECOND)):
        await read(there, owner, max(first, start), (*FIRST, *SECOND)[max(first, start) : first + len(records)])
        await there.flush(owner, labels=first > 0)


async def read(there: Place, owner: Owner, first: int, records: tuple[bytes, ...]) -> None:
    if records:
        await there.apply(owner, first, *records)


def summary(there: Place) -> Mapping[str, Any]:
    """Everything that must be the same however often somebody had to begin again."""
    row = newest(there)
    return {
        "values": stored(there),
        "first": stored(there, 0),
        "wrong": stored(there, segment="wrong"),
        "events": {key: (row["event_id"], row["duplicate"]) for key, row in there.world.events.items()},
        "labels": {key: (row["event_id"], row["y"]) for key, row in there.world.labels.items()},
        "letters": {key: letter.code for key, letter in there.world.letters.items()},
        "fences": row.fences,
        "watermarks": row.watermarks,
        "committed": there.log.acknowledged[-1],
    }


def test_whatever_step_is_the_last_one_of_a_process_its_successor_comes_to_the_same() -> None:
    async def main() -> None:
        whole = place()
        await live(whole, None)
        steps = len(whole.world.taken)
        expected = summary(whole)
        assert expected["values"] == {
            "traffic": 4, "sum": 15, "most": 8, "cost": (2 * FALSE_ALARM + 2 * UNLABELLED) / 4, "best_hit": 0.8, "unlabelled": 1,
        }  # fmt: skip
        assert steps > 25
        for ends_before in range(steps):
            there = place()
            with pytest.raises(EndedError):
                await live(there, ends_before)
            await live(there, None)
            assert summary(there) == expected, f"it ended before step {ends_before}: {whole.world.taken[ends_before]}"

    asyncio.run(main())


def test_two_ends_in_a_row_change_nothing_either() -> None:
    async def main() -> None:
        whole = place()
        await live(whole, None)
        expected = summary(whole)
        for first in range(0, len(whole.world.taken), 3):
            for second in (2, 7, 11, 17):
                there = place()
                for ends_before in (first, second):
                    try:
                        await live(there, ends_before)
                    except EndedError:
                        continue
                await live(there, None)
                assert summary(there) == expected, (first, second)

    asyncio.run(main())


@in_a_loop
async def test_a_flush_that_failed_before_its_flush_row_leaves_the_fence_where_it_was() -> None:
    there = place()
    owner = await there.take()
    await there.apply(owner, 0, event("a", x=1))
    await there.flush(owner)
    await there.apply(owner, 1, event("b", x=2))
    there.world.ends_before = len(there.world.taken) + 3  # events, states of both lanes; no flush row
    with pytest.raises(EndedError):
        await there.flush(owner)
    there.world.ends_before = None
    assert stored(there)["sum"] == 3, "the states are there already"
    heir = await there.take("heir")
    assert heir.state.next_offset == 1, "and the row comes again"
    await there.apply(heir, 1, event("b", x=2), event("c", x=4))
    assert reading(heir.state)["sum"] == 7, "but its fence keeps it from being counted again"
    await there.flush(heir)
    assert stored(there)["sum"] == 7


@pytest.mark.parametrize("steps", range(6))
def test_whoever_failed_to_flush_writes_nothing_any_more(steps: int) -> None:
    """What the flush had taken out of memory is gone: the next one, on leaving, would move the fence past it."""

    async def main() -> None:
        there = place()
        owner = await there.take()
        await there.apply(owner, 0, event("a", x=1))
        await there.flush(owner)
        await there.apply(owner, 1, event("b", x=2), b"no event")
        there.world.ends_before = len(there.world.taken) + steps
        with pytest.raises(EndedError):
            await there.flush(owner)
        there.world.ends_before = None
        owner.leaving = True
        await there.flush(owner)
        heir = await there.take("heir")
        await there.apply(heir, heir.state.next_offset, *[event("b", x=2), b"no event"][heir.state.next_offset - 1 :])
        await there.flush(heir)
        assert stored(there)["sum"] == 3
        assert len(there.world.events) == 2
        assert len(there.world.letters) == 1

    asyncio.run(main())


@in_a_loop
async def test_a_state_that_was_written_ahead_of_its_flush_row_keeps_its_fence_until_the_log_has_caught_up() -> None:
    """Whoever comes after somebody who got half way there must skip the same rows."""
    there = place()
    owner = await there.take("one")
    await there.apply(owner, 0, *(event(f"e{number}", x=2.0**number) for number in range(6)))
    there.world.ends_before = "write flush row"
    with pytest.raises(EndedError):
        await there.flush(owner)
    there.world.ends_before = None
    for name, first, last in (("two", 0, 1), ("three", 2, 3), ("four", 4, 7)):
        heir = await there.take(name)
        assert heir.state.next_offset == first
        await there.apply(heir, first, *(event(f"e{number}", x=2.0**number) for number in range(first, last + 1)))
        await there.flush(heir)
        assert {record.fence for record in there.world.states.values()} == {max(5, last)}
        assert newest(there).fences == dict.fromkeys(LANES, last)
    assert stored(there)["sum"] == 255


# -- TAKEOVER ------------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_new_owner_has_a_higher_epoch_and_goes_on_at_the_lowest_fence() -> None:
    there = place()
    owner = await there.take("one")
    assert (owner.base.version, owner.state.next_offset) == (Version(1, 0), 0)
    await there.apply(owner, 0, event("a", 0.1), event("b", 0.2))
    await there.flush(owner)
    await there.apply(owner, 2, event("c", 0.3))
    await there.flush(owner, labels=False)
    heir = await there.take("two")
    assert heir.base.version == Version(2, 0)
    assert heir.state.next_offset == 2, "the label lane has c not yet"
    assert heir.state.watermarks == {"m": START_MS + MINUTE_MS // 5}
    await there.apply(heir, 2, event("c", 0.3))
    await there.flush(heir)
    assert (stored(there)["traffic"], stored(there)["unlabelled"]) == (3, 3)


@in_a_loop
async def test_what_was_counted_once_is_not_told_again_by_counters() -> None:
    there = place()
    owner = await there.take("one")
    await there.apply(owner, 0, event("a", 0.1), event("a", 0.1))
    await there.flush(owner)
    await there.apply(owner, 2, event("b", 0.2), b"broken")
    await there.flush(owner, labels=False)
    heir = await there.take("two")
    # one fetch, of which the first two records were counted already
    await there.apply(heir, 2, event("b", 0.2), b"broken", event("c", 0.2))
    await there.flush(heir)
    assert {name: newest(there).counters[name] for name in ("events", "duplicates", "dead_letters")} == {
        "events": 4, "duplicates": 1, "dead_letters": 1,
    }  # fmt: skip


@in_a_loop
async def test_two_who_claim_one_epoch_both_claim_again_and_one_of_them_ends_up_higher() -> None:
    there = place()
    seen: list[FlushRow | None] = []
    real = there.ports.store.newest_flush

    async def stale(topic: str, partition: int) -> FlushRow | None:
        """Both have read before either has written."""
        if len(seen) < 2:
            seen.append(await real(topic, partition))
            return seen[0]
        return await real(topic, partition)

    there.ports.store.newest_flush = stale
    one = await there.take("one")
    two = await there.take("two")
    assert one.base.version.epoch == 1
    assert two.base.version.epoch == 2, "it saw the other one's claim of the same epoch"
    await there.apply(one, 0, event("a", x=1))
    await there.flush(one)
    assert one.superseded
    assert there.log.acknowledged == []


@in_a_loop
async def test_a_claim_is_higher_than_any_rivals_even_one_that_has_not_flushed() -> None:
    there = place()
    there.world.flushes[0, 9, "rival"] = FlushRow(TOPIC, 0, Version(9, 0), "rival", "t-1", dict.fromkeys(LANES, -1), {})
    real = there.ports.store.newest_flush

    async def blind(topic: str, partition: int) -> FlushRow | None:
        """The rival's row arrives between two reads."""
        there.ports.store.newest_flush = real
        return None

    there.ports.store.newest_flush = blind
    owner = await there.take()
    assert owner.base.version == Version(10, 0)


@in_a_loop
async def test_the_first_owner_begins_where_the_log_begins() -> None:
    there = place()
    there.log.begin = 40
    owner = await there.take()
    assert owner.state.next_offset == 40
    assert newest(there).fences == dict.fromkeys(LANES, 39)


@pytest.mark.parametrize(
    ("topic", "begin", "end", "code"),
    [
        ("t-1", 3, 3, None),  # all that was counted has left the log, and nothing else
        ("t-1", 0, 1_000, None),
        ("t-2", 0, 1_000, "DLV001"),  # recreated
        ("t-1", 4, 1_000, "DLV002"),  # one row has left that was not counted
        ("t-1", 0, 2, "DLV003"),  # what was counted is not in the log
    ],
)
def test_where_going_on_would_lose_or_double_rows_it_stops_and_says_what_to_do(
    topic: str, begin: int, end: int, code: str | None
) -> None:
    async def main() -> None:
        there = place()
        owner = await there.take()
        await there.apply(owner, 0, event("a"), event("b"), event("c"))
        await there.flush(owner)
        there.log.topic, there.log.begin, there.log.end = topic, begin, end
        if code is None:
            assert (await there.take("two")).state.next_offset == 3
            return
        with pytest.raises(FqlstreamError) as caught:
            await there.take("two")
        assert caught.value.code == code
        assert f"{TOPIC}[0]" in caught.value.message
        assert caught.value.hint

    asyncio.run(main())


@in_a_loop
async def test_what_memory_held_is_rebuilt_as_it_was_at_the_fence() -> None:
    """Ids for duplicates, rows for labels, labels for events; what came after the fence comes again."""
    there = place()
    owner = await there.take()
    await there.apply(
        owner, 0, event("a", s=0.9), label("early", 0), label("early", 1), event("b", s=0.9), event("a", s=0.9)
    )
    await there.flush(owner)
    await there.apply(owner, 5, event("late", s=0.9), label("b", 0))
    there.world.ends_before = len(there.world.taken) + 2  # history is written, and nothing else
    with pytest.raises(EndedError):
        await there.flush(owner)
    there.world.ends_before = None
    heir = await there.take("two")
    assert heir.state.next_offset == 5
    assert (len(heir.state.index), heir.state.index.sequence_next) == (2, 3)
    assert heir.state.waiting["m"].table.select(["event_id", "y"]).to_pylist() == [{"event_id": "early", "y": 1}]
    (chunk,) = heir.state.recent.chunks.values()
    assert chunk.table.select(["event_id", "y"]).to_pylist() == [
        {"event_id": "a", "y": None},
        {"event_id": "b", "y": None},
    ]
    await there.apply(
        heir, 5, event("late", s=0.9), label("b", 0), event("a", s=0.1), event("early", s=0.9), label("a", 1)
    )
    assert reading(heir.state)["traffic"] == 4
    assert reading(heir.state)["cost"] == (3 * UNLABELLED + FALSE_ALARM) / 4


# -- owners that do not know ---------------------------------------------------------------------------------------------


@in_a_loop
async def test_an_owner_that_finds_a_higher_epoch_neither_commits_nor_writes_again() -> None:
    there = place()
    paused = await there.take("paused")
    await there.apply(paused, 0, event("a", x=1))
    heir = await there.take("heir")
    await there.apply(heir, 0, event("a", x=1), event("b", x=2))
    await there.flush(heir)
    assert "send notices" in await there.flush(paused)
    assert paused.superseded
    assert there.log.acknowledged == [(0, 2)]
    assert stored(there)["sum"] == 3, "its states lose against its successor's"
    assert newest(there).owner == "heir"
    await there.apply(paused, 1, event("b", x=2))
    assert await there.flush(paused) == []


@in_a_loop
async def test_a_claim_that_came_and_went_is_noticed_too() -> None:
    """The group never took the partition away, but the states of a higher epoch stand in the way of ours."""
    there = place()
    owner = await there.take("one")
    await there.take("somebody who was mistaken")
    await there.apply(owner, 0, event("a"))
    await there.flush(owner)
    assert owner.superseded
    again = await there.take("one")
    assert again.base.version.epoch == 3
    await there.apply(again, 0, event("a"))
    await there.flush(again)
    assert not again.superseded
    assert there.log.acknowledged == [(0, 1)]


@in_a_loop
async def test_one_superseded_owner_does_not_keep_the_others_from_committing() -> None:
    there = place()
    owners = [await there.take("one", partition) for partition in (0, 1)]
    await there.take("two", 0)
    for owner in owners:
        await there.apply(owner, 0, event(f"a{owner.partition}"))
    await there.flush(*owners)
    assert [owner.superseded for owner in owners] == [True, False]
    assert there.log.acknowledged == [(1, 1)]
    assert [row.partition for row in there.log.notices] == [1]


# -- FETCH ---------------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_seek_that_came_late_counts_nothing_twice() -> None:
    there = place()
    owner = await there.take()
    await there.apply(owner, 0, event("a", x=1), event("b", x=2))
    await there.apply(owner, 0, event("a", x=1), event("b", x=2), event("c", x=4))
    await there.apply(owner, 1, event("b", x=2))
    assert (reading(owner.state)["sum"], owner.state.next_offset) == (7, 3)
    assert "duplicates" not in owner.state.counters


@in_a_loop
async def test_control_records_move_the_offset() -> None:
    there = place()
    owner = await there.take()
    await owner.apply(fetch(0, event("a"), next_offset=7), caught_up=True)
    assert owner.state.next_offset == 7
    await owner.apply(fetch(7, next_offset=9), caught_up=True)
    await there.flush(owner)
    assert newest(there).fences == dict.fromkeys(LANES, 8)
    assert there.log.acknowledged == [(0, 9)]


@pytest.mark.parametrize("at", range(5))
def test_one_poisonous_record_of_a_fetch_is_set_aside_and_the_others_count(at: int) -> None:
    async def main() -> None:
        there = place()
        owner = await there.take()
        records = [event(f"e{number}", x=2**number) for number in range(5)]
        records[at] = event("poison", x=2**at)
        await there.apply(owner, 0, *records)
        await there.flush(owner)
        assert stored(there)["sum"] == 31 - 2**at
        (letter,) = there.log.letters
        assert (letter.offset, letter.value, letter.origin) == (at, records[at], f"{TOPIC}[0]@{at}")
        assert "PoisonError: " in letter.reason
        assert owner.state.next_offset == 5
        assert newest(there).fences == dict.fromkeys(LANES, 4)

    asyncio.run(main())


@in_a_loop
async def test_nothing_but_poison_is_nothing_but_dead_letters() -> None:
    there = place()
    owner = await there.take()
    await there.apply(owner, 0, b"poison 1", b"poison 2", b"poison 3")
    await there.flush(owner)
    assert [letter.offset for letter in there.log.letters] == [0, 1, 2]
    assert there.log.acknowledged == [(0, 3)]


@in_a_loop
async def test_a_store_that_is_away_is_no_records_fault() -> None:
    there = place()
    owner = await there.take()

    async def away(*_: object) -> None:
        raise StoreError("STO001", "nothing answers")

    real, there.ports.store.read_states = there.ports.store.read_states, away
    with pytest.raises(StoreError):
        await there.apply(owner, 0, event("a", x=1))
    assert owner.dead_letters == []
    there.ports.store.read_states = real
    await there.apply(owner, 0, event("a", x=1))
    assert reading(owner.state)["sum"] == 1


@in_a_loop
async def test_models_that_a_newer_catalogue_may_know_are_named_first() -> None:
    there = place()
    owner = await there.take()
    strange = fetch(0, event("a"), event("b", model="strange"))
    assert await owner.apply(strange, caught_up=True) == {"strange"}
    assert (owner.state.next_offset, owner.dead_letters) == (0, [])
    assert await owner.apply(strange, caught_up=True, is_known=True) == frozenset()
    assert [letter.offset for letter in owner.dead_letters] == [1]
    assert reading(owner.state)["traffic"] == 1


@in_a_loop
async def test_columns_that_a_newer_catalogue_may_know_are_asked_for_first() -> None:
    there = place()
    owner = await there.take()
    strange = fetch(0, event("a"), json.dumps({"model": "m", "event_id": "b", "columns": {"new": 1}}).encode())
    assert await owner.apply(strange, caught_up=True) == {"m"}
    assert owner.state.next_offset == 0
    assert await owner.apply(strange, caught_up=True, is_known=True) == frozenset()
    assert owner.needs_news, "the next fetch may hold it too: then it is asked for before it is decoded"
    assert not owner.dead_letters
    assert await owner.apply(fetch(2, event("c")), caught_up=True) == {"m"}, "it may hold it unseen"


@in_a_loop
async def test_unwritten_bytes_are_rows_and_what_was_refused() -> None:
    there = place()
    owner = await there.take()
    assert owner.unwritten_bytes == 0
    await there.apply(owner, 0, event("a"))
    rows = owner.unwritten_bytes
    assert rows > 50
    await there.apply(owner, 1, b"x" * 1_000)
    assert owner.unwritten_bytes == rows + 1_000
    await there.flush(owner)
    assert owner.unwritten_bytes == 0


@in_a_loop
async def test_panes_that_left_the_memory_come_back_from_the_store() -> None:
    there = place(panes_max=10)
    owner = await there.take()
    for number in range(30):
        await there.apply(owner, number, event(f"e{number}", number, x=1))
        await there.flush(owner)
    assert len(owner.state.panes.held) <= 11
    await there.apply(owner, 30, event("again", 2, x=5))
    assert reading(owner.state, 2)["sum"] == 6
    await there.flush(owner)
    assert stored(there)["sum"] == 35


@in_a_loop
async def test_a_pane_is_not_read_back_while_the_flush_that_writes_it_is_under_way() -> None:
    """Of its two lanes one may be there already."""
    there = place(panes_max=10)
    owner = await there.take()
    await there.apply(owner, 0, event("a", 0, x=1, s=0.9))
    cut = await owner.cut(labels=True)
    assert cut is not None
    # other panes come while it is written: so many that this one would be let go of
    await there.apply(owner, 1, *(event(f"e{number}", number, x=0) for number in range(1, 15)))
    await there.ports.store.write_states(cut.records[:1])
    await there.apply(owner, 15, event("b", 0, x=2, s=0.9))
    assert (reading(owner.state, 0)["sum"], reading(owner.state, 0)["unlabelled"]) == (3, 2)
    owner.flushed(cut)
    await there.apply(owner, 16, *(event(f"f{number}", number, x=0) for number in range(1, 15)))
    await there.flush(owner)
    assert (stored(there, 0)["sum"], stored(there, 0)["unlabelled"]) == (3, 2)


@in_a_loop
async def test_a_flush_that_ends_while_panes_are_lined_up_lets_go_of_none_of_them() -> None:
    there = place(panes_max=10, load_bytes_max=1)
    owner = await there.take()
    for number in range(30):
        await there.apply(owner, number, event(f"e{number}", number, x=1))
        await there.flush(owner)
    await owner.look_again(["m"])
    store: Any = there.ports.store
    read_states = store.read_states

    async def read_and_end_a_flush(partition: int, keys: Any) -> Any:
        records = await read_states(partition, keys)
        owner.evict()
        return records

    store.read_states = read_and_end_a_flush
    while await owner.backfill(100):
        await there.flush(owner)
    assert stored(there)["sum"] == 30


@in_a_loop
async def test_recent_rows_are_bounded_for_all_partitions_of_a_worker_together() -> None:
    there = place(recent_bytes_max=2**20)
    owners = [await there.take("a", partition) for partition in range(3)]
    for owner in owners:
        for first in range(0, 10_000, 500):
            await there.apply(owner, first, *(event(f"e{number}") for number in range(first, first + 500)))
    assert sum(owner.state.recent.bytes_count for owner in owners) > 2**20
    await there.flush(*owners)
    assert all(owner.state.recent.chunks for owner in owners)
    assert sum(owner.state.recent.bytes_count for owner in owners) <= 2**20


@in_a_loop
async def test_a_label_finds_its_event_long_after_in_what_is_not_even_flushed() -> None:
    there = place(duplicate_ids_max=1)
    owner = await there.take()
    await there.apply(owner, 0, event("a", s=0.9), event("b", s=0.9), event("c", s=0.9))
    await there.apply(owner, 3, label("a", 0))
    assert reading(owner.state)["cost"] == pytest.approx((2 * UNLABELLED + FALSE_ALARM) / 3, rel=1e-15)
    await there.flush(owner)
    assert stored(there)["cost"] == pytest.approx((2 * UNLABELLED + FALSE_ALARM) / 3, rel=1e-15)


@in_a_loop
async def test_a_label_that_history_has_already_finds_its_event_as_it_was_before() -> None:
    """A predecessor wrote it and ended; its step has still to be counted."""
    there = place(duplicate_ids_max=1, recover_rows_max=0)
    owner = await there.take()
    await there.apply(owner, 0, event("a", s=0.9), event("b", s=0.9))
    await there.flush(owner)
    await there.apply(owner, 2, label("a", 0))
    there.world.ends_before = "write states"
    with pytest.raises(EndedError):
        await there.flush(owner)
    there.world.ends_before = None
    assert len(there.world.labels) == 1
    heir = await there.take("heir")
    await there.apply(heir, 2, label("a", 0))
    await there.flush(heir)
    assert stored(there)["cost"] == (UNLABELLED + FALSE_ALARM) / 2


# -- other partitions' events --------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_label_of_another_partitions_event_asks_its_owner_to_rebuild_the_pane() -> None:
    there = place()
    owners = [await there.take(partition=partition) for partition in (0, 1)]
    await there.apply(owners[0], 0, event("a", 3, s=0.9))
    await there.flush(*owners)
    before = len(there.world.taken)
    await there.apply(owners[1], 0, label("a", 0))
    steps = there.world.taken[before:]
    assert steps.index("write labels") < steps.index("request repairs"), "whoever reads the request must find the label"
    assert list(there.world.repairs.values()) == [RepairNeed(0, pane(3), 0)]
    assert not len(owners[1].state.waiting.get("m", ()))
    await owners[0].rebuild([pane(3)])
    await there.flush(*owners)
    assert stored(there)["cost"] == FALSE_ALARM


@in_a_loop
async def test_a_label_that_was_ahead_of_its_event_is_looked_for_elsewhere_later_and_later() -> None:
    there = place(label_search_ms=1_000, label_search_ms_max=3_000)
    owners = [await there.take(partition=partition) for partition in (0, 1)]
    await there.apply(owners[1], 0, label("a", 0))

    async def looks(milliseconds: int) -> bool:
        there.clock.advance(milliseconds)
        before = len(there.world.taken)
        await owners[1].search()
        return "read events by id" in there.world.taken[before:]

    assert [await looks(ms) for ms in (0, 999, 1, 1_999, 1, 2_999, 1, 2_999)] == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    await there.apply(owners[0], 0, event("a", 3, s=0.9))
    await there.flush(*owners)
    assert await looks(1)
    assert [need.pane for need in there.world.repairs.values()] == [pane(3)]
    assert len(owners[1].state.waiting["m"]) == 0
    assert not await looks(10_000)


@in_a_loop
async def test_an_outage_during_a_search_leaves_out_none_of_the_events_that_were_written_before_it() -> None:
    """The question is asked again until it is answered, hours later perhaps, and means the same time as at first."""
    there = place(waiting_labels_max=1, label_search_ms=10**12, label_search_ms_max=1_000)
    owners = [await there.take(partition=partition) for partition in (0, 1)]
    await there.apply(owners[1], 0, label("a", 0), label("b", 0))
    await there.flush(*owners)
    await owners[1].search()
    assert not there.world.repairs, "its event has not come"
    await there.apply(owners[0], 0, event("a", 3, s=0.9))
    await there.flush(*owners)
    there.clock.advance(1_000)
    answer = MemoryStore.labelled_elsewhere

    async def after_an_outage(self: MemoryStore, model: str, partition: int, *when: int) -> Any:
        there.clock.advance(HOUR_MS)
        return await answer(self, model, partition, *when)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStore, "labelled_elsewhere", after_an_outage)
        await owners[1].search()
    assert [need.pane for need in there.world.repairs.values()] == [pane(3)]


# -- definitions ---------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_newer_definitions_make_open_panes_whole_from_history() -> None:
    there = place(catalogue(metrics={"sum": "sum(x)"}, segments={}))
    owner = await there.take()
    await there.apply(owner, 0, event("a", 0, x=1), event("b", 1, x=2), event("c", 1, x=4))
    await there.flush(owner)
    await there.apply(owner, 3, event("d", 1, x=8))
    grown = catalogue(metrics={"sum": "sum(x)", "least": "min(x)"}, segments={"high": "x >= 4"})
    there.engines = Engines(grown, FqlSettings(), there.engines)
    there.world.catalogue = grown
    await owner.adopt(grown, there.engines, frozenset({"m"}))
    while await owner.backfill(1):
        await there.flush(owner)
    assert stored(there) == {"sum": 15, "least": 1}
    assert stored(there, segment="high") == {"sum": 12, "least": 4}
    assert stored(there, 0) == {"sum": 1, "least": 1}


@in_a_loop
async def test_who_takes_over_from_one_that_had_other_definitions_looks_at_the_open_panes() -> None:
    there = place(catalogue(metrics={"sum": "sum(x)"}, segments={}))
    owner = await there.take()
    await there.apply(owner, 0, event("a", 0, x=1), event("b", 1, x=2))
    await there.flush(owner)
    grown = catalogue(metrics={"sum": "sum(x)", "least": "min(x)"}, segments={})
    there.world.catalogue, there.engines = grown, Engines(grown, FqlSettings())
    heir = await there.take("two")
    assert list(heir.backlog) == [pane(0), pane(1)]
    await there.flush(heir)
    third = await there.take("three")
    assert list(third.backlog) == [pane(0), pane(1)], "nobody has looked at them yet"
    while await third.backfill(10):
        await there.flush(third)
    assert stored(there) == {"sum": 3, "least": 1}
    assert not (await there.take("four")).backlog


@in_a_loop
async def test_a_takeover_reads_the_definitions_of_every_version() -> None:
    known = catalogue(model("v1"), model("v2", task_params={"threshold": 0.95, "target_class_order": [0, 1]}))
    there = place(known)
    owner = await there.take()
    await there.apply(owner, 0, event("a", s=0.9, version="v1"), event("b", s=0.9, version="v2"))
    await there.flush(owner)
    heir = await take_over(TOPIC, 0, "two", known, there.engines, there.ports, asyncio.Lock())
    await there.apply(heir, 2, label("a", 0), label("b", 0))
    await there.flush(heir)
    costs = {}
    for version in ("v1", "v2"):
        engine = there.engines("m", version)
        cells = {
            lane: engine.decode(lane, record.cells)[0]
            for (key, _, lane), record in there.world.states.items()
            if key.version == version
        }
        costs[version] = {r.metric: r.value for r in engine.results(cells) if r.segment == ""}["cost"]
    assert costs == {"v1": FALSE_ALARM, "v2": UNLABELLED}
    assert RECORD_MS > START_MS
