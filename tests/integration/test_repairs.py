"""Requests to rebuild panes, on the real store."""

from __future__ import annotations

import pytest
from tests.stored_history import MINUTE, T0, written

from fqlstream.clock import SystemClock
from fqlstream.errors import StoreError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition
from fqlstream.ops.repairing import END_OF_TIME_MS, ask, await_done
from fqlstream.store import repairs
from fqlstream.store.client import Store
from fqlstream.store.model_tables import ensure

MODEL = ModelDefinition.model_validate({"name": "repaired", "columns": [{"name": "age", "type": "int"}]})


def write(store: Store, partition: int, minutes: list[int], duplicate: frozenset[int] = frozenset()) -> None:
    events = [
        {
            "offset": offset,
            "event_id": f"{partition}-{offset}",
            "event_at": T0 + minute * MINUTE + 17,
            "duplicate": minute in duplicate,
            "age": 1,
        }
        for offset, minute in enumerate(minutes)
    ]
    written(store, MODEL, partition, events=events)


def test_every_pane_that_holds_an_event_is_asked_for_and_counted_until_it_is_done(store: Store) -> None:
    write(store, 0, [0, 0, 5, 9], duplicate=frozenset({9}))
    write(store, 3, [0, 7])
    found = repairs.stored_panes(store, MODEL, 0, END_OF_TIME_MS)
    assert [(need.partition, (need.pane.start_ms - T0) // MINUTE) for need in found] == [(0, 0), (0, 5), (3, 0), (3, 7)]
    inside = repairs.stored_panes(store, MODEL, T0 + 5 * MINUTE + 30_000, T0 + 7 * MINUTE)
    assert [(need.partition, (need.pane.start_ms - T0) // MINUTE) for need in inside] == [(0, 5)]

    entry = Catalogue().with_definition(MODEL).models["repaired"]
    asked = ask(store, entry, 0, END_OF_TIME_MS, "a test")
    assert (asked.panes, asked.partitions) == (4, frozenset({0, 3}))
    waiting = repairs.poll(store, 0)
    assert len(waiting) == 2
    assert repairs.count_waiting(store, "repaired", asked.requested_at_ms) == 4
    repairs.finish(store, waiting, finished_at_ms=SystemClock().now_ms())
    assert repairs.count_waiting(store, "repaired", asked.requested_at_ms) == 2
    assert repairs.count_waiting(store, "repaired", asked.requested_at_ms - 1) == 0

    seen: list[tuple[int, int]] = []
    with pytest.raises(StoreError, match="2 of 4 panes are not rebuilt yet") as caught:
        await_done(store, asked, lambda done, total: seen.append((done, total)), stall_s=0.3)
    assert caught.value.code == "REP001"
    assert seen[0] == (2, 4)


def test_nothing_to_rebuild_is_done_at_once(store: Store) -> None:
    empty = MODEL.model_copy(update={"name": "nothing here"})
    ensure(store, [empty])
    asked = ask(store, Catalogue().with_definition(empty).models["nothing here"], 0, END_OF_TIME_MS, "a test")
    assert asked.panes == 0
    await_done(store, asked, lambda _done, _total: None, stall_s=0.0)
