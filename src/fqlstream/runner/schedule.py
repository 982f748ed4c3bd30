"""When a code metric is computed: pure decisions over its last runs and how far the model's time has come.

A metric is due at the end of each aggregation period of its model (the shortest window of the newest version), counted in event
time as windows are: once the watermark has passed the end, plus a part of a period that the metric's id decides, so that many
metrics do not begin together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.events.durations import window_origin_ms
from fqlstream.settings import RunnerSettings
from fqlstream.store.code_metric_rows import FAILED, GIVEN_UP, RUNNING, SUCCESS, RunRow

_TRY_AGAIN_MS_MAX = 3_600_000
#: At most this part of a period is a metric's own delay.
_SPREAD_PART = 10

Reason = Literal["first", "definition", "period", "late", "again"]


@dataclass(frozen=True, slots=True)
class Due:
    """A period that is to be computed now, and why. `tries` counts how often it was given up before."""

    period_end_ms: int
    reason: Reason
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What stands between a metric and its next run: what is due, or a run that another runner has under way."""

    due: Due | None = None
    waits_for: str | None = None


def period_ms(entry: ModelEntry, settings: RunnerSettings) -> int:
    """Give a model's aggregation period: its shortest window, or as many of them as make the shortest period that is allowed."""
    assert entry.newest is not None  # noqa: S101  # only models with a version have code metrics adopted
    shortest = min(window.every_ms for window in entry.newest.windows.sizes)
    return -(-settings.period_ms_min // shortest) * shortest if shortest < settings.period_ms_min else shortest


def data_range(metric: CodeMetricDefinition, end_ms: int) -> tuple[int, int]:
    """Give the event times of a run, half-open, Unix ms: the metric's own period, or all before the end.

    History keeps rows for the model's retention after they were written, so all of them are those within retention.
    """
    return (0, end_ms) if metric.period is None else metric.period.range_before(end_ms)


def inputs_hash(metric: CodeMetricDefinition, entry: ModelEntry) -> str:
    """Name everything but rows that a value depends on: code and period, segments, versions."""
    digest = hashlib.blake2b(digest_size=16)
    texts = [metric.code or "", metric.period.model_dump_json() if metric.period else ""]
    texts += [f"{segment.name}\0{segment.definition}" for segment in entry.segments.values()]
    texts += [version.model_dump_json() for version in entry.versions.values()]
    for text in texts:
        digest.update(len(text).to_bytes(8, "big") + text.encode())
    return digest.hexdigest()


def spread_ms(metric_id: str, period: int, settings: RunnerSettings) -> int:
    """Give a metric's own delay after the end of a period: the same in every process and after every start."""
    span = min(period // _SPREAD_PART, settings.spread_ms_max)
    number = int.from_bytes(hashlib.blake2b(metric_id.encode(), digest_size=8).digest(), "big")
    return number % (span + 1)


def last_end(at_ms: int, period: int) -> int:
    """Give the end of the last period that is over at a time, Unix ms."""
    origin = window_origin_ms(period)
    return origin + (at_ms - origin) // period * period


def outlook(
    metric_id: str,
    inputs: str,
    runs: Sequence[RunRow],
    watermark_ms: int | None,
    period: int,
    now_ms: int,
    owner: str,
    settings: RunnerSettings,
) -> Outlook:
    """Say which period of a metric is to be computed now; rows that came late are `late_runs`'s business.

    `runs` are those of the newest periods, the newest first. A run of another owner that still gives signs of life is waited for,
    so that no period is computed twice at once. Asked only while the owner itself runs nothing of this metric: what stands as
    running under its own name then was never begun, or its end could not be written.
    """
    for run in runs:
        if run.state == RUNNING and run.owner != owner and now_ms - run.updated_at_ms < settings.lost_ms:
            return Outlook(waits_for=run.owner)
    if watermark_ms is None:
        return Outlook()
    if not runs:
        return Outlook(Due(last_end(watermark_ms, period), "first"))
    newest = last_end(watermark_ms - spread_ms(metric_id, period, settings), period)
    latest = runs[0]
    # after an absence the periods in between are made up for first, with the new definition
    if latest.inputs_hash != inputs and newest <= latest.period_end_ms + period:
        return Outlook(Due(max(newest, latest.period_end_ms), "definition"))
    for run in runs:
        tries = _tries(run, owner)
        if tries is not None and now_ms - run.updated_at_ms >= _wait_ms(tries, settings):
            return Outlook(Due(run.period_end_ms, "again", tries))
    tries = _tries(latest, owner)
    if tries is not None and tries < settings.tries_max and latest.inputs_hash == inputs:
        return Outlook()  # it waits for its time; nothing later than it begins meanwhile
    if newest > latest.period_end_ms:
        first = last_end(latest.period_end_ms, period) + period
        return Outlook(Due(max(first, newest - (settings.catch_up_periods_max - 1) * period), "period"))
    return Outlook()


def _tries(run: RunRow, owner: str) -> int | None:
    """Give how often a run that is to be begun again was given up; None for one that is not.

    One that another process lost was waited for already; one of our own that nobody runs counts as given up.
    """
    if run.state == RUNNING and run.owner == owner:
        return run.tries + 1
    return run.tries if run.state in (RUNNING, GIVEN_UP) else None


def _wait_ms(tries: int, settings: RunnerSettings) -> int:
    """Give how long after it was given up a run is begun again: one that ended in order, with its process, at once."""
    if tries == 0:
        return 0
    return min(settings.retry_wait_ms << min(tries - 1, 20), _TRY_AGAIN_MS_MAX)


def late_runs(
    runs: Sequence[RunRow], vector: Mapping[int, int], now_ms: int, settings: RunnerSettings
) -> tuple[RunRow, ...]:
    """Give the runs that rows may have come late for: flushes since, and long enough over. The newest first."""
    over = (SUCCESS, FAILED)
    return tuple(
        run
        for run in runs[: settings.late_periods_max]
        if run.state in over
        and now_ms - (run.finished_at_ms or 0) >= settings.late_wait_ms
        and any(number > run.vector.get(partition, -1) for partition, number in vector.items())
    )


def is_late(run: RunRow, changed_starts_ms: Collection[int]) -> bool:
    """Say whether one of the panes that have changed since a run holds rows of its range."""
    return any(run.data_from_ms <= start < run.data_to_ms for start in changed_starts_ms)
