"""What shows only where several owners meet in one step: the simulation of `tests/simulation/test_recorded.py` has the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.simulation.recorded_world import World, fetch_of

from fqlstream.settings import RecordSettings
from fqlstream.stream.batches import DeadLetter
from fqlstream.stream.record_delivery import RecordOwner, RecordPorts, take_over_recorded
from fqlstream.stream.recorded import Limits, ListKey, ListRow, ListState, Needs, RecordState, Refused

KEY = ListKey("e", "x")
LIMITS = Limits(RecordSettings(list_values_max=4))


def append(*values: float) -> bytes:
    return json.dumps({"type": "list_metric", "id": "e", "name": "x", "values": values}).encode()


@dataclass
class Written(World):
    """A world in which somebody else writes between two of our steps."""

    lists_there: dict[ListKey, ListState] = field(default_factory=dict)
    writes_letter: bool = False

    async def read_lists(self, partition: int, needs: Needs) -> Mapping[ListKey, ListState]:
        if self.writes_letter:
            self.letters[0] = ("DLQ027", "said by somebody who woke")
        return self.lists_there


def owner_of(world: World) -> RecordOwner:
    world.wanted = NOTHING
    ports = RecordPorts(world, world, world, LIMITS)
    return _done(take_over_recorded("metric-events", 0, "me", ports, asyncio.Lock()))


@dataclass(frozen=True)
class Nothing:
    outcomes: tuple[Any, ...] = ()


NOTHING = Nothing()


def _done(work: Any) -> Any:
    """Drive what never really waits to its end."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            return end.value


def test_a_list_of_a_successor_is_not_gone_on_with_as_it_may_lack_what_we_have_applied() -> None:
    world = Written([append(1.0), append(2.0)])
    owner = owner_of(world)
    world.lists_there = {KEY: ListState.empty(fence=0, epoch=owner.base.version.epoch + 1)}
    _done(owner.apply(fetch_of(world.log, 0, 2)))
    assert owner.superseded
    assert (owner.state.next_offset, owner.rows, world.verdicts) == (0, [], [])


def test_a_refusal_that_somebody_took_while_we_looked_for_the_list_is_told_as_his() -> None:
    world = Written([append(1.0, 1.0, 1.0, 1.0, 1.0), append(2.0)], writes_letter=True)
    owner = owner_of(world)
    ahead = ListState.empty(fence=1)
    ahead.summary.learn([2.0])
    world.lists_there = {KEY: replace(ahead)}
    _done(owner.apply(fetch_of(world.log, 0, 2)))
    (verdict,) = world.verdicts
    assert (verdict.first, verdict.applied) == (0, 1)
    assert verdict.refused == {0: Refused(0, "DLQ027", "said by somebody who woke")}


def test_a_record_that_breaks_our_own_code_is_a_dead_letter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([append(1.0), append(6.66), append(2.0)])
    owner = owner_of(world)
    decide = RecordState._decide

    def fails(state: RecordState, row: ListRow, at: int, counts: dict[ListKey, int]) -> Any:
        if 6.66 in row.values:
            message = "a bug of ours"
            raise ArithmeticError(message)
        return decide(state, row, at, counts)

    monkeypatch.setattr(RecordState, "_decide", fails)
    _done(owner.apply(fetch_of(world.log, 0, 3)))
    letters: list[DeadLetter] = owner.dead_letters
    assert [(letter.offset, letter.code) for letter in letters] == [(1, "DLQ018")]
    assert [row.offset for row in owner.rows] == [0, 2]
    assert world.verdicts[0].refused[1].message == "ArithmeticError: 'a bug of ours'"
