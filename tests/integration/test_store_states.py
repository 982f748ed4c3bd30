"""The protocol's rows, values and repair requests on the real store."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from tests.store_process import StoreProcess

from fqlstream.errors import StoreError, UsageError
from fqlstream.fql.plan import Lane
from fqlstream.settings import StoreSettings
from fqlstream.store import history, migrations, repairs, states, values
from fqlstream.store.client import Store
from fqlstream.store.values import ValueFilter
from fqlstream.stream.batches import DeadLetter
from fqlstream.stream.protocol import (
    FlushRow,
    MetricValue,
    PaneKey,
    Published,
    RepairNeed,
    StateRecord,
    Suspicion,
    Version,
)

T0 = 1_795_000_000_000 // 60_000 * 60_000
MINUTE = 60_000
KEEP = {"churn": 90 * 86_400_000, "other": 1_000}


def flush(epoch: int, number: int, owner: str = "a", partition: int = 0, **changes: object) -> FlushRow:
    row = FlushRow(
        "inference-events", partition, Version(epoch, number), owner, "topic-id", {Lane.EVENTS: 41, Lane.LABELS: -1},
        {Lane.EVENTS: {"churn": T0, "ünï": -5}, Lane.LABELS: {}}, frozenset({"other", "*"}),
        (PaneKey("churn", "v1", T0), PaneKey("churn", "v2", T0 + MINUTE)), T0 + 7, {"late": 3}, {"churn": "digest"},
    )  # fmt: skip
    return replace(row, **changes)


def state(
    version: Version,
    pane: int = 0,
    partition: int = 0,
    lane: Lane = Lane.EVENTS,
    cells: bytes = b"x",
    model: str = "churn",
) -> StateRecord:
    return StateRecord(PaneKey(model, "v1", T0 + pane * MINUTE), partition, lane, version, version.flush, cells)


def value(**changes: object) -> MetricValue:
    found = MetricValue("churn", "all", "cost", "", T0, T0 + 3_600_000, 1.5, 10, 4, True, None, "early", 5, 1, T0)
    return replace(found, **changes)


# ---- flush rows ----------------------------------------------------------------------------------------------------


def test_a_flush_row_comes_back_whole(store: Store) -> None:
    assert states.newest_flush(store, "inference-events", 0) is None
    states.write_flush(store, flush(3, 9))
    assert states.newest_flush(store, "inference-events", 0) == flush(3, 9)
    bare = FlushRow("t", 1, Version(1, 0), "o", "", {}, {})
    states.write_flush(store, bare)
    assert states.newest_flush(store, "t", 1) == bare
    tried = flush(3, 10, suspicion=Suspicion(2, (42, 99), (50, 54), has_left=True))
    states.write_flush(store, tried)
    assert states.newest_flush(store, "inference-events", 0) == tried


def test_the_newest_flush_has_the_highest_version_whatever_order_it_was_written_in(store: Store) -> None:
    for epoch, number in ((2, 7), (3, 1), (3, 2), (2, 900), (1, 5)):
        states.write_flush(store, flush(epoch, number, owner=f"o{epoch}"))
    states.write_flush(store, flush(1, 1, partition=1))
    states.write_flush(store, flush(9, 9, topic="another"))

    assert states.newest_flush(store, "inference-events", 0) == flush(3, 2, owner="o3")
    assert states.newest_flushes(store, "inference-events") == [flush(3, 2, owner="o3"), flush(1, 1, partition=1)]


def test_rivals_are_told_apart_the_same_way_by_everyone(store: Store) -> None:
    for owner in ("b", "c", "a"):
        states.write_flush(store, flush(4, 0, owner=owner))

    newest = states.newest_flush(store, "inference-events", 0)
    assert newest is not None
    assert newest.owner == "c"
    assert states.newest_flushes(store, "inference-events") == [newest]
    states.write_flush(store, flush(5, 0, owner="a"))
    assert states.claims(store, "inference-events", 0, 4) == {"a": 5, "b": 4, "c": 4}
    assert states.claims(store, "inference-events", 0, 5) == {"a": 5}


def test_flush_rows_of_one_owner_are_merged_to_the_last(store: Store) -> None:
    for number in range(20):
        states.write_flush(store, flush(1, number))
    store.command("OPTIMIZE TABLE flushes FINAL")

    assert store.query_rows("SELECT epoch, flush, panes[1].model, watermarks['events']['churn'] FROM flushes") == [
        (1, 19, "churn", T0)
    ]


# ---- states --------------------------------------------------------------------------------------------------------


def test_the_newest_state_wins_whatever_order_it_was_written_in(store: Store) -> None:
    written = [
        state(Version(2, 1), cells=b"new"), state(Version(1, 999), cells=b"old"), state(Version(2, 0), cells=b"older"),
        state(Version(2, 1), lane=Lane.LABELS, cells=b"\x00\xff labels"), state(Version(1, 1), pane=1, cells=b""),
        state(Version(7, 1), partition=1, cells=b"else"),
    ]  # fmt: skip
    for record in written:
        states.write_states(store, [record], retention_ms=KEEP)
    keys = [PaneKey("churn", "v1", T0), PaneKey("churn", "v1", T0 + MINUTE), PaneKey("churn", "v1", T0 + 9 * MINUTE)]

    expected = [written[0], written[3], written[4]]
    assert states.read_states(store, 0, keys) == expected
    assert states.read_records(store, keys) == sorted(
        [*expected, written[5]], key=lambda r: (r.pane, r.partition, r.lane)
    )
    assert states.read_range(store, "churn", "v1", T0, T0 + MINUTE, [1]) == [written[5]]
    assert states.read_range(store, "churn", None, T0 + MINUTE, T0 + 2 * MINUTE) == [written[4]]
    assert states.read_states(store, 0, []) == []


def test_many_keys_are_read_in_parts(store: Store) -> None:
    records = [state(Version(1, 1), pane=pane, cells=str(pane).encode()) for pane in range(5_000)]
    states.write_states(store, records, retention_ms=KEEP)

    found = states.read_states(store, 0, [record.pane for record in records[::2]])

    assert found == records[::2]


def test_panes_are_named(store: Store) -> None:
    records = [
        state(Version(1, 5), pane=3),
        state(Version(1, 6), pane=1, partition=1),
        state(Version(2, 0), pane=2),
        state(Version(1, 1), model="other"),
    ]
    states.write_states(store, [*records, *records], retention_ms=KEEP)

    def panes(*numbers: int) -> list[PaneKey]:
        return [PaneKey("churn", "v1", T0 + number * MINUTE) for number in numbers]

    assert states.pane_keys(store, 0, "churn", "v1", T0) == panes(2, 3)
    assert states.pane_keys(store, 0, "churn", "v1", T0 + 3 * MINUTE) == panes(3)
    assert states.pane_starts(store, "churn", "v1", T0, T0 + 3 * MINUTE) == [T0 + MINUTE, T0 + 2 * MINUTE]
    assert states.changed_panes(store, "churn", {}) == panes(1, 2, 3)
    assert states.changed_panes(store, "churn", {0: Version(1, 5).number, 1: Version(1, 6).number}) == panes(2)
    assert states.changed_panes(store, "churn", {0: Version(2, 0).number}) == panes(1)
    assert states.changed_panes(store, "churn", {0: -1, 1: Version(1, 6).number}) == panes(2, 3)


def test_panes_written_ahead_of_a_fence_are_named(store: Store) -> None:
    states.write_states(
        store,
        [
            state(Version(1, 5)),  # the fences of these records are their flush numbers
            state(Version(1, 9), pane=1),
            state(Version(1, 9), pane=1, lane=Lane.LABELS),
            state(Version(1, 10), pane=2, model="other"),
            state(Version(1, 10), pane=3, partition=1),
        ],
        retention_ms=KEEP,
    )
    ahead = [PaneKey("churn", "v1", T0 + MINUTE), PaneKey("other", "v1", T0 + 2 * MINUTE)]
    assert states.panes_beyond(store, 0, 8) == ahead
    assert states.panes_beyond(store, 0, 10) == []


def test_who_got_past_a_record_has_survived_it_and_who_set_it_aside_has_not(store: Store) -> None:
    alive = flush(3, 2, fences={Lane.EVENTS: 9, Lane.LABELS: 7})
    states.write_flushes(store, [alive, flush(4, 0, "heir", fences={Lane.EVENTS: 5, Lane.LABELS: 5})])
    assert states.was_survived(store, "inference-events", 0, 7, 3)
    assert not states.was_survived(store, "inference-events", 0, 7, 4), "not by an owner that came later"
    assert not states.was_survived(store, "inference-events", 0, 8, 0), "one lane has not reached it"
    assert not states.was_survived(store, "inference-events", 1, 7, 0)
    letter = DeadLetter("DLQ019", "two workers ended", "inference-events", 0, 7, "0", None, b"x", T0)
    history.write_dead_letters(store, [replace(letter, code="DLQ001", offset=6)], seen_at_ms=T0)
    assert states.was_survived(store, "inference-events", 0, 6, 0)
    history.write_dead_letters(store, [letter], seen_at_ms=T0)
    assert not states.was_survived(store, "inference-events", 0, 7, 0)


def test_states_go_when_their_time_is_over(store: Store) -> None:
    states.write_states(store, [state(Version(1, 1)), state(Version(1, 1), model="other")], retention_ms=KEEP)

    rows = store.query_rows(
        "SELECT model, dateDiff('second', written_at, written_at + toIntervalSecond(retention_s)) FROM states ORDER BY model"
    )
    assert rows == [("churn", 90 * 86_400), ("other", 1)]


def test_what_was_published_is_remembered(store: Store) -> None:
    assert states.read_published(store, "churn") is None
    newest = {0: Version(1, 5).number, 3: 2}
    states.write_published(store, "churn", Published(newest, T0, "d1"), T0)
    states.write_published(store, "churn", Published({0: Version(1, 4).number, 3: 2}, T0 + 5, "d0"), T0 + 9)
    assert states.read_published(store, "churn") == Published(newest, T0 + 5, "d1")
    states.write_published(store, "churn", Published(newest, None, "d2"), T0 + 10)
    assert states.read_published(store, "churn") == Published(newest, T0 + 5, "d2")


# ---- values --------------------------------------------------------------------------------------------------------


def test_the_newest_value_wins_and_null_is_a_value(store: Store) -> None:
    written = [
        value(value_version=5, value=1.0, updated_at_ms=T0 + 1), value(value_version=6, value=None, status="final"),
        value(value_version=4, value=9.0, updated_at_ms=T0 + 9), value(value_version=6, value=3.0, updated_at_ms=T0 - 1),
        value(metric="other", value=math.nan, exact=False, error_bound=0.0133),
    ]  # fmt: skip
    for item in written:
        values.write_values(store, [item], retention_ms=10**9)
    for _ in range(2):
        series = values.values_of(values.read_series(store, ValueFilter("churn", metric="cost")))
        assert series == [written[1]]
        assert values.values_of(values.read_latest(store, ValueFilter("churn", metric="cost"))) == [written[1]]
        store.command("OPTIMIZE TABLE metric_values FINAL")
    other = values.values_of(values.read_series(store, ValueFilter("churn", metric="other")))[0]
    assert (other.value is not None and math.isnan(other.value), other.exact, other.error_bound) == (
        True,
        False,
        0.0133,
    )


def test_views_show_the_contract_s_columns(store: Store) -> None:
    expected = [
        "model", "version", "metric", "segment", "window_start", "window_end", "window_s", "value", "rows", "labelled_rows", "exact",
        "error_bound", "status", "value_version", "definition_revision", "updated_at",
    ]  # fmt: skip
    for view in ("metric_series", "metric_latest"):
        assert [row[0] for row in store.query_rows(f"DESCRIBE TABLE {view}")] == expected
        assert store.query_rows(f"SELECT toTypeName(status) FROM {view} LIMIT 0") == []
    assert values.read_series(store, ValueFilter("churn")).column_names == expected
    columns = [row[0] for row in store.query_rows("DESCRIBE TABLE metric_values")]
    assert columns[: len(expected)] == expected


def test_values_are_found_by_window_and_time(store: Store) -> None:
    hours = [
        value(
            window_start_ms=T0 + i * 3_600_000,
            window_end_ms=T0 + (i + 1) * 3_600_000,
            rows=i,
            status="final" if i < 2 else "early",
        )
        for i in range(4)
    ]
    day = value(window_start_ms=T0, window_end_ms=T0 + 86_400_000, rows=99)
    values.write_values(
        store, [*hours, day, replace(hours[0], segment="seniors"), replace(hours[0], model="other")], retention_ms=10**9
    )

    def rows(**wanted: object) -> list[int]:
        return values.read_series(store, ValueFilter("churn", segment="", **wanted)).column("rows").to_pylist()

    assert rows(window_s=3_600) == [0, 1, 2, 3]
    assert rows(window_s=86_400) == [99]
    assert rows(window_s=3_600, from_ms=T0 + 3_600_000, to_ms=T0 + 3 * 3_600_000) == [1, 2]
    assert rows(window_s=3_600, rows_max=2) == [2, 3]
    latest = values.read_latest(store, ValueFilter("churn", segment=""))
    assert sorted(zip(latest.column("window_s").to_pylist(), latest.column("rows").to_pylist(), strict=True)) == [
        (3_600, 3),
        (86_400, 99),
    ]
    assert values.open_windows(store, "churn") == [
        (T0, T0 + 86_400_000),
        *((h.window_start_ms, h.window_end_ms) for h in hours[2:]),
    ]
    asked = [(hours[1].window_start_ms, hours[1].window_end_ms), (T0, T0 + 86_400_000), (T0 + 5, T0 + 6)]
    assert sorted(values.latest_of_windows(store, "churn", asked), key=lambda v: v.rows) == [hours[1], day]
    assert values.latest_of_windows(store, "churn", []) == []


def test_the_highest_claim_says_who_publishes(store: Store) -> None:
    assert states.finalisers(store, "churn") == {}
    states.claim_finaliser(store, "churn", 1, "a", T0)
    states.claim_finaliser(store, "other", 7, "x", T0)
    assert states.finalisers(store, "churn") == {"a": 1}
    states.claim_finaliser(store, "churn", 2, "b", T0 + 1)
    states.claim_finaliser(store, "churn", 2, "c", T0 + 1)
    assert states.finalisers(store, "churn") == {"b": 2, "c": 2}  # rivals: each sees the other
    states.claim_finaliser(store, "churn", 3, "c", T0 + 2)
    assert states.finalisers(store, "churn") == {"c": 3}


# ---- repairs -------------------------------------------------------------------------------------------------------


def test_a_repair_is_asked_for_taken_and_finished(store: Store) -> None:
    panes = [PaneKey("churn", "v1", T0), PaneKey("churn", "v1", T0 + MINUTE)]
    repairs.request(
        store,
        [RepairNeed(*need) for need in [(0, panes[0]), (0, panes[1], 7), (1, panes[0]), (0, panes[0])]],
        "a label came",
        requested_at_ms=T0,
    )

    waiting = repairs.poll(store, 0)
    assert [(r.pane, r.partition, r.reason, r.applied_offset) for r in waiting] == [
        (panes[0], 0, "a label came", -1),
        (panes[1], 0, "a label came", 7),
    ]
    assert repairs.poll(store, 0, 7) == waiting[:1], "offset 7 is not applied yet"
    assert repairs.poll(store, 0, 8) == waiting
    repairs.finish(store, waiting[:1], finished_at_ms=T0 + 5)
    assert repairs.poll(store, 0) == waiting[1:]
    # what is asked for while a repair runs is another request
    repairs.request(store, [RepairNeed(0, panes[0])], "another", requested_at_ms=T0 + 3)
    repairs.finish(store, waiting, finished_at_ms=T0 + 9)
    assert [(r.pane, r.reason) for r in repairs.poll(store, 0)] == [(panes[0], "another")]
    store.command("OPTIMIZE TABLE repair_requests FINAL")
    assert len(repairs.poll(store, 0)) == 1
    assert len(repairs.poll(store, 1)) == 1


# ---- migrations ----------------------------------------------------------------------------------------------------


@pytest.fixture
def empty(store_process: StoreProcess, store: Store) -> Store:
    """A client of the test's database without any table of ours."""
    for (name,) in store.query_rows("SELECT name FROM system.tables WHERE database = currentDatabase()"):
        store.command(f"DROP TABLE {name}")
    return store


