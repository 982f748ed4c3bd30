"""History on the real store, against the same rules worked out in pandas."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.store_process import StoreProcess
from tests.stored_history import MINUTE, T0, rows, written

from fqlstream.events.definitions import ModelDefinition
from fqlstream.store.client import Store
from fqlstream.store.deletions import now_ms
from fqlstream.store.history import (
    events_by_id,
    forget_record,
    known_dead_letters,
    labelled_elsewhere,
    labels_by_id,
    read_pane,
    recent_ids,
    recent_rows,
    waiting_labels,
    write_dead_letters,
    write_events,
    write_labels,
)
from fqlstream.store.model_tables import ensure
from fqlstream.store.naming import event_table, event_view, identifier, label_table
from fqlstream.stream.batches import DeadLetter, RowKind, StoredEvents
from fqlstream.stream.protocol import PaneKey, RepairNeed
from fqlstream.stream.recent import ELSEWHERE_AT


def model(**changes: Any) -> ModelDefinition:
    return ModelDefinition.model_validate({
        "name": "churn",
        "version": "v1",
        "task": "binary_classification",
        "columns": [
            {"name": "age", "type": "int", "role": "input"},
            {"name": "country", "type": "category", "role": "input"},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "seen", "type": "timestamp", "role": "metadata"},
            {"name": "embedding", "type": "vector", "role": "input"},
            {"name": "churned", "type": "category", "role": "target"},
            {"name": "amount", "type": "float", "role": "target"},
        ],
        **changes,
    })  # fmt: skip


def pane(
    store: Store, definition: ModelDefinition, partition: int, upto: int, label_upto: int | None = None
) -> pa.Table:
    tables = list(read_pane(store, definition, partition, T0, T0 + 3_600_000, upto, label_upto))
    return pa.concat_tables(tables)


def view(store: Store, columns: str, name: str = "churn") -> list[tuple[Any, ...]]:
    return store.query_rows(f"SELECT {columns} FROM {identifier(event_view(name))} ORDER BY partition, offset, row")


def test_rows_come_back_as_they_were_written(store: Store) -> None:
    definition = model()
    table = rows(definition, RowKind.INFERENCE, [
        {"offset": 3, "row": 1, "event_id": "ü", "age": -(2**63), "country": "FR", "score": 0.1, "seen": T0 - 1, "embedding": [1.5, -0.0],
         "churned": "no", "_type_violations": ["amount"], "_range_violations": ["age", "score"]},
        {"offset": 3, "row": 2, "event_id": "", "age": 2**63 - 1, "country": "", "score": 5e-324, "seen": -2_208_988_800_000, "amount": 2.5},
        {"offset": 4, "event_id": "a'\\\n\0b"},
    ])  # fmt: skip
    ensure(store, [definition])
    write_events(store, definition, 7, table)

    found = pane(store, definition, 7, upto=10)

    assert found.column(ELSEWHERE_AT).null_count == len(found)
    assert found.drop_columns(ELSEWHERE_AT).equals(table.drop_columns("duplicate"))


def test_the_view_has_the_contract_s_columns(store: Store) -> None:
    written(store, model(), 0, events=[{"offset": 1, "event_id": "a"}])

    names = [name for name, *_ in store.query_rows(f"DESCRIBE TABLE {identifier(event_view('churn'))}")]

    assert names == [
        "event_id", "event_at", "version", "partition", "offset", "row",
        "age", "country", "score", "seen", "embedding", "churned", "amount", "_type_violations", "_range_violations", "record_at",
    ]  # fmt: skip


def test_duplicates_are_kept_and_not_counted(store: Store) -> None:
    written(
        store, model(), 0, events=[{"offset": 1, "event_id": "a"}, {"offset": 2, "event_id": "a", "duplicate": True}]
    )

    assert view(store, "offset") == [(1,)]
    assert pane(store, model(), 0, upto=9).column("offset").to_pylist() == [1]
    assert store.query_rows(f"SELECT count() FROM {event_table('churn')}") == [(2,)]


def test_a_label_replaces_every_target(store: Store) -> None:
    written(
        store,
        model(),
        0,
        events=[
            {"offset": 1, "event_id": "a", "churned": "no", "amount": 1.0},
            {"offset": 2, "event_id": "b", "churned": "no"},
        ],
        labels=[{"offset": 3, "event_id": "a", "churned": "yes"}],
    )

    assert view(store, "churned, amount") == [("yes", None), ("no", None)]


def test_the_last_label_is_the_highest_place_whatever_order_it_was_written_in(store: Store) -> None:
    definition = model()
    labels = [
        {"offset": 5, "row": 2, "event_id": "a", "churned": "last"},
        {"offset": 5, "row": 1, "event_id": "a", "churned": "before"},
        {"offset": 4, "event_id": "a", "churned": "first", "record_at": T0 + 10**6},
    ]
    written(store, definition, 0, events=[{"offset": 1, "event_id": "a"}])
    for label in labels:
        written(store, definition, 0, labels=[label])

    assert view(store, "churned") == [("last",)]
    assert pane(store, definition, 0, upto=9).column("churned").to_pylist() == ["last"]
    assert pane(store, definition, 0, upto=9, label_upto=4).column("churned").to_pylist() == ["first"]
    assert pane(store, definition, 0, upto=9, label_upto=3).column("churned").to_pylist() == [None]


@pytest.mark.parametrize(("foreign_at", "expected"), [(T0 + 99, "own"), (T0 + 100, "own"), (T0 + 101, "foreign")])
def test_a_label_of_another_partition_counts_if_its_record_is_later(
    store: Store, foreign_at: int, expected: str
) -> None:
    written(store, model(), 0, events=[{"offset": 1, "event_id": "a"}])
    written(store, model(), 0, labels=[{"offset": 9, "event_id": "a", "churned": "own", "record_at": T0 + 100}])
    written(store, model(), 3, labels=[{"offset": 2, "event_id": "a", "churned": "foreign", "record_at": foreign_at}])

    assert view(store, "churned") == [(expected,)]
    assert pane(store, model(), 0, upto=9).column("churned").to_pylist() == [expected]


def test_violations_of_targets_come_from_the_label(store: Store) -> None:
    event = {"offset": 1, "event_id": "a", "_type_violations": ["age", "churned"], "_range_violations": ["amount"]}
    label = {"offset": 2, "event_id": "a", "_type_violations": ["amount", "seen"]}
    written(store, model(), 0, events=[event], labels=[label])

    assert view(store, "_type_violations, _range_violations") == [(["age", "amount"], [])]
    found = pane(store, model(), 0, upto=9)
    assert found.column("_type_violations").to_pylist() == [["age", "amount"]]


def test_writing_rows_again_changes_nothing(store: Store) -> None:
    definition = model()
    events = [{"offset": i, "event_id": f"e{i % 50}", "age": i} for i in range(100)]
    labels = [{"offset": 200 + i, "event_id": f"e{i}", "churned": str(i)} for i in range(30)]
    written(store, definition, 0, events=events, labels=labels)
    before = (view(store, "*"), pane(store, definition, 0, upto=999))

    written(store, definition, 0, events=events[40:] + events[:10], labels=labels[::-1])

    assert (view(store, "*"), pane(store, definition, 0, upto=999)) == before
    assert recent_ids(store, ["churn"], 0, 999, 1000)["churn"].num_rows == 100


def _last_labels(labels: pd.DataFrame, partition: int, upto: int) -> pd.DataFrame:
    """The label rule, in pandas: the last per partition by place, then the latest record, own partition first."""
    known = labels[(labels.partition != partition) | (labels.offset <= upto)]
    last = known.sort_values(["offset", "row"]).groupby(["event_id", "partition"]).tail(1)
    last = last.assign(own=last.partition == partition)
    return last.sort_values(["record_at", "own", "partition"]).groupby("event_id").tail(1).set_index("event_id")


@pytest.mark.parametrize("seed", range(4))
def test_rows_and_labels_equal_pandas(store: Store, seed: int) -> None:
    random = np.random.default_rng(seed)
    definition = model()
    ensure(store, [definition])
    events, labels = [], []
    for partition in range(3):
        for offset in range(120):
            place = {
                "partition": partition,
                "offset": offset,
                "row": int(random.integers(0, 3)),
                "record_at": T0 + int(random.integers(0, 50)),
            }
            name = f"e{random.integers(0, 150)}"
            if random.random() < 0.5:
                taken = any(e["event_id"] == name and e["partition"] == partition for e in events)
                events.append({**place, "event_id": name, "age": offset, "churned": "own", "duplicate": taken})
            else:
                churned = None if random.random() < 0.2 else f"l{partition}-{offset}"
                labels.append({**place, "event_id": name, "churned": churned, "amount": float(offset)})
    for partition in range(3):
        for write, kind, records in ((write_events, RowKind.INFERENCE, events), (write_labels, RowKind.LABEL, labels)):
            mine = [r for r in records if r["partition"] == partition]
            shuffled = [mine[i] for i in random.permutation(len(mine))]
            for part in (shuffled[:20], shuffled[10:], shuffled[:5]):
                write(store, definition, partition, rows(definition, kind, part))
    frame = pd.DataFrame(events).sort_values(["partition", "offset", "row"])
    label_frame = pd.DataFrame(labels)

    for partition in range(3):
        for upto in (40, 200):
            mine = frame[(frame.partition == partition) & ~frame.duplicate & (frame.offset <= upto)]
            last = _last_labels(label_frame, partition, upto).reindex(mine.event_id)
            labelled = last.partition.notna().to_numpy()
            expected = np.where(labelled, last.churned, mine.churned)
            found = pane(store, definition, partition, upto)
            assert found.column("age").to_pylist() == mine.age.tolist()
            assert found.column("churned").to_pylist() == [
                None if x is None or x is np.nan or x != x else x for x in expected
            ]
            amounts = [None if math.isnan(x) else x for x in last.amount.to_numpy(dtype=float)]
            assert found.column("amount").to_pylist() == amounts
            others = label_frame[label_frame.partition != partition].groupby("event_id").record_at.max()
            latest = others.reindex(mine.event_id).tolist()
            assert found.column(ELSEWHERE_AT).to_pylist() == [None if math.isnan(at) else at for at in latest]


def test_columns_may_be_added_and_types_may_change(store: Store) -> None:
    first = model()
    columns = [c.model_dump(mode="json") for c in first.columns]
    changed = [
        {**c, "type": "string"} if c["name"] == "age" else {**c, "type": "float"} if c["name"] == "churned" else c
        for c in columns
    ]
    second = model(version="v2", columns=[*changed, {"name": "new", "type": "bool", "role": "decision"}])
    written(store, first, 0, events=[{"offset": 1, "event_id": "a", "age": 41}, {"offset": 2, "event_id": "b"}])
    ensure(store, [first, second])
    write_events(
        store, second, 0, rows(second, RowKind.INFERENCE, [{"offset": 3, "event_id": "c", "age": "old", "new": True}])
    )
    write_labels(store, second, 0, rows(second, RowKind.LABEL, [{"offset": 4, "event_id": "a", "churned": 0.5}]))

    assert view(store, "version, age, new, churned") == [
        ("v1", "41", None, "0.5"), ("v1", None, None, None), ("v2", "old", True, None),
    ]  # fmt: skip
    assert pane(store, first, 0, upto=9).column("age").to_pylist() == [41, None]
    assert pane(store, first, 0, upto=9).column("churned").to_pylist() == ["0.5", None]
    assert pane(store, second, 0, upto=9).column("age").to_pylist() == ["old"]


@pytest.mark.parametrize("name", ["my cool model", "ü" * 256, "`\\'\" /%", "a" * 256, "x:int"])
def test_model_and_column_names_are_free_text(store: Store, name: str) -> None:
    definition = ModelDefinition.model_validate({
        "name": name, "columns": [{"name": name, "type": "float", "role": "input"}, {"name": "l.found", "type": "int", "role": "target"}],
    })  # fmt: skip
    ensure(store, [definition])
    ensure(store, [definition])
    write_events(store, definition, 0, rows(definition, RowKind.INFERENCE, [{"offset": 1, "event_id": "a", name: 1.5}]))
    write_labels(store, definition, 0, rows(definition, RowKind.LABEL, [{"offset": 2, "event_id": "a", "l.found": 3}]))

    assert view(store, f"{identifier(name)}, `l.found`", name) == [(1.5, 3)]
    assert pane(store, definition, 0, upto=9).column(name).to_pylist() == [1.5]


def test_a_model_without_targets(store: Store) -> None:
    definition = ModelDefinition.model_validate(
        {"name": "m", "columns": [{"name": "x", "type": "int", "role": "input"}]}
    )
    written(
        store, definition, 0, events=[{"offset": 1, "event_id": "a", "x": 1}], labels=[{"offset": 2, "event_id": "a"}]
    )

    assert view(store, "x", "m") == [(1,)]
    assert pane(store, definition, 0, upto=9).column("x").to_pylist() == [1]


def test_retention_follows_the_definition(store: Store) -> None:
    ensure(store, [model(retention="90d")])
    ensure(store, [model(retention="90d"), model(version="v2", retention="100d")])

    for table in (event_table("churn"), label_table("churn")):
        engine = store.query_rows(
            "SELECT engine_full FROM system.tables WHERE name = {n:String} AND database = currentDatabase()",
            {"n": table},
        )
        assert f"toIntervalSecond({100 * 86_400})" in engine[0][0]


def test_events_by_id_finds_own_events_and_panes_elsewhere(store: Store) -> None:
    first, second = model(), model(version="v2")
    ensure(store, [first, second])
    write_events(
        store,
        first,
        0,
        rows(first, RowKind.INFERENCE, [{"offset": i, "event_id": f"e{i}", "age": i} for i in range(5)]),
    )
    write_events(store, second, 0, rows(second, RowKind.INFERENCE, [{"offset": 9, "event_id": "e9", "age": 9}]))
    write_events(
        store, first, 4, rows(first, RowKind.INFERENCE, [{"offset": 1, "event_id": "far", "event_at": T0 + MINUTE + 5}])
    )
    write_labels(store, first, 0, rows(first, RowKind.LABEL, [{"offset": 6, "event_id": "e2", "churned": "yes"}]))

    found = events_by_id(store, [first, second], 0, ["e2", "e3", "e9", "far", "nobody"], 9)

    assert {name: table.column("age").to_pylist() for name, table in found.tables.items()} == {"v1": [2, 3], "v2": [9]}
    assert found.tables["v1"].column("churned").to_pylist() == ["yes", None]
    assert found.elsewhere == [RepairNeed(4, PaneKey("churn", "v1", T0 + MINUTE), 1)]
    assert found.elsewhere_ids == {"far"}
    assert events_by_id(store, [first, second], 0, pa.array(["e3", "e9"]), 2) == StoredEvents({}, [], frozenset())


def test_on_replicas_rows_are_written_with_the_quorum_and_read_where_all_of_them_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server ignores both settings: what can be seen here is that they are sent."""
    first = model()
    ensure(store, [first])
    monkeypatch.setattr(store, "quorum", "auto")
    sent: dict[str, list[Any]] = {"raw_insert": [], "raw_query": [], "raw_stream": [], "query": []}
    calls = {name: getattr(store._client, name) for name in sent}

    def watched(name: str, setting: str) -> Callable[..., Any]:
        def call(text: str, *given: Any, **named: Any) -> Any:
            if "system.columns" not in text:
                sent[name].append(named["settings"].get(setting))
            return calls[name](text, *given, **named)

        return call

    for name in sent:
        setting = "insert_quorum" if name == "raw_insert" else "select_sequential_consistency"
        monkeypatch.setattr(store._client, name, watched(name, setting))
    write_events(store, first, 0, rows(first, RowKind.INFERENCE, [{"offset": 1, "event_id": "a"}]))
    write_labels(store, first, 0, rows(first, RowKind.LABEL, [{"offset": 2, "event_id": "a"}]))
    write_dead_letters(
        store, [DeadLetter("DLQ001", "no", "inference-events", 2, 17, "0", None, b"{x", T0)], seen_at_ms=T0
    )
    list(read_pane(store, first, 0, T0, T0 + MINUTE, 9))
    recent_rows(store, first, 0, 9, 9)
    recent_ids(store, ["churn"], 0, 9, 9)
    events_by_id(store, [first], 0, ["a"], 9)
    labels_by_id(store, [first], 0, ["a"], 9)
    waiting_labels(store, [first], 0, 9, 9)
    labelled_elsewhere(store, [first], 0, 0)
    known_dead_letters(store, "inference-events")
    assert {name: set(seen) for name, seen in sent.items()} == {
        "raw_insert": {"auto"}, "raw_query": {"1"}, "raw_stream": {"1"}, "query": {"1"},
    }  # fmt: skip
    assert (len(sent["raw_insert"]), len(sent["query"])) == (3, 3)


