"""Suspects are noted before they are applied, alone; the one that is set aside leaves nothing behind but its letter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.stream.one_partition import EndedError, Place, event, fetch, in_a_loop, place, reading

from fqlstream.stream.batches import Decoded, Fetch
from fqlstream.stream.delivery import Owner
from fqlstream.stream.protocol import FlushRow, Suspicion
from fqlstream.stream.trials import next_part, try_alone

VALUES = [event("a"), event("b"), event("deadly"), event("c", minute=1)]


class KilledError(BaseException):
    """The process is gone: nothing catches this."""


def newest(there: Place) -> FlushRow:
    return max(there.world.flushes.values(), key=lambda row: row.version)


def dangerous(**settings: Any) -> Place:
    """A place where one record ends whoever decodes it."""
    there = place(**settings)
    there.log.end = len(VALUES)
    decode = there.ports.decode

    def decode_or_die(fetched: Fetch, *rest: Any) -> Decoded:
        if VALUES[2] in fetched.values:
            raise KilledError
        return decode(fetched, *rest)

    there.ports = replace(there.ports, decode=decode_or_die)
    return there


async def live(there: Place, name: str) -> Owner:
    """Own the partition and apply the whole log, as cautiously as need be."""
    owner = await there.take(name)
    fetched = fetch(0, *VALUES)
    while (part := next_part(owner, fetched)) is not None:
        await try_alone(owner, part, caught_up=False)
    await owner.apply(fetched, caught_up=True, is_known=True)
    await there.flush(owner)
    return owner


@in_a_loop
async def test_what_is_suspected_narrows_with_every_end_until_one_record_is_left() -> None:
    there = dangerous(deaths_before_alone=2, deaths_alone=2)
    for number, known in enumerate(
        [
            Suspicion(),
            Suspicion(deaths=1),
            Suspicion(deaths=2, trying=(0, 3)),  # the whole fetch, alone
            Suspicion(suspects=(2, 3), trying=(2, 2)),  # those before it have passed
            Suspicion(deaths=1, suspects=(2, 2), trying=(2, 2)),
        ]
    ):
        with pytest.raises(KilledError):
            await live(there, f"w{number}")
        assert newest(there).suspicion == known
    owner = await live(there, "last")
    (letter,) = there.log.letters
    assert (letter.code, letter.origin, letter.row, letter.value) == ("DLQ019", "inference-events[0]@2", "0", VALUES[2])
    assert letter.reason == "2 workers in a row ended while they applied this record alone"
    assert [offset for _, _, offset, _ in sorted(there.world.events)] == [0, 1, 3]
    assert reading(owner.state, minute=1)["traffic"] == 1
    assert newest(there).suspicion == Suspicion()
    assert newest(there).fence == 3
    assert owner.caution is None


@in_a_loop
async def test_the_note_is_durable_before_and_gone_after() -> None:
    there = place()
    owner = await there.take()
    await owner.apply(fetch(0, VALUES[0]), caught_up=False, is_known=True)
    there.world.taken.clear()
    await try_alone(owner, fetch(1, VALUES[1]), caught_up=False)
    writes = [step for step in there.world.taken if step.startswith("write")]
    before = ["write events", "write states", "write states", "write flush row"]
    assert writes == [*before, "write flush row", *before]
    assert newest(there).suspicion.trying is None


@in_a_loop
async def test_what_a_victim_has_written_of_the_record_is_taken_back() -> None:
    there = place(deaths_alone=1)
    there.log.end = len(VALUES)
    victim = await there.take("victim")
    await victim.apply(fetch(0, *VALUES[:2]), caught_up=False, is_known=True)
    await there.flush(victim)
    suspected = Suspicion(deaths=1, suspects=(2, 2), trying=(2, 2))
    victim.base = replace(victim.base, suspicion=suspected)
    await victim.ports.store.write_flushes([victim.base])
    await victim.apply(fetch(2, VALUES[2]), caught_up=False, is_known=True)
    there.world.ends_before = "write flush row"
    with pytest.raises(EndedError):
        await there.flush(victim)
    there.world.ends_before = None
    assert [offset for _, _, offset, _ in sorted(there.world.events)] == [0, 1, 2]
    assert {record.fence for record in there.world.states.values()} == {2}

    owner = await live(there, "heir")
    assert [offset for _, _, offset, _ in sorted(there.world.events)] == [0, 1, 3]
    assert reading(owner.state)["traffic"] == 3
    assert {record.version.epoch for record in there.world.states.values()} == {2}


@in_a_loop
async def test_an_owner_that_is_superseded_applies_nothing_alone() -> None:
    there = place()
    first = await there.take("first")
    await there.take("second")
    await try_alone(first, fetch(0, VALUES[0]), caught_up=False)
    assert first.superseded
    assert first.state.next_offset == 0
    assert newest(there).suspicion.trying is None


@in_a_loop
async def test_a_record_that_its_victim_has_survived_is_applied_after_all() -> None:
    there = place(deaths_alone=1)
    there.log.end = len(VALUES)
    victim = await there.take("victim")
    await victim.apply(fetch(0, *VALUES[:2]), caught_up=False, is_known=True)
    await there.flush(victim)
    victim.base = replace(victim.base, suspicion=Suspicion(deaths=1, suspects=(2, 2), trying=(2, 2)))
    await victim.ports.store.write_flushes([victim.base])
    heir = await there.take("heir")
    assert heir.caution is not None
    assert heir.caution.is_aside, "it looks like the victim's end"
    await victim.apply(fetch(2, VALUES[2]), caught_up=False, is_known=True)
    await there.flush(victim)
    assert victim.superseded, "it had only lost the partition"

    fetched = fetch(2, *VALUES[2:])
    part = next_part(heir, fetched)
    assert part is not None
    await try_alone(heir, part, caught_up=False)
    assert next_part(heir, fetched) is None
    await heir.apply(fetched, caught_up=True, is_known=True)
    await there.flush(heir)
    assert there.log.letters == []
    assert reading(heir.state)["traffic"] == 4
    assert newest(there).suspicion == Suspicion()


@in_a_loop
async def test_a_record_that_somebody_survived_once_is_set_aside_all_the_same_when_others_die_of_it() -> None:
    there = dangerous(deaths_before_alone=1, deaths_alone=2)
    strong = await there.take("one with more memory")
    strong.ports = replace(strong.ports, decode=place().ports.decode)
    heir = await there.take("heir")
    await strong.apply(fetch(0, *VALUES), caught_up=True, is_known=True)
    await there.flush(strong)
    assert strong.superseded
    assert heir.state.next_offset == 0
    for number in range(10):
        try:
            owner = await live(there, f"w{number}")
        except KilledError:
            continue
        break
    else:
        raise AssertionError("it ends them for ever")
    assert [letter.code for letter in there.log.letters] == ["DLQ019"]
    assert reading(owner.state, minute=1)["traffic"] == 1
