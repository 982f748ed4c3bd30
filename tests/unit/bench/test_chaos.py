"""The chaos benchmark's own judgement: what counts as right, without a stack. Two real rounds: `pytest -m soak`."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest

from fqlstream.bench import Request, run_bench
from fqlstream.bench.chaos import Sent, _batch, _environment, _same, definitions
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import ModelDefinition

HOUR_MS = 3_600_000


def test_the_batch_answers_are_those_of_the_rows() -> None:
    model = ModelDefinition.model_validate(definitions("m")[0])
    table = coerce_table(
        pa.table({"x": [1.0, 9.0, 7.0], "score": [0.9, 0.2, 0.8], "churned": ["yes", "yes", None]}), model
    )
    found = _batch(Sent(model, table, np.array([0, 10, HOUR_MS]), 2))
    first, second = "1970-01-01T00:00:00Z", "1970-01-01T01:00:00Z"
    assert found["sum", "", first] == (10.0, 2)
    assert found["sum", "high", first] == (9.0, 1)
    assert found["cost", "", first] == ((250 - 40) / 2, 2)
    assert found["recall", "", first] == (0.5, 2)
    assert found["traffic", "wrong", first] == (1.0, 1)
    assert found["cost", "", second] == (None, 1)


@pytest.mark.parametrize(
    ("found", "bound", "same"),
    [
        ((0.5, 10), None, True),
        ((0.5000000000000001, 10), None, False),
        ((0.5, 11), None, False),
        ((None, 10), None, False),
        ((0.501, 10), 0.001, True),
        ((0.503, 10), 0.001, False),
    ],
)
def test_exact_values_must_be_the_same_number_and_others_within_both_bounds(
    found: tuple[float | None, int], bound: float | None, same: bool
) -> None:
    assert _same(found, (0.5, 10), bound) is same


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQLSTREAM_A", "before")
    with _environment({"FQLSTREAM_A": "1", "FQLSTREAM_B": "2"}):
        assert (os.environ["FQLSTREAM_A"], os.environ["FQLSTREAM_B"]) == ("1", "2")
    assert os.environ["FQLSTREAM_A"] == "before"
    assert "FQLSTREAM_B" not in os.environ


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_rounds_change_no_number() -> None:
    report = run_bench("chaos", Request(4_000, frozenset(), print, rounds=2, seed=7))
    assert report.checked
    assert report.figures["mismatches"] == 0
    assert report.figures["rounds"] == 2
