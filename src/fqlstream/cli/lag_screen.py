"""How lag is drawn for people: tables, totals, and curves of block characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fqlstream.cli.output import printable
from fqlstream.ops.lag.judgement import Status
from fqlstream.ops.lag.report import GroupLag, LagReport, PartitionLag, Totals
from fqlstream.store.lag_history import LagPoint

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_ZERO: Final = "·"
_STYLES: Final = {Status.OK: "green", Status.WARN: "yellow"}
_BAD_STYLE: Final = "bold red"
_SEVERITY: Final = (None, Status.OK, Status.WARN, Status.STALL, Status.STOP, Status.REWIND, Status.ERR)
_TEXTS: Final = ("topic", "status", "member", "why")
_CURVE_COLUMNS: Final = 48
#: Lines of a screen that a group needs beside its partitions.
_GROUP_LINES: Final = 4


def age(seconds: float | None) -> str:
    """Write a length of time as people say it: 0 s, 1.4 s, 3 m 20 s, 5 h 07 m, 3 d 04 h."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} m {rest_s:02d} s"
    hours, rest_m = divmod(minutes, 60)
    if hours < 100:
        return f"{hours} h {rest_m:02d} m"
    days, rest_h = divmod(hours, 24)
    return f"{days} d {rest_h:02d} h"


def number(value: float | None) -> str:
    """Write a count with its thousands, a pace with one digit; ? where it is not known."""
    if value is None:
        return "?"
    return f"{value:,.1f}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"


def sparkline(values: Sequence[float], columns: int = _CURVE_COLUMNS) -> str:
    """Draw values as one line of blocks from zero up; of those that share a column the highest is drawn."""
    return chart(values, columns, 1)[0]


