"""What deletions ask of the real store, without workers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.stored_history import written

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ModelDefinition
from fqlstream.ops import deleting, topics
from fqlstream.settings import Settings
from fqlstream.store import deletions
from fqlstream.store.client import Store

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
