from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.ops.lag.test_report import lagging

from fqlstream.errors import UsageError
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport, PartitionLag
from fqlstream.ops.lag.thresholds import Level, Threshold, assess, exit_code, nagios, worst

NONE = Threshold()


def looked(*partitions: PartitionLag, group: str = "g") -> LagReport:
    return LagReport(0, "c", (GroupLag(group, "Stable", 1, partitions),), 0.1)


@pytest.mark.parametrize(
    ("texts", "threshold"),
    [([], NONE), (["100"], Threshold(100)), (["30s"], Threshold(None, 30)), (["5m", "7"], Threshold(7, 300)), (["500ms"], Threshold(None, 0.5))],
)  # fmt: skip
def test_thresholds_are_records_or_time(texts: list[str], threshold: Threshold) -> None:
    assert Threshold.parse(texts) == threshold


@pytest.mark.parametrize(
    "texts", [["many"], ["-1"], ["1.5"], ["1", "2"], ["1s", "2s"], ["1 s"], [""], ["9" * 19], ["٣"]]
)
def test_anything_else_is_refused_with_what_to_write(texts: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        Threshold.parse(texts)
    assert (refused.value.code, "30s" in (refused.value.hint or "")) == ("LAG010", True)


@pytest.mark.parametrize(
    ("partitions", "warn", "critical", "level"),
    [
        ([lagging()], NONE, NONE, Level.OK),
        ([lagging(status=Status.WARN)], NONE, NONE, Level.WARNING),
        ([lagging(status=Status.STALL)], NONE, NONE, Level.CRITICAL),
        # records of a group together, seconds of the oldest
        ([lagging(records=5), lagging(records=6)], Threshold(10), NONE, Level.WARNING),
        ([lagging(records=5), lagging(records=5)], Threshold(10), NONE, Level.OK),
        ([lagging(records=5), lagging(records=6)], Threshold(3), Threshold(10), Level.CRITICAL),
        ([lagging(records=5), lagging(records=6)], Threshold(None, 5), Threshold(None, 6), Level.WARNING),
        # what is asked for and not known is not fine
        ([lagging(lag_seconds=None)], Threshold(None, 5), NONE, Level.UNKNOWN),
        ([lagging(lag_seconds=None)], Threshold(100), NONE, Level.OK),
        ([lagging(lag_seconds=None)], Threshold(1, 5), NONE, Level.WARNING),
        # of a partition without a commit nothing can be asked
        ([lagging(records=None, status=None)], Threshold(1, 5), NONE, Level.OK),
        ([lagging(records=None, status=None), lagging(records=9)], Threshold(1), NONE, Level.WARNING),
        # but that somebody holds one, and nobody knows how far behind, is not fine
        ([lagging(records=None, status=None, member="m")], Threshold(1), NONE, Level.UNKNOWN),
        ([lagging(records=None, status=None, member="m")], NONE, Threshold(None, 5), Level.UNKNOWN),
        ([lagging(records=None, status=None, member="m")], NONE, NONE, Level.OK),
        ([lagging(records=None, status=Status.OK, member="m")], Threshold(1), NONE, Level.OK),
    ],
)
def test_a_group_is_as_bad_as_the_worst_that_is_said_of_it(
    partitions: list[PartitionLag], warn: Threshold, critical: Threshold, level: Level
) -> None:
    report = looked(*partitions)
    (finding,) = found = assess(report, warn, critical)
    assert finding.level is level
    assert bool(finding.reasons) is (level is not Level.OK)
    assert exit_code(report, found) == (level is not Level.OK)
    assert nagios(report, found, warn, critical)[0] is level


@pytest.mark.parametrize(("status", "level"), [(Status.OK, Level.UNKNOWN), (Status.STOP, Level.CRITICAL)])
def test_groups_that_were_left_out_are_not_fine(status: Status, level: Level) -> None:
    report = replace(looked(lagging(status=status)), left_out=("group secret | b is left out",), notes=("by the way",))
    found = assess(report, NONE, NONE)
    assert exit_code(report, found) == 1
    said, text = nagios(report, found, NONE, NONE)
    assert said is level
    assert text.startswith(f"LAG {level.name} - g ")
    assert ", left out: 1 | 'g records'" in text
    assert text.endswith("\ngroup secret / b is left out\nby the way")


def test_no_group_at_all_is_not_fine() -> None:
    report = LagReport(0, "c", (), 0.1, left_out=("there is no consumer group like a*",))
    assert exit_code(report, ()) == 1
    assert nagios(report, (), NONE, NONE) == (
        Level.UNKNOWN,
        "LAG UNKNOWN - no group\nthere is no consumer group like a*",
    )
    assert exit_code(replace(report, left_out=()), ()) == 1


def test_a_note_alone_is_no_trouble() -> None:
    report = replace(looked(lagging()), notes=("the history is away",))
    assert exit_code(report, assess(report, NONE, NONE)) == 0


@given(st.lists(st.sampled_from(Level)))
def test_what_is_known_to_be_bad_is_worse_than_what_is_not_known(levels: list[Level]) -> None:
    found = worst(levels)
    if Level.CRITICAL in levels:
        assert found is Level.CRITICAL
    elif Level.WARNING in levels:
        assert found is Level.WARNING
    elif Level.UNKNOWN in levels:
        assert found is Level.UNKNOWN
    else:
        assert found is Level.OK


def test_nagios_reads_a_line_with_performance_data_and_people_the_lines_below() -> None:
    report = looked(lagging(records=12, status=Status.STOP, why="nobody | reads"), group="it's = mine|")
    warn, critical = Threshold(10, 30.0), Threshold(100)
    level, text = nagios(report, assess(report, warn, critical), warn, critical)
    first, *rest = text.split("\n")
    assert level is Level.CRITICAL
    head, data = first.rsplit(" | ", 1)
    assert head == "LAG CRITICAL - it's = mine| ERR 12 records 12.0 s".replace("|", "/")
    assert data == "'it''s _ mine_ records'=12;10;100;0 'it''s _ mine_ seconds'=12s;30;;0"
    assert rest[0] == "it's = mine/: STOP t[0]: nobody / reads"
    assert all("|" not in line for line in rest)


def test_nagios_is_told_u_for_what_is_not_known() -> None:
    report = looked(lagging(lag_seconds=None))
    assert "'g seconds'=U;;;0" in nagios(report, assess(report, NONE, NONE), NONE, NONE)[1]
