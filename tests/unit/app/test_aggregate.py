"""Waiting, timing and giving up, of a worker's partitions; what happens to data is tested where it is decided, in stream/."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from tests.simulation.world import TOPIC
from tests.unit.stream.one_partition import (
    MINUTE_MS,
    EndedError,
    Place,
    catalogue,
    event,
    fetch,
    in_a_loop,
    label,
    model,
    pane,
    place,
    reading,
    stored,
)
from tests.waiting import let_others_run, wait_in_loop

from fqlstream.app import aggregate
from fqlstream.app.aggregate import DELETING, AggregateAgent
from fqlstream.app.ledger import Partition
from fqlstream.app.transport import Progress
from fqlstream.errors import StoreError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION
from fqlstream.settings import Settings, StreamSettings
from fqlstream.store import repairs
from fqlstream.store.deletions import DeletionRequest, Rewrite, Rewriting
from fqlstream.stream.deleted import DeletedIds
from fqlstream.stream.fingerprints import fingerprint
from fqlstream.stream.protocol import PaneKey, RepairNeed

MEBIBYTE = 2**20


@dataclass
class Source:
    """A partition as the transport hands it over."""

    partition: int = 0
    log_end: int = 0
    lost: bool = False
    begun: list[int] = field(default_factory=list)

    @property
    def key(self) -> Partition:
        return Partition(TOPIC, self.partition)

    def progress(self) -> Progress:
        return Progress(0, self.log_end, 0)

    async def begin(self, offset: int) -> None:
        self.begun.append(offset)


@dataclass
class Definitions:
    """A worker's view of the definitions, that is as new as it was last read."""

    catalogue: Catalogue
    newest: Catalogue
    reads: int = 0

    async def refresh(self) -> Catalogue:
        self.reads += 1
        self.catalogue = self.newest
        return self.catalogue


@dataclass
class Worker:
    """An agent and what surrounds it."""

    there: Place
    agent: AggregateAgent
    definitions: Definitions
    failures: list[BaseException]
    commits: list[int]

    async def take(self, **changes: Any) -> Source:
        source = Source(**changes)
        await self.agent.take(source)
        return source

    async def apply(self, first: int, *records: bytes, start: int | None = None) -> None:
        await self.agent.apply(replace(fetch(first, *records), start=first if start is None else start))

    def values(self) -> dict[str, float | None]:
        return reading(self.agent.owners[0].state)


def worker(
    known: Catalogue | None = None, *, first: Catalogue | None = None, there: Place | None = None, **limits: Any
) -> Worker:
    """Make a worker in a world with these definitions, of which it has read the `first` ones."""
    there = place(known, **limits) if there is None else there
    failures: list[BaseException] = []
    commits: list[int] = []
    read = there.world.catalogue if first is None else first
    definitions = Definitions(read, read)

    async def commit() -> None:
        there.world.take("commit")
        commits.append(len(there.log.acknowledged))

    agent = AggregateAgent(
        TOPIC, "me", Settings(stream=StreamSettings(**limits)), there.ports, there.ports.store, definitions, commit, failures.append
    )  # fmt: skip
    return Worker(there, agent, definitions, failures, commits)


# -- which fetches count -------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_fetch_behind_a_gap_is_left_to_come_again() -> None:
    """What lies before it was dropped on its way: counting it would lose that."""
    mine = worker()
    await mine.take()
    await mine.apply(0, event("a"))
    await mine.apply(3, event("d"))
    assert mine.values()["traffic"] == 1
    await mine.apply(1, event("b"), event("c"))
    await mine.apply(3, event("d"))
    await mine.apply(7, event("e"), start=4)  # offsets that the log does not have are no gap
    assert mine.values()["traffic"] == 5


@in_a_loop
async def test_fetches_of_a_partition_that_is_gone_are_forgotten() -> None:
    mine = worker()
    source = await mine.take()
    mine.agent.lose(source)
    await mine.apply(0, event("a"))
    assert mine.agent.owners == []
    await mine.agent.flush()
    assert mine.there.world.events == {}


