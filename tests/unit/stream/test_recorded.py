"""Metric events into rows, and what a list has room for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.payloads import METRIC_EVENT
from fqlstream.settings import RecordSettings
from fqlstream.stream import recorded
from fqlstream.stream.batches import Fetch
from fqlstream.stream.recorded import (
    ForgetRow,
    JobRow,
    Limits,
    ListKey,
    ListRow,
    ListState,
    PipelineRow,
    Read,
    RecordState,
    Refused,
    letters_of,
    read,
)

NOW = 1_795_255_200_000
LIMITS = Limits(RecordSettings(list_values_max=10, name_characters_max=40, lists_max=2))


def fetch(values: Sequence[bytes | None], first: int = 0) -> Fetch:
    count = len(values)
    offsets, times = np.arange(first, first + count), np.full(count, NOW, np.int64)
    return Fetch("metric-events", 1, offsets, times, [b"k"] * count, list(values), {}, first + count)


def one(event: Any) -> Any:
    """Give what a record is read as: a row, or a refusal."""
    value = event if isinstance(event, bytes | None) else json.dumps(event).encode()
    found = read(fetch([value], 7), LIMITS)
    return found.rows[0] if found.rows else found.refused[0]


def pipeline(**fields: Any) -> dict[str, Any]:
    return {"type": "pipeline_metric", "id": "e", "name": "loss", "value": 1, **fields}


def values_of(row: Any) -> list[Any]:
    assert isinstance(row, ListRow)
    return row.values.tolist()


FINE: list[tuple[Any, Any]] = [
    (pipeline(), PipelineRow("e", "loss", 1.0, NOW * 1000, NOW, 7)),
    (pipeline(name="1onx", value=-0.5, at=0), PipelineRow("e", "1onx", -0.5, 0, NOW, 7)),
    (pipeline(id=12, value="Infinity"), PipelineRow("12", "loss", math.inf, NOW * 1000, NOW, 7)),
    (pipeline(at="2026-11-21T11:00:00.1234567+01:00"), PipelineRow("e", "loss", 1.0, NOW * 1000 + 123_456, NOW, 7)),
    (pipeline(at=1e12, more=[[1]]), PipelineRow("e", "loss", 1.0, 10**15, NOW, 7)),
    (pipeline(value=10**400), PipelineRow("e", "loss", math.inf, NOW * 1000, NOW, 7)),
    (
        b'{"type":"pipeline_metric","id":"e","name":"loss","value":-1e999}',
        PipelineRow("e", "loss", -math.inf, NOW * 1000, NOW, 7),
    ),
    ({"type": "job_metric", "id": 3, "name": "ACC_1", "value": 2}, JobRow("3", "ACC_1", 0, 2.0, NOW * 1000, NOW, 7)),
    (
        {"type": "job_metric", "id": "3", "name": "_a", "value": 2, "step": -(2**63)},
        JobRow("3", "_a", -(2**63), 2.0, NOW * 1000, NOW, 7),
    ),
    (
        {"type": "job_metric", "id": "3", "name": "a", "value": 2, "step": 4.0},
        JobRow("3", "a", 4, 2.0, NOW * 1000, NOW, 7),
    ),
    ({"type": "forget", "kind": "job", "id": 3}, ForgetRow("job", "3", NOW, 7)),
]


@pytest.mark.parametrize(("event", "row"), FINE)
def test_a_metric_event_becomes_a_row(event: Any, row: Any) -> None:
    assert one(event) == row


def test_nan_and_lists_of_anything_json_calls_a_number_are_numbers() -> None:
    assert math.isnan(one(pipeline(value="NaN")).value)
    row = one({"type": "list_metric", "id": "e", "name": "x", "values": [1, 2.5, "-Infinity", 10**400]})
    assert values_of(row) == [1.0, 2.5, -math.inf, math.inf]
    assert values_of(one({"type": "list_metric", "id": "e", "name": "x", "values": []})) == []


DEAD: list[tuple[str, Any]] = [
    ("DLQ001", None),
    ("DLQ001", b""),
    ("DLQ003", b'{"type": "\xff"}'),
    ("DLQ004", b'{"type": "pipeline_metric", "id": "e", "name": "x", "value": 1, "z": ' + b"[" * 99 + b"]" * 99 + b"}"),
    ("DLQ005", b'{"type": "pipeline_metric", "id": "e", "name": "x", "value": NaN}'),
    ("DLQ005", b"{"),
    ("DLQ006", b"[]"),
    ("DLQ006", b"1e999"),
    ("DLQ020", {}),
    ("DLQ020", {"type": "inference", "model": "m"}),
    ("DLQ020", {"type": ["forget"]}),
    ("DLQ021", pipeline(id=None)),
    ("DLQ021", pipeline(id="")),
    ("DLQ021", pipeline(id=1.0)),
    ("DLQ021", pipeline(id=True)),
    ("DLQ021", pipeline(id="e" * 41)),
    ("DLQ021", pipeline(id=10**41)),
    ("DLQ021", {"type": "forget", "kind": "job"}),
    ("DLQ022", pipeline(name="")),
    ("DLQ022", pipeline(name=1)),
    ("DLQ022", pipeline(name="n" * 41)),
    *[("DLQ022", {"type": "job_metric", "id": 1, "name": name, "value": 1}) for name in ("_", "1a", "a-b", "a.b", "é", "", "a\n")],
    *[("DLQ023", pipeline(value=value)) for value in (None, True, "1", "nan", "abc", [1], {})],
    *[("DLQ024", {"type": "list_metric", "id": "e", "name": "x", "values": values}) for values in (None, 1, [None], ["1"], [True], [[1]])],
    *[("DLQ025", {"type": "job_metric", "id": 1, "name": "a", "value": 1, "step": step}) for step in (None, "3", 1.5, True, 2**63)],
    *[("DLQ026", pipeline(at=at)) for at in ("2026-11-21", "2026-11-21T10:00:00", "now", 1.5, True, [], 2**62, "0000-01-01T00:00:00Z")],
    ("DLQ028", {"type": "forget", "id": "e"}),
    ("DLQ028", {"type": "forget", "id": "e", "kind": "model"}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "event"), DEAD)
def test_what_is_no_metric_event_says_why(code: str, event: Any) -> None:
    refused = one(event)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.at, refused.stored) == (code, 0, 0)
    assert refused.message


def test_a_record_that_is_too_large_is_refused_unread() -> None:
    value = json.dumps(pipeline(name="x" * 30)).encode()
    found = read(fetch([value]), Limits(record_bytes_max=len(value) - 1))
    assert [refused.code for refused in found.refused] == ["DLQ002"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.sampled_from(["NaN", "execution", "job"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
events = st.fixed_dictionaries(
    {"type": st.sampled_from(["pipeline_metric", "list_metric", "job_metric", "forget", "x"])},
    optional={
        "id": st.just("e") | json_values,
        "name": st.just("n") | json_values,
        "value": st.floats() | json_values,
        "values": st.lists(st.integers() | st.floats(allow_nan=False), max_size=3) | json_values,
        "step": st.integers() | json_values,
        "at": st.just("2026-11-21T10:00:00Z") | json_values,
        "kind": st.sampled_from(["execution", "job"]) | json_values,
    },
)


@given(events)
def test_what_is_decoded_at_once_is_what_the_rules_say(event: dict[str, Any]) -> None:
    value = json.dumps(event).encode()
    context = LIMITS.context()
    plain = recorded._plain(value, context)
    if plain is None:
        return
    assert repr(plain) == repr(recorded._examine(value, context))


@given(events)
def test_what_is_accepted_has_the_form_of_the_schema(event: dict[str, Any]) -> None:
    if not isinstance(one(json.dumps(event).encode()), Refused):
        numbers = {"at": NOW, "step": 0} if event.get("at") is not None else {"step": 0}
        # whole numbers may be written as floats, and numbers beyond every double, which a schema cannot say
        METRIC_EVENT.validate_python({**event, **{key: value for key, value in numbers.items() if key in event}})


# ---- lists ------------------------------------------------------------------------------------------------------------


def appended(*sizes: int, name: str = "x", first: int = 0) -> Read:
    events = [{"type": "list_metric", "id": "e", "name": name, "values": [float(size)] * size} for size in sizes]
    return read(fetch([json.dumps(event).encode() for event in events], first), LIMITS)


def fresh() -> RecordState:
    return RecordState(1, LIMITS, 0)


def applied(state: RecordState, batch: Read, loaded: dict[ListKey, ListState] | None = None) -> recorded.Update:
    state.absorb(state.needs(batch), loaded or {})
    update = state.compute(batch)
    state.commit(update)
    return update


KEY = ListKey("e", "x")


def test_an_append_beyond_the_limit_is_refused_whole_and_a_smaller_one_still_fits() -> None:
    state = fresh()
    update = applied(state, appended(6, 5, 4, 1, 0))
    assert [(row.start, len(row.values)) for row in update.rows if isinstance(row, ListRow)] == [(0, 6), (6, 4)]
    assert [(refused.at, refused.code, refused.stored) for refused in update.refused] == [
        (1, "DLQ027", 6),
        (3, "DLQ027", 10),
    ]
    assert "holds 6 values, 5 more would exceed 10" in update.refused[0].message
    assert state.lists[KEY].summary.count == 10
    (summary,) = [state.lists[key].summarised(key) for key in state.dirty]
    assert (summary.count, summary.max, summary.fence) == (10, 6.0, 2)


@given(st.lists(st.integers(0, 6), max_size=12), st.sets(st.integers(1, 11)))
def test_verdicts_do_not_depend_on_where_fetches_are_cut(sizes: list[int], cuts: set[int]) -> None:
    whole = applied(fresh(), appended(*sizes))
    state = fresh()
    ends = [0, *sorted(cut for cut in cuts if cut < len(sizes)), len(sizes)]
    refused = []
    for start, end in pairwise(ends):
        update = applied(state, appended(*sizes[start:end], first=start))
        refused += [(start + one.at, one.message) for one in update.refused]
    assert refused == [(one.at, one.message) for one in whole.refused]


def test_what_a_predecessor_has_written_further_than_we_are_is_not_applied_again() -> None:
    ahead = ListState.empty(fence=3)
    ahead.summary.learn([1.0] * 9)
    state = fresh()
    state.refused_before = {1: Refused(0, "DLQ027", "no room then")}
    update = applied(state, appended(6, 5, 2, 1, 1, 1, first=0), {KEY: ahead})
    # offsets 0 to 3 are in it; the refusal at 1 is told again, and at 4 and 5 we decide ourselves
    assert [(one.at, one.message) for one in update.refused if one.at < 4] == [(1, "no room then")]
    assert [row.offset for row in update.rows] == [4]
    assert [one.at for one in update.refused] == [1, 5]


def test_a_forgetting_that_a_list_already_contains_does_not_empty_it_again() -> None:
    forget = json.dumps({"type": "forget", "kind": "execution", "id": "e"}).encode()
    grown = ListState.empty(fence=5)
    grown.summary.learn([1.0] * 8)
    state = fresh()
    batch = read(fetch([forget], 2), LIMITS)
    applied(state, batch, {KEY: grown})
    update = applied(state, Read([*batch.rows, *appended(3, first=6).rows], [0, 1], []))
    assert [one.stored for one in update.refused] == [8]
    assert state.lists[KEY].summary.count == 8


def test_what_is_forgotten_leaves_room_within_one_fetch_and_only_there() -> None:
    state = fresh()
    forget = ForgetRow("execution", "e", NOW, 2)
    rows = [*appended(9).rows, *appended(9, name="y", first=1).rows, forget, *appended(9, first=3).rows]
    update = applied(state, Read(rows, [0, 1, 2, 3], []))
    assert not update.refused
    assert [(state.lists[key].summary.count, state.lists[key].is_forgotten) for key in (KEY, ListKey("e", "y"))] == [
        (9, False),
        (0, True),
    ]
    job = applied(state, Read([ForgetRow("job", "e", NOW, 4)], [0], []))
    assert len(job.rows) == 1
    assert state.lists[KEY].summary.count == 9


def test_lists_that_wait_for_nothing_are_let_go_of_beyond_the_bound_the_quiet_ones_first() -> None:
    state = fresh()
    for at, name in enumerate("abcda"):
        applied(state, appended(1, name=name, first=at))
    state.dirty = {ListKey("e", "b")}
    state.evict()
    assert list(state.lists) == [ListKey("e", "b"), ListKey("e", "a")]
    assert state.needs(appended(1, name="c")).lists == {ListKey("e", "c")}


def test_dead_letters_hold_the_record_as_it_was() -> None:
    batch = fetch([b"{", b"[]"], 40)
    letters = letters_of(batch, read(batch, LIMITS).refused)
    assert [(letter.offset, letter.code, letter.value, letter.key) for letter in letters] == [
        (40, "DLQ005", b"{", b"k"), (41, "DLQ006", b"[]", b"k"),
    ]  # fmt: skip
