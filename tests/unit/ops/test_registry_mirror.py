"""The copy of the registry: what is written of the records that were heard, whoever wrote before."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from fqlstream.errors import StoreError
from fqlstream.ops import registry_mirror
from fqlstream.ops.definition_log import Record
from fqlstream.ops.registry_mirror import RegistryMirror


class Store:
    """A table that keeps the newest row of each key, and may be away."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.inserts: list[int] = []
        self.away_after = 1_000
        self.refuses: frozenset[str] = frozenset()
        self.refuses_with = "STO002"

    def query_rows(self, _sql: str) -> list[tuple[int]]:
        return [(max(row["position"] for row in self.rows.values()),)] if self.rows else []

    def quorum_write(self) -> dict[str, object]:
        return {}

    def insert_arrow(self, table: str, data: pa.Table, _settings: object) -> None:
        assert table == "registry_rows"
        if len(self.inserts) >= self.away_after:
            raise StoreError("STO003", "away", retryable=True)
        if not self.refuses.isdisjoint(data.column("name").to_pylist()):
            raise StoreError(self.refuses_with, "cannot be")
        self.inserts.append(len(data))
        for row in data.to_pylist():
            known = self.rows.get((row["kind"], row["name"]))
            if known is None or known["position"] < row["position"]:
                self.rows[row["kind"], row["name"]] = row

    def standing(self) -> dict[str, int]:
        return {name: row["position"] for (_, name), row in self.rows.items() if row["definition"]}


def execution(name: str, offset: int, **more: Any) -> Record:
    value = json.dumps({"kind": "execution", "name": name, "pipeline": "train", **more}).encode()
    return Record(f"execution/{name}".encode(), value, {"first_at": b"1000"}, offset, 2_000 + offset)


def deleted(name: str, offset: int) -> Record:
    return Record(f"execution/{name}".encode(), None, {}, offset, 2_000 + offset)


def test_what_stands_is_written_as_it_was_and_what_is_none_is_not() -> None:
    store: Any = Store()
    mirror = RegistryMirror()
    mirror.hear([
        execution("a", 3), execution("b", 4), deleted("b", 9), Record(b"execution/c", b"{", {}, 5, 0), Record(None, b"x", {}, 6, 0),
        Record(b"metric/m/recall", b"{}", {}, 7, 0), Record(b"sequence/job", b"7", {}, 8, 0),
    ])  # fmt: skip
    assert mirror.waits
    assert mirror.write(store) == 2
    assert not mirror.waits
    row = store.rows["execution", "a"]
    assert (json.loads(row["definition"])["pipeline"], row["position"]) == ("train", 3)
    assert [int(row[name].timestamp() * 1000) for name in ("created_at", "changed_at")] == [1_000, 2_003]
    assert store.standing() == {"a": 3}
    assert mirror.write(store) == 0


def test_only_what_the_copy_lacks_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_mirror, "_ROWS_MAX", 2)
    store: Any = Store()
    log = [execution(f"e{n}", n) for n in range(5)]
    first = RegistryMirror()
    first.hear(log)
    store.away_after = 2
    with pytest.raises(StoreError):
        first.write(store)
    assert (store.standing().keys(), first.waits) == ({"e0", "e1", "e2", "e3"}, True)
    store.away_after = 1_000
    other = RegistryMirror()
    other.hear([*log, execution("e0", 5, deployment="nightly")])
    assert other.write(store) == 2, "what the first one has not written, and what has changed"
    assert first.write(store) == 1, "it does not know that; the row is the same"
    assert store.standing() == {"e0": 5, "e1": 1, "e2": 2, "e3": 3, "e4": 4}
    first.hear([execution("e1", 6), execution("e1", 7)])
    assert first.write(store) == 1
    assert store.standing()["e1"] == 7


@pytest.mark.parametrize("text", ["9999999999999999999", "10413792000000", "9" * 19])
def test_a_time_that_is_none_is_that_of_the_record(text: str) -> None:
    store: Any = Store()
    mirror = RegistryMirror()
    odd = execution("odd", 1)
    mirror.hear([
        Record(odd.key, odd.value, {"first_at": text.encode()}, 1, 2_001), execution("good", 2),
        Record(b"execution/late", execution("late", 3).value, {}, 3, 2**62),
    ])  # fmt: skip
    assert mirror.write(store) == 3
    made = {name: int(row["created_at"].timestamp() * 1000) for (_, name), row in store.rows.items()}
    assert made == {"odd": 2_001, "good": 1_000, "late": 10_413_791_999_999}


def test_rows_that_are_refused_for_good_are_left_out_and_not_what_came_with_them() -> None:
    store: Any = Store()
    store.refuses = frozenset({"e3", "e6"})
    mirror = RegistryMirror()
    mirror.hear([execution(f"e{n}", n) for n in range(9)])
    assert mirror.write(store) == 9
    assert not mirror.waits
    assert store.standing().keys() == {f"e{n}" for n in range(9)} - store.refuses


@pytest.mark.parametrize(("count", "code"), [(1, "STO002"), (4, "STO002"), (100, "STO002"), (100, "STO003")])
def test_a_table_that_takes_nothing_is_no_fault_of_its_rows(count: int, code: str) -> None:
    store: Any = Store()
    store.refuses = frozenset(f"e{n}" for n in range(count))
    store.refuses_with = code
    mirror = RegistryMirror()
    mirror.hear([execution(f"e{n}", n) for n in range(count)])
    with pytest.raises(StoreError, match="cannot be"):
        mirror.write(store)
    assert mirror.waits
    store.refuses = frozenset()
    assert mirror.write(store) == count