def test_migrations_are_applied_once_in_order(empty: Store) -> None:
    names = [migration.name for migration in migrations.load()]

    assert migrations.pending(empty) == names
    assert migrations.apply(empty) == names
    assert migrations.pending(empty) == []
    assert migrations.apply(empty) == []


def test_two_processes_may_migrate_at_once(store_process: StoreProcess, empty: Store) -> None:
    database = empty.name.rsplit("/", 1)[1]
    clients = [store_process.connect(database) for _ in range(4)]
    failures: list[Exception] = []
    start = threading.Barrier(4)

    def work(client: Store) -> None:
        start.wait()
        try:
            migrations.apply(client)
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for client in clients:
        client.close()

    assert failures == []
    assert migrations.pending(empty) == []
    assert values.read_series(empty, ValueFilter("churn")).num_rows == 0


def test_an_applied_file_never_changes(empty: Store, tmp_path: Path) -> None:
    file = tmp_path / "001_first.sql"
    file.write_text("CREATE TABLE IF NOT EXISTS one (a Int8) ENGINE = Memory;\n-- a comment; with a semicolon;\n")
    assert migrations.apply(empty, tmp_path) == ["001_first.sql"]
    (tmp_path / "002_second.sql").write_text("CREATE TABLE IF NOT EXISTS two (a String DEFAULT 'x;y') ENGINE = Memory;")
    assert migrations.pending(empty, tmp_path) == ["002_second.sql"]
    assert migrations.apply(empty, tmp_path) == ["002_second.sql"]

    file.write_text("CREATE TABLE IF NOT EXISTS one (b Int8) ENGINE = Memory;")
    with pytest.raises(StoreError, match="STO020"):
        migrations.apply(empty, tmp_path)


