"""Which cell of one version's plan says what a cell of another's says."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.stream.one_partition import catalogue, model

from fqlstream.fql.plan import Cell, ModelPlan
from fqlstream.settings import FqlSettings
from fqlstream.stream.engines import Engines
from fqlstream.stream.versions import cells_in_common

COLUMNS = model()["columns"]


def plans(metrics: dict[str, str], segments: dict[str, str], **second: Any) -> tuple[ModelPlan, ModelPlan]:
    """Plan the same metrics and segments for two versions, the second one changed."""
    engines = Engines(catalogue(model("v1"), model("v2", **second), metrics=metrics, segments=segments), FqlSettings())
    return engines("m", "v1").plan, engines("m", "v2").plan


def paired(to: ModelPlan, of: ModelPlan) -> list[tuple[Cell, Cell | None]]:
    """Give each cell of a plan with the other one's that stands for it."""
    common = cells_in_common(to, of)
    theirs = {cell.key: cell for cell in of.cells}
    return [(cell, theirs.get(common.get(cell.key, ""))) for cell in to.cells]


def test_one_text_read_under_two_thresholds_is_one_metric_of_two_cells() -> None:
    to, of = plans(
        {"hits": "sum(if(tp(), 1, 0))", "sum": "sum(x)"},
        {"wrong": "fp() or fn()"},
        task_params={"threshold": 0.9, "target_class_order": [0, 1]},
    )
    assert {cell.key for cell in to.cells} != {cell.key for cell in of.cells}
    found = paired(to, of)
    assert all(other is not None for _, other in found)
    assert len({other.key for _, other in found if other is not None}) == len(found), "each stands for one"
    for cell, other in found:
        assert other is not None
        assert cell.aggregate.kind == other.aggregate.kind
        assert cell.lane is other.lane
    assert sum(cell.key == other.key for cell, other in found if other is not None) >= 3, (
        "what reads no threshold is the same"
    )


def test_what_the_other_version_cannot_compute_has_no_counterpart() -> None:
    columns = [column for column in COLUMNS if column["name"] != "x"]
    to, of = plans({"sum": "sum(x)", "score": "sum(s)"}, {"high": "x >= 5"}, columns=columns)
    lacking = [cell for cell, other in paired(to, of) if other is None]
    reads_x = [cell for cell in to.cells if "'x'" in repr(cell.aggregate) or "'x'" in repr(cell.segment)]
    assert lacking == reads_x
    assert len(reads_x) >= 4
    assert all(other is not None for _, other in paired(of, to)), "the other way round nothing is missing"


@pytest.mark.parametrize("text", ["sum(x)", "average(x) + max(x)", "quantile(x, level=0.9)"])
def test_a_plan_stands_for_itself(text: str) -> None:
    to, _ = plans({"metric": text}, {"high": "x >= 5"})
    assert all(cell is other for cell, other in paired(to, to))


def test_a_cell_that_would_have_to_stand_for_two_is_left_out() -> None:
    """Under a threshold of a half both metrics are one, under another they are two: the one cannot be read out of either."""
    metrics = {"at_half": "precision(threshold=0.5)", "own": "precision()"}
    one, two = plans(metrics, {}, task_params={"threshold": 0.9, "target_class_order": [0, 1]})
    left_out = [cell for cell, other in paired(one, two) if other is None]
    assert len(left_out) == len(two.cells) - len(one.cells) == 2
    found = [other for _, other in paired(two, one)]
    assert None not in found
    # the other way round each of the two is the one, as its version reads it
    assert [found.count(cell) for cell in left_out] == [2, 2]