@in_a_loop
async def test_news_of_a_loss_that_comes_late_does_not_take_away_what_came_back() -> None:
    mine = worker()
    first = await mine.take()
    await mine.take()
    mine.agent.lose(first)
    assert len(mine.agent.owners) == 1


@in_a_loop
async def test_a_takeover_that_ends_after_its_partition_was_lost_leaves_the_next_one_alone() -> None:
    mine = worker()
    slow = Source(lost=True)
    await mine.take()
    held = mine.agent.owners
    await mine.agent.take(slow)
    assert mine.agent.owners == held


@in_a_loop
async def test_records_of_a_model_that_is_new_make_the_worker_read_definitions_before_it_refuses_them() -> None:
    mine = worker()
    await mine.take()
    before = mine.definitions.reads
    mine.definitions.newest = replace(
        mine.definitions.newest.with_definition(DEFINITION.validate_python({**model(), "name": "new"})), position=5
    )
    await mine.apply(0, event("a"), event("b", model="new"), event("c", model="nobodys"))
    assert mine.definitions.reads == before + 1
    owner = mine.agent.owners[0]
    assert owner.state.counters["events"] == 2
    assert [letter.offset for letter in owner.dead_letters] == [2]
    await mine.apply(3, event("d", model="new"))
    assert mine.definitions.reads == before + 1


# -- pressure ------------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_consumption_pauses_while_too_much_is_unwritten_and_goes_on_after_a_flush() -> None:
    mine = worker(sink_backlog_bytes_max=MEBIBYTE)
    await mine.take()
    await mine.apply(0, b"x" * (MEBIBYTE + 1))
    waiting = asyncio.create_task(mine.apply(1, event("a")))
    await let_others_run()
    assert not waiting.done()
    assert mine.values()["traffic"] is None or mine.values()["traffic"] == 0
    await mine.agent.flush()
    await asyncio.wait_for(waiting, 5)
    assert mine.values()["traffic"] == 1


@in_a_loop
async def test_a_flush_begins_early_when_much_is_unwritten() -> None:
    mine = worker(flush_bytes_max=2**16, flush_ms=3_600_000)
    await mine.take()
    running = asyncio.create_task(mine.agent.run())
    await mine.apply(0, b"x" * 1_000)
    await let_others_run()
    assert mine.there.log.letters == []
    await mine.apply(1, b"x" * 2**16)
    await wait_in_loop(lambda: len(mine.there.log.letters) == 2, "both letters")
    running.cancel()
    await asyncio.wait([running])


@in_a_loop
async def test_a_fetch_of_more_panes_than_fit_the_memory_is_applied_in_parts_with_flushes_between() -> None:
    mine = worker(panes_bytes_max=40_000, flush_ms=3_600_000, label_flush_ms=3_600_000)
    await mine.take()
    held: list[int] = []
    loaded = mine.there.ports.store.read_states

    async def read_states(partition: int, keys: Any) -> Any:
        held.append(mine.agent.owners[0].state.panes.bytes_count)
        return await loaded(partition, keys)

    mine.there.ports.store.read_states = read_states
    running = asyncio.create_task(mine.agent.run())
    # each pane twice, far from each other: a part is written and let go of, and comes back
    records = [event(f"e{number}", -(number % 60), x=number, s=0.9) for number in range(120)]
    await asyncio.wait_for(mine.apply(0, *records, label("e3", 1), label("e119", 0)), 30)
    running.cancel()
    await asyncio.wait([running])
    assert len(held) > 10, "in many parts"
    assert max(held) <= 40_000, "with room for what was on its way"
    assert mine.agent.meter.fetches == 1
    await mine.agent.flush(labels=True)
    assert mine.agent.owners[0].flushed_offset == 122
    values = stored(mine.there)
    assert (values["traffic"], values["sum"], values["unlabelled"]) == (120, sum(range(120)), 118)