def test_labels_of_other_partitions_events_are_found_whichever_was_written_first(store: Store) -> None:
    first, second = model(), model(version="v2")
    ensure(store, [first, second])
    written(
        store, first, 1, events=[{"offset": 3, "event_id": "a", "event_at": T0 + 5}, {"offset": 4, "event_id": "b"}]
    )
    written(store, second, 2, events=[{"offset": 8, "event_id": "c", "event_at": T0 + MINUTE}])
    written(store, first, 0, events=[{"offset": 1, "event_id": "mine"}, {"offset": 2, "event_id": "unlabelled"}])
    written(
        store,
        first,
        0,
        labels=[{"offset": o, "event_id": name} for o, name in [(5, "a"), (6, "c"), (7, "mine"), (8, "no")]],
    )
    of_a = RepairNeed(1, PaneKey("churn", "v1", T0), 3)
    of_c = RepairNeed(2, PaneKey("churn", "v2", T0 + MINUTE), 8)
    versions = [first, second]
    lately_ms = now_ms(store) - 3_600_000

    assert labelled_elsewhere(store, versions, 0, lately_ms) == [of_a, of_c]
    assert labelled_elsewhere(store, versions, 0, -1) == [of_a, of_c], "since ever"
    assert labelled_elsewhere(store, versions, 1, lately_ms) == []
    assert labelled_elsewhere(store, versions, 0, now_ms(store) + 3_600_000) == [], "nothing is written later than now"
    # as if the label, or the event, had been written long before: the other one is news
    for table in (label_table("churn"), event_table("churn")):
        store.command(
            f"ALTER TABLE {identifier(table)} UPDATE written_at = now() - INTERVAL 2 DAY WHERE 1",
            settings={"mutations_sync": 2},
        )
        found = labelled_elsewhere(store, versions, 0, lately_ms)
        assert found == ([of_a, of_c] if table == label_table("churn") else [])


