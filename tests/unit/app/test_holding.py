"""Holding partitions: from an assignment to a loss, with owners that do nothing."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.unit.stream.one_partition import fetch, in_a_loop
from tests.waiting import let_others_run

from fqlstream.app.holding import Holding
from fqlstream.app.numbers import Numbers
from fqlstream.app.unbroken import Unbroken
from fqlstream.app.watchdog import Duties
from fqlstream.errors import BrokerError
from fqlstream.stream.protocol import FlushRow, Version

TOPIC = "t"
APPLYING = "applying t[0]"


@dataclass
class Source:
    """A partition as the transport hands it over."""

    log_end: int = 0
    partition: int = 0
    lost: bool = False
    is_silent: bool = False
    refusal: Exception | None = None
    loses: bool = False
    begun: list[int] = field(default_factory=list)

    async def begin(self, offset: int) -> None:
        self.lost = self.lost or self.loses
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(offset)

    async def log_end_now(self) -> int:
        if self.is_silent:
            raise BrokerError("KFK001", "no answer")
        return self.log_end


@dataclass
class State:
    next_offset: int


@dataclass
class Owner:
    base: FlushRow
    state: State
    leaving: bool = False
    superseded: bool = False
    flushed_offset: int = 7


@dataclass
class Place:
    """A holding, and what it tells others."""

    holding: Holding[Any, int]
    duties: Duties
    failures: list[BaseException]

    async def take(self, **changes: Any) -> tuple[Any, Any]:
        source: Any = Source(**changes)
        assert await self.holding.take(source) == 7
        return source, self.holding.of_source(source)

    async def supersede(self, held: Any) -> None:
        held.owner.superseded = True
        self.holding.take_superseded_again(self.holding.parts)
        await let_others_run()


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Place:
    """A holding whose owners begin at offset 7, with an epoch higher each time."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    duties, failures, epochs = Duties(), [], []
    holding: Holding[Any, int]

    async def take_over(source: Any) -> int:
        assert duties.since().keys() == {"taking over t[0]"}
        epochs.append(len(epochs) + 1)
        base = FlushRow(TOPIC, source.partition, Version(epochs[-1], 0), "me", "id", {}, {})
        holding.add(source, Owner(base, State(7)), asyncio.Lock(), epochs[-1], 0.0)
        return 7

    holding = Holding(TOPIC, take_over, Unbroken(failures.append), duties, logging.getLogger("test"), Numbers())
    return Place(holding, duties, failures)


def run(test: Any) -> None:
    in_a_loop(test)()


def test_what_is_taken_is_held_until_it_is_lost(there: Place) -> None:
    async def main() -> None:
        source, held = await there.take()
        assert there.holding.of(0) is held
        assert there.holding.owners == [held.owner]
        there.duties.expect(held.duty)
        assert there.duties.since().keys() == {APPLYING}  # taking over is done
        assert there.holding.lose(source)
        assert not there.holding.lose(source)
        assert there.holding.parts == []
        assert there.duties.since() == {}

    run(main)


def test_what_was_lost_during_its_takeover_is_not_held(there: Place) -> None:
    """It may have been assigned anew meanwhile: what is held by then is another takeover's."""

    async def main() -> None:
        _, newer = await there.take()
        _, older = await there.take(lost=True)
        assert older is None
        assert there.holding.of(0) is newer

    run(main)


def test_an_earlier_assignment_neither_leaves_nor_loses_a_later_one(there: Place) -> None:
    async def main() -> None:
        earlier, _ = await there.take()
        later, held = await there.take()
        there.holding.leave(earlier)
        assert not there.holding.lose(earlier)
        assert not held.owner.leaving
        there.holding.leave(later)
        assert held.owner.leaving

    run(main)


@pytest.mark.parametrize(("start", "follows"), [(0, True), (7, True), (8, False)])
def test_a_fetch_behind_a_gap_does_not_follow(there: Place, start: int, follows: bool) -> None:
    async def main() -> None:
        _, held = await there.take()
        part = replace(fetch(start, b"x"), start=start)
        assert there.holding.following(part) is (held if follows else None)
        held.reading = False
        assert there.holding.following(part) is None

    run(main)


def test_what_somebody_else_claimed_is_taken_again_once(there: Place) -> None:
    async def main() -> None:
        source, held = await there.take()
        await there.supersede(held)
        again = there.holding.of(0)
        assert again is not None
        assert (held.notes, again.notes, source.begun) == (1, 2, [7])
        there.holding.take_superseded_again([held])  # a flush that began before it knows only the older one
        await let_others_run()
        assert there.holding.of(0) is again
        assert (there.holding.is_current(held), there.holding.is_current(again)) == (False, True)

    run(main)


def test_what_goes_before_it_is_taken_again_stays_gone(there: Place) -> None:
    async def main() -> None:
        source, held = await there.take()
        held.owner.superseded = True
        there.holding.take_superseded_again([held])
        there.holding.lose(source)
        await let_others_run()
        assert there.holding.parts == []
        assert there.failures == []

    run(main)


@pytest.mark.parametrize("loses", [True, False])
def test_what_fails_once_a_partition_has_gone_ends_no_worker(there: Place, loses: bool) -> None:
    """Whoever wakes after its session finds its partition claimed, and may be told that it is gone while it asks again."""
    refusal = BrokerError("KFK020", "given to another worker meanwhile")

    async def main() -> None:
        _, held = await there.take(refusal=refusal, loses=loses)
        with nullcontext() if loses else pytest.raises(BrokerError, match="KFK020"):
            await there.holding.take_again(held)
        _, held = await there.take(refusal=refusal, loses=loses)
        await there.supersede(held)
        assert there.failures == ([] if loses else [refusal])

    run(main)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"log_end": 8}, True), ({"log_end": 7}, False), ({"log_end": 8, "is_silent": True}, False)],
)
def test_progress_is_expected_where_the_log_holds_more(there: Place, changes: dict[str, Any], expected: bool) -> None:
    async def main() -> None:
        _, held = await there.take(**changes)
        await there.holding.look_for_lag(60.0)  # something was applied a moment ago
        assert there.duties.since() == {}
        await there.holding.look_for_lag(0.0)
        assert (APPLYING in there.duties.since()) is expected
        there.holding.moved(held)
        assert there.duties.since() == {}

    run(main)


def test_a_flush_is_counted_where_there_was_something_to_write(there: Place) -> None:
    async def main() -> None:
        await there.holding.take(Source())
        with there.holding.flushing():
            pass  # all that was applied is durable
        (held,) = there.holding.parts
        held.owner.flushed_offset = 3
        with there.holding.flushing() as parts:
            assert parts == [held]
        text = there.holding._numbers.text(()).decode()
        assert f'fqlstream_flushes_total{{topic="{TOPIC}"}} 1.0' in text
        assert f'fqlstream_takeovers_total{{topic="{TOPIC}"}} 1.0' in text

    run(main)