def chart(values: Sequence[float | None], columns: int, rows: int) -> list[str]:
    """Draw values as lines of blocks from zero up, the topmost line first. Zero is a dot, None leaves its column empty."""
    count = min(columns, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else [0]
    heights = [
        max((value for value in values[start:end] if value is not None), default=None) for start, end in pairwise(edges)
    ]
    top = max((height for height in heights if height is not None), default=0.0)
    return [
        "".join(_cell(height, top, rows, row) for height in heights).ljust(columns) for row in reversed(range(rows))
    ]


def _cell(height: float | None, top: float, rows: int, row: int) -> str:
    """Give what is drawn of a value in one row, the lowest being 0."""
    if height is None:
        return " "
    if height <= 0:
        return _ZERO if row == 0 else " "
    # what is not zero is seen
    eighths = max(1, round(8 * rows * height / top))
    return _BLOCKS[min(8, max(0, eighths - 8 * row))]


def summary(group: GroupLag) -> Text:
    """Say in one line how a group does."""
    total = group.total
    members = "1 member" if group.member_count == 1 else f"{group.member_count} members"
    line = Text()
    line.append(printable(group.group), "bold").append("  ").append(group.status, _style(group.status))
    line.append(
        f"  {group.state}, {members}, {len(group.all_partitions)} partitions: {number(total.lag_records)} records"
    )
    if total.lag_rows is not None and total.lag_rows != total.lag_records:
        line.append(f", {number(total.lag_rows)} rows")
    line.append(f", oldest {age(total.lag_seconds)}")
    if total.in_per_s is not None:
        line.append(
            f"; in {number(total.in_per_s)}/s, out {number(total.out_per_s)}/s, drained in {age(total.eta_seconds)}"
        )
    return line


def partitions_table(partitions: Sequence[PartitionLag], *, is_cut: bool = False) -> Table:
    """Give a row for each partition; columns of which nothing is known are left out. Rows are cut to one line where told so."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _columns(partitions)
    for name, _ in columns:
        table.add_column(
            name,
            justify="left" if name in _TEXTS else "right",
            overflow="ellipsis" if is_cut else "fold",
            no_wrap=is_cut,
        )
    for index, each in enumerate(partitions):
        table.add_row(*(Text(cells[index], _style(each.status) if name == "status" else "") for name, cells in columns))
    return table


def _columns(partitions: Sequence[PartitionLag]) -> list[tuple[str, list[str]]]:
    paces = [("in/s", [each.in_per_s for each in partitions]), ("out/s", [each.out_per_s for each in partitions])]
    has_pace = any(value is not None for _, values in paces for value in values)
    columns = [
        ("topic", [printable(each.topic) for each in partitions]),
        ("partition", [str(each.partition) for each in partitions]),
        ("committed", [number(each.committed) for each in partitions]),
        ("end", [number(each.end) for each in partitions]),
        ("records", [number(each.lag_records) for each in partitions]),
    ]
    if any(each.lag_rows not in (None, each.lag_records) for each in partitions):
        columns.append(("rows", [number(each.lag_rows) for each in partitions]))
    columns.append(("behind", [age(each.lag_seconds) for each in partitions]))
    if has_pace:
        columns += [(name, [number(value) for value in values]) for name, values in paces]
        columns.append(("drained in", [age(each.eta_seconds) for each in partitions]))
    return [
        *columns,
        ("status", [str(each.status or "?") for each in partitions]),
        ("member", [_member(each) for each in partitions]),
        ("why", [printable(each.why) for each in partitions]),
    ]


def _member(each: PartitionLag) -> str:
    return printable(f"{each.client_id} at {each.host}") if each.member else "-"


def totals_table(kind: str, rows: Mapping[str, Totals]) -> Table:
    """Give a row for each topic or member."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (kind, "partitions", "records", "rows", "behind", "in/s", "out/s", "status"):
        table.add_column(name, justify="left" if name in (kind, "status") else "right", overflow="fold")
    for name, total in rows.items():
        table.add_row(
            Text(printable(name) or "nobody"), str(total.partitions), number(total.lag_records), number(total.lag_rows),
            age(total.lag_seconds), number(total.in_per_s), number(total.out_per_s), Text(total.status, _style(total.status)),
        )  # fmt: skip
    return table


def _style(status: Status | None) -> str:
    return "dim" if status is None else _STYLES.get(status, _BAD_STYLE)


def whole(report: LagReport) -> Iterable[RenderableType]:
    """Give everything that one look found."""
    for group in report.groups:
        yield summary(group)
        if group.partitions:
            yield partitions_table(group.partitions)
        if len(topics := group.by_topic()) > 1:
            yield totals_table("topic", topics)
        if len(members := group.by_member()) > 1:
            yield totals_table("member", members)
        yield ""


class WatchScreen:
    """A screen of `lag --watch`: as many partitions as fit, those that are worst first."""

    def __init__(
        self, report: LagReport | None, curves: Mapping[str, Sequence[float]], interval_s: float, trouble: str
    ) -> None:
        self._report, self._curves = report, curves
        self._interval_s, self._trouble = interval_s, trouble

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        report = self._report
        if report is not None:
            head = f"{_clock(report.at_ms)} UTC  cluster {report.cluster}  looked in {report.took_s:.2f} s, every {self._interval_s:g} s  Ctrl-C ends"
            yield Text(head, "dim", no_wrap=True, overflow="ellipsis")
            height = (options.height or options.max_height) - 2 - (1 if self._trouble else 0) - len(report.remarks)
            room = max(2, height // max(1, len(report.groups)) - _GROUP_LINES)
            for group in report.groups:
                yield self._group(group, room)
            for note in report.remarks:
                yield Text(printable(note), "yellow")
        if self._trouble:
            yield Text(printable(self._trouble), _BAD_STYLE)

    def _group(self, group: GroupLag, room: int) -> RenderableType:
        values = self._curves.get(group.group, ())
        curve = Text(f"{sparkline(values)}  highest {number(max(values, default=0))} records")
        ranked = sorted(group.partitions, key=_worst_first)
        parts: list[RenderableType] = [summary(group), curve, partitions_table(ranked[:room], is_cut=True)]
        if len(ranked) > room:
            parts.append(Text(f"... {len(ranked) - room} partitions more that are no worse", "dim"))
        return Group(*parts)


def _worst_first(each: PartitionLag) -> tuple[float, float, int, str, int]:
    return (
        -_SEVERITY.index(each.status),
        -(each.lag_seconds or 0.0),
        -(each.lag_records or 0),
        each.topic,
        each.partition,
    )


def past(points: Sequence[LagPoint], since_ms: int, step_ms: int, columns: int) -> Iterable[RenderableType]:
    """Draw the past of every topic of every group, one column for each `step_ms`."""
    lines: dict[tuple[str, str], list[LagPoint]] = {}
    for point in points:
        lines.setdefault((point.consumer_group, point.topic), []).append(point)
    for (group, topic), line in lines.items():
        records: list[float | None] = [None] * columns
        seconds: list[float | None] = [None] * columns
        for point in line:
            column = min(columns - 1, max(0, (point.at_ms - since_ms) // step_ms))
            records[column] = max(records[column] or 0, point.lag_records)
            if point.lag_seconds is not None:
                seconds[column] = max(seconds[column] or 0.0, point.lag_seconds)
        worst = max(
            (Status(point.worst) for point in line if point.worst in Status.__members__),
            key=_SEVERITY.index,
            default=None,
        )
        yield Text.assemble(
            (printable(group), "bold"), f"  {printable(topic)}  worst ", (str(worst or "?"), _style(worst))
        )
        yield from _drawn("records behind", records, number(_highest(records)), number(line[-1].lag_records))
        yield from _drawn("time behind", seconds, age(_highest(seconds)), age(line[-1].lag_seconds))
        yield Text(f"{_clock(since_ms)} UTC".ljust(max(1, columns - 8)) + _clock(line[-1].at_ms), "dim")
        yield ""


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _drawn(what: str, values: Sequence[float | None], highest: str, last: str) -> Iterable[RenderableType]:
    yield Text(f"{what}: highest {highest}, last {last}", "dim")
    # a line of dots says as much as three
    for line in chart(values, len(values), 3 if _highest(values) else 1):
        yield Text(line, no_wrap=True)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S")
