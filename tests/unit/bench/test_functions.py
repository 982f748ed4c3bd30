"""The benchmark of single functions: all of them are in it, and a wrong answer shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fqlstream.bench import Request, run_bench
from fqlstream.bench.functions import agree
from fqlstream.fql.readings import Result
from fqlstream.functions.index import FUNCTIONS
from fqlstream.functions.operators import OPERATORS

EXACT = Result("m", "", 1.5, exact=True, error_bound=None, rows=10, labelled_rows=0)


def test_every_function_and_operator_is_measured() -> None:
    report = run_bench("functions", Request(2_000, frozenset(), lambda _: None))
    names = [spec.name for spec in (*OPERATORS, *FUNCTIONS)]
    assert report.checked
    assert report.figures.keys() == {
        f"{name}_{figure}" for name in names for figure in ("rows_per_s_core", "state_bytes")
    }
    assert all(value > 0 for value in report.figures.values())


def test_only_the_figures_asked_for_are_measured() -> None:
    report = run_bench("functions", Request(2_000, frozenset({"auroc_state_bytes"}), lambda _: None))
    assert report.figures.keys() == {"auroc_rows_per_s_core", "auroc_state_bytes"}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (EXACT, True),
        (replace(EXACT, value=1.5000000000000002), False),
        (replace(EXACT, value=None), False),
    ],
)
def test_exact_answers_must_be_equal_to_the_last_bit(other: Result, same: bool) -> None:
    assert agree(EXACT, other) is same


def test_answers_with_a_bound_must_be_within_both() -> None:
    bounded = replace(EXACT, exact=False, error_bound=0.04)
    assert agree(bounded, replace(bounded, value=1.57))
    assert not agree(bounded, replace(bounded, value=1.59))
    assert not agree(bounded, replace(bounded, value=None))
