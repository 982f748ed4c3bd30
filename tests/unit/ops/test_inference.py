from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from tests.commands import invoke

from fqlstream.cli.model import app
from fqlstream.errors import UsageError
from fqlstream.events.definitions import ColumnType, ModelDefinition, Role, Task
from fqlstream.events.documents import parse_definition, read_documents
from fqlstream.ops.data_files import read_data
from fqlstream.ops.inference import infer_model, inferred_yaml

ROWS = 200
RANDOM = np.random.default_rng(3)
FRAME = pd.DataFrame({
    "request_id": [f"r-{row}" for row in range(ROWS)],
    "ts": [f"2026-11-21T10:{row // 60:02}:{row % 60:02}Z" for row in range(ROWS)],
    "age": RANDOM.integers(18, 90, ROWS),
    "country": RANDOM.choice(["FR", "DE", "IT"], ROWS),
    "zip": [f"0{row:04}" for row in range(ROWS)],
    "income": np.where(RANDOM.random(ROWS) < 0.1, np.nan, RANDOM.random(ROWS) * 1e5),
    "credit_score": RANDOM.integers(300, 850, ROWS),
    "vip": RANDOM.random(ROWS) < 0.5,
    "seen": ["2026-11-20T00:00:00Z"] * ROWS,
    "score": RANDOM.random(ROWS),
    "churned": RANDOM.choice(["yes", "no"], ROWS),
    "latency_ms": RANDOM.integers(1, 50, ROWS),
})  # fmt: skip


def infer(frame: pd.DataFrame, path: Path, **options: Any) -> ModelDefinition:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return infer_model(path, **options).model


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_types_roles_and_task_of_a_usual_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"churn{ending}"
    model = infer(FRAME, path)
    assert {column.name: (column.type.value, column.role.value) for column in model.columns} == {
        "age": ("int", "input"),
        "country": ("category", "input"),
        "zip": ("string", "input"),
        "income": ("float", "input"),
        "credit_score": ("int", "input"),
        "vip": ("bool", "input"),
        "seen": ("timestamp", "input"),
        "score": ("float", "output"),
        "churned": ("category", "target"),
        "latency_ms": ("int", "metadata"),
    }
    age, country = model.column("age"), model.column("country")
    assert age is not None
    assert country is not None
    assert (age.min, age.max) == (FRAME["age"].min(), FRAME["age"].max())
    assert country.categories == ("DE", "FR", "IT")
    assert (model.name, model.task) == ("churn", Task.BINARY)
    assert model.task_params.target_class_order == ("no", "yes")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_rows_of_the_file_fit_the_model_that_it_gave(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"churn{ending}"
    model = infer(FRAME, path)
    table = read_data(path, model, event_at="ts").table
    assert table.num_rows == ROWS
    assert not any(table["_type_violations"].to_pylist() + table["_range_violations"].to_pylist())


def test_the_yaml_reads_back_and_says_what_is_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "my: data.csv"
    FRAME.to_csv(path, index=False)
    inferred = infer_model(path)
    text = inferred_yaml(inferred, path)
    (document,) = read_documents(text, "x")
    assert parse_definition(document) == inferred.model
    lines = {line.split("#")[0].strip(): line for line in text.splitlines()}
    assert "guess" in lines["task: binary_classification"]
    assert "categories: ['no', 'yes']" in text
    assert "--event-id-column request_id --event-at-column ts" in text


def test_events_tell_targets_by_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [
        *({"event_id": n, "columns": {"size": n / 7, "prediction": n / 8, "embedding": [0.5, n]}} for n in range(20)),
        *({"type": "label", "event_id": n, "columns": {"height": n / 9}} for n in range(20)),
        {"type": "watermark", "model": "x"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\nbroken\n")
    model = infer_model(path).model
    assert {column.name: column.role for column in model.columns} == {
        "size": Role.INPUT, "prediction": Role.OUTPUT, "embedding": Role.INPUT, "height": Role.TARGET,
    }  # fmt: skip
    embedding = model.column("embedding")
    assert embedding is not None
    assert (embedding.type, embedding.n_dimensions) == (ColumnType.VECTOR, 2)
    assert model.task is Task.REGRESSION


def test_multiclass_order_follows_the_outputs(tmp_path: Path) -> None:
    classes = ["setosa", "virginica", "versicolor"]
    frame = pd.DataFrame(
        {
            **{f"proba_{name}": RANDOM.random(60) for name in classes},
            "species": RANDOM.choice(classes, 60),
        }
    )
    model = infer(frame, tmp_path / "iris.parquet")
    assert model.task is Task.MULTICLASS
    assert model.task_params.target_class_order == tuple(classes)
    numbers = infer(frame.assign(species=frame["species"].map(classes.index)), tmp_path / "iris.csv")
    target = numbers.column("species")
    assert target is not None
    assert (numbers.task, target.type, target.categories) == (Task.MULTICLASS, ColumnType.CATEGORY, (0, 1, 2))


def test_ranking_by_a_column_of_queries(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"query_id": np.arange(90) // 9, "score": RANDOM.random(90) * 5, "relevance": RANDOM.integers(0, 4, 90)}
    )
    model = infer(frame, tmp_path / "search.csv")
    assert (model.task, model.task_params.group_by) == (Task.RANKING, "query_id")


def test_a_task_that_is_given_wins(tmp_path: Path) -> None:
    frame = pd.DataFrame({"target": RANDOM.integers(0, 2, 50), "prediction": RANDOM.random(50)})
    path = tmp_path / "a.csv"
    assert infer(frame, path).task is Task.BINARY
    assert infer_model(path, task=Task.REGRESSION).model.task is Task.REGRESSION


def test_mixed_empty_and_reserved_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"a": n if n % 10 else "x", "empty": None, "offset": n, "nested": {"b": 1}} for n in range(50)]
    path.write_text("\n".join(map(json.dumps, rows)))
    inferred = infer_model(path)
    text = inferred_yaml(inferred, path)
    column = inferred.model.column("a")
    assert column is not None
    assert column.type is ColumnType.INT
    assert "5 of 50 values are of other types" in text
    assert "no value" in inferred.guesses["column empty"]
    assert "'offset' is left out" in text
    assert inferred.model.task is Task.NOT_SET


def test_a_file_without_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"event_id": 1}\n{"event_id": 2}\n')
    with pytest.raises(UsageError) as caught:
        infer_model(path)
    assert caught.value.code == "INF001"


