"""What the SQL looks like, and how long it is. That its numbers are right: tests/oracle/test_differential.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fqlstream.events.definitions import (
    BaselineDefinition,
    MetricDefinition,
    ModelDefinition,
    SegmentDefinition,
    Window,
)
from fqlstream.fql import sql_registers
from fqlstream.fql.compile_clickhouse import Select, Source, compile_clickhouse
from fqlstream.fql.plan import ModelPlan
from fqlstream.fql.planner import plan_model
from fqlstream.fql.sql_registers import SqlFormError
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.functions.index import FUNCTIONS, KERNELS
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.spec import Example, Kernel, LevelRule

BASELINES = {"training": BaselineDefinition(model="any", name="training", type="static")}


def planned(model: str | ModelDefinition, *metrics: str, segments: Sequence[str] = (), **names: str) -> ModelPlan:
    definition = EXAMPLE_MODELS[model] if isinstance(model, str) else model
    named = {**{f"m{place}": text for place, text in enumerate(metrics)}, **names}
    return plan_model(
        definition,
        [MetricDefinition(model="any", name=name, definition=text) for name, text in named.items()],
        [SegmentDefinition(model="any", name=f"s{place}", definition=text) for place, text in enumerate(segments)],
        baselines=BASELINES,
        streamed=True,
    )


def compiled(model: str, *metrics: str, segments: Sequence[str] = (), **options: Any) -> Select:
    return compile_clickhouse(planned(model, *metrics, segments=segments), "events", **options)


def lines_of(query: Select) -> list[str]:
    """Give the lines without the lambdas that a query begins with."""
    return [
        line.strip().removeprefix("SELECT ")
        for line in query.sql.splitlines()
        if not re.match(r"(\(?\w+(, \w+)*\)?) -> ", line)
    ]


def test_a_count_needs_no_lambda_but_the_check_for_infinities() -> None:
    assert compiled("table", "count(x) / traffic()").sql == (
        "WITH\n"
        "x -> if(isFinite(x), x, NULL) AS finite,\n"
        "cells AS (\n"
        "    SELECT count() AS a1,\n"
        "        countIf(isNotNull(`x`)) AS a2,\n"
        "        countIf(ifNull(false, false)) AS a3\n"
        "    FROM events\n"
        "),\n"
        "step1 AS (\n"
        "    SELECT *,\n"
        "        finite(toFloat64(a2) / toFloat64(a1)) AS v1,\n"
        "        finite(toFloat64(a1)) AS v2,\n"
        "        finite(toFloat64(a3)) AS v3\n"
        "    FROM cells\n"
        ")\n"
        "SELECT '' AS segment,\n"
        "    toUInt64(v2) AS rows,\n"
        "    toUInt64(v3) AS labelled_rows,\n"
        "    v1 AS `m0`\n"
        "FROM step1"
    )


def test_segments_are_conditions_of_one_pass_and_become_rows() -> None:
    lines = lines_of(compiled("binary", "count(age)", segments=("age > 60",)))
    assert "ifNull(toFloat64(`age`) > 60.0, false) AS r1" in lines
    assert any(re.match(r"countIf\(isNotNull\(.*age.*\)\) AS a\d_0,", line) for line in lines)
    assert any(line.startswith("countIf(r1 and isNotNull(") for line in lines)
    assert any(line.startswith("ARRAY JOIN [(0, a1_0, ") for line in lines)
    assert "['', 's0'][segment_number + 1] AS segment," in lines
    assert lines[-1] == "ORDER BY segment_number"
    plan = planned("binary", "count(age)", segments=("age > 60",))
    only = lines_of(compile_clickhouse(plan, "events", segments=["s0"]))
    assert "'s0' AS segment," in only
    assert not any("ARRAY JOIN" in line for line in only)


@pytest.mark.parametrize(
    ("window", "number", "start"),
    [
        ("1h", "floor_div((toUnixTimestamp64Milli(event_at) - 0), 3600000)", "0 + 3600000 * window_number"),
        # weeks begin on Monday
        ("7d", "floor_div((toUnixTimestamp64Milli(event_at) - 345600000), 604800000)", "345600000 + 604800000 * "),
        (
            {"size": "1h", "every": "5m"},
            (
                "arrayJoin(range(floor_div((toUnixTimestamp64Milli(event_at) - 0) - 3600000, 300000) + 1,"
                " floor_div((toUnixTimestamp64Milli(event_at) - 0), 300000) + 1))"
            ),
            "0 + 300000 * window_number",
        ),
    ],
)
def test_windows_are_numbered(window: Any, number: str, start: str) -> None:
    query = compiled("table", "sum(x)", window=Window.model_validate(window))
    assert f"{number} AS window_number" in query.sql
    assert f"SELECT fromUnixTimestamp64Milli({start}" in query.sql
    assert "GROUP BY window_number" in query.sql
    assert query.sql.endswith("ORDER BY window_number")


def test_an_expression_that_is_read_twice_is_a_column_of_a_step() -> None:
    lines = lines_of(compiled("table", "sum(x * y + x / y)", "min(x * y + x / y)"))
    assert len([line for line in lines if "`x` * `y`" in line]) == 1
    assert any(line.startswith("sumMapIf(exact_term(assumeNotNull(r1)), isNotNull(r1)) AS a") for line in lines)
    assert any("min(toNullable(r1)) AS a" in line for line in lines)


def test_infinities_are_checked_once_where_operators_pass_them_on() -> None:
    query = compiled("table", "max((x + y) * x - 2)", "max(1 / (x + y))")
    assert "max(toNullable(finite(((`x` + `y`) * `x`) - (2.0)))) AS" in query.sql
    # 1 / infinity is 0
    assert "max(toNullable(finite(1.0 / finite(`x` + `y`)))) AS" in query.sql


def test_sums_of_whole_numbers_need_no_bands() -> None:
    small = compiled("binary", "average(if(tp(), 10, -3))")
    assert "sumIf(toInt64(" in small.sql
    assert "exact_ratio" not in small.sql
    combined = compiled("binary", "sum(if(fp(), 10, 0) + if(fn(), 20, 0) * 3 - length(churned))")
    assert "exact_term" in combined.sql, "nothing says how long a text is"
    assert "exact" not in compiled("binary", "sum(if(fp(), 10, 0) + if(fn(), 20, 0) * 3 - 1)").sql
    assert "exact_term" in compiled("binary", "sum(age + 1)").sql
    whole = compiled("binary", "average(age)")
    assert "sumIf(toInt128(" in whole.sql
    assert "(whole_number(a1), whole_number(a1n))" in whole.sql
    real = compiled("binary", "average(score)")
    assert "sumMapIf(exact_term(" in real.sql


def test_own_names_keep_clear_of_columns_metrics_and_the_source() -> None:
    model = ModelDefinition.model_validate(
        {"name": "m", "columns": [{"name": "r1", "type": "float"}, {"name": "_step1", "type": "float"}]}
    )
    query = compile_clickhouse(planned(model, a1="sum(r1 * _step1)", rows="sum(_step1)"), "(SELECT * FROM __cells)")
    assert "___cells AS (" in query.sql
    assert "`r1` * `_step1`" in query.sql
    assert "FROM (SELECT * FROM __cells)" in query.sql
    assert query.metrics == ("a1", "rows_")  # `rows` is a column of every answer


def test_baselines_are_parameters_once_each() -> None:
    query = compiled("table", "jsd(b, 'training') + psi(b, 'training')", "jsd(b, 'training')")
    assert list(query.parameters) == ["baseline_1"]
    assert "{baseline_1:Array(Float64)}[2]" in query.sql


def test_versions_read_their_rows_in_their_own_way() -> None:
    strict = EXAMPLE_MODELS["binary"].model_copy(
        update={"task_params": EXAMPLE_MODELS["binary"].task_params.model_copy(update={"threshold": 0.9})}
    )
    plan, other = planned("binary", "recall()"), planned(strict, "recall()")
    reads = {
        (mine.aggregate, mine.segment): (theirs.aggregate, theirs.segment)
        for mine, theirs in zip(plan.cells, other.cells, strict=True)
    }
    query = compile_clickhouse(plan, [Source("new"), Source("old", reads)])
    new, old = query.sql.split("UNION ALL")
    assert "FROM new" in new
    assert "0.5" in new
    assert "0.9" not in new
    assert "0.9" in old
    assert "countIf(s0 and a1_if) AS a1" in query.sql


def test_a_version_reads_an_aggregate_in_one_way_over_all_segments() -> None:
    plan = planned("binary", "recall()", segments=("age > 1",))
    first, other = list(dict.fromkeys(cell.aggregate for cell in plan.cells))[:2]
    torn = {(first, plan.segments[1].expression): (other, plan.segments[1].expression)}
    with pytest.raises(ValueError, match="in several ways"):
        compile_clickhouse(plan, [Source("old", torn), Source("new")])


def _calls() -> list[Any]:
    found = []
    for spec in (*OPERATORS, *FUNCTIONS):
        for place, example in enumerate(spec.examples):
            found.append(pytest.param(example, spec.level, id=f"{spec.name}-{place}"))
    return found


@pytest.mark.parametrize(("example", "level"), _calls())
def test_every_declared_function_has_sql(example: Example, level: LevelRule) -> None:
    text = f"count({example.call})" if level in (LevelRule.ARGUMENTS, LevelRule.ROW) else example.call
    query = compile_clickhouse(planned(example.model, text), "events")
    assert query.metrics == ("m0",)
    assert query.sql.count("(") == query.sql.count(")")


def test_what_has_no_sql_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("table", "sum(x + 1)")
    without = {**KERNELS, "+": Kernel("+", KERNELS["+"].arrow, None, "nobody has found any")}
    monkeypatch.setattr(sql_registers, "KERNELS", without)
    with pytest.raises(SqlFormError, match="nobody has found any") as raised:
        compile_clickhouse(plan, "events")
    assert raised.value.code == "FQL080"
    assert "--engine arrow" in str(raised.value.hint)


def nested(depth: int, form: str) -> str:
    text = "x"
    for _ in range(depth):
        text = form.replace("X", text)
    return f"sum({text})"


@pytest.mark.parametrize(
    "form", ["(X + y)", "(1 / X)", "if(y > 1, 2, X)", "abs(X % 7)", "length(to_string(X))", "X ^ 2"]
)
def test_sql_grows_in_proportion_to_what_it_says(form: str) -> None:
    short, long = (len(compiled("table", nested(depth, form)).sql) for depth in (10, 40))
    base = len(compiled("table", "sum(x)").sql)
    assert long - base < 4.6 * (short - base)


def test_more_metrics_are_as_much_more_sql() -> None:
    def size(count: int) -> int:
        return len(compiled("table", *(f"average(x ^ {place})" for place in range(2, count + 2))).sql)

    few, many = size(5) - size(1), size(21) - size(1)
    assert many < 5.5 * few


def test_a_metric_cannot_read_a_column_itself() -> None:
    plan = planned("table", "sum(x)")
    column = next(cell.aggregate.args[0] for cell in plan.cells if cell.aggregate.kind == "sum")
    wrong = replace(plan, metrics=(replace(plan.metrics[0], expression=column),))
    with pytest.raises(TypeError, match="cannot read the column"):
        compile_clickhouse(wrong, "events")
