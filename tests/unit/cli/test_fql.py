from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands import invoke

from fqlstream.cli.fql import app
from fqlstream.errors import FqlError, UsageError
from fqlstream.functions.index import FUNCTIONS
from fqlstream.functions.operators import OPERATORS

MODEL = """
kind: model
name: churn
task: binary_classification
columns:
  - {name: age, type: int, min: 18, max: 100}
  - {name: score, type: float, role: output}
  - {name: churned, type: category, role: target, categories: [no, yes]}
task_params: {target_class_order: [no, yes]}
---
{kind: metric, model: churn, name: f1, definition: "f1_score()"}
---
{kind: segment, model: churn, name: seniors, definition: "age >= 60"}
---
{kind: metric, model: other, name: not_ours, definition: "sum(nothing)"}
"""

ROWS = """event_id,event_at,age,score,churned
1,2026-11-21T10:00:00Z,41,0.9,yes
2,2026-11-21T10:30:00Z,65,0.4,no
3,2026-11-21T11:00:00Z,70,0.8,no
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "churn.yaml"
    path.write_text(MODEL)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


def answer(*arguments: object, code: int = 0, input_text: str | None = None) -> Any:
    result = invoke(app, *arguments, input_text=input_text)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_check_answers_as_agreed(model: Path) -> None:
    assert answer("check", "--model", model, "--json", "sum(age)") == {
        "ok": True, "type": "Number", "level": "agg", "errors": [], "warnings": [],
    }  # fmt: skip
    refused = answer("check", "--model", model, "--kind", "segment", "--json", "agee > 1", code=1)
    assert refused["ok"] is False
    assert refused["errors"] == [
        {
            "code": "FQL030",
            "message": "Column agee not found in model churn",
            "start": 0,
            "end": 4,
            "hint": "did you mean age?",
        }
    ]


def test_check_for_people_shows_the_place(model: Path) -> None:
    result = invoke(app, "check", "--model", model, "average(agee)")
    assert result.exit_code == 1
    assert "average(agee)\n          ^^^^" in result.stdout
    assert "hint: did you mean age?" in result.stdout
    fine = invoke(app, "check", "--model", model, "average(if(fp(), 1, 0))")
    assert fine.exit_code == 0
    assert "FQL101 warning" in fine.stdout
    assert "ok: Number, an aggregate" in fine.stdout


def test_check_takes_an_expression_that_begins_with_a_minus(model: Path) -> None:
    assert answer("check", "--model", model, "--json", "-2 ^ 2")["level"] == "const"


def test_check_reads_one_expression_a_line(model: Path) -> None:
    result = invoke(app, "check", "--model", model, "-", input_text="sum(age)\r\n\nage >\nage\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["ok"] for line in lines] == [True, False, False, True]
    assert result.exit_code == 1
    fine = invoke(app, "check", "--model", model, "-", input_text="age\nsum(age)")
    assert fine.exit_code == 0
    assert len(fine.stdout.splitlines()) == 2


def test_a_file_without_a_model_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text('{kind: metric, model: churn, name: a, definition: "traffic()"}')
    with pytest.raises(UsageError, match="holds no model"):
        invoke(app, "check", "--model", path, "1")
    path.write_text(MODEL + "\n---\n" + MODEL.replace("churn", "second"))
    with pytest.raises(UsageError, match="the models churn, second"):
        invoke(app, "check", "--model", path, "1")


def test_eval_answers_as_agreed(model: Path, rows: Path) -> None:
    assert answer("eval", "--model", model, "--data", rows, "--json", "average(age)") == {
        "value": 176 / 3, "rows": 3, "exact": True, "error_bound": None,
    }  # fmt: skip
    assert (
        answer("eval", "--model", model, "--data", rows, "--json", "--segment", "age >= 60", "traffic()")["rows"] == 2
    )
    windows = answer("eval", "--model", model, "--data", rows, "--json", "--window", "1h", "precision()")
    assert windows == [
        {"value": 1.0, "rows": 2, "exact": True, "error_bound": None, "window_start": "2026-11-21T10:00:00Z", "window_end": "2026-11-21T11:00:00Z"},
        {"value": 0.0, "rows": 1, "exact": True, "error_bound": None, "window_start": "2026-11-21T11:00:00Z", "window_end": "2026-11-21T12:00:00Z"},
    ]  # fmt: skip


def test_eval_of_hopping_windows(model: Path, rows: Path) -> None:
    hops = answer("eval", "--model", model, "--data", rows, "--json", "--window", "1h", "--every", "30m", "traffic()")
    assert [item["value"] for item in hops] == [1.0, 2.0, 2.0, 1.0]
    with pytest.raises(UsageError, match="--every needs a --window"):
        invoke(app, "eval", "--model", model, "--data", rows, "--every", "30m", "traffic()")


def test_eval_of_drift(model: Path, rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "old.csv"
    other.write_text("age\n41\n65\n70\n")
    same = answer(
        "eval", "--model", model, "--data", rows, "--baseline", f"training={other}", "--json", "jsd(age, 'training')"
    )
    assert same["value"] == 0.0
    model.write_text(
        model.read_text() + "---\n{kind: baseline, model: churn, name: old, type: static, file: old.csv}\n"
    )
    assert answer("eval", "--model", model, "--data", rows, "--json", "psi(age, 'old')")["value"] == 0.0
    with pytest.raises(UsageError, match="no NAME=FILE"):
        invoke(app, "eval", "--model", model, "--data", rows, "--baseline", "old.csv", "traffic()")
    with pytest.raises(FqlError, match="no baseline 'oldest'"):
        invoke(app, "eval", "--model", model, "--data", rows, "jsd(age, 'oldest')")


PRICES = """
kind: model
name: price
task: regression
columns:
  - {name: x, type: bool}
  - {name: estimate, type: float, role: output}
  - {name: price, type: float, role: target}
