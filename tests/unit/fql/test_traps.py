from __future__ import annotations

import pytest

from fqlstream.fql.check import Use, check
from fqlstream.functions.example_models import EXAMPLE_MODELS

MODEL = EXAMPLE_MODELS["binary"]

CASES: list[tuple[str, Use, list[str]]] = [
    ("average(if(fn(), -40, if(fp(), -400, 250)))", "metric", ["250"]),
    ("average(if(tp(), 1, 0))", "metric", ["0"]),
    ("average(if(tp(), 1, null))", "metric", []),
    ("sum(if(tp(), 1, 0))", "metric", []),
    ("sum(if(tp(), 1, 2))", "metric", ["2"]),
    ("sum(if(tp() or tn(), 1, -1))", "metric", ["-1"]),
    ("average(if(is_null(churned), null, if(fn(), -40, 250)))", "metric", []),
    ("average(if(is_not_null(churned), if(fn(), -40, 250), null))", "metric", []),
    ("average(if(fp() and is_not_null(churned), 1, 5))", "metric", []),
    ("average(if(is_null(age), null, if(fn(), -40, 250)))", "metric", ["250"]),
    ("average(if(age > 3, 1, if(fp(), 2, 3)))", "metric", ["3"]),
    ("average(if(fp(), if(age > 3, 1, 2), null))", "metric", []),
    ("average(if(fp(), 1, if(age > 3, 2, 4)))", "metric", ["4"]),
    ("if(fp(), true, false)", "segment", []),
    ("if(fp(), false, true)", "segment", ["true"]),
    ("fp()", "segment", []),
    ("average(if(churned == 'yes', 1, 0))", "metric", []),
]


@pytest.mark.parametrize(("text", "kind", "places"), CASES)
def test_unlabelled_rows_in_an_else_branch(text: str, kind: Use, places: list[str]) -> None:
    result = check(text, MODEL, kind)
    assert result.ok, result.errors
    found = [item for item in result.warnings if item.code == "FQL101"]
    assert [text[item.start : item.end] for item in found] == places
    assert all(item.severity == "warning" and "is_null(churned)" in (item.hint or "") for item in found)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("count(if(age > 3, 1, 0))", ["FQL102"]),
        ("count(if(age > 3, 1, null))", []),
        ("count(age)", []),
        ("sum(if(is_null(age), 1, 0)) / count(age)", ["FQL103"]),
        ("sum(if(age > 3, 1, 0)) / count(score) * 100", ["FQL103"]),
        ("sum(if(is_null(age), 1, 0)) / traffic()", []),
        ("sum(age) / count(age)", []),
    ],
)
def test_counts_that_are_not_what_they_seem(text: str, codes: list[str]) -> None:
    assert [item.code for item in check(text, MODEL).warnings] == codes
