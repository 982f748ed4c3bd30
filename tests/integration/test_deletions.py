"""What deletions ask of the real store, without workers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.stored_history import written
from tests.waiting import wait_until

from fqlstream.clock import SystemClock
from fqlstream.errors import StoreError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition
from fqlstream.ops import deleting, topics
from fqlstream.settings import Settings
from fqlstream.store import deletions, repairs
from fqlstream.store.client import Store
from fqlstream.store.naming import event_table, identifier, label_table
from fqlstream.stream.protocol import PaneKey, RepairNeed

MODEL = ModelDefinition.model_validate(
    {"name": "gone", "columns": [{"name": "x", "type": "float"}, {"name": "y", "type": "float", "role": "target"}]}
)
ENTRY = Catalogue().with_definition(MODEL).models["gone"]
#: Nobody listens there.
AWAY = Settings().kafka.model_copy(update={"bootstrap": "127.0.0.1:1"})


def write(store: Store, partition: int = 0) -> None:
    events = [{"offset": number, "event_id": f"e{number}", "x": 1.0} for number in range(10)]
    labels = [{"offset": 10, "event_id": "e1", "y": 1.0}, {"offset": 11, "event_id": "waits", "y": 1.0}]
    written(store, MODEL, partition, events=events, labels=labels)


def note(store: Store, *ids: str) -> None:
    deletions.add_ids(store, "gone", ids, deleted_at_ms=1_000, kept_until_ms=deletions.KEPT_UNTIL_MAX_MS)


def asked(monkeypatch: pytest.MonkeyPatch, store: Store, kept_ms: int | None, *ids: str) -> deleting.Deletion:
    monkeypatch.setattr(deleting, "longest_kept_ms", lambda *_: kept_ms)
    return deleting.ask(Settings(), store, ENTRY, ids)


def test_a_source_topic_that_keeps_its_records_for_ever_makes_ids_known_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that comes back after ninety days would be counted again."""
    asked(monkeypatch, store, None, "a")
    (until,) = store.query_rows("SELECT kept_until FROM deleted_ids")[0]
    assert until.replace(tzinfo=UTC) == datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)
    store.command("OPTIMIZE TABLE deleted_ids FINAL")
    assert len(deletions.read_ids(store, "gone")) == 1
    asked(monkeypatch, store, 400 * 86_400_000, "b")
    ((until,),) = store.query_rows("SELECT min(kept_until) FROM deleted_ids")
    assert 399 <= (until.replace(tzinfo=UTC) - datetime.now(UTC)).days < 401


def test_ids_without_rows_are_told_from_those_that_have_some(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, 0)
    write(store, 1)
    deletion = asked(monkeypatch, store, 1, "e1", "e2", "waits", "E3", " e4")
    assert (deletion.ids, deletion.matches) == (5, deletions.Matches(events=4, labels=4, ids=3))


def test_a_list_of_ids_may_begin_with_the_mark_of_some_editors(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffé\r\nb\n".encode())
    assert deleting.read_ids_file(path) == ["é", "b"]
    path.write_bytes("\ufeff".encode())
    assert deleting.read_ids_file(path) == []


def test_a_kafka_that_went_away_meanwhile_does_not_make_a_deletion_fail(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "REQUEST_S", 1.0)
    write(store)
    note(store, "e1")
    deletion = deleting.Deletion("gone", 1, deletions.count_rows(store, "gone"), ())
    rest = deleting.elsewhere(AWAY, store, "gone", deletion)
    assert rest.files_until is not None
    assert rest == replace(rest, kafka_answered=False, source_until=None, dead_letters=None, dead_letters_until=None)


# -- what ClickHouse writes anew -----------------------------------------------------------------------------------------


EVENTS = identifier(event_table("gone"))


def is_done(store: Store, rewrites: Sequence[deletions.Rewrite]) -> bool:
    return deletions.rewriting(store, rewrites).is_done


def test_only_what_was_begun_here_is_waited_for(store: Store) -> None:
    write(store)
    note(store, "e1", "e2", "waits")
    begun = deletions.delete_rows(store, "gone", 0)
    wait_until(lambda: is_done(store, begun), "the deletion")
    assert deletions.count_rows(store, "gone") == deletions.Matches(0, 0, 0)
    assert deletions.delete_rows(store, "gone", 0) == [], "nothing is left to rewrite"
    store.command(f"ALTER TABLE {EVENTS} DELETE WHERE throwIf(offset = 5)", settings={"mutations_sync": 0})
    failing = "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND latest_fail_reason != ''"
    wait_until(lambda: store.query_rows(failing)[0][0], "somebody else's deletion to fail")
    assert is_done(store, begun)
    assert deletions.refusal(store, "gone") is None
    store.command("KILL MUTATION WHERE database = currentDatabase() SYNC")


def test_why_a_deletion_fails_is_said_until_it_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store)
    note(store, "e1")
    (request,) = deletions.request(store, "gone", [0], requested_at_ms=1)
    store.command(f"SYSTEM STOP MERGES {EVENTS}")
    begun = deletions.delete_rows(store, "gone", 0)
    assert deletions.rewriting(store, begun) == deletions.Rewriting(False, None)
    store.command("RENAME TABLE deleted_ids TO elsewhere")
    store.command(f"SYSTEM START MERGES {EVENTS}")
    wait_until(lambda: deletions.rewriting(store, begun).refusal, "the deletion to fail")
    assert deletions.refusal(store, "gone", 0) is not None
    assert deletions.refusal(store, "gone", 1) is None
    assert deletions.refusal(store, "another", 0) is None
    asked_of_it = deleting.Deletion("gone", 1, deletions.Matches(0, 0, 0), (request,))
    monkeypatch.setattr(deletions, "progress", lambda *_: ())
    with pytest.raises(
        StoreError, match=r"1 of 1 partitions still hold the events: rows of .* cannot be deleted"
    ) as caught:
        deleting.await_done(store, asked_of_it, lambda *_: None, stall_s=0.3)
    assert caught.value.code == "STO060"
    store.command("RENAME TABLE elsewhere TO deleted_ids")
    wait_until(lambda: is_done(store, begun), "the deletion")


