"""The benchmark of metrics in Python: its own judgement, without a sandbox."""

from __future__ import annotations

import numpy as np
import pytest

from fqlstream.bench import Request
from fqlstream.bench.code_metrics import _Course, _entry, _rows
from fqlstream.runner.execution import Finished
from fqlstream.store.code_metric_rows import Report, ValueRow

AGES = np.arange(100)


def finished(number: int, wrong: str | None = None) -> Finished:
    means = {"": AGES.mean(), **{f"s{at}": AGES[at == AGES % 10].mean() for at in range(10)}}
    values = tuple(
        ValueRow("all", name, float(mean) + number + (1e-6 if name == wrong else 0), 1) for name, mean in means.items()
    )
    return Finished(Report(), values)


@pytest.mark.parametrize("wrong", [None, "", "s3"])
def test_a_value_that_is_not_numpy_s_shows(wrong: str | None) -> None:
    course = _Course(Request(100, frozenset(), lambda _: None), ages=[AGES])
    course._check(finished(4, wrong), 4)
    assert course.checked is (wrong is None)


def test_a_segment_without_a_value_shows() -> None:
    course = _Course(Request(100, frozenset(), lambda _: None), ages=[AGES])
    course._check(Finished(Report(), finished(0).values[:-1]), 0)
    assert not course.checked


def test_rows_are_those_of_the_model() -> None:
    entry = _entry()
    table = _rows(entry.versions["v1"], 5, AGES)
    assert (len(entry.segments), table.num_rows, table.column("offset")[0].as_py()) == (10, 100, 5)
