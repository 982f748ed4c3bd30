"""`fqlstream lag`: how far consumer groups are behind."""

from __future__ import annotations

import csv as csv_module
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_text
from fqlstream.errors import BrokerError, FqlstreamError, UsageError
from fqlstream.events.durations import parse_duration_ms
from fqlstream.ops.lag import thresholds
from fqlstream.ops.lag.history import LagHistory
from fqlstream.ops.lag.observing import Observer
from fqlstream.ops.lag.report import PARTITION_KEYS, LagReport
from fqlstream.ops.lag.sampling import Sampler
from fqlstream.settings import Settings, load
from fqlstream.store.client import Store
from fqlstream.store.lag_history import LagPoint, read_points

_CSV_KEYS: Final = ("at", "group", *PARTITION_KEYS, "in_per_s", "out_per_s", "why")
_POINT_KEYS: Final = ("group", "topic", "at", "lag_records", "lag_rows", "lag_seconds", "log_end", "committed", "worst")
_PAST_COLUMNS: Final = 72
_PAST_MS_MIN: Final = 60_000
#: Of a look: which groups, which topics, who holds what, what was committed, where logs end.
_REQUESTS_IN_A_ROW: Final = 5

GroupOption = Annotated[
    list[str] | None,
    typer.Option(
        "--group", metavar="G", help="A group, or with * a pattern; several times. The workers' own otherwise."
    ),
]
TopicOption = Annotated[
    list[str] | None, typer.Option("--topic", metavar="T", help="Only this topic, or with * a pattern; several times.")
]
BootstrapOption = Annotated[
    str | None,
    typer.Option("--bootstrap", metavar="B", help="Brokers as host:port; any Kafka, ours need not run on it."),
]
WarnOption = Annotated[
    list[str] | None, typer.Option("--warn", metavar="N|TIME", help="Too much: so many records of a group, or 30s, 5m; one of each.")
]  # fmt: skip
CriticalOption = Annotated[
    list[str] | None, typer.Option("--critical", metavar="N|TIME", help="Far too much, likewise.")
]


@dataclass(frozen=True, slots=True)
class _Form:
    """How it is answered."""

    json: bool
    csv: bool
    nagios: bool
    only_lagging: bool
    warn: thresholds.Threshold
    critical: thresholds.Threshold