# ---- the client ----------------------------------------------------------------------------------------------------


def test_errors_keep_clickhouse_s_words(store_process: StoreProcess, store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store.query_arrow("SELECT nope")
    assert (caught.value.code, caught.value.retryable) == ("STO002", False)
    assert "Code: 47. DB::Exception" in caught.value.message
    with pytest.raises(StoreError) as caught:
        list(store.stream_arrow("SELECT throwIf(number = 4000000) FROM numbers(5000000)"))
    assert "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO" in caught.value.message
    with pytest.raises(StoreError) as caught:
        b"".join(store.stream_bytes("SELECT throwIf(number = 4000000) FROM numbers(5000000)", "TSV"))
    assert "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO" in caught.value.message
    with pytest.raises(StoreError) as caught:
        store.query_rows("SELECT sleep(3) SETTINGS max_execution_time = 0.1, timeout_overflow_mode = 'throw'")
    assert caught.value.retryable


def test_what_does_not_answer_may_answer_later(store_process: StoreProcess) -> None:
    with pytest.raises(StoreError) as caught:
        Store.connect(StoreSettings(), url="http://127.0.0.1:1")
    assert (caught.value.code, caught.value.retryable) == ("STO001", True)
    with pytest.raises(StoreError) as caught:
        Store.connect(StoreSettings(), url=store_process.url, key="wrong")
    assert (caught.value.code, caught.value.retryable) == ("STO003", False)
    with pytest.raises(UsageError, match="STO004"):
        Store.connect(StoreSettings())
    with pytest.raises(UsageError, match="STO005"):
        Store.connect(StoreSettings(), url="localhost:8123")


@pytest.mark.parametrize("suffix", ["", "?compression=lz4"])
def test_arrow_goes_in_and_comes_back(store_process: StoreProcess, store: Store, suffix: str) -> None:
    store.command(
        "CREATE TABLE t (`a b` Int64, s LowCardinality(String), d Int8 DEFAULT 7) ENGINE = MergeTree ORDER BY `a b`"
    )
    url = f"{store_process.url}/{store.name.rsplit('/', 1)[1]}{suffix}"
    chunks = [
        pa.table({"s": pa.array([f"s{i % 3}"] * 10).dictionary_encode(), "a b": range(i * 10, i * 10 + 10)})
        for i in range(5)
    ]
    with Store.connect(StoreSettings(), url=url, key=store_process.key) as client:
        client.insert_arrow("t", pa.concat_tables(chunks))
        client.insert_arrow("t", chunks[0].slice(0, 0))

        found = client.query_arrow("SELECT * FROM t ORDER BY `a b`")
        streamed = pa.Table.from_batches(list(client.stream_arrow("SELECT * FROM t ORDER BY `a b`")))

    assert found.equals(streamed)
    assert found.column("a b").to_pylist() == list(range(50))
    assert found.column("s").to_pylist() == [f"s{i // 10 % 3}" for i in range(50)]
    assert set(found.column("d").to_pylist()) == {7}
    assert found.schema.field("s").type == pa.string()


def test_one_client_serves_many_threads(store: Store) -> None:
    store.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    failures: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for i in range(10):
                store.insert_arrow("t", pa.table({"a": [who * 100 + i]}))
                assert store.query_rows("SELECT count() FROM t WHERE intDiv(a, 100) = {w:Int64}", {"w": who}) == [
                    (i + 1,)
                ]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert store.query_rows("SELECT count() FROM t") == [(120,)]