def test_the_command_prints_what_apply_takes(tmp_path: Path) -> None:
    path = tmp_path / "churn.csv"
    FRAME.to_csv(path, index=False)
    result = invoke(app, "infer", path, "--name", "Kündigung: 2")
    assert result.exit_code == 0
    (document,) = read_documents(result.output, "x")
    assert parse_definition(document).name == "Kündigung: 2"


ODD_ROWS = {
    "a long name": '{"%s": 1}' % ("x" * 257),
    "no name": '{"": 1}',
    "half a surrogate pair": '{"\\ud800": 1}',
    "a number beyond every double": '{"a": %s}' % ("9" * 400),
}


@pytest.mark.parametrize("row", ODD_ROWS.values(), ids=ODD_ROWS.keys())
def test_a_file_that_fits_no_model_is_refused_with_the_reason(tmp_path: Path, row: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(row)
    with pytest.raises(UsageError, match="fits no model") as refused:
        infer_model(path)
    assert refused.value.code == "INF002"


def test_a_name_that_no_model_can_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a\n1\n")
    with pytest.raises(UsageError, match="fits no model: name"):
        infer_model(path, "\ud800")


def test_an_event_of_no_type_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"event_id": "1", "columns": {"a": 1}}\n{"event_id": "1", "type": ["x"], "columns": {"b": 1}}\n')
    assert [column.name for column in infer_model(path).model.columns] == ["a"]


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (pa.table({"t": pa.array([2**60], pa.timestamp("ms"))}), "DAT007"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "DAT002"),
    ],
    ids=["a time beyond all calendars", "a name twice"],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, table: pa.Table, code: str) -> None:
    path = tmp_path / "f.parquet"
    pa.parquet.write_table(table, path)
    with pytest.raises(UsageError) as refused:
        infer_model(path)
    assert refused.value.code == code
