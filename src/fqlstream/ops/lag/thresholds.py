"""When lag is too much, and what a script is told then: exit codes for cron, and Nagios' own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fqlstream.errors import UsageError
from fqlstream.events.durations import parse_duration_ms
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport


class Level(IntEnum):
    """How bad it is, in Nagios' numbers (Nagios Plugin Development Guidelines, "Plugin Return Codes")."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


#: From best to worst: what is known to be bad is worse than what is not known.
_ORDER: Final = (Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL)
_LEVELS: Final = {Status.OK: Level.OK, Status.WARN: Level.WARNING, Status.ERR: Level.CRITICAL}


@dataclass(frozen=True, slots=True)
class Threshold:
    """The most that is fine. None: that is not looked at. Records are of a group together, seconds of its oldest partition."""

    records: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Threshold:
        """Read `10000` as records and `30s`, `5m` as time; one of each at most. Raises UsageError for other texts."""
        records: int | None = None
        seconds: float | None = None
        for text in texts:
            if text.isascii() and text.isdigit() and len(text) <= 18 and records is None:
                records = int(text)
            elif not text.isdigit() and seconds is None:
                seconds = _seconds(text)
            else:
                raise UsageError("LAG010", f"{text!r} is a second threshold of its kind, or none", _HINT)
        return cls(records, seconds)


_HINT: Final = "write records as 10000, time as 30s or 5m; --warn and --critical take one of each"


_NO_THRESHOLD: Final = Threshold()


def _seconds(text: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except ValueError:
        raise UsageError("LAG010", f"{text!r} is no threshold", _HINT) from None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is said of one group: how bad it is, and every reason."""

    group: str
    level: Level
    reasons: tuple[str, ...]


def assess(report: LagReport, warn: Threshold, critical: Threshold) -> tuple[Finding, ...]:
    """Say how bad every group is: by its status, and by thresholds. A lag that is not known is UNKNOWN where a threshold asks for it."""
    return tuple(_finding(group, warn, critical) for group in report.groups)


def _finding(group: GroupLag, warn: Threshold, critical: Threshold) -> Finding:
    total = group.total
    found = [(_LEVELS[group.status], reason) for reason in _troubles(group)]
    if any(each.committed is not None for each in group.partitions):
        found += _measured("records", total.lag_records, warn.records, critical.records)
        found += _measured("seconds", _oldest(group), warn.seconds, critical.seconds)
    if (warn, critical) != (_NO_THRESHOLD, _NO_THRESHOLD):
        found += [
            (Level.UNKNOWN, f"how far it is behind in {each.topic}[{each.partition}] is not known: {each.why}")
            for each in group.partitions
            if each.member is not None and each.committed is None and each.status is None
        ]
    level = worst([level for level, _ in found])
    return Finding(group.group, level, tuple(reason for _, reason in found))


def _troubles(group: GroupLag) -> list[str]:
    return [
        f"{each.status} {each.topic}[{each.partition}]: {each.why}"
        for each in group.partitions
        if each.status not in (Status.OK, None)
    ]


def _oldest(group: GroupLag) -> float | None:
    """Give the highest age; None where that of a partition is not known: it might be the highest."""
    ages = [each.lag_seconds for each in group.partitions if each.committed is not None]
    return None if None in ages else max((age for age in ages if age is not None), default=None)


def _measured(unit: str, value: float | None, warn: float | None, critical: float | None) -> list[tuple[Level, str]]:
    if warn is None and critical is None:
        return []
    if value is None:
        return [(Level.UNKNOWN, f"how many {unit} it is behind is not known")]
    for level, limit in ((Level.CRITICAL, critical), (Level.WARNING, warn)):
        if limit is not None and value > limit:
            return [(level, f"{value:g} {unit} behind, more than {limit:g}")]
    return []


def worst(levels: Sequence[Level]) -> Level:
    """Give the worst of some levels; OK of none."""
    return max(levels, key=_ORDER.index, default=Level.OK)


def verdict(report: LagReport, findings: Sequence[Finding]) -> Level:
    """Say how bad a look is: as its worst group, and UNKNOWN at least where groups may be missing, or there is none."""
    is_whole = report.groups and not report.left_out
    return worst([*(finding.level for finding in findings), Level.OK if is_whole else Level.UNKNOWN])


def exit_code(report: LagReport, findings: Sequence[Finding]) -> int:
    """Give the exit code for cron: 0 fine, 1 anything else."""
    return int(verdict(report, findings) is not Level.OK)


def nagios(report: LagReport, findings: Sequence[Finding], warn: Threshold, critical: Threshold) -> tuple[Level, str]:
    """Give Nagios' exit code, and what a plugin prints: one line with performance data, then a line for every reason and remark.

    Several thousand partitions may be in trouble for one reason: the first line only counts them.
    """
    level = verdict(report, findings)
    said = [
        f"{group.group} {group.status} {_number(group.total.lag_records)} records {_number(_oldest(group))} s"
        for group in report.groups
    ]
    shown = ", ".join([*said, f"left out: {len(report.left_out)}"] if report.left_out else said)
    data = " ".join(_performance(group, warn, critical) for group in report.groups)
    # a bar begins performance data
    lines = [f"LAG {level.name} - {shown.replace('|', '/')} | {data}" if data else f"LAG {level.name} - no group"]
    lines += [f"{finding.group}: {reason}".replace("|", "/") for finding in findings for reason in finding.reasons]
    lines += [remark.replace("|", "/") for remark in report.remarks]
    return level, "\n".join(lines)


def _performance(group: GroupLag, warn: Threshold, critical: Threshold) -> str:
    """Write 'label'=value[unit];warn;critical;min, U for what is not known."""
    name = group.group.replace("'", "''").replace("=", "_").replace("|", "_")
    rows = (
        (f"{name} records", group.total.lag_records, "", warn.records, critical.records),
        (f"{name} seconds", _oldest(group), "s", warn.seconds, critical.seconds),
    )
    return " ".join(
        f"'{label}'={'U' if value is None else f'{value:g}' + unit if isinstance(value, float) else f'{value}{unit}'}"
        f";{_limit(low)};{_limit(high)};0"
        for label, value, unit, low, high in rows
    )


def _limit(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "?"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
