"""One run of a code metric: its rows become files, the sandbox computes every part of them, and a report says how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from fqlstream.clock import Clock
from fqlstream.code_metrics.request import Frame, FrameOutcome, Job, Outcome, Progress
from fqlstream.code_metrics.scratch import Scratch, sweep
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.settings import Settings
from fqlstream.store.client import Store
from fqlstream.store.code_metric_frames import ALL, Exported, Part, export_rows
from fqlstream.store.code_metric_rows import Report, ValueRow
from fqlstream.store.snapshots import Range

#: The stage that is ours; the sandbox's follow.
EXPORTED: Final = "exported"
_PREFIX: Final = "rows-"


class PoolPort(Protocol):
    """What runs code, contained."""

    def run(self, job: Job, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Run one job; what is wrong with its code is in the outcome."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What one run computes: a metric over a range of rows, of one version or (None) of all together and of each."""

    metric: CodeMetricDefinition
    entry: ModelEntry
    within: Range
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run went. `values` are of the parts that were computed, also where others failed; `parts` are all: versions with segments."""

    report: Report
    values: tuple[ValueRow, ...]
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def is_success(self) -> bool:
        """Whether every part has its value."""
        return not self.report.code


class Execution:
    """Runs code metrics, each with files of its own that are gone after it. From any thread.

    What a process that was killed has left in the folder is removed.
    """

    def __init__(self, store: Store, pool: PoolPort, settings: Settings, clock: Clock, folder: Path) -> None:
        self._store = store
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._folder = folder
        sweep(folder, _PREFIX)

    def run(self, asked: Asked, on_stage: Callable[[Report], None]) -> Finished:
        """Export, compute, and tell of each stage that is done.

        Raises StoreError where rows cannot be had, CodeMetricsRefusedError where no code is run here.
        """
        with closing(Scratch(self._folder, _PREFIX)) as scratch:
            began_s = self._clock.monotonic_s()
            exported = export_rows(
                self._store,
                asked.entry,
                asked.within,
                scratch.path,
                version=asked.version,
                rows_max=self._settings.runner.rows_max,
                settings=self._settings.fql,
            )
            export_s = self._clock.monotonic_s() - began_s
            names = _names(exported.parts)
            total = len(exported.parts) + 3
            report = Report(EXPORTED, 100 // total, exported.rows, seconds={"export": export_s})
            on_stage(report)

            def progressed(progress: Progress) -> None:
                stage = f"{progress.stage} {progress.frame}" if progress.frame else progress.stage
                share = (progress.done + 1) / (progress.total + 1)
                on_stage(replace(report, stage=stage, progress=min(99, int(100 * share))))

            outcome = self._pool.run(_job(asked.metric, exported, names), progressed)
        return _finished(outcome, names, report)


def _names(parts: tuple[Part, ...]) -> dict[str, Part]:
    """Name every part as people read it: its segment, and its version where that is not all."""
    named: dict[str, Part] = {}
    for part in parts:
        name = part.segment if part.version == ALL or len({p.version for p in parts}) == 1 else _of_version(part)
        while name in named:  # a segment may be called what another part is
            name += "'"
        named[name] = part
    return named


def _of_version(part: Part) -> str:
    return f"{part.segment or 'all rows'} of {part.version}"


def _job(metric: CodeMetricDefinition, exported: Exported, names: Mapping[str, Part]) -> Job:
    frames = tuple(Frame(name, part.flag) for name, part in names.items())
    return Job(metric.code or "", exported.paths, frames)


def _finished(outcome: Outcome, names: Mapping[str, Part], report: Report) -> Finished:
    failed = next((frame for frame in outcome.frames if frame.failure is not None), None)
    failure = outcome.failure or (failed.failure if failed else None)
    where = f"segment {failed.name!r}: " if failed is not None and failed.name and outcome.failure is None else ""
    done = replace(
        report,
        stage="computed" if outcome.failure is None else report.stage,
        progress=100,
        engine=outcome.engine,
        layers=outcome.layers,
        seconds={**report.seconds, **outcome.seconds},
        peak_memory_bytes=outcome.memory_bytes_peak,
    )
    if failure is not None:
        done = replace(
            done,
            code=failure.code,
            error=f"{where}{failure.message}",
            traceback=failure.traceback,
            hint=failure.hint or "",
        )
    values = tuple(_value(names[frame.name], frame) for frame in outcome.frames if frame.failure is None)
    return Finished(done, values, tuple((part.version, part.segment) for part in names.values()))


def complete_values(values: Sequence[ValueRow], parts: Iterable[tuple[str, str]]) -> list[ValueRow]:
    """Add that there is no value for each of these parts that has none, so that nothing older is left standing in its place."""
    found = {(value.version, value.segment): value for value in values}
    for version, segment in parts:
        found.setdefault((version, segment), ValueRow(version, segment, None, 0))
    return list(found.values())


def _value(part: Part, frame: FrameOutcome) -> ValueRow:
    return ValueRow(part.version, part.segment, frame.value, frame.rows)