---
{kind: baseline, model: price, name: before, type: rolling, window: 1h, offset: 1h}
---
{kind: baseline, model: price, name: first, type: static, start: "2026-11-21T10:00:00Z", end: "2026-11-21T11:00:00Z"}
"""

PRICE_ROWS = """event_at,x,estimate,price
2026-11-21T10:00:00Z,true,1,0
2026-11-21T10:30:00Z,true,2,4
2026-11-21T11:00:00Z,false,2,4
2026-11-21T12:00:00Z,false,2,
"""


@pytest.fixture
def prices(tmp_path: Path) -> tuple[str, Path, str, Path]:
    (tmp_path / "price.yaml").write_text(PRICES)
    (tmp_path / "prices.csv").write_text(PRICE_ROWS)
    return "--model", tmp_path / "price.yaml", "--data", tmp_path / "prices.csv"


def test_eval_of_drift_from_periods_of_the_data_itself(prices: tuple[Any, ...]) -> None:
    rolling = answer("eval", *prices, "--window", "1h", "--json", "jsd(x, 'before')")
    assert [value["value"] for value in rolling] == [None, 1.0, 0.0]
    fixed = answer("eval", *prices, "--window", "1h", "--json", "jsd(x, 'first')")
    assert [value["value"] for value in fixed] == [0.0, 1.0, 1.0]
    with pytest.raises(UsageError, match="there are no windows"):
        invoke(app, "eval", *prices, "jsd(x, 'before')")


def test_eval_says_which_rows_a_function_leaves_out(prices: tuple[Any, ...]) -> None:
    result = invoke(app, "eval", *prices, "--json", "mape()")
    assert json.loads(result.stdout)["value"] == 0.5
    assert "note: mape() leaves out 1 of 4 rows: rows whose target is 0" in result.stderr


def test_eval_for_people(model: Path, rows: Path) -> None:
    result = invoke(app, "eval", "--model", model, "--data", rows, "average(if(fp(), 1, 0))")
    assert "0.3333333333333333  (exact, over 3 rows)" in result.stdout
    assert "FQL101 warning" in result.stderr
    table = invoke(app, "eval", "--model", model, "--data", rows, "--window", "1h", "traffic()")
    assert "2026-11-21T11:00:00Z" in table.stdout


def test_eval_refuses_what_is_no_metric(model: Path, rows: Path) -> None:
    with pytest.raises(FqlError, match="a metric is an aggregate"):
        invoke(app, "eval", "--model", model, "--data", rows, "age")
    with pytest.raises(FqlError, match="a segment"):
        invoke(app, "eval", "--model", model, "--data", rows, "--segment", "age", "traffic()")


@pytest.mark.parametrize(
    "more", [(), ("--window", "1h"), ("--window", "1h", "--every", "30m"), ("--segment", "age > 60")]
)
def test_both_engines_give_one_answer(model: Path, rows: Path, more: tuple[str, ...]) -> None:
    for text in ("average(age)", "precision()", "quantile(score, 0.3)", "auroc()", "-sum(score)"):
        arguments = ("eval", "--model", model, "--data", rows, *more, "--json")
        assert answer(*arguments, "--engine", "clickhouse", text) == answer(*arguments, "--engine", "arrow", text)


def test_explain(model: Path) -> None:
    plan = answer("explain", "--model", model, "--json", "precision() + recall()")
    assert plan["model"] == "churn"
    assert [item["name"] for item in plan["segments"]] == ["", "seniors"]
    assert [item["definition"] for item in plan["metrics"]] == ["precision() + recall()"]
    assert plan["sql"].startswith("WITH\n")
    assert "FROM `events_churn`" in plan["sql"]
    assert plan["sql_reason"] is None
    assert [item["states"] for item in plan["segments"]] == [len(plan["aggregates"])] * 2
    everything = invoke(app, "explain", "--model", model)
    assert "FROM `events_churn`" in everything.stdout
    assert everything.exit_code == 0
    assert "f1 = " in everything.stdout
    with pytest.raises(FqlError):
        invoke(app, "explain", "--model", model, "sum(")


def test_functions_lists_every_declared_row() -> None:
    listed = answer("functions", "--json")
    assert [item["name"] for item in listed] == [spec.name for spec in (*OPERATORS, *FUNCTIONS)]
    quantile = next(item for item in listed if item["name"] == "quantile")
    assert quantile["signature"] == "quantile(x: Number, level: Number?)"
    assert quantile["parameters"][1]["required"] is False
    assert quantile["examples"][0]["result"] == 1.5
    text = invoke(app, "functions").stdout
    assert all(spec.signature in text for spec in FUNCTIONS)


def test_functions_shows_one_in_full() -> None:
    text = invoke(app, "functions", "substring").stdout
    assert "substring(str: String, offset: Number, length: Number) -> String" in text
    assert "'bcd'" in text
    with pytest.raises(UsageError, match="there is no function 'substrin'") as caught:
        invoke(app, "functions", "substrin")
    assert caught.value.hint == "did you mean substring?"