@in_a_loop
async def test_the_partitions_of_a_worker_share_its_memory_for_panes() -> None:
    mine = worker(panes_bytes_max=1_000)
    first, second = await mine.take(partition=0), await mine.take(partition=1)
    assert [owner.panes_bytes_max for owner in mine.agent.owners] == [500, 500]
    mine.agent.lose(first)
    assert [owner.panes_bytes_max for owner in mine.agent.owners] == [1_000]
    mine.agent.lose(second)


@in_a_loop
async def test_one_record_that_touches_more_panes_than_fit_the_memory_still_counts() -> None:
    mine = worker(panes_bytes_max=1)
    await mine.take()
    running = asyncio.create_task(mine.agent.run())
    for number in range(3):
        await asyncio.wait_for(mine.apply(number, event(f"e{number}", number, x=1)), 30)
    running.cancel()
    await asyncio.wait([running])
    await mine.agent.flush(labels=True)
    assert stored(mine.there)["sum"] == 3
    assert not mine.agent.owners[0].state.panes.held


@in_a_loop
async def test_an_owner_that_was_superseded_holds_up_nobody() -> None:
    """Its panes are never written: waiting for that would be for ever."""
    mine = worker(panes_bytes_max=1)
    await mine.take(partition=0)
    await mine.take(partition=1)
    await mine.apply(0, event("a"))
    first = mine.agent.owners[0]
    assert first.is_full
    first.superseded = True
    await asyncio.wait_for(mine.agent.apply(replace(fetch(0, event("b"), partition=1), start=0)), 5)
    assert mine.agent.owners[1].is_full


# -- flushes -------------------------------------------------------------------------------------------------------------


WriteStates = Callable[[Any], Awaitable[None]]


@dataclass
class HeldBack:
    """A write of states that waits for the test."""

    write: WriteStates
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, records: Any) -> None:
        self.reached.set()
        await self.opened.wait()
        await self.write(records)


async def refused(_records: Any) -> None:
    raise StoreError("STO002", "refused")


def replace_step(mine: Worker, write: WriteStates) -> None:
    store: Any = mine.there.ports.store
    store.write_states = write


async def cancelled_while_writing(mine: Worker, gate: HeldBack) -> asyncio.Task[None]:
    """Ask for a flush, and give up waiting for it in the middle."""
    replace_step(mine, gate)
    asking = asyncio.create_task(mine.agent.flush())
    await asyncio.wait_for(gate.reached.wait(), 5)
    asking.cancel()
    return asking


@in_a_loop
async def test_the_commit_follows_the_flush() -> None:
    mine = worker()
    await mine.take()
    await mine.apply(0, event("a"))
    await mine.agent.flush()
    assert mine.there.world.taken[-2:] == ["acknowledge", "commit"]
    assert mine.there.log.acknowledged == [(0, 1)]


@in_a_loop
async def test_who_waits_for_a_flush_may_be_cancelled_and_the_flush_goes_to_its_end() -> None:
    """What it has taken out of memory would otherwise be in no state and in no row."""
    mine = worker()
    await mine.take()
    await mine.apply(0, event("a"))
    gate = HeldBack(mine.there.ports.store.write_states)
    asking = await cancelled_while_writing(mine, gate)
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.opened.set()
    await wait_in_loop(lambda: mine.commits, "the commit")
    assert mine.there.log.acknowledged == [(0, 1)]
    assert mine.failures == []


@in_a_loop
async def test_a_flush_that_fails_when_nobody_waits_for_it_any_more_ends_the_worker() -> None:
    mine = worker()
    await mine.take()
    await mine.apply(0, event("a"))
    gate = HeldBack(refused)
    await asyncio.wait([await cancelled_while_writing(mine, gate)])
    gate.opened.set()
    await wait_in_loop(lambda: mine.failures, "the worker to be told")
    assert isinstance(mine.failures[0], StoreError)


