"""The agent around the owners: when it asks for newer definitions before it lets a value go."""

from __future__ import annotations

import json
from typing import Any

from tests.simulation.world import TOPIC
from tests.unit.stream.one_partition import catalogue, event, fetch, in_a_loop, model, place

from fqlstream.app.aggregate import AggregateAgent
from fqlstream.events.catalogue import Catalogue
from fqlstream.settings import Settings


class Definitions:
    """The definitions topic, as it is read when somebody asks."""

    def __init__(self, known: Catalogue) -> None:
        self.catalogue = self.newest = known
        self.asked = 0

    async def refresh(self) -> Catalogue:
        self.asked += 1
        self.catalogue = self.newest
        return self.catalogue


class Source:
    """A partition that is ours."""

    partition = 0
    lost = False

    def progress(self) -> None:
        return None


async def nothing() -> None:
    return None


def fail(error: BaseException) -> None:
    raise error


def wide(event_id: str) -> bytes:
    return json.dumps({"model": "m", "event_id": event_id, "columns": {"x": 1.0, "colour": "red"}}).encode()


@in_a_loop
async def test_a_column_that_was_just_added_loses_no_value() -> None:
    narrow = catalogue()
    columns = [*model()["columns"], {"name": "colour", "type": "string"}]
    grown = catalogue(model(columns=columns))
    there = place(grown)
    definitions = Definitions(narrow)
    repairs: Any = there.ports.store
    agent = AggregateAgent(TOPIC, "me", Settings(), there.ports, repairs, definitions, nothing, fail)
    source: Any = Source()
    await agent.take(source)
    definitions.asked = 0

    await agent.apply(fetch(0, event("a")))
    assert definitions.asked == 0, "what is known is not asked for"
    definitions.newest = grown
    await agent.apply(fetch(1, event("b"), wide("c")))
    await agent.flush()
    rows = {row["event_id"]: row.get("colour") for row in there.world.events.values()}
    assert rows == {"a": None, "b": None, "c": "red"}
    assert definitions.asked == 1
    await agent.apply(fetch(3, wide("d")))
    assert definitions.asked == 1


@in_a_loop
async def test_columns_that_nobody_defines_are_asked_for_once_a_fetch() -> None:
    there = place()
    definitions = Definitions(catalogue())
    repairs: Any = there.ports.store
    agent = AggregateAgent(TOPIC, "me", Settings(), there.ports, repairs, definitions, nothing, fail)
    source: Any = Source()
    await agent.take(source)
    definitions.asked = 0
    for number in range(3):
        await agent.apply(fetch(number, wide(f"e{number}")))
        assert definitions.asked == number + 1
    assert agent.owners[0].state.next_offset == 3
