from __future__ import annotations

from pathlib import Path
from typing import Any

from fqlstream.clock import ManualClock
from fqlstream.code_metrics.request import Failure, FrameOutcome, Outcome
from fqlstream.runner.execution import Execution, _finished, _names, complete_values
from fqlstream.settings import Settings
from fqlstream.store.code_metric_frames import Part
from fqlstream.store.code_metric_rows import Report, ValueRow

ALL_ROWS, YOUNG = Part("all", "", None), Part("all", "young", "_in_1")
NAMES = _names((ALL_ROWS, YOUNG))
REPORT = Report("exported", 20, 7, seconds={"export": 0.5})


def outcome(*frames: FrameOutcome, failure: Failure | None = None) -> Outcome:
    return Outcome("spark", frames, failure, ("seccomp",), {"compute": 1.0}, 2**20)


def test_parts_are_named_as_people_read_them_and_never_alike() -> None:
    parts = (ALL_ROWS, YOUNG, Part("v1", "", "b"), Part("v1", "young", "c"), Part("all", "young of v1", "d"))
    assert list(_names(parts)) == ["", "young", "all rows of v1", "young of v1", "young of v1'"]
    assert list(_names((Part("v1", "", None), Part("v1", "young", "b")))) == ["", "young"]


def test_values_carry_their_parts_and_what_the_sandbox_took() -> None:
    found = _finished(outcome(FrameOutcome("", 7, 1.5, 0.1), FrameOutcome("young", 0, None, 0.1)), NAMES, REPORT)
    assert found.is_success
    assert found.values == (ValueRow("all", "", 1.5, 7), ValueRow("all", "young", None, 0))
    assert (found.report.progress, found.report.layers, found.report.rows) == (100, ("seccomp",), 7)
    assert found.report.seconds == {"export": 0.5, "compute": 1.0}


def test_one_part_that_fails_is_named_and_leaves_the_others_their_values() -> None:
    failure = Failure("CMX007", "no column 'agee'", "line 2", "columns: age")
    found = _finished(
        outcome(FrameOutcome("", 7, 1.5, 0.1), FrameOutcome("young", 3, None, 0.1, failure)), NAMES, REPORT
    )
    assert not found.is_success
    assert found.values == (ValueRow("all", "", 1.5, 7),)
    assert (found.report.code, found.report.error, found.report.hint) == (
        "CMX007",
        "segment 'young': no column 'agee'",
        "columns: age",
    )


def test_a_run_that_fails_whole_has_no_value() -> None:
    found = _finished(outcome(failure=Failure("CMX001", "killed")), NAMES, REPORT)
    assert (found.values, found.report.error, found.report.stage) == ((), "killed", "exported")


def test_every_part_of_a_run_and_of_those_before_it_has_a_row_also_without_a_value() -> None:
    found = _finished(outcome(FrameOutcome("", 7, 1.5, 0.1), failure=Failure("CMX001", "killed")), NAMES, REPORT)
    assert found.parts == (("all", ""), ("all", "young"))
    assert complete_values(found.values, (*found.parts, ("all", "young"), ("v1", "removed"))) == [
        ValueRow("all", "", 1.5, 7),
        ValueRow("all", "young", None, 0),
        ValueRow("v1", "removed", None, 0),
    ]


def test_rows_that_a_killed_process_left_are_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "rows-left").mkdir()
    (tmp_path / "rows-left" / "0.parquet").touch()
    nothing: Any = None
    Execution(nothing, nothing, Settings(), ManualClock(), tmp_path)
    assert list(tmp_path.iterdir()) == []
