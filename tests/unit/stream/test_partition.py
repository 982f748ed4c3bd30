"""What a fetch does to a partition: verdicts, panes, fences, labels. ClickHouse is whatever a test says it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.one_partition import (
    HOUR_MS,
    MINUTE_MS,
    RECORD_MS,
    START_MS,
    catalogue,
    event,
    fetch,
    label,
    mark,
    model,
    pane,
    reading,
)

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.columns import arrow_schema
from fqlstream.events.definitions import DEFINITION
from fqlstream.fql.plan import Lane
from fqlstream.settings import FqlSettings, StreamSettings
from fqlstream.stream.batches import RowKind, StoredEvents
from fqlstream.stream.decode import decode
from fqlstream.stream.engines import Engines
from fqlstream.stream.fingerprints import fingerprint
from fqlstream.stream.panes import LANES, Pane
from fqlstream.stream.partition import Needs, PartitionState, Staged, Update, empty_pane
from fqlstream.stream.protocol import PaneKey, RepairNeed
from fqlstream.stream.recent import ELSEWHERE_AT

KNOWN = catalogue()
ENGINES = Engines(KNOWN, FqlSettings())
#: What an event costs that has no label, is a false positive, is a false negative.
UNLABELLED, FALSE_ALARM, MISSED = 250.0, -400.0, -40.0


def new_state(known: Catalogue = KNOWN, **limits: Any) -> PartitionState:
    engines = ENGINES if known is KNOWN else Engines(known, FqlSettings())
    return PartitionState(0, known, engines, StreamSettings(**limits))


def staged_of(state: PartitionState, first: int, *records: bytes) -> Staged:
    fetched = fetch(first, *records)
    return state.stage(decode(fetched, state.catalogue, state.settings), fetched.next_offset)


def settle(
    state: PartitionState,
    staged: Staged,
    stored: Callable[[tuple[str, ...]], StoredEvents] = lambda _: StoredEvents(),
    labels: Callable[[tuple[str, ...]], pa.Table | None] = lambda _: None,
) -> list[Needs]:
    """Give a batch what it asks ClickHouse for; gives the questions."""
    asked = []
    while needs := state.needs(staged):
        asked.append(needs)
        assert len(asked) < 5, "it asks again for what it was given"
        for key in needs.panes:
            state.absorb_pane(key, empty_pane(state.engine_of(key.model, key.version)))
        for name, ids in needs.events.items():
            state.absorb_events(staged, name, ids, stored(ids))
        for name, ids in needs.labels.items():
            found = labels(ids)
            state.absorb_labels(staged, name, ids, label_rows([]) if found is None else found)
    return asked


def apply(state: PartitionState, first: int, *records: bytes, **answers: Any) -> Update:
    """Apply a fetch."""
    staged = staged_of(state, first, *records)
    settle(state, staged, **answers)
    update = state.compute(staged)
    state.commit(staged, update)
    return update


def event_rows(*rows: tuple[str, int, float, int | None], minute: int = 0, elsewhere_at: int | None = None) -> pa.Table:
    """Give stored events: id, offset, score, target; and when other partitions' latest label of them was written."""
    schema = arrow_schema(KNOWN.models["m"].versions["v1"], RowKind.INFERENCE)
    values = [
        {
            "offset": offset, "row": 0, "record_at": RECORD_MS, "event_at": START_MS + minute * MINUTE_MS, "event_id": name,
            "x": 1.0, "s": score, "y": y, "_type_violations": [], "_range_violations": [],
        }
        for name, offset, score, y in rows
    ]  # fmt: skip
    table = pa.Table.from_pylist(values, _canonical(schema))
    return table.append_column(ELSEWHERE_AT, pa.array([elsewhere_at] * len(rows), pa.int64()))