@in_a_loop
async def test_a_last_flush_that_fails_is_left_to_the_next_owner() -> None:
    mine = worker()
    await mine.take()
    await mine.apply(0, event("a"))
    replace_step(mine, refused)
    await mine.agent.stop()
    assert mine.there.log.acknowledged == []


@in_a_loop
async def test_a_partition_that_somebody_claimed_is_taken_over_again_and_read_from_what_is_durable() -> None:
    mine = worker()
    source = await mine.take()
    await mine.apply(0, event("a"))
    await mine.agent.flush()
    await mine.there.take("somebody who was mistaken")
    await mine.apply(1, event("b"))
    await mine.agent.flush()
    await mine.apply(2, event("c"))  # to be read again: nothing is counted into what is given up
    assert mine.agent.owners[0].state.next_offset == 2
    await wait_in_loop(lambda: source.begun, "the partition to be read again")
    assert source.begun == [1]
    await mine.apply(1, event("b"), event("c"))
    await mine.agent.flush()
    assert mine.values()["traffic"] == 3
    assert mine.there.log.acknowledged == [(0, 1), (0, 3)]


# -- definitions ---------------------------------------------------------------------------------------------------------


def wide(event_id: str) -> bytes:
    """Write an event with a column that the model did not have from the beginning."""
    return json.dumps({"model": "m", "event_id": event_id, "columns": {"x": 1.0, "colour": "red"}}).encode()


@in_a_loop
async def test_a_column_that_was_just_added_loses_no_value() -> None:
    grown = catalogue(model(columns=[*model()["columns"], {"name": "colour", "type": "string"}]))
    mine = worker(grown, first=catalogue())
    await mine.take()
    mine.definitions.reads = 0
    await mine.apply(0, event("a"))
    assert mine.definitions.reads == 0, "what is known is not asked for"
    mine.definitions.newest = grown
    await mine.apply(1, event("b"), wide("c"))
    await mine.agent.flush()
    rows = {row["event_id"]: row.get("colour") for row in mine.there.world.events.values()}
    assert rows == {"a": None, "b": None, "c": "red"}
    assert mine.definitions.reads == 1
    await mine.apply(3, wide("d"))
    assert mine.definitions.reads == 1


@in_a_loop
async def test_columns_that_nobody_defines_are_asked_for_once_a_fetch() -> None:
    mine = worker()
    await mine.take()
    mine.definitions.reads = 0
    for number in range(3):
        await mine.apply(number, wide(f"e{number}"))
        assert mine.definitions.reads == number + 1
    assert mine.agent.owners[0].state.next_offset == 3


@in_a_loop
async def test_newer_definitions_are_adopted_behind_a_flush_and_older_ones_are_not() -> None:
    mine = worker(catalogue(metrics={"sum": "sum(x)"}, segments={}))
    await mine.take()
    await mine.apply(0, event("a", x=3))
    grown = replace(catalogue(metrics={"sum": "sum(x)", "least": "min(x)"}, segments={}), position=7)
    before = len(mine.there.world.taken)
    await mine.agent.adopt(grown)
    assert "write flush row" in mine.there.world.taken[before:]
    assert mine.agent.engines.catalogue is grown
    await mine.agent.adopt(replace(catalogue(metrics={}, segments={}), position=6))
    assert mine.agent.engines.catalogue is grown
    await mine.agent.maintain()
    assert mine.values() == {"sum": 3.0, "least": 3.0}


@in_a_loop
async def test_repairs_are_carried_out_once_their_label_was_read_and_finished_once_they_are_durable() -> None:
    mine = worker()
    await mine.take()
    await mine.apply(0, event("a", x=3))
    await mine.agent.flush()
    await mine.there.ports.store.request_repairs([RepairNeed(0, pane(0), 1)], "a test")
    assert await mine.agent.repair() == 0, "the offset that it is about was not applied yet"
    await mine.apply(1, event("b", x=4))
    before = len(mine.there.world.taken)
    assert await mine.agent.repair() == 1
    steps = mine.there.world.taken[before:]
    assert steps.index("read pane rows") < steps.index("write states") < steps.index("finish repairs")
    assert mine.there.world.repairs == {}
    assert mine.values()["sum"] == 7


