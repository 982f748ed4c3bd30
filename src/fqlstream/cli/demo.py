"""`fqlstream demo`: everything on real events, from nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from fqlstream.cli.options import JsonOption
from fqlstream.cli.output import print_json, print_note, print_table, print_text, progress
from fqlstream.cli.signals import Stopped, stop_signals
from fqlstream.errors import StoreError, UsageError
from fqlstream.events.definitions import DAY_MS, HOUR_MS
from fqlstream.events.durations import format_duration
from fqlstream.local.progress import Progress
from fqlstream.settings import Settings, load

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from fqlstream.local.demo.answers import Value
    from fqlstream.local.demo.session import Shown
    from fqlstream.local.processes import Child
    from fqlstream.local.stack import Stack
    from fqlstream.store.client import Store

_REFRESH_S: Final = 0.5
#: Lines of a terminal that the live table leaves free: its frame, and what stands above it.
_FRAME_LINES: Final = 6
#: Metrics beside each other in the table of hours: more do not fit on a narrow terminal.
_HOURLY_METRICS: Final = 5
_ALL_LATEST: Final = "SELECT * FROM metric_latest"


def demo(
    once: Annotated[
        bool,
        typer.Option("--once", help="Send each row of the data sets once, wait for final values, print them, end."),
    ] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0, metavar="N", help="End after N seconds of live values.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Where everything is kept; .fqlstream/demo otherwise.")
    ] = None,
    kafka_home: Annotated[
        Path | None, typer.Option("--kafka-home", metavar="DIR", help="Run the broker of this unpacked Apache Kafka.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show everything on real events, from nothing: broker, worker, ClickHouse, and two models that learn as they serve.

    Runs until Ctrl-C, --seconds or --once. A directory that was used before goes on with its data.
    """
    if once and seconds is not None:
        raise UsageError("CLI030", "--once ends by itself", "leave --seconds out")
    if json and not once:
        raise UsageError("CLI031", "--json is for --once: live values have no end", "add --once")
    settings = load()
    if kafka_home is not None:
        settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"home": kafka_home})})
    directory = data or settings.data / "demo"
    try:
        with stop_signals(), ExitStack() as kept:
            _Demo(kept, directory, json).run(settings, once=once, seconds=seconds)
    except Stopped:
        raise typer.Exit(1 if once else 0) from None  # being stopped is how the live demo ends, and no other