def test_labels_by_id_and_waiting_labels(store: Store) -> None:
    definition = model()
    written(store, definition, 0, events=[{"offset": 1, "event_id": "here"}, {"offset": 50, "event_id": "later"}])
    written(store, definition, 1, events=[{"offset": 1, "event_id": "elsewhere"}])
    labels = [
        {"offset": 2, "event_id": "here", "churned": "x"}, {"offset": 3, "event_id": "later", "churned": "old"},
        {"offset": 4, "event_id": "later", "churned": "new"}, {"offset": 5, "event_id": "elsewhere"}, {"offset": 6, "event_id": "never"},
        {"offset": 40, "event_id": "beyond"},
    ]  # fmt: skip
    written(store, definition, 0, labels=labels)
    written(store, definition, 1, labels=[{"offset": 1, "event_id": "never", "churned": "far", "record_at": T0 + 100}])

    found = labels_by_id(store, [definition], 0, ["later", "never", "beyond"], 30)
    assert sorted(zip(found.column("event_id").to_pylist(), found.column("churned").to_pylist(), strict=True)) == [
        ("later", "new"), ("never", "far"),
    ]  # fmt: skip
    waiting = waiting_labels(store, [definition], 0, 30, 10)
    # the event of one of them is another partition's: whether its owner was told is not known after a takeover
    assert waiting.column("event_id").to_pylist() == ["later", "elsewhere", "never"]
    assert waiting.column("churned").to_pylist() == ["new", None, None]
    assert waiting_labels(store, [definition], 0, 30, 1).column("event_id").to_pylist() == ["never"]
    assert labels_by_id(store, [definition], 0, [], 30).schema == found.schema