# -- deletions -----------------------------------------------------------------------------------------------------------


@dataclass
class MemoryDeletions:
    """Deletions in the world's history, each step of which may be the one that is not taken any more."""

    there: Place
    ids: set[str] = field(default_factory=set)
    requests: list[DeletionRequest] = field(default_factory=list)
    sweeps: list[int | None] = field(default_factory=list)
    #: what ClickHouse says of the rewriting that it was asked for last
    progress: Rewriting = field(default_factory=lambda: Rewriting(True, None))
    looks: int = 0
    searched: dict[int, int] = field(default_factory=dict)

    def ask(self, *ids: str, partition: int = 0) -> None:
        self.ids.update(ids)
        self.requests.append(DeletionRequest(str(len(self.requests)), partition, "m"))

    async def deleted_state(self) -> dict[str, tuple[int, int]]:
        return {"m": (len(self.ids), 0)} if self.ids else {}

    async def deleted_ids(self, model: str) -> DeletedIds:
        return DeletedIds.of(fingerprint(pa.array(sorted(self.ids), pa.string()), model))

    async def take_deletions(self) -> list[DeletionRequest]:
        return list(self.requests)

    async def finish_deletions(self, requests: Sequence[DeletionRequest]) -> None:
        self.there.world.take("finish deletions")
        self.requests = [request for request in self.requests if request not in requests]

    async def has_deleted_rows(self, model: str, partition: int, since_ms: int | None) -> bool:
        self.sweeps.append(since_ms)
        return bool(self._rows(partition))

    def _rows(self, partition: int) -> list[dict[str, Any]]:
        return [
            row
            for rows in (self.there.world.events, self.there.world.labels)
            for (_, p, _, _), row in rows.items()
            if p == partition and row["event_id"] in self.ids
        ]

    async def panes_of_deleted(self, model: str, partition: int) -> list[RepairNeed]:
        held = [row for row in self._rows(partition) if "duplicate" in row and not row["duplicate"]]
        panes = {PaneKey("m", row["version"], row["event_at"] // MINUTE_MS * MINUTE_MS) for row in held}
        return [RepairNeed(partition, key) for key in sorted(panes)]

    async def store_now_ms(self) -> int:
        return self.there.clock.now_ms() + 5  # another machine's

    async def searched_until(self, partition: int) -> int | None:
        return self.searched.get(partition)

    async def note_search(self, partition: int, until_ms: int) -> None:
        self.searched[partition] = until_ms

    async def deletion_refusal(self, model: str, partition: int) -> str | None:
        return self.progress.refusal

    async def rewriting(self, rewrites: Sequence[Rewrite]) -> Rewriting:
        self.looks += 1
        return self.progress

    async def are_rows_left(self, model: str, partition: int) -> bool:
        return False

    async def erase(self, model: str, partition: int) -> list[Rewrite]:
        self.there.world.take("erase")
        for rows in (self.there.world.events, self.there.world.labels):
            for key in [key for key, row in rows.items() if key[1] == partition and row["event_id"] in self.ids]:
                del rows[key]
        return [Rewrite("events", "")]

    async def erase_states(self, model: str, partition: int) -> list[Rewrite]:
        self.there.world.take("erase states")
        return [Rewrite("states", "")]


def deleting(
    there: Place | None = None, deletions: MemoryDeletions | None = None, **limits: Any
) -> tuple[Worker, MemoryDeletions]:
    """Make a worker that deletes, in a world of its own or after another one that has ended in it."""
    mine = worker(there=there, **limits)
    deletions = deletions or MemoryDeletions(mine.there)
    mine.agent.deletions = deletions
    return mine, deletions


LOG = [event("a", x=3), event("b", minute=1, x=40), label("b", 1), event("c", x=4), label("late", 0)]
AFTER = [event("a", x=9), label("b", 0), event("late", x=50), event("d", minute=1, x=5)]
#: Of both together, without b and late.
LEFT = {"traffic": 3.0, "sum": 12.0, "most": 5.0}


def chosen(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: values[name] for name in LEFT}


@in_a_loop
async def test_deleted_events_go_with_their_labels_and_nothing_that_comes_later_brings_them_back() -> None:
    mine, deletions = deleting()
    await mine.take()
    await mine.apply(0, *LOG)
    deletions.ask("b", "late")
    before = len(mine.there.world.taken)
    await mine.agent.delete()
    steps = mine.there.world.taken[before:]
    order = [
        "write events",
        "request repairs",
        "erase",
        "read pane rows",
        "write states",
        "erase states",
        "finish deletions",
    ]
    assert sorted(order, key=lambda name: len(steps) - 1 - steps[::-1].index(name)) == order
    assert (deletions.requests, mine.there.world.repairs) == ([], {})
    assert not len(mine.agent.owners[0].state.waiting["m"]), "a label that waits is gone from memory"
    await mine.apply(5, *AFTER)
    await mine.agent.flush(labels=True)
    assert chosen(stored(mine.there)) == LEFT
    assert {row["event_id"] for row in mine.there.world.events.values()} == {"a", "c", "d"}
    assert mine.there.world.labels == {}
    assert mine.agent.owners[0].state.counters["deleted"] == 2


@pytest.mark.parametrize("left", range(60))
def test_a_death_before_any_step_of_a_deletion_loses_nothing_and_brings_nothing_back(left: int) -> None:
    async def run() -> None:
        mine, deletions = deleting()
        await mine.take()
        await mine.apply(0, *LOG)
        await mine.agent.flush()
        deletions.ask("b", "late")
        world = mine.there.world
        world.ends_before = len(world.taken) + left
        with suppress(EndedError):
            await mine.agent.delete()
            await mine.apply(5, *AFTER)
            await mine.agent.flush(labels=True)
        world.ends_before = None
        heir, _ = deleting(mine.there, deletions)
        await heir.take()
        next_offset = heir.agent.owners[0].state.next_offset
        await heir.apply(next_offset, *[*LOG, *AFTER][next_offset:])
        await heir.agent.delete()
        await heir.agent.flush(labels=True)
        assert chosen(stored(mine.there)) == LEFT
        assert {row["event_id"] for row in world.events.values()} == {"a", "c", "d"}
        assert (world.labels, deletions.requests) == ({}, [])

    asyncio.run(run())


@in_a_loop
async def test_an_owner_that_was_superseded_leaves_the_request_to_the_next_one() -> None:
    mine, deletions = deleting()
    await mine.take()
    await mine.apply(0, *LOG)
    await mine.agent.flush()
    await mine.there.take("another")
    deletions.ask("b")
    await mine.agent.delete()
    assert deletions.requests, "its states have lost"


@in_a_loop
async def test_rows_that_a_worker_which_slept_writes_again_are_found_and_not_counted() -> None:
    mine, deletions = deleting()
    await mine.take()
    await mine.apply(0, *LOG)
    await mine.agent.flush()
    kept = dict(mine.there.world.events)
    deletions.ask("b")
    await mine.agent.delete()
    await mine.agent.delete()  # looks whether all of it is gone
    mine.there.world.events.update(kept)
    await mine.there.ports.store.request_repairs([RepairNeed(0, pane(1))], "a test")
    await mine.agent.repair()
    assert stored(mine.there)["traffic"] == 2.0, "a row that came back is not counted by a repair"
    looked = len(deletions.sweeps)
    await mine.agent.delete()
    assert len(deletions.sweeps) == looked, "history is searched rarely"
    mine.there.clock.advance(StreamSettings().deleted_sweep_ms)
    await mine.agent.delete()
    assert {row["event_id"] for row in mine.there.world.events.values()} == {"a", "c"}
    assert stored(mine.there)["traffic"] == 2.0


def test_a_deletion_is_done_only_when_all_of_its_panes_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that cannot be carried out yet take no place among those that are taken at once."""
    monkeypatch.setattr(aggregate, "TAKEN_MAX", 2)
    monkeypatch.setattr(repairs, "TAKEN_MAX", 2)

    async def run() -> None:
        mine, deletions = deleting()
        await mine.take()
        ids = [f"e{minute}" for minute in range(7)]
        await mine.apply(0, *[event(name, minute=minute, x=3) for minute, name in enumerate(ids)])
        await mine.agent.flush()
        await mine.there.ports.store.request_repairs([RepairNeed(0, pane(0), 99), RepairNeed(0, pane(1), 99)], "a test")
        deletions.ask(*ids)
        await mine.agent.delete()
        assert deletions.requests == []
        assert [need.applied_offset for need in mine.there.world.repairs.values()] == [99, 99]
        assert stored(mine.there)["traffic"] == 0

    asyncio.run(run())


@in_a_loop
async def test_nothing_else_waits_while_clickhouse_writes_parts_anew_and_the_watchdog_sees_the_looks() -> None:
    mine, deletions = deleting()
    source = await mine.take()
    await mine.apply(0, *LOG)
    deletions.ask("b")
    deletions.progress = Rewriting(False, None)
    deleting_it = asyncio.create_task(mine.agent.delete())
    await wait_in_loop(lambda: deletions.looks > 1, "looks at ClickHouse's work")
    assert DELETING in mine.agent.duties.since()
    await mine.there.ports.store.request_repairs([RepairNeed(0, pane(0))], "a test")
    await asyncio.wait_for(mine.agent.maintain(), 5)
    assert mine.there.world.repairs == {}
    mine.agent.lose(source)
    await asyncio.wait_for(deleting_it, 5)
    assert deletions.requests, "the next owner sees to it"


def test_a_deletion_that_clickhouse_refuses_waits_and_is_begun_again_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        mine, deletions = deleting()
        await mine.take()
        await mine.apply(0, *LOG)
        deletions.ask("b")
        deletions.progress = Rewriting(False, "no space")
        await asyncio.wait_for(mine.agent.delete(), 5)
        assert "no space" in caplog.text
        assert len(deletions.requests) == 1
        before = len(mine.there.world.taken)
        deletions.progress = Rewriting(True, None)
        await mine.agent.delete()
        assert mine.there.world.taken[before:] == [], "not every second"
        now_s = time.monotonic() + StreamSettings().trouble_said_ms / 1000
        later = SimpleNamespace(monotonic=lambda: now_s, process_time=time.process_time)
        monkeypatch.setattr(aggregate, "time", later)
        await mine.agent.delete()
        assert deletions.requests == []

    asyncio.run(run())


@in_a_loop
async def test_whoever_takes_over_searches_only_what_was_written_since_the_last_search() -> None:
    mine, deletions = deleting()
    await mine.take()
    await mine.apply(0, *LOG)
    await mine.agent.delete()
    assert (deletions.sweeps, deletions.searched) == ([], {}), "nothing was ever deleted"
    deletions.ask("b")
    every_ms = StreamSettings().deleted_sweep_ms
    mine.there.clock.advance(every_ms)
    await mine.agent.delete()
    await mine.agent.delete()
    searched_ms = mine.there.clock.now_ms() + 5
    assert (deletions.sweeps, deletions.searched) == ([None], {0: searched_ms})
    mine.there.clock.advance(1_000)
    heir, _ = deleting(mine.there, deletions)
    await heir.take()
    await heir.agent.delete()
    assert deletions.sweeps[1:] == [searched_ms - every_ms]


@in_a_loop
async def test_without_history_nothing_is_deleted() -> None:
    mine, deletions = deleting(history=False)
    await mine.take()
    deletions.ask("b")
    await mine.agent.delete()
    assert deletions.requests