class _Demo:
    """One demo: what it has started is kept in an ExitStack, which ends it in order."""

    def __init__(self, kept: ExitStack, directory: Path, as_json: bool) -> None:
        self._kept = kept
        self._directory = directory
        self._as_json = as_json
        self._started_s = time.monotonic()
        self._voice: Progress | None = None
        self._shown: Sequence[Shown] = ()

    def run(self, settings: Settings, *, once: bool, seconds: float | None) -> None:
        """Start everything, send, show."""
        from fqlstream.local.demo import session

        shown = self._shown = session.read_shown()
        with self._speaking():
            stack, store = self._start(settings)
            day = session.plan_day(time.time_ns() // 1_000_000, max(s.model.windows.lateness_ms for s in shown))
            if session.day_is_used(store, day):
                self._line("found: an earlier run sent events of the same hours; values count those too")
            servers = self._kept.enter_context(session.model_servers(self._directory, day, live=not once))
            if once:
                values = session.wait_final(stack.settings, store, servers, day, self._progress)
                self._line(f"final: {len(values):,} values of windows that ended before {_minute(day.until_ms)} UTC")
        if once:
            self._print_finals(values, store, day.run)
        else:
            self._print_places(stack)
            self._watch(stack, store, servers, seconds)
        self._line("stopping")

    def _start(self, settings: Settings) -> tuple[Stack, Store]:
        from fqlstream.local.demo import session
        from fqlstream.local.stack import running_stack
        from fqlstream.store.client import Store

        stack = self._kept.enter_context(running_stack(settings, self._directory, workers=1, progress=self._progress))
        self._line("ready: broker, ClickHouse and one worker run")
        store = self._kept.enter_context(Store.connect(stack.settings.store))
        outcomes = session.apply_definitions(stack.settings)
        self._line("definitions: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
        return stack, store

    # -- what it says on the way -----------------------------------------------------------------------------------

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Say where it is on standard error, with the time since the start."""
        with progress() as said:
            self._voice = said
            try:
                yield
            finally:
                self._voice = None

    @property
    def _progress(self) -> Progress:
        return Progress(line=self._line, status=self._status)

    def _line(self, text: str) -> None:
        timed = f"[{time.monotonic() - self._started_s:5.1f} s] {text}"
        (self._voice.line if self._voice else print_note)(timed)

    def _status(self, text: str) -> None:
        if self._voice:
            self._voice.status(text)

    # -- --once ----------------------------------------------------------------------------------------------------

    def _print_finals(self, values: Sequence[Value], store: Store, run: str) -> None:
        refused = store.query_rows("SELECT code, count() FROM dead_letters GROUP BY code ORDER BY code")
        if self._as_json:
            print_json(
                {
                    "run": run,
                    "seconds": round(time.monotonic() - self._started_s, 1),
                    "dead_letters": dict(refused),
                    "values": [_row(value) for value in values],
                }
            )
            return
        for model in self._shown:
            own = [value for value in values if value.model == model.model.name]
            _print_day(model, own)
            _print_hours(model, own)
        told = ", ".join(f"{code} {count}" for code, count in refused)
        print_text(f"\n{len(values):,} final values; ~ marks those within an error bound, - those that are null.")
        print_text(f"Refused records, by code: {told or 'none'}.")

    # -- live ------------------------------------------------------------------------------------------------------

    def _print_places(self, stack: Stack) -> None:
        from fqlstream.ops.access import KEY_FILE

        told = stack.describe()
        address = urlsplit(told.store_url or "")
        query = "SELECT metric, segment, value FROM metric_latest WHERE model = 'phishing' AND window_s = 3600"
        client = f"clickhouse_connect.get_client(host='{address.hostname}', port={address.port})"
        print_text("\nAsk ClickHouse, or the API, from another terminal:")
        print_text(f'  fqlstream sql --data {self._directory} "{query}"')
        print_text(f'  curl {told.store_url} --data-binary "{query} FORMAT PrettyCompact"')
        key = f"$(cat {self._directory / KEY_FILE})"
        route = f"{told.api_url}/api/fqlstream/v1/values/latest?model=phishing"
        print_text(f'  curl -H "Authorization: Bearer {key}" "{route}"')
        print_text(f"  {sys.executable} -c \"import clickhouse_connect; print({client}.query_df('{_ALL_LATEST}'))\"\n")

    def _watch(self, stack: Stack, store: Store, servers: Sequence[Child], seconds: float | None) -> None:
        from rich.console import Console
        from rich.live import Live

        from fqlstream.local.demo.answers import watching_log
        from fqlstream.local.demo.model_server import TOPIC
        from fqlstream.local.demo.session import check_servers

        console = Console(highlight=False)
        stop_at_s = None if seconds is None else time.monotonic() + seconds
        pause = threading.Event()
        with (
            watching_log(stack.settings.kafka, TOPIC) as log_ends,
            Live(console=console, auto_refresh=False, transient=False) as live,
        ):
            while stop_at_s is None or time.monotonic() < stop_at_s:
                check_servers(servers)
                live.update(self._view(store, log_ends(), console), refresh=True)
                left_s = _REFRESH_S if stop_at_s is None else stop_at_s - time.monotonic()
                pause.wait(max(0.0, min(_REFRESH_S, left_s)))
        if not console.is_terminal:
            print_text("")  # Live ends its one drawing without a new line

    def _view(self, store: Store, ends: Mapping[int, int], console: Console) -> RenderableType:
        from rich.text import Text

        from fqlstream.local.demo.answers import latest_values, standing
        from fqlstream.local.demo.model_server import TOPIC

        models = [model.model.name for model in self._shown]
        try:
            values = latest_values(store, models)
            unread = standing(store, TOPIC, ends, models).unread
        except StoreError as error:
            if not error.retryable:
                raise
            return Text(f"waiting for ClickHouse: {error.message}")  # it is being started again
        table = _live_table(values, self._shown, time.time_ns() // 1_000_000, console.height - _FRAME_LINES)
        table.caption = f"{sum(ends.values()):,} records in Kafka, {unread:,} of them not yet counted"
        return table


def _live_table(values: Sequence[Value], shown: Sequence[Shown], now_ms: int, lines_max: int) -> Table:
    """Draw the newest hour of every metric, and the first metric of each model per segment, as far as lines reach."""
    from rich.table import Table

    found = {(value.model, value.metric, value.segment): value for value in values if value.window_ms == HOUR_MS}
    wanted = [(model.model.name, metric, "") for model in shown for metric in model.metrics]
    wanted += [(model.model.name, model.metrics[0], segment) for model in shown for segment in model.segments[1:]]
    title = "the newest hour of each metric, UTC"
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("model", "metric", "segment", "window", "value", "rows", "labelled", "status", "age"):
        right = name in ("value", "rows", "labelled", "age")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    present = [found[key] for key in wanted if key in found]
    for value in present[: max(1, lines_max)]:
        table.add_row(
            value.model, value.metric, value.segment or "all", _minute(value.window_start_ms)[-5:], _number(value),
            f"{value.rows:,}", f"{value.labelled_rows:,}", value.status, f"{(now_ms - value.updated_at_ms) / 1000:.0f} s",
        )  # fmt: skip
    return table


# -- tables ------------------------------------------------------------------------------------------------------------


def _print_day(shown: Shown, values: Sequence[Value]) -> None:
    """Print the newest day: a row per metric, a column per segment."""
    days = [value for value in values if value.window_ms == DAY_MS]
    newest_ms = max(value.window_start_ms for value in days)
    cells = {(value.metric, value.segment): value for value in days if value.window_start_ms == newest_ms}
    print_text(f"\n{shown.model.name}, the day from {_minute(newest_ms)} UTC")
    first = shown.metrics[0]
    counts = [
        ("rows", *(f"{cells[first, segment].rows:,}" for segment in shown.segments)),
        ("labelled rows", *(f"{cells[first, segment].labelled_rows:,}" for segment in shown.segments)),
    ]
    rows = [(metric, *(_number(cells[metric, segment]) for segment in shown.segments)) for metric in shown.metrics]
    print_table(("", *(segment or "all rows" for segment in shown.segments)), [*counts, *rows])


def _print_hours(shown: Shown, values: Sequence[Value]) -> None:
    """Print every hour and hopping window, all rows: a row per window, a column per metric."""
    metrics = shown.metrics[:_HOURLY_METRICS]
    windows: dict[tuple[int, int], dict[str, Value]] = {}
    for value in values:
        if value.segment == "" and value.window_ms < DAY_MS:
            windows.setdefault((value.window_ms, value.window_start_ms), {})[value.metric] = value
    print_text(f"\n{shown.model.name}, by window")
    print_table(
        ("window", "from (UTC)", "rows", "labelled", *metrics, "status"),
        [
            (
                format_duration(size_ms), _minute(start_ms), cells[metrics[0]].rows, cells[metrics[0]].labelled_rows,
                *(_number(cells[metric]) for metric in metrics), cells[metrics[0]].status,
            )
            for (size_ms, start_ms), cells in sorted(windows.items())
        ],
    )  # fmt: skip


def _number(value: Value) -> str:
    return "-" if value.value is None else f"{value.value:.4g}{'' if value.exact else '~'}"


def _minute(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _row(value: Value) -> Mapping[str, object]:
    """Give the columns of metric_values; times in RFC 3339."""
    return {
        "model": value.model,
        "version": "all",
        "metric": value.metric,
        "segment": value.segment,
        "window_start": _rfc3339(value.window_start_ms),
        "window_end": _rfc3339(value.window_end_ms),
        "window_s": value.window_ms // 1000,
        "value": value.value,
        "rows": value.rows,
        "labelled_rows": value.labelled_rows,
        "exact": value.exact,
        "error_bound": value.error_bound,
        "status": value.status,
        "updated_at": _rfc3339(value.updated_at_ms),
    }


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
