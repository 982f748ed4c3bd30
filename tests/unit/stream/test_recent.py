"""Rows in memory, labels that wait, and what a label makes of its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.fingerprints import fingerprint
from fqlstream.stream.recent import ELSEWHERE_AT, Chunk, RecentRows, WaitingLabels, outdone, replace_targets


def chunk(rows: int, touched_offset: int) -> Chunk:
    return Chunk("m", "v1", pa.table({"x": np.zeros(rows)}), touched_offset)


def filled(*touched: int) -> RecentRows:
    recent = RecentRows()
    for offset in touched:
        recent.put(recent.next_chunk(), chunk(100, offset))
    return recent


def test_the_oldest_chunks_leave_until_the_bound_holds() -> None:
    recent = filled(1, 2, 3, 4)
    recent.evict(1_700, flushed_offset=10)
    assert list(recent.chunks) == [2, 3]
    assert recent.bytes_count == 1_600


def test_what_clickhouse_does_not_have_yet_stays_whatever_the_bound() -> None:
    recent = filled(1, 7, 3, 8)
    recent.evict(0, flushed_offset=6)
    assert list(recent.chunks) == [1, 3]
    recent.evict(0, flushed_offset=7)
    assert list(recent.chunks) == [3]


def test_a_changed_chunk_is_counted_once_and_a_dropped_one_not_at_all() -> None:
    recent = filled(1, 2)
    recent.put(0, chunk(300, 5))
    assert recent.bytes_count == 3_200
    recent.drop(0)
    assert recent.bytes_count == 800
    assert recent.next_chunk() == 2, "numbers are not used again"


# -- labels that wait ----------------------------------------------------------------------------------------------------


def room(names: Sequence[str], labels_max: int = 1_000, start: WaitingLabels | None = None) -> WaitingLabels:
    """Let labels wait in this order; y is their number."""
    table = pa.table({"event_id": pa.array(list(names), pa.string()), "y": pa.array(range(len(names)), pa.int64())})
    ids = fingerprint(table.column("event_id"), "m")
    if start is None:
        nothing = np.empty(0, np.int64)
        start = WaitingLabels.of(ids.take(nothing), table.slice(0, 0))
    return start.with_labels(ids, table, labels_max)


def content(waiting: WaitingLabels) -> list[tuple[str, int]]:
    return [(row["event_id"], row["y"]) for row in waiting.table.to_pylist()]


def test_of_one_event_the_last_label_waits() -> None:
    waiting = room(["a", "b", "a", "c", "b"])
    assert content(waiting) == [("a", 2), ("c", 3), ("b", 4)]
    assert not waiting.overflowed


def test_the_newest_stay_and_that_others_left_is_not_forgotten() -> None:
    waiting = room(["a", "b", "c", "d"], labels_max=3)
    assert content(waiting) == [("b", 1), ("c", 2), ("d", 3)]
    assert waiting.overflowed
    emptied = waiting.without(np.arange(3))
    assert (len(emptied), emptied.overflowed) == (0, True)
    assert room(["e"], start=emptied).overflowed


def test_a_full_room_is_not_an_overflow() -> None:
    assert not room(["a", "b", "c"], labels_max=3).overflowed
    assert not room(["a", "b", "a"], labels_max=2).overflowed


@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.lists(st.sampled_from("abcdefghij"), max_size=12))
def test_events_meet_the_label_of_their_id(waiting: list[str], events: list[str]) -> None:
    labels = room(waiting)
    hits, rows = labels.match(fingerprint(pa.array(events, pa.string()), "m"))
    met = {int(hit): labels.table["event_id"][int(row)].as_py() for hit, row in zip(hits, rows, strict=True)}
    assert met == {at: name for at, name in enumerate(events) if name in waiting}
    left = labels.without(rows)
    assert {name for name, _ in content(left)} == set(waiting) - set(events)
    assert len(left) == left.table.num_rows


def test_each_label_is_looked_for_at_once_and_then_later_and_later() -> None:
    waiting = room(["a", "b"])
    assert waiting.due(0, 10).tolist() == [0, 1]
    assert waiting.due(0, 1).tolist() == [0], "so many at once"
    only_a = fingerprint(pa.array(["a", "stranger"]), "m")
    due_at, now_ms = [], 0
    for _ in range(5):
        waiting = waiting.put_off(only_a, now_ms, 100, 350)
        now_ms = int(waiting.due_ms[0])
        assert waiting.due(now_ms - 1, 10).tolist() == [1], "the other one is due all the time"
        assert waiting.due(now_ms, 10).tolist() == [0, 1]
        due_at.append(now_ms)
    assert np.diff([0, *due_at]).tolist() == [100, 200, 350, 350, 350]


def test_a_corrected_label_is_looked_for_anew_and_the_others_keep_their_time() -> None:
    waiting = room(["a", "b"]).put_off(fingerprint(pa.array(["a", "b"]), "m"), 0, 100, 400)
    again = room(["a"], start=waiting)
    assert [name for name, _ in content(again)] == ["b", "a"]
    assert again.due_ms.tolist() == [100, 0]
    assert again.without(np.array([1])).due_ms.tolist() == [100]


def test_labels_of_versions_with_other_types_wait_together_as_text() -> None:
    number, text = (pa.table({"event_id": [name], "y": pa.array([value])}) for name, value in (("a", 1), ("b", "two")))
    waiting = WaitingLabels.of(fingerprint(number.column("event_id"), "m"), number)
    waiting = waiting.with_labels(fingerprint(text.column("event_id"), "m"), text, 10)
    assert waiting.table.column("y").to_pylist() == ["1", "two"]


# -- what a label makes of its row ---------------------------------------------------------------------------------------


def lists(*values: list[str]) -> pa.Array:
    return pa.array(values, pa.list_(pa.string()))


def test_a_label_replaces_every_target_and_nothing_else() -> None:
    rows = pa.table({"x": [1.0, 2.0], "y": pa.array([5, 6]), "z": ["a", "b"]})
    labels = pa.table({"x": [9.0, 9.0], "y": pa.array([7, None], pa.int64()), "note": ["n", "n"]})
    after = replace_targets(rows, labels, ["y", "z"])
    assert after.to_pydict() == {"x": [1.0, 2.0], "y": [7, None], "z": [None, None]}
    assert after.schema == rows.schema


@pytest.mark.parametrize(
    ("of_label", "of_row", "expected"),
    [
        (pa.array([1, 2]), pa.float64(), [1.0, 2.0]),
        (pa.array(["1", "2"]), pa.int64(), [1, 2]),
        (pa.array(["1", "two"]), pa.int64(), [1, None]),
        (pa.array([1.5, 2.0]), pa.int64(), [None, 2]),
        (pa.array([[1.0], [2.0]]), pa.int64(), [None, None]),
    ],
)
def test_a_value_that_does_not_fit_the_rows_version_is_null_and_it_alone(
    of_label: pa.Array, of_row: pa.DataType, expected: list[Any]
) -> None:
    """Labels are read by one version, events may be of another, in which the target has another type."""
    rows = pa.table({"y": pa.nulls(2, of_row)})
    assert replace_targets(rows, pa.table({"y": of_label}), ["y"]).column("y").to_pylist() == expected


def test_violations_of_targets_come_from_the_label_the_others_stay() -> None:
    rows = pa.table(
        {"y": [1, 2, 3], "_type_violations": lists(["x", "y"], [], ["x"]), "_range_violations": lists([], [], [])}
    )
    labels = pa.table({"y": [1, 2, 3], "_type_violations": lists([], ["y", "note"], ["y"])})
    after = replace_targets(rows, labels, ["y"])
    assert after.column("_type_violations").to_pylist() == [["x"], ["y"], ["x", "y"]]
    assert after.column("_range_violations").to_pylist() == [[], [], []]


def test_a_label_that_is_older_than_another_partitions_is_outdone() -> None:
    labels = pa.table({"record_at": [10, 10, 10, 10]})
    elsewhere = pa.array([None, 9, 10, 11], pa.int64())
    assert outdone(pa.table({ELSEWHERE_AT: elsewhere}), labels).tolist() == [False, False, False, True]
    assert not outdone(pa.table({"y": [1, 2, 3, 4]}), labels).any()