def lag(
    group: GroupOption = None,
    topic: TopicOption = None,
    bootstrap: BootstrapOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking, and show it as it changes, until Ctrl-C.")] = False,
    interval: Annotated[str | None, typer.Option("--interval", metavar="TIME", help="How often --watch and --prometheus look, as 5s.")] = None,
    only_lagging: Annotated[bool, typer.Option("--only-lagging", help="Leave out partitions with nothing to see.")] = False,
    rows: Annotated[bool | None, typer.Option("--rows/--no-rows", help="Count the rows in what is left to read; one look does, --watch and --prometheus do not.")] = None,
    warn: WarnOption = None,
    critical: CriticalOption = None,
    nagios: Annotated[bool, typer.Option("--nagios", help="Answer as a Nagios plugin does, exit codes 0 1 2 3.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Answer as CSV, a line for each partition.")] = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Serve metrics, with the names of kafka-lag-exporter.")] = False,
    once: Annotated[bool, typer.Option("--once", help="With --prometheus: print the metrics instead of serving them.")] = False,
    host: Annotated[str | None, typer.Option("--host", help="Address of --prometheus; loopback otherwise.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port of --prometheus; 0 takes a free one.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Keep what is seen in ClickHouse, and judge by what was seen before.")] = False,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Draw what --history kept, of the last 2h, say.")] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Show how far consumer groups are behind: in records, rows and time, with a judgement of each partition.

    Reads only: joins no group, commits nothing, makes nothing. Exit code 0 fine, 1 a group is not OK or over a threshold.
    """
    with _told_to(nagios):
        if sum((json, csv, nagios, prometheus)) > 1:
            raise UsageError(
                "LAG011", "--json, --csv, --nagios and --prometheus each answer in their own way", "give one of them"
            )
        if (once or host or port is not None) and not prometheus:
            raise UsageError("LAG011", "--once, --host and --port belong to --prometheus")
        if nagios and (watch or since is not None):
            raise UsageError("LAG011", "Nagios asks once: --nagios goes with neither --watch nor --since")
        past_ms = None if since is None else max(_PAST_MS_MIN, _duration_ms(since))
        over = thresholds.Threshold.parse(warn or []), thresholds.Threshold.parse(critical or [])
        form = _Form(json, csv, nagios, only_lagging, *over)
        settings = _settings(data, bootstrap, interval, host, port, needs_store=history or past_ms is not None)
        groups = group or [settings.kafka.group]
        if past_ms is not None:
            _show_past(settings, groups, past_ms, form)
            return
        with _observer(settings, groups, topic or [], keep=history) as observer:
            if prometheus:
                _export(observer, settings, with_rows=bool(rows), once=once)
            elif watch:
                _watch(observer, settings, form, with_rows=bool(rows))
            else:
                raise typer.Exit(_look(observer, form, with_rows=rows is not False))


def _settings(
    data: Path | None, bootstrap: str | None, interval: str | None, host: str | None, port: int | None, *, needs_store: bool
) -> Settings:  # fmt: skip
    """Read the settings; a stack is joined only for what is not named."""
    settings = load() if bootstrap and not needs_store else settings_for(data)
    kafka = settings.kafka.model_copy(update={"bootstrap": bootstrap}) if bootstrap else settings.kafka
    given: dict[str, Any] = {"host": host, "port": port}
    if interval is not None:
        given["interval_ms"] = max(100, _duration_ms(interval))
    lag_settings = settings.lag.model_copy(update={name: value for name, value in given.items() if value is not None})
    return settings.model_copy(update={"kafka": kafka, "lag": lag_settings})


def _duration_ms(text: str) -> int:
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise UsageError("LAG012", str(error)) from None


@contextmanager
def _observer(settings: Settings, groups: Sequence[str], topics: Sequence[str], *, keep: bool) -> Iterator[Observer]:
    with ExitStack() as stack:
        history = LagHistory(stack.enter_context(Store.connect(settings.store))) if keep else None
        yield Observer(Sampler(settings.kafka, settings.lag), settings.lag, groups, topics, history)


@contextmanager
def _told_to(nagios: bool) -> Iterator[None]:
    """Tell of an error as Nagios wants it: exit code 2, our own for wrong usage, would be CRITICAL there."""
    try:
        yield
    except FqlstreamError as error:
        if not nagios:
            raise
        print_text(f"LAG UNKNOWN - {error.code} {error.message}".replace("|", "/"))
        raise typer.Exit(int(thresholds.Level.UNKNOWN)) from None


def _look(observer: Observer, form: _Form, *, with_rows: bool) -> int:
    """Look once, answer, and give the exit code."""
    report = observer.look(with_rows=with_rows)
    findings = thresholds.assess(report, form.warn, form.critical)
    if form.nagios:
        level, text = thresholds.nagios(report, findings, form.warn, form.critical)
        print_text(text)
        return int(level)
    _answer(report, form, has_head=True)
    if not (form.json or form.csv):
        for finding in findings:
            for reason in finding.reasons:
                print_note(f"{finding.level.name} {finding.group}: {reason}")
    return thresholds.exit_code(report, findings)


def _answer(report: LagReport, form: _Form, *, has_head: bool) -> None:
    shown = report.only_lagging() if form.only_lagging else report
    for note in report.remarks:
        print_note(note)
    if form.json:
        print_json(shown.document())
    elif form.csv:
        _write_csv(_CSV_KEYS, _partition_rows(shown), has_head=has_head)
    else:
        _draw(shown)


def _write_csv(keys: Sequence[str], rows: Iterable[dict[str, Any]], *, has_head: bool = True) -> None:
    writer = csv_module.DictWriter(sys.stdout, keys, extrasaction="ignore", lineterminator="\n")
    if has_head:
        writer.writeheader()
    writer.writerows(rows)
    sys.stdout.flush()


def _partition_rows(report: LagReport) -> Iterator[dict[str, Any]]:
    for group in report.groups:
        for each in group.partitions:
            yield {"at": _time(report.at_ms), "group": group.group, **asdict(each)}


def _draw(report: LagReport) -> None:
    from fqlstream.cli.lag_screen import whole

    console = _console()
    for part in whole(report):
        console.print(part)


def _console() -> Any:
    from rich.console import Console

    # nothing is cut off where the output is no terminal
    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)


def _watch(observer: Observer, settings: Settings, form: _Form, *, with_rows: bool) -> None:
    """Look again and again until a signal ends it. A cluster that is away is told and waited for; at first it is an error."""
    from fqlstream.cli.signals import Stopped, stop_signals

    interval_s = settings.lag.interval_ms / 1000
    try:
        with stop_signals():
            if form.json or form.csv:
                _write_on(observer, form, interval_s, with_rows=with_rows)
            else:
                _show_on(observer, form, interval_s, with_rows=with_rows)
    except Stopped:
        return


def _write_on(observer: Observer, form: _Form, interval_s: float, *, with_rows: bool) -> None:
    report = observer.look(with_rows=with_rows)
    has_head = True
    while True:
        _answer(report, form, has_head=has_head)
        has_head = False
        report = _next(observer, interval_s, with_rows=with_rows)


def _next(observer: Observer, interval_s: float, *, with_rows: bool) -> LagReport:
    """Wait, then look until the cluster answers."""
    while True:
        threading.Event().wait(interval_s)
        try:
            return observer.look(with_rows=with_rows)
        except BrokerError as error:
            print_note(str(error))


def _show_on(observer: Observer, form: _Form, interval_s: float, *, with_rows: bool) -> None:
    from rich.live import Live

    from fqlstream.cli.lag_screen import WatchScreen

    report, trouble = observer.look(with_rows=with_rows), ""
    with Live(console=_console(), auto_refresh=False, screen=sys.stdout.isatty()) as live:
        while True:
            shown = report.only_lagging() if form.only_lagging else report
            curves = {each.group: observer.lag_over_time(each.group) for each in report.groups}
            live.update(WatchScreen(shown, curves, interval_s, trouble), refresh=True)
            threading.Event().wait(interval_s)
            try:
                report, trouble = observer.look(with_rows=with_rows), ""
            except BrokerError as error:
                trouble = str(error)


def _export(observer: Observer, settings: Settings, *, with_rows: bool, once: bool) -> None:
    from fqlstream.ops.lag import exporter
    from fqlstream.ops.lag.polling import Poller

    if once:
        report = observer.look(with_rows=with_rows)
        sys.stdout.write(exporter.page(lambda: report).decode())
        return
    limits = settings.lag
    look_s = (_REQUESTS_IN_A_ROW * limits.request_wait_ms + 2 * limits.read_wait_ms) / 1000
    with Poller(observer, limits.interval_ms / 1000, look_s=look_s, with_rows=with_rows) as poller:
        exporter.serve(poller.latest, settings.lag, lambda address: print_text(f"metrics at {address}"))


def _show_past(settings: Settings, groups: Sequence[str], length_ms: int, form: _Form) -> None:
    step_ms = -(-length_ms // _PAST_COLUMNS)
    # whole steps, so that points fall into columns
    since_ms = (int(time.time() * 1000) - length_ms) // step_ms * step_ms
    with Store.connect(settings.store) as store:
        points = read_points(store, groups, since_ms, step_ms)
    if form.json:
        print_json([{key: _point(point)[key] for key in _POINT_KEYS} for point in points])
    elif form.csv:
        _write_csv(_POINT_KEYS, (_point(point) for point in points))
    elif points:
        from fqlstream.cli.lag_screen import past

        console = _console()
        for part in past(points, since_ms, step_ms, _PAST_COLUMNS + 1):
            console.print(part)
    if not points:
        print_note(
            "nothing was kept: look with `fqlstream lag --history`, once a minute by cron or on with --watch or --prometheus"
        )
        raise typer.Exit(1)


def _point(point: LagPoint) -> dict[str, Any]:
    return {"group": point.consumer_group, "at": _time(point.at_ms), **asdict(point)}


def _time(at_ms: int) -> str:
    import datetime as dt

    moment = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