def label_rows(rows: Sequence[tuple[str, int, int | None]]) -> pa.Table:
    """Give stored labels: id, offset, target."""
    schema = arrow_schema(KNOWN.models["m"].versions["v1"], RowKind.LABEL)
    values = [
        {
            "offset": offset, "row": 0, "record_at": RECORD_MS, "event_at": RECORD_MS, "event_id": name, "y": y,
            "_type_violations": [], "_range_violations": [],
        }
        for name, offset, y in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(values, _canonical(schema))


def _canonical(own: pa.Schema) -> pa.Schema:
    place = [("offset", pa.int64()), ("row", pa.int32()), ("record_at", pa.int64()), ("event_at", pa.int64())]
    return pa.schema([*place, ("event_id", pa.string()), *own])


# -- reading and changing ------------------------------------------------------------------------------------------------


def test_nothing_changes_before_the_one_changing_step() -> None:
    """Whatever an odd record makes the first steps raise, it can be set aside as if it had never come."""
    state = new_state()
    apply(state, 0, event("a", s=0.9), label("early", 1))
    before = reading(state)
    staged = staged_of(state, 2, event("b", s=0.1), event("a", s=0.9), label("a", 0), event("early", s=0.9), mark(20))
    settle(state, staged)
    update = state.compute(staged)
    assert reading(state) == before
    assert (state.next_offset, len(state.index), state.watermarks) == (2, 1, {"m": START_MS})
    assert [len(room) for room in state.waiting.values()] == [1]
    state.commit(staged, update)
    assert reading(state)["traffic"] == 3
    assert (state.next_offset, len(state.index), state.watermarks) == (7, 3, {"m": START_MS + 20 * MINUTE_MS})
    assert [len(room) for room in state.waiting.values()] == [0]


def test_each_event_is_counted_in_the_pane_of_its_time() -> None:
    state = new_state()
    apply(state, 0, event("a", 0, x=1), event("b", 1, x=2), event("c", 0.999, x=4), event("d", -1, x=8))
    assert {minute: reading(state, minute)["sum"] for minute in (-1, 0, 1)} == {-1: 8.0, 0: 5.0, 1: 2.0}
    high = reading(state, segment="high")
    assert high == {"traffic": 1, "sum": 8, "most": 8, "cost": UNLABELLED, "best_hit": 0, "unlabelled": 1}
    assert state.panes.dirty == {lane: {pane(-1), pane(0), pane(1)} for lane in LANES}


RECORDS = st.one_of(
    st.builds(
        event,
        st.sampled_from("abcdef"),
        st.integers(0, 2),
        x=st.sampled_from([1.0, 6.0, None]),
        s=st.sampled_from([0.2, 0.9, None]),
        y=st.sampled_from([0, 1, None]),
    ),
    st.builds(label, st.sampled_from("abcdef"), st.sampled_from([0, 1, None])),
    st.builds(mark, st.integers(0, 5)),
)


@settings(max_examples=60)
@given(st.lists(RECORDS, max_size=14), st.lists(st.integers(1, 13), max_size=6))
def test_states_do_not_depend_on_where_fetches_are_cut(records: list[bytes], cuts: list[int]) -> None:
    whole, parts = new_state(), new_state()
    if records:
        apply(whole, 0, *records)
    edges = [0, *sorted({cut for cut in cuts if cut < len(records)}), len(records)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            apply(parts, start, *records[start:end])
    assert whole.panes.held.keys() == parts.panes.held.keys()
    for key, held in whole.panes.held.items():
        other = parts.panes.held[key]
        if held.broken or other.broken:
            continue  # rebuilt from history before anybody sees it
        for lane in LANES:
            assert ENGINES("m", "v1").encode(lane, held.cells[lane]) == ENGINES("m", "v1").encode(
                lane, other.cells[lane]
            )
    assert whole.watermarks == parts.watermarks
    assert whole.next_offset == parts.next_offset
    assert {key: room.table.to_pylist() for key, room in whole.waiting.items() if len(room)} == {
        key: room.table.to_pylist() for key, room in parts.waiting.items() if len(room)
    }


# -- duplicates ----------------------------------------------------------------------------------------------------------


def test_a_repeated_id_is_kept_with_its_verdict_and_not_counted() -> None:
    state = new_state()
    update = apply(state, 0, event("a", x=1), event("b", x=2), event("a", x=100))
    (_, kind, stored) = update.history[0]
    assert kind is RowKind.INFERENCE
    assert stored.select(["event_id", "duplicate"]).to_pydict() == {
        "event_id": ["a", "b", "a"],
        "duplicate": [False, False, True],
    }
    assert reading(state)["sum"] == 3
    apply(state, 3, event("b", 5, x=100))
    assert reading(state)["sum"] == 3
    assert pane(5) not in state.panes.held
    assert state.watermarks == {"m": START_MS}, "it moves no time either"
    assert state.counters["duplicates"] == 2
    assert state.counters["events"] == 4


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_horizon_counts_every_event_of_the_partition_repeated_ones_too(size: int) -> None:
    state = new_state(duplicate_ids_max=3)
    records = [event(name, x=1) for name in ("a", "b", "b", "b", "a")]
    for first in range(0, len(records), size):
        apply(state, first, *records[first : first + size])
    assert reading(state)["traffic"] == 3, "the last one comes four events after the first"


def test_the_same_id_of_another_model_is_another_event() -> None:
    other = DEFINITION.validate_python({**model(), "name": "n"})
    state = new_state(KNOWN.with_definition(other))
    apply(state, 0, event("a"), event("a", model="n"))
    assert state.counters["events"] == 2
    assert "duplicates" not in state.counters
    assert {key.model for key in state.panes.held} == {"m", "n"}


def test_without_history_nothing_is_a_duplicate() -> None:
    """Nothing could decide the same again after a crash."""
    state = new_state(history=False)
    apply(state, 0, event("a", x=1), event("a", x=2))
    assert reading(state)["sum"] == 3


# -- fences --------------------------------------------------------------------------------------------------------------


def fenced(events: int, labels: int) -> PartitionState:
    """Give a state whose pane was loaded with these fences, and nothing in it."""
    state = new_state()
    fresh = empty_pane(ENGINES("m", "v1"))
    state.absorb_pane(pane(0), replace(fresh, fences={Lane.EVENTS: events, Lane.LABELS: labels}))
    return state


def test_a_row_that_a_stored_state_contains_is_not_counted_again_but_marks_its_pane() -> None:
    state = fenced(events=11, labels=11)
    apply(state, 10, event("a", x=1), event("b", x=2))
    assert reading(state)["traffic"] == 0
    assert state.panes.dirty == {lane: {pane(0)} for lane in LANES}
    apply(state, 12, event("c", x=4))
    assert reading(state)["sum"] == 4


def test_each_lane_has_a_fence_of_its_own() -> None:
    state = fenced(events=11, labels=10)
    apply(state, 10, event("a", x=1, s=0.9), event("b", x=2, s=0.9), event("c", x=4, s=0.9))
    assert reading(state)["sum"] == 4  # c alone
    assert reading(state)["unlabelled"] == 2  # b and c


@pytest.mark.parametrize(
    ("fence", "counted"),
    [(9, True), (10, True), (11, True), (12, False)],
)
def test_a_labels_step_counts_until_both_it_and_its_event_are_in_the_state(fence: int, counted: bool) -> None:
    """The event is at 10, its label at 12: a state up to 10 or 11 has the event as it was."""
    state = new_state()
    apply(state, 10, event("a", s=0.9))
    held = state.panes.held[pane(0)]
    # as a worker finds it that takes over: written up to the fence, the rows read back
    state.absorb_pane(pane(0), Pane(held.cells, dict.fromkeys(LANES, fence)))
    apply(state, 12, label("a", 0))
    assert reading(state)["cost"] == (FALSE_ALARM if counted else UNLABELLED)
    assert pane(0) in state.panes.dirty[Lane.LABELS]


@pytest.mark.parametrize(("fence", "counted"), [(4, True), (9, True), (10, False)])
def test_a_label_that_came_before_its_event_counts_from_the_event(fence: int, counted: bool) -> None:
    state = new_state()
    apply(state, 2, label("a", 0))
    fresh = empty_pane(ENGINES("m", "v1"))
    state.absorb_pane(pane(0), replace(fresh, fences=dict.fromkeys(LANES, fence)))
    apply(state, 10, event("a", s=0.9))
    assert reading(state)["cost"] == (FALSE_ALARM if counted else None)


def test_a_label_right_before_its_event_in_one_fetch_counts_from_the_event() -> None:
    """A fence between the two: the state has neither the event nor its label."""
    state = fenced(events=10, labels=10)
    apply(state, 10, label("a", 0), event("a", s=0.9))
    assert reading(state)["cost"] == FALSE_ALARM


def test_a_label_that_clickhouse_gives_counts_from_the_event_whatever_its_own_offset_is() -> None:
    """It may be another partition's, whose offsets say nothing here."""
    state = new_state(waiting_labels_max=1)
    apply(state, 0, label("gone", 0), label("b", 0))
    fresh = empty_pane(ENGINES("m", "v1"))
    state.absorb_pane(pane(0), replace(fresh, fences=dict.fromkeys(LANES, 10)))
    apply(state, 10, event("a", s=0.9), labels=lambda _: label_rows([("a", 900, 0)]))
    assert reading(state)["traffic"] == 0, "the stored state has the event, and its label with it"
    assert reading(state)["cost"] is None
    assert reading(state, segment="wrong")["traffic"] == 0


# -- labels --------------------------------------------------------------------------------------------------------------


def test_a_label_takes_the_row_as_it_was_out_and_puts_it_in_as_it_is() -> None:
    state = new_state()
    apply(state, 0, event("a", s=0.9), event("b", s=0.2))
    assert reading(state)["cost"] == UNLABELLED
    apply(state, 2, label("a", 0))
    assert reading(state)["cost"] == (FALSE_ALARM + UNLABELLED) / 2
    assert reading(state, segment="wrong")["traffic"] == 1
    apply(state, 3, label("a", 1), label("b", 1))
    assert reading(state)["cost"] == (UNLABELLED + MISSED) / 2
    assert reading(state, segment="wrong")["cost"] == MISSED
    apply(state, 5, label("b", None))
    assert reading(state)["cost"] == UNLABELLED
    wrong = reading(state, segment="wrong")
    assert {name: wrong[name] for name in ("traffic", "sum", "cost", "unlabelled")} == {
        "traffic": 0, "sum": None, "cost": None, "unlabelled": None,
    }  # fmt: skip
    assert reading(state)["traffic"] == 2, "and no label is a row"


def test_of_several_labels_in_one_fetch_the_last_one_stands() -> None:
    state = new_state()
    apply(
        state,
        0,
        label("a", 1),
        event("a", s=0.9),
        label("a", 1),
        label("a", 0),
        event("b", s=0.9),
        label("b", None),
        label("b", 1),
    )
    assert reading(state)["cost"] == (FALSE_ALARM + UNLABELLED) / 2
    assert state.counters["labels_joined"] == 5


def test_labels_of_one_event_keep_their_order_whichever_version_they_name() -> None:
    """They are decoded into two tables: one names the event's version, the other none."""
    state = new_state(catalogue(model("v1"), model("v2")))
    apply(
        state,
        0,
        event("a", s=0.9, version="v1"),
        label("a", 0, version="v1"),
        label("a", 1),
        label("a", 0, version="v1"),
    )
    assert reading(state)["cost"] == FALSE_ALARM
    apply(state, 4, label("a", 0), label("a", 1, version="v1"))
    assert reading(state)["cost"] == UNLABELLED


def test_a_label_before_its_event_waits_and_is_joined_when_it_comes() -> None:
    state = new_state()
    update = apply(state, 0, label("a", 1), label("a", 0))
    assert len(update.waiting["m"]) == 1
    assert len(state.waiting["m"]) == 1
    assert state.counters["labels_waiting"] == 2
    apply(state, 2, event("a", s=0.9))
    assert reading(state)["cost"] == FALSE_ALARM
    assert len(state.waiting["m"]) == 0


def test_a_repeated_event_does_not_take_the_label_that_waits() -> None:
    """It is not counted, so there is nothing to join; a label for it would have met the counted one."""
    state = new_state()
    apply(state, 0, event("a", s=0.9), label("b", 0))
    apply(state, 2, event("a", s=0.9), event("b", s=0.9), event("b", s=0.9))
    assert reading(state)["cost"] == (UNLABELLED + FALSE_ALARM) / 2
    assert reading(state)["traffic"] == 2


def test_an_event_that_brings_its_target_is_replaced_by_any_label() -> None:
    state = new_state()
    apply(state, 0, event("a", s=0.9, y=0), event("b", s=0.9, y=0))
    assert reading(state)["cost"] == FALSE_ALARM
    apply(state, 2, label("a", 1))
    assert reading(state)["cost"] == (UNLABELLED + FALSE_ALARM) / 2
    apply(state, 3, label("c", 1))
    apply(state, 4, event("c", s=0.9, y=0))
    assert reading(state)["cost"] == pytest.approx((2 * UNLABELLED + FALSE_ALARM) / 3, rel=1e-15)


def test_where_a_state_cannot_forget_a_row_its_pane_is_marked_for_repair() -> None:
    state = new_state()
    apply(state, 0, event("a", 0, s=0.9, y=1), event("b", 1, s=0.8, y=1), event("c", 0, s=0.2))
    assert reading(state)["best_hit"] == 0.9
    apply(state, 3, label("b", 1), label("c", 0))  # which change no maximum
    assert not any(held.broken for held in state.panes.held.values())
    apply(state, 5, label("a", 0))  # the best hit is none any more, and the maximum does not know the next
    assert [key for key, held in state.panes.held.items() if held.broken] == [pane(0)]


def test_without_history_a_cell_that_cannot_forget_is_left_out_and_the_others_go_on() -> None:
    state = new_state(history=False)
    apply(state, 0, event("a", s=0.9), label("a", 1), label("a", 0))
    held = state.panes.held[pane(0)]
    assert not held.broken
    lacking = {cell.aggregate.kind for cell in ENGINES("m", "v1").plan.cells if cell.key in held.lacking}
    assert lacking == {"max"}
    assert reading(state)["cost"] == FALSE_ALARM


# -- what ClickHouse is asked --------------------------------------------------------------------------------------------


def test_panes_that_are_not_in_memory_are_asked_for_once() -> None:
    state = new_state()
    staged = staged_of(state, 0, event("a", 0), event("b", 3))
    (needs,) = settle(state, staged)
    assert needs == Needs(frozenset({pane(0), pane(3)}))
    state.commit(staged, state.compute(staged))
    assert not state.needs(staged_of(state, 2, event("c", 0), event("a", 9))), "a duplicate's pane is not needed"


def test_a_label_without_an_event_in_memory_asks_for_it_once() -> None:
    state = new_state()
    staged = staged_of(state, 7, label("old", 0), label("b", 1), label("old", 1))
    asked = settle(state, staged, stored=lambda _: StoredEvents({"v1": event_rows(("old", 3, 0.9, None))}))
    assert [needs.events for needs in asked] == [{"m": ("old", "b")}, {}]
    assert asked[1].panes == {pane(0)}, "now its pane is known"
    state.commit(staged, state.compute(staged))
    assert [len(room) for room in state.waiting.values()] == [1]  # b


def test_an_old_event_that_a_label_asked_for_is_found_by_the_next_label() -> None:
    state = new_state()
    fresh = empty_pane(ENGINES("m", "v1"), 3)
    engine = ENGINES("m", "v1")
    rows = event_rows(("old", 3, 0.9, None))
    cells = engine.partials_both(rows, np.zeros(1, np.int64), 1)
    state.absorb_pane(pane(0), replace(fresh, cells={lane: cells[lane][0] for lane in LANES}))
    apply(state, 7, label("old", 0), stored=lambda _: StoredEvents({"v1": rows}))
    assert reading(state)["cost"] == FALSE_ALARM
    staged = staged_of(state, 8, label("old", 1))
    assert settle(state, staged) == []
    state.commit(staged, state.compute(staged))
    assert reading(state)["cost"] == UNLABELLED


def test_a_label_of_another_partitions_event_is_that_ones_business() -> None:
    state = new_state()
    need = RepairNeed(2, pane(4), 17)
    found = StoredEvents({}, [need], frozenset({"theirs"}))
    staged = staged_of(state, 0, label("theirs", 1), label("nobodys", 1))
    settle(state, staged, stored=lambda _: found)
    update = state.compute(staged)
    state.commit(staged, update)
    assert staged.elsewhere == [need]
    assert state.waiting["m"].table.column("event_id").to_pylist() == ["nobodys"]
    assert [len(table) for _, kind, table in update.history if kind is RowKind.LABEL] == [2], "history has them all"
    texts = pa.array(["nobodys"])
    ids = fingerprint(texts, "m")
    state.looked_for("m", ids, texts, frozenset(), 1_000)
    assert state.waiting["m"].due_ms.tolist() == [1_000 + state.settings.label_search_ms]
    state.looked_for("m", ids, texts, frozenset({"nobodys", "others"}), 5_000)
    assert len(state.waiting["m"]) == 0


def test_once_labels_left_the_waiting_room_events_ask_for_theirs() -> None:
    state = new_state(waiting_labels_max=1)
    apply(state, 0, label("a", 0))
    assert settle(state, staged_of(state, 1, event("x")))[0].labels == {}, "nothing has left yet"
    apply(state, 1, label("b", 0))
    staged = staged_of(state, 2, event("a", s=0.9), event("b", s=0.9), event("a", s=0.9))
    asked = settle(state, staged, labels=lambda _: label_rows([("a", 0, 0)]))
    assert [needs.labels for needs in asked] == [{"m": ("a", "b")}]
    state.commit(staged, state.compute(staged))
    assert reading(state)["cost"] == FALSE_ALARM  # of both: one from ClickHouse, one from the room
    assert reading(state)["traffic"] == 2


def test_what_clickhouse_knows_stands_before_the_room_and_a_label_of_the_batch_before_both() -> None:
    """ClickHouse has what waits here, too, and may know a later label, of another partition."""
    state = new_state(waiting_labels_max=1)
    apply(state, 0, label("gone", 0))
    apply(state, 1, label("a", 1))
    apply(state, 2, event("a", s=0.9), labels=lambda _: label_rows([("a", 900, 0)]))
    assert reading(state)["cost"] == FALSE_ALARM
    apply(state, 3, label("b", 0))
    apply(state, 4, event("b", s=0.9), label("b", 1), labels=lambda _: label_rows([("b", 3, 0)]))
    assert reading(state)["cost"] == (FALSE_ALARM + UNLABELLED) / 2


def test_without_history_nothing_is_asked_for_and_labels_find_what_is_in_memory() -> None:
    state = new_state(history=False, waiting_labels_max=1)
    apply(state, 0, event("a", s=0.9), event("b", s=0.9))
    staged = staged_of(state, 2, label("a", 0), label("c", 0), label("d", 0), event("e"))
    assert all(not needs.events and not needs.labels for needs in settle(state, staged))
    state.commit(staged, state.compute(staged))
    assert reading(state)["cost"] == (2 * UNLABELLED + FALSE_ALARM) / 3


# -- time ----------------------------------------------------------------------------------------------------------------


def test_events_and_marks_move_time_and_labels_do_not() -> None:
    state = new_state()
    apply(state, 0, event("a", 5), event("b", 3), label("a", 1, event_at=START_MS + 20 * MINUTE_MS))
    assert state.watermarks == {"m": START_MS + 5 * MINUTE_MS}
    apply(state, 3, mark(9), mark(7))
    assert state.watermarks == {"m": START_MS + 9 * MINUTE_MS}
    apply(state, 5, mark(2))
    assert state.watermarks == {"m": START_MS + 9 * MINUTE_MS}


@pytest.mark.parametrize(("watermark", "late"), [(1.999, 0), (2, 1)])
def test_a_row_is_late_once_its_pane_is_over_by_the_lateness(watermark: float, late: int) -> None:
    """The pane of minute 0 ends with minute 1, and lateness is a minute."""
    state = new_state()
    apply(state, 0, mark(watermark))
    apply(state, 1, event("a", 0.5), event("b", 1))
    assert state.counters.get("late", 0) == late
    assert reading(state)["traffic"] == 2, "and it counts like all others"


def test_a_row_is_judged_late_by_what_was_known_before_its_fetch_only_as_a_diagnostic() -> None:
    state = new_state()
    apply(state, 0, event("a", 20), event("b", 0))
    assert "late" not in state.counters
    assert reading(state)["traffic"] == 2


# -- newer definitions ---------------------------------------------------------------------------------------------------


def adopted(state: PartitionState, known: Catalogue) -> list[PaneKey]:
    before = state.engine_of
    state.catalogue, state.engine_of = known, Engines(known, FqlSettings())
    return state.carry_over(before, frozenset({"m"}))


def test_panes_that_wait_to_be_written_are_carried_over_and_say_what_they_lack() -> None:
    state = new_state()
    apply(state, 0, event("a", 0, x=3), event("b", 1, x=4))
    for lane in LANES:
        state.panes.dirty[lane].discard(pane(1))  # written: it is loaded again when it is needed
    grown = catalogue(metrics={"sum": "sum(x)", "least": "min(x)"}, segments={})
    assert adopted(state, grown) == [pane(0)]
    assert list(state.panes.held) == [pane(0)]
    assert reading(state) == {"sum": 3.0, "least": None}
    engine = state.engine_of("m", "v1")
    assert {cell.aggregate.kind for cell in engine.plan.cells if cell.key in state.panes.held[pane(0)].lacking} == {
        "min"
    }


def test_what_reads_fewer_or_the_same_states_lacks_nothing() -> None:
    state = new_state()
    apply(state, 0, event("a", 0, x=3))
    assert adopted(state, catalogue(metrics={"mean": "sum(x) / traffic()"}, segments={})) == []
    assert reading(state) == {"mean": 3.0}


def test_rows_in_memory_serve_only_while_they_have_every_column_that_a_label_reads() -> None:
    state = new_state()
    apply(state, 0, event("a", x=3, s=0.9))
    held = list(state.recent.chunks)
    assert held
    adopted(state, catalogue(metrics={"cost": "average(if(fp(), 1, 0))"}, segments={}))
    assert list(state.recent.chunks) == held
    adopted(state, catalogue(metrics={"cost": "average(if(fp(), x, 0))"}, segments={}))
    chunk_columns = state.recent.chunks[held[0]].table.column_names if state.recent.chunks else []
    assert "x" in chunk_columns or not state.recent.chunks


def test_a_version_that_is_gone_takes_its_panes_and_rows_along() -> None:
    state = new_state(catalogue(model("v1"), model("v2")))
    apply(state, 0, event("a", version="v1"), event("b", version="v2"), label("nobody", 1))
    adopted(state, catalogue(model("v2")))
    assert [key.version for key in state.panes.held] == ["v2"]
    assert {chunk.version for chunk in state.recent.chunks.values()} == {"v2"}
    assert all(key.version == "v2" for lane in LANES for key in state.panes.dirty[lane])
    assert len(state.waiting["m"]) == 1
    adopted(state, Catalogue())
    assert (state.panes.held, state.recent.chunks, state.waiting) == ({}, {}, {})


def test_rows_in_memory_take_the_targets_that_history_has() -> None:
    """A label that came in another partition is known to history alone."""
    state = new_state()
    apply(state, 0, event("a", s=0.9), event("b", s=0.9))
    state.refresh_rows("m", "v1", event_rows(("a", 0, 0.9, 0), ("stranger", 5, 0.9, 1)))
    (chunk,) = state.recent.chunks.values()
    assert chunk.table.column("y").to_pylist() == [0, None]
    # a correction now takes the row out as the rebuilt pane has it
    fresh = ENGINES("m", "v1").partials_both(
        event_rows(("a", 0, 0.9, 0), ("b", 1, 0.9, None)), np.zeros(2, np.int64), 1
    )
    state.absorb_pane(pane(0), Pane({lane: fresh[lane][0] for lane in LANES}, dict.fromkeys(LANES, 1)))
    apply(state, 2, label("a", None))
    assert reading(state)["cost"] == UNLABELLED


@pytest.mark.parametrize(("elsewhere_at", "is_left"), [(RECORD_MS + 1, True), (RECORD_MS, False), (None, False)])
def test_a_label_that_is_older_than_another_partitions_is_left_to_history(
    elsewhere_at: int | None, is_left: bool
) -> None:
    """Which of several partitions' labels counts, only history can tell: the pane is rebuilt, and the row stays as it was."""
    state = new_state(catalogue(metrics={"unlabelled": "sum(if(is_null(y), 1, 0))"}, segments={}))
    apply(state, 0, event("a", s=0.9), event("b", s=0.2))
    state.refresh_rows("m", "v1", event_rows(("a", 0, 0.9, 1), elsewhere_at=elsewhere_at))
    apply(state, 2, label("a", 0), label("b", 0))
    assert state.panes.held[pane(0)].broken == is_left
    (chunk,) = state.recent.chunks.values()
    assert chunk.table.column("y").to_pylist() == [1 if is_left else 0, 0]
    assert reading(state)["unlabelled"] == 1, "the pane had not been told of the label that came elsewhere"
    assert pane(0) in state.panes.dirty[Lane.LABELS]


def test_dead_letters_and_counters_travel_with_the_update() -> None:
    state = new_state()
    update = apply(state, 0, b"{", event("a"), b"[]")
    assert [letter.offset for letter in update.dead_letters] == [0, 2]
    assert state.counters == {"dead_letters": 2, "events": 1}
    assert HOUR_MS > RECORD_MS - START_MS, "or the events of these tests would be refused themselves"