def test_a_deletion_that_somebody_killed_is_no_more_waited_for(store: Store) -> None:
    write(store)
    note(store, "e1")
    store.command(f"SYSTEM STOP MERGES {EVENTS}")
    begun = deletions.delete_rows(store, "gone", 0)
    store.command("KILL MUTATION WHERE database = currentDatabase()")
    wait_until(lambda: deletions.rewriting(store, begun).refusal, "the end of it to be seen")
    store.command(f"SYSTEM START MERGES {EVENTS}")


def test_work_of_clickhouse_and_of_owners_is_no_standstill(store: Store) -> None:
    write(store)
    note(store, "e1")
    waiting = deletions.request(store, "gone", [0], requested_at_ms=1)
    work = [lambda: deletions.delete_rows(store, "gone", 0)]
    work += [lambda: repairs.request(store, [RepairNeed(0, PaneKey("gone", "v1", 0))], "a test", requested_at_ms=1)] * 7
    work += [lambda: deletions.finish(store, waiting, finished_at_ms=2)]
    seen: list[int] = []

    def progress(done: int, _: int) -> None:
        seen.append(done)
        work[min(len(seen), len(work)) - 1]()

    asked_of_it = deleting.Deletion("gone", 1, deletions.Matches(0, 0, 0), tuple(waiting))
    begin_s = time.monotonic()
    deleting.await_done(store, asked_of_it, progress, stall_s=1.0)
    assert time.monotonic() - begin_s > 1.5, "longer than a standstill may be"
    assert seen[-1] == 1


def test_on_replicas_reads_see_what_was_written_with_the_quorum_and_a_look_decides_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server ignores both settings: what can be seen here is that they are sent."""
    write(store)
    monkeypatch.setattr(store, "quorum", "auto")
    sent: list[Any] = []
    ask = store.query_arrow

    def asked_with(sql: str, parameters: Any = None, settings: Any = None) -> pa.Table:
        sent.append((settings or {}).get("select_sequential_consistency"))
        return ask(sql, parameters, settings)

    monkeypatch.setattr(store, "query_arrow", asked_with)
    deletions.has_rows(store, "gone", 0, 0)
    deletions.held_panes(store, [MODEL], 0)
    deletions.count_rows(store, "gone")
    assert sent == [1] * 4
    begun = deletions.delete_rows(store, "gone", 0) + deletions.delete_older_states(store, "gone", 0)
    assert [rewrite.table for rewrite in begun] == [event_table("gone"), label_table("gone"), "states"]
    wait_until(lambda: is_done(store, begun), "deletions of nothing")


# -- searches ------------------------------------------------------------------------------------------------------------


def test_how_far_a_partition_was_searched_outlives_its_owners(store: Store) -> None:
    assert deletions.searched_until(store, 3) is None
    deletions.note_search(store, 3, 2_000)
    deletions.note_search(store, 3, 1_500)
    deletions.note_search(store, 4, 9_000)
    assert deletions.searched_until(store, 3) == 2_000
    assert abs(deletions.now_ms(store) - SystemClock().now_ms()) < 60_000