def test_recent_ids_are_the_last_of_all_models_together(store: Store) -> None:
    first = model()
    second = ModelDefinition.model_validate(
        {"name": "other", "columns": [{"name": "x", "type": "int", "role": "input"}]}
    )
    written(store, first, 0, events=[{"offset": i, "event_id": f"a{i}", "duplicate": i == 8} for i in range(0, 20, 2)])
    written(store, second, 0, events=[{"offset": i, "event_id": f"b{i}"} for i in range(1, 20, 2)])

    found = recent_ids(store, ["churn", "other"], 0, 11, 6)

    assert found["churn"].column("event_id").to_pylist() == ["a6", "a8", "a10"]
    assert found["churn"].column("duplicate").to_pylist() == [False, True, False]
    assert found["other"].column("event_id").to_pylist() == ["b7", "b9", "b11"]
    assert found["other"].column("record_at").to_pylist() == [T0 + 7, T0 + 9, T0 + 11]
    assert recent_ids(store, ["churn"], 5, 11, 6) == {}


def test_recent_rows_are_the_last_counted_ones(store: Store) -> None:
    definition = model()
    events = [{"offset": i // 3, "row": i % 3, "event_id": f"e{i}", "age": i, "duplicate": i == 10} for i in range(20)]
    written(store, definition, 0, events=events, labels=[{"offset": 9, "event_id": "e11", "churned": "yes"}])

    found = recent_rows(store, definition, 0, 5, 8)

    assert found.column("age").to_pylist() == [9, 11, 12, 13, 14, 15, 16, 17]
    assert recent_rows(store, definition, 0, 9, 9).column("churned").to_pylist()[0] == "yes"
    assert recent_rows(store, definition, 3, 9, 9).num_rows == 0


def test_a_record_is_forgotten_with_all_its_rows_and_no_other(store: Store) -> None:
    definition = model()
    events = [{"offset": at, "row": row, "event_id": f"e{at}-{row}"} for at in (4, 5, 6) for row in (0, 1)]
    written(store, definition, 0, events=events, labels=[{"offset": 5, "event_id": "e4-0", "churned": "yes"}])
    written(store, definition, 1, events=events[2:4])

    forget_record(store, ["churn"], 0, 5)
    forget_record(store, ["churn"], 0, 99)

    assert view(store, "partition, offset, row, churned") == [
        (0, 4, 0, None), (0, 4, 1, None), (0, 6, 0, None), (0, 6, 1, None), (1, 5, 0, None), (1, 5, 1, None),
    ]  # fmt: skip
    assert pane(store, definition, 0, 9).column("offset").to_pylist() == [4, 4, 6, 6]


def test_dead_letters_are_seen_once(store: Store) -> None:
    letter = DeadLetter("DLQ001", "no JSON", "inference-events", 2, 17, "0", None, b"{x", T0)
    for seen in (T0, T0 + 5):
        write_dead_letters(store, [letter], seen_at_ms=seen)

    assert store.query_rows(
        "SELECT code, reason, origin, toUnixTimestamp64Milli(seen_at), value_bytes FROM dead_letters"
    ) == [("DLQ001", "no JSON", "inference-events[2]@17", T0 + 5, 2)]
    assert known_dead_letters(store, "inference-events") == {(2, 17)}


def test_several_processes_may_make_tables_at_once(store_process: StoreProcess, store: Store) -> None:
    database = store.name.rsplit("/", 1)[1]
    first, second = model(), model(version="v2", columns=[{"name": f"c{i}", "type": "float"} for i in range(30)])
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    def work(number: int) -> None:
        try:
            with store_process.connect(database) as client:
                start.wait()
                ensure(client, [first, second] if number % 2 else [second])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    # one that knew fewer versions takes nothing away, however late it comes
    ensure(store, [second])
    assert {"age", "churned", "c0", "c29"} <= {
        row[0] for row in store.query_rows(f"DESCRIBE TABLE {event_view('churn')}")
    }


def test_an_event_s_labels_in_three_partitions(store: Store) -> None:
    definition = model()
    written(store, definition, 1, events=[{"offset": 1, "event_id": "a"}, {"offset": 2, "event_id": "b"}])
    for partition, at in ((0, 100), (1, 100), (2, 100)):
        labels = [{"offset": 9, "event_id": "a", "churned": f"p{partition}", "record_at": T0 + at}]
        if partition != 1:
            labels.append({"offset": 10, "event_id": "b", "churned": f"p{partition}", "record_at": T0 + at})
        written(store, definition, partition, labels=labels)

    # at a tie the event's own partition's label stands, and between others that of the highest partition
    assert view(store, "event_id, churned") == [("a", "p1"), ("b", "p2")]
    assert pane(store, definition, 1, upto=99).column("churned").to_pylist() == ["p1", "p2"]
    found = labels_by_id(store, [definition], 1, ["a", "b"], 99)
    assert dict(zip(found.column("event_id").to_pylist(), found.column("churned").to_pylist(), strict=True)) == {
        "a": "p1",
        "b": "p2",
    }
