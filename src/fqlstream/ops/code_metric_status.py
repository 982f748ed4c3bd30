"""What became of code metrics: their last run and its value of all rows; and who runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fqlstream.clock import Clock
from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.store import code_metric_rows as rows
from fqlstream.store.client import Store
from fqlstream.store.code_metric_frames import ALL
from fqlstream.store.code_metric_rows import RunnerRow

#: A runner that was not seen for so long is gone: it says every ten seconds that it is there.
_GONE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Status:
    """A code metric with its last run; None throughout where it has not run yet.

    `value` is of all rows and versions of that run's period, None until there is one.
    """

    model: str
    name: str
    id: str
    state: str | None = None
    period_end: datetime | None = None
    value: float | None = None
    rows: int | None = None
    seconds: float | None = None
    layers: tuple[str, ...] = ()
    code: str | None = None
    error: str | None = None
    hint: str | None = None


def statuses(store: Store, metrics: Sequence[CodeMetricDefinition]) -> list[Status]:
    """Give how each of these metrics stands."""
    known = rows.newest_runs(store, [metric.id or "" for metric in metrics], each_max=1)
    values = rows.whole_values(store, [metric.id or "" for metric in metrics], ALL)
    found = []
    for metric in metrics:
        metric_id = metric.id or ""
        if not known[metric_id]:
            found.append(Status(metric.model, metric.name, metric_id))
            continue
        run = known[metric_id][0]
        report = run.report
        found.append(
            Status(
                metric.model,
                metric.name,
                metric_id,
                run.state,
                datetime.fromtimestamp(run.period_end_ms / 1000, UTC),
                values.get((metric_id, run.period_end_ms)),
                report.rows,
                round(sum(report.seconds.values()), 3),
                report.layers,
                report.code or None,
                report.error or None,
                report.hint or None,
            )
        )
    return found


def present_runners(store: Store, clock: Clock) -> list[RunnerRow]:
    """Give the runners that are there."""
    return rows.runners(store, clock.now_ms() - _GONE_MS)
