"""Every declared function and operator is compared with an oracle that we did not write, a hundred times and more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.oracle.function_table import CASES, ROWS, Row, deviation, tried

from fqlstream.functions.index import FUNCTIONS
from fqlstream.functions.operators import OPERATORS


def test_every_function_and_operator_is_in_the_table() -> None:
    assert {row.name for row in ROWS} == {spec.name for spec in (*OPERATORS, *FUNCTIONS)}
    assert CASES >= 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{row.model}")
def test_a_function_is_its_oracles(row: Row) -> None:
    outcome = tried(row)
    assert outcome.values >= CASES // 3  # enough of the tables have a value at all
    assert outcome.deviation <= row.tolerance


WRONG = {
    "/": "*",
    "precision": "recall",
    "sum": "average",
    "mse": "mae",
    "map": "ndcg_mean",
    "jsd": "psi",
    "exp": "sqrt",
    "and": "or",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_would_be_noticed(name: str) -> None:
    by_name = {row.name: row for row in ROWS}
    wrong = replace(by_name[name], oracle=by_name[WRONG[name]].oracle)
    assert tried(wrong).deviation > 1e-6


@pytest.mark.parametrize(
    ("found", "wanted", "apart"),
    [
        (None, None, 0.0),
        (None, float("nan"), 0.0),
        (1.0, None, float("inf")),
        ("a", "b", float("inf")),
        (True, True, 0.0),
        (3.0, 2.0, 0.5),
        (0.5, 0.25, 0.25),
    ],
)
def test_deviation(found: object, wanted: object, apart: float) -> None:
    assert deviation(found, wanted) == apart
