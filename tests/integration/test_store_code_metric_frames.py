"""Rows for code metrics on the real store, against the numbers that snapshots give of the same rows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.stored_history import MINUTE, T0, written

from fqlstream.errors import StoreError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import ModelDefinition, SegmentDefinition
from fqlstream.settings import FqlSettings
from fqlstream.store.client import Store
from fqlstream.store.code_metric_frames import Exported, Part, export_rows
from fqlstream.store.snapshots import Range, snapshot

SEGMENTS = {"adults": "age >= 18", "churners": "churned == 'yes'", "it's": "r1 > 0 or is_not_null(e)"}


def model(version: str, *columns: dict[str, Any]) -> ModelDefinition:
    return ModelDefinition.model_validate({
        "name": "churn",
        "version": version,
        "columns": [
            # names that the queries use themselves
            *({"name": name, "type": "float"} for name in ("e", "r1", "t0", "_in_1")),
            {"name": "seen", "type": "timestamp"},
            {"name": "embedding", "type": "vector"},
            {"name": "churned", "type": "category", "role": "target"},
            *columns,
        ],
    })  # fmt: skip


def entry_of(*versions: ModelDefinition, segments: dict[str, str] | None = None) -> ModelEntry:
    catalogue = Catalogue()
    for version in versions:
        catalogue = catalogue.with_definition(version)
    for name, text in (SEGMENTS if segments is None else segments).items():
        catalogue = catalogue.with_definition(SegmentDefinition(model="churn", name=name, definition=text))
    return catalogue.models["churn"]


def export(store: Store, entry: ModelEntry, folder: Path, within: Range | None = None, **given: Any) -> Exported:
    asked = {"rows_max": 10_000, "settings": FqlSettings(), **given}
    return export_rows(store, entry, within or Range(), folder, **asked)


def table(exported: Exported) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in exported.paths])


def events(rng: random.Random, count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "offset": first + n,
            "event_id": f"{first}-{n}",
            "event_at": T0 + n * MINUTE,
            "duplicate": rng.random() < 0.2,
            "_in_1": 0.5,
            "age": rng.choice((None, rng.randint(0, 90))),
            "r1": rng.choice((None, rng.gauss(0, 1))),
            "e": rng.choice((None, 1.0)),
            "seen": rng.choice((None, T0)),
            "embedding": rng.choice((None, [1.0, 2.0])),
            "churned": rng.choice((None, "yes", "no")),
        }
        for n in range(count)
    ]


def test_parts_hold_the_rows_that_snapshots_count(store: Store, tmp_path: Path) -> None:
    rng = random.Random(5)
    first, second = (
        model("v1", {"name": "age", "type": "int"}),
        model("v2", {"name": "age", "type": "float"}, {"name": "new", "type": "string"}),
    )
    written(
        store,
        first,
        0,
        events=events(rng, 60),
        labels=[{"offset": 100 + n, "event_id": f"0-{n}", "churned": "yes"} for n in range(0, 60, 3)],
    )
    written(store, second, 1, events=events(rng, 50, 1_000))
    entry = entry_of(first, second)
    within = Range(T0 + 5 * MINUTE, T0 + 45 * MINUTE)
    exported = export(store, entry, tmp_path, within)
    rows = table(exported)
    assert exported.rows == rows.num_rows
    assert [(part.version, part.segment) for part in exported.parts] == [
        (version, segment) for version in ("all", "v1", "v2") for segment in ("", *SEGMENTS)
    ]
    for part in exported.parts:
        version = None if part.version == "all" else part.version
        asked = SEGMENTS[part.segment] if part.segment else None
        counted = snapshot(store, entry, "traffic()", segment=asked, within=within, version=version)["rows"]
        found = rows if part.flag is None else rows.filter(rows.column(part.flag))
        assert found.num_rows == counted, part
        if version is not None:
            assert set(found.column("version").to_pylist()) <= {version}
    labelled = rows.filter(pa.compute.equal(rows.column("event_id"), "0-6"))
    assert labelled.column("churned").to_pylist() in ([], ["yes"])
    assert rows.schema.field("age").type == pa.float64(), "a number that all versions' fit"
    assert rows.schema.field("seen").type == pa.timestamp("us", tz="UTC")
    assert None in rows.column("embedding").to_pylist(), "an empty vector is none"


def test_one_version_is_exported_alone_in_its_own_types(store: Store, tmp_path: Path) -> None:
    first, second = model("v1", {"name": "age", "type": "int"}), model("v2", {"name": "age", "type": "string"})
    written(store, first, 0, events=[{"offset": 1, "event_id": "a", "age": 4, "_in_1": 1.0}])
    written(store, second, 0, events=[{"offset": 2, "event_id": "b", "age": "x", "_in_1": 1.0}])
    entry = entry_of(first, second, segments={"adults": "age >= 2"})  # fits the first version alone
    alone = export(store, entry, tmp_path, version="v1")
    assert [(part.version, part.segment) for part in alone.parts] == [("v1", ""), ("v1", "adults")]
    assert table(alone).column("age").to_pylist() == [4]
    both = export(store, entry, tmp_path)
    rows = table(both)
    assert sorted(rows.column("age").to_pylist()) == ["4", "x"]
    flags = {(part.version, part.segment): part.flag for part in both.parts}
    assert rows.filter(rows.column(flags["all", "adults"])).column("event_id").to_pylist() == ["a"]
    assert rows.filter(rows.column(flags["v2", "adults"])).num_rows == 0


def test_a_model_without_rows_gives_empty_files_of_its_columns(store: Store, tmp_path: Path) -> None:
    found = export(store, entry_of(model("v1")), tmp_path)
    assert (found.rows, found.parts[0]) == (0, Part("all", "", None))
    assert "churned" in table(found).column_names


def test_more_rows_than_a_run_may_have_are_refused(store: Store, tmp_path: Path) -> None:
    definition = model("v1", {"name": "age", "type": "int"})
    written(store, definition, 0, events=events(random.Random(1), 30))
    with pytest.raises(StoreError, match="more than one run may have") as refused:
        export(store, entry_of(definition), tmp_path, rows_max=5)
    assert refused.value.code == "STO040"
