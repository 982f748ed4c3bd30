"""One run of the demo on a running stack: definitions, model servers, and waiting until all they sent is in final values."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fqlstream.errors import FqlstreamError, StoreError
from fqlstream.events.definitions import DAY_MS, HOUR_MS, MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.events.documents import load_definitions
from fqlstream.local.demo.answers import Value, all_values, standing, watching_log
from fqlstream.local.demo.model_server import TOPIC
from fqlstream.local.demo.models import MODELS
from fqlstream.local.processes import Child, ChildSpec
from fqlstream.local.progress import Progress
from fqlstream.ops import definitions as ops
from fqlstream.settings import Settings
from fqlstream.store.client import Store

SEED: Final = 7
#: Predictions a second and model once the past has been sent.
LIVE_PER_SECOND: Final = 20.0
_POLL_S: Final = 0.3
_SERVER_STOP_S: Final = 3.0


class DemoError(FqlstreamError):
    """The demo did not get as far as it should have."""


@dataclass(frozen=True, slots=True)
class Day:
    """When a run's events happened (Unix ms): in twelve hours of yesterday, so that the day they are in is over.

    `until_ms` ends that day; `finish_ms` is the watermark that makes it final. `run` begins every event_id.
    """

    run: str
    start_ms: int
    end_ms: int
    until_ms: int
    finish_ms: int


def plan_day(now_ms: int, lateness_ms: int) -> Day:
    """Lay out a run that starts now. A watermark may be an hour ahead of the clock, and lateness is less than that."""
    today_ms = now_ms // DAY_MS * DAY_MS
    run = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S}"
    return Day(run, today_ms - 18 * HOUR_MS, today_ms - 6 * HOUR_MS, today_ms, today_ms + lateness_ms)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model has to show, in the order of its definition file."""

    model: ModelDefinition
    metrics: tuple[str, ...]
    segments: tuple[str, ...]


def read_shown() -> tuple[Shown, ...]:
    """Read the definition files of all models."""
    return tuple(_shown(model.definitions) for model in MODELS.values())


def _shown(path: Path) -> Shown:
    found = load_definitions(path)
    (model,) = (item for item in found if isinstance(item, ModelDefinition))
    metrics = tuple(item.name for item in found if isinstance(item, MetricDefinition))
    segments = tuple(item.name for item in found if isinstance(item, SegmentDefinition))
    return Shown(model, metrics, ("", *segments))


def apply_definitions(settings: Settings) -> Mapping[str, int]:
    """Apply all definition files; counts them by what became of them."""
    documents = ops.read_files([model.definitions for model in MODELS.values()])
    results = ops.apply(settings, documents).results
    outcomes = [result.result for result in results]
    return {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}


def day_is_used(store: Store, day: Day) -> bool:
    """Say whether there are values of the day already."""
    values = all_values(store, tuple(MODELS), day.until_ms)
    return any(value.window_start_ms >= day.until_ms - DAY_MS for value in values)


@contextmanager
def model_servers(data: Path, day: Day, *, live: bool) -> Iterator[Sequence[Child]]:
    """Run one model server per model. Live ones go on with the present once they have sent the past."""
    children = [_server(data, day, model, live=live) for model in MODELS]
    try:
        for child in children:
            child.start()
        yield children
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.stop()


def _server(data: Path, day: Day, model: str, *, live: bool) -> Child:
    last = ("--per-second", str(LIVE_PER_SECOND)) if live else ("--finish-ms", str(day.finish_ms))
    return Child(
        ChildSpec(
            name=f"model server {model}",
            command=(
                sys.executable, "-m", "fqlstream.local.demo.model_server", model,
                "--data", str(data), "--run", day.run, "--seed", str(SEED),
                "--start-ms", str(day.start_ms), "--end-ms", str(day.end_ms), *last,
            ),
            log=data / "logs" / f"model-server-{model}.log",
            ready=lambda: True,
            stop_timeout_s=_SERVER_STOP_S,
        )
    )  # fmt: skip


def check_servers(servers: Sequence[Child]) -> bool:
    """Say whether all have ended well.

    Raises ProcessError for one that ended otherwise, with what it wrote last.
    """
    for server in servers:
        if server.exit_code not in (None, 0):
            raise server.failure(f"{server.spec.name} ended with code {server.exit_code}")
    return all(server.exit_code == 0 for server in servers)


def wait_final(
    settings: Settings, store: Store, servers: Sequence[Child], day: Day, progress: Progress
) -> Sequence[Value]:
    """Wait until everything is sent, counted and published as final; give the values of all windows of the past.

    Raises DemoError where that takes longer than `local.demo_wait_s`, saying what is missing.
    """
    models = tuple(MODELS)
    deadline = time.monotonic() + settings.local.demo_wait_s

    def wait(missing: Callable[[], str | None]) -> None:
        while (what := _patiently(missing)) is not None:
            progress.status(what)
            if time.monotonic() > deadline:
                raise DemoError(
                    "LOC030",
                    f"after {settings.local.demo_wait_s:.0f} s the demo still waits. {what}",
                    f"the logs in {settings.data / 'logs'} say what the parts are doing; a slow machine needs a longer FQLSTREAM_LOCAL__DEMO_WAIT_S",
                )
            time.sleep(_POLL_S)

    wait(lambda: None if check_servers(servers) else "sending: the model servers predict, publish and learn")
    progress.line("sent: " + "; ".join(server.tail(1)[0] for server in servers))
    with watching_log(settings.kafka, TOPIC) as log_ends:
        ends = log_ends()
    wait(lambda: _uncounted(store, ends, models))
    progress.line(f"counted: all {sum(ends.values()):,} records of the topic {TOPIC}")
    wait(lambda: _not_final(store, models, day.until_ms))
    return all_values(store, models, day.until_ms)


def _patiently(missing: Callable[[], str | None]) -> str | None:
    """Ask what is missing; a store that is being started again is."""
    try:
        return missing()
    except StoreError as error:
        if not error.retryable:
            raise
        return f"waiting for ClickHouse: {error.message}"


def _uncounted(store: Store, ends: Mapping[int, int], models: Sequence[str]) -> str | None:
    found = standing(store, TOPIC, ends, models)
    if found.settled:
        return None
    if found.unread:
        return f"counting: {found.unread:,} records are in Kafka and not yet in the states"
    return f"publishing: newer states of {' and '.join(found.unpublished)} are not yet in the values"


def _not_final(store: Store, models: Sequence[str], until_ms: int) -> str | None:
    values = all_values(store, models, until_ms)
    early = sum(value.status == "early" for value in values)
    absent = set(models) - {value.model for value in values}
    if absent:
        return f"publishing: there are no values of {' and '.join(sorted(absent))} yet"
    return f"closing windows: {early:,} of {len(values):,} values are not final" if early else None
