from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from fqlstream.clock import ManualClock
from fqlstream.errors import UsageError
from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS, arrow_schema
from fqlstream.events.definitions import ModelDefinition
from fqlstream.ops.data_files import Bounds, Data, read_columns, read_data, require_bounded
from fqlstream.ops.inference import ROWS_MAX, infer_model

MODEL = ModelDefinition.model_validate(
    {
        "name": "churn",
        "task": "binary_classification",
        "columns": [
            {"name": "age", "type": "int", "min": 18, "max": 100},
            {"name": "price", "type": "float"},
            {"name": "active", "type": "bool"},
            {"name": "country", "type": "category", "categories": ["FR", "DE"]},
            {"name": "grade", "type": "category", "categories": [1, 2]},
            {"name": "note", "type": "string"},
            {"name": "seen", "type": "timestamp"},
            {"name": "embedding", "type": "vector"},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
    }
)
CLOCK = ManualClock(1_800_000_000_000)
TEN = 1_795_255_200_000  # 2026-11-21T10:00:00Z

FLAT: list[dict[str, Any]] = [
    {"event_id": "1", "event_at": "2026-11-21T10:00:00Z", "age": 41, "price": 1.5, "active": True, "country": "FR", "grade": 1,
     "note": "a, \"b\"", "seen": "2026-11-21T09:00:00Z", "embedding": [1.0, 2.0], "score": 0.9, "churned": "yes"},
    {"event_id": "2", "event_at": "2026-11-21T10:30:00Z", "age": 150, "price": None, "active": False, "country": "XX", "grade": 2,
     "note": "12", "seen": None, "embedding": None, "score": 0.4, "churned": None},
]  # fmt: skip


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def columns(data: Data) -> dict[str, list[Any]]:
    return data.table.to_pydict()


@pytest.fixture
def flat(tmp_path: Path) -> Data:
    return read_data(jsonl(tmp_path / "rows.jsonl", FLAT), MODEL)


def test_flat_rows_become_the_models_types(flat: Data) -> None:
    assert flat.table.schema.equals(arrow_schema(MODEL, "inference"))
    values = columns(flat)
    assert values["age"] == [41, 150]
    assert values["grade"] == ["1", "2"]
    assert values[TYPE_VIOLATIONS] == [[], []]
    assert [sorted(names) for names in values[RANGE_VIOLATIONS]] == [[], ["age", "country"]]
    assert flat.event_at_ms is not None
    assert flat.event_at_ms.tolist() == [TEN, TEN + 1_800_000]
    assert flat.notes == ()


def test_csv_and_parquet_give_the_same_table(flat: Data, tmp_path: Path) -> None:
    frame = pd.DataFrame(FLAT)
    csv = frame.assign(embedding=[json.dumps(FLAT[0]["embedding"]), None])
    csv.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        data = read_data(tmp_path / name, MODEL)
        assert columns(data) == columns(flat), name
        assert data.event_at_ms is not None
        assert flat.event_at_ms is not None
        assert data.event_at_ms.tolist() == flat.event_at_ms.tolist()


def test_csv_fields_that_do_not_fit_are_violations(tmp_path: Path) -> None:
    text = 'age,price,active,note,country\n41,1e3,TRUE,"",FR\nold,free,perhaps,NA,\n,NaN,0,,DE\n'
    values = columns(read_data(write(tmp_path / "rows.csv", text), MODEL))
    assert values["age"] == [41, None, None]
    assert values["price"] == [1000.0, None, None]
    assert values["active"] == [True, None, False]
    assert values["note"] == ["", "NA", None]
    assert values["country"] == ["FR", None, "DE"]
    assert [sorted(names) for names in values[TYPE_VIOLATIONS]] == [[], ["active", "age", "price"], []]


def test_a_missing_column_is_null_and_said(tmp_path: Path) -> None:
    data = read_data(write(tmp_path / "rows.csv", "age\n41\n"), MODEL)
    assert columns(data)["score"] == [None]
    assert data.event_at_ms is None
    assert "no column price" in data.notes[0]


def test_a_repeated_event_id_is_left_out(tmp_path: Path) -> None:
    data = read_data(
        write(tmp_path / "rows.csv", "event_id,event_at,age\n1,5,20\n2,6,30\n1,7,40\n,8,50\n,9,60\n"), MODEL
    )
    assert columns(data)["age"] == [20, 30, 50, 60]
    assert data.event_at_ms is not None
    assert data.event_at_ms.tolist() == [5, 6, 8, 9]
    assert data.notes[-1] == "1 rows repeat an event_id and are left out"


def event(kind: str, event_id: str, /, at: Any = "2026-11-21T10:00:00Z", **values: Any) -> dict[str, Any]:
    return {"type": kind, "model": "churn", "event_id": event_id, "event_at": at, "columns": values}


def test_events_are_read_as_on_the_topic(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "events.jsonl",
        [
            event("label", "3", churned="yes"),
            event("inference", "1", age=20, score=0.9, churned="no"),
            event("inference", "2", at=TEN + 5, age="x", score=0.1),
            event("inference", "1", age=99, score=0.5),
            event("inference", "3", age=30),
            event("label", "1", churned="yes"),
            event("label", "1", churned=None),
            event("label", "2", churned="no"),
            {"type": "watermark", "model": "churn", "event_at": TEN},
            event("inference", "4", at="yesterday", age=30),
            {**event("inference", "5", age=30), "model": "other"},
        ],
    )
    data = read_data(path, MODEL, clock=CLOCK)
    values = columns(data)
    assert values["age"] == [20, None, 30]
    assert values["churned"] == [None, "no", "yes"]
    assert values[TYPE_VIOLATIONS] == [[], ["age"], []]
    assert data.event_at_ms is not None
    assert data.event_at_ms.tolist() == [TEN, TEN + 5, TEN]
    assert data.notes[0].startswith("2 of 11 events are refused, the first in line 10:")
    assert data.notes[1] == "1 rows repeat an event_id and are left out"
    assert data.table.schema.equals(arrow_schema(MODEL, "inference"))


def test_old_events_are_no_dead_letters_in_a_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "events.jsonl", [event("inference", "1", at="1987-01-01T00:00:00Z", age=20)])
    assert len(read_data(path, MODEL, clock=CLOCK).table) == 1


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("rows.txt", "a", "DAT003"),
        ("rows", "a", "DAT003"),
        ("rows.jsonl", '{"age": 1}\n{"age": ', "DAT002"),
        ("rows.jsonl", "[1]\n", "DAT002"),
        ("rows.csv", "", "DAT002"),
        ("rows.csv", "age,age\n1,2\n", "DAT002"),
        ("rows.csv", "age,score\n1,2,3\n", "DAT002"),
        ("rows.parquet", "PAR1", "DAT002"),
        ("rows.csv", "event_at,age\nnoon,2\n", "DAT005"),
        ("events.jsonl", json.dumps({**event("inference", "5", age=30), "model": "other"}), "DAT004"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_data(write(tmp_path / name, text), MODEL, clock=CLOCK)
    assert caught.value.code == code


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_data(tmp_path / "none.csv", MODEL)


# -- files that stand for more than they are ---------------------------------------------------------------------------


def bomb(folder: Path, rows: int = 1_000_000) -> Path:
    path = folder / "bomb.parquet"
    zeros = pa.nulls(rows, pa.float64()).fill_null(0.0)
    pa.parquet.write_table(pa.table(dict.fromkeys("abcd", zeros)), path, compression="zstd")
    assert path.stat().st_size < 100_000
    return path


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_the_first_rows_of_a_file_are_those_of_all_of_it(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame({"a": [str(row) for row in range(30_000)], "b": ["x"] * 30_000})
    path = tmp_path / f"f{ending}"
    write = {
        ".parquet": frame.to_parquet,
        ".csv": lambda to: frame.to_csv(to, index=False),
        ".jsonl": lambda to: frame.to_json(to, orient="records", lines=True),
    }
    write[ending](path)
    whole = {
        name: pa.chunked_array([values]) if isinstance(values, list) else values
        for name, values in read_columns(path, None).items()
    }
    for rows in (1, 8_192, 10_000, 29_999, 30_000, 40_000):
        head = read_columns(path, None, Bounds(rows, 2**30))
        for name, values in whole.items():
            found = head[name]
            assert (found if isinstance(found, list) else found.to_pylist()) == values.to_pylist()[:rows]


def test_a_small_file_of_very_many_rows_is_looked_at_without_unpacking_it(tmp_path: Path) -> None:
    path = bomb(tmp_path)
    usual = pa.default_memory_pool()
    watched = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(watched)
    try:
        assert infer_model(path, bytes_max=2**24).rows == ROWS_MAX
        assert (watched.max_memory() or 0) < 16 * 2**20, "of 32 MB"
        with pytest.raises(UsageError, match="unpacks to more") as refused:
            require_bounded(path, 2**24)
        assert refused.value.code == "DAT006"
        assert (watched.max_memory() or 0) < 16 * 2**20
    finally:
        pa.set_memory_pool(usual)
    require_bounded(path, 2**26)


def test_a_row_of_very_many_values_and_a_page_of_one_are_refused_by_what_the_file_says(tmp_path: Path) -> None:
    lists = tmp_path / "lists.parquet"
    pa.parquet.write_table(pa.table({"v": [[0.0] * 1_000_000]}), lists)
    text = tmp_path / "text.parquet"
    pa.parquet.write_table(pa.table({"t": ["x" * 2_000_000]}), text, compression="zstd")
    for path in (lists, text):
        with pytest.raises(UsageError, match="unpacks to more"):
            read_columns(path, None, Bounds(1, 2**20))


def test_rows_with_names_of_their_own_are_refused_before_they_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fqlstream.ops.data_files._FILLED_MAX", 10_000)
    path = tmp_path / "f.jsonl"
    path.write_text("".join(f'{{"c{row}": 1}}\n' for row in range(200)))
    with pytest.raises(UsageError, match="hardly any row"):
        read_columns(path, None)
