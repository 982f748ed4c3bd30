"""Files of baselines: their rows are counted when they are applied, in the bins of every column that drift can be asked of.

The counts travel with the definition, so no worker needs the file. They are of all rows, and of the rows of each segment
that stands by then; what cannot be told apart later is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from fqlstream.errors import DefinitionError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import BaselineCounts, BaselineDefinition, ModelDefinition
from fqlstream.events.durations import format_duration
from fqlstream.fql.compile_arrow import LANES, compile_model
from fqlstream.fql.plan import MetricPlan, ModelPlan
from fqlstream.fql.planner import assemble, plan_model
from fqlstream.functions.choices import choose
from fqlstream.functions.drift import bins_of
from fqlstream.functions.expression import Aggregate, AggregateValue
from fqlstream.ops.data_files import read_data
from fqlstream.settings import FqlSettings
from fqlstream.stream.baselines import counts_key, is_counted

#: Kafka's own limit of a record is 1 MB, and topics are declared with it.
RECORD_BYTES_MAX: Final = 1_000_000


def with_counts(
    baseline: BaselineDefinition, folder: Path, entry: ModelEntry, settings: FqlSettings
) -> BaselineDefinition:
    """Count the rows of a baseline's file, under every version of its model; its path is relative to `folder`.

    Without the file, counts that came with the definition stand. Raises DefinitionError where there are neither, or too
    many; UsageError for a file that cannot be read.
    """
    if baseline.file is None:
        return baseline
    path = folder / baseline.file
    if not path.exists():
        if baseline.counts:
            return baseline
        raise DefinitionError(
            "DEF050",
            f"baseline {baseline.name!r}: there is no file {path}",
            "a file is named relative to the YAML that names it",
        )
    counts: dict[str, BaselineCounts] = {}
    for model in entry.versions.values():
        for item in _count(path, model, entry, settings):
            counts.setdefault(item.key, item)
    counted = baseline.model_copy(update={"counts": tuple(counts.values())})
    size = len(counted.model_dump_json())
    if size > RECORD_BYTES_MAX:
        raise DefinitionError(
            "DEF051",
            f"baseline {baseline.name!r}: its {len(counts)} histograms take {size} bytes; a definition may have {RECORD_BYTES_MAX}",
            "fewer segments or bins make them fewer",
        )
    return counted


def _count(path: Path, model: ModelDefinition, entry: ModelEntry, settings: FqlSettings) -> Iterator[BaselineCounts]:
    plan, columns = _plan(model, entry, settings)
    if not columns:
        return
    engine = compile_model(plan, settings)
    table = read_data(path, model).table
    cells = engine.partials_both(table, np.zeros(table.num_rows, dtype=np.int64), 1)
    states = {
        (cell.aggregate, cell.segment): state
        for lane in LANES
        for cell, state in zip(plan.lane_cells(lane), cells[lane][0], strict=True)
    }
    for segment in plan.segments:
        for aggregate, column in columns.items():
            counts = states[aggregate, segment.expression].counts
            key = counts_key(aggregate, segment.expression)
            yield BaselineCounts(column=column, segment=segment.name, key=key, counts=counts)


def _plan(model: ModelDefinition, entry: ModelEntry, settings: FqlSettings) -> tuple[ModelPlan, dict[Aggregate, str]]:
    """Give a plan that counts every column which has bins, over every segment; and the columns by their aggregates."""
    columns: dict[Aggregate, str] = {}
    for column in model.columns:
        bins = bins_of(column, choose(model, settings).drift_bins)
        if bins is not None:
            columns[Aggregate("histogram", (bins.value,), (("edges", bins.edges),))] = column.name
    fitting, _ = plan_model(model, [], entry.segments.values(), settings=settings, skip_invalid=True)
    metrics = tuple(MetricPlan(name, "", 1, AggregateValue(aggregate, "total")) for aggregate, name in columns.items())
    return assemble(model, metrics, fitting.segments, settings), columns


def uncounted_segments(entry: ModelEntry, baseline: BaselineDefinition, settings: FqlSettings) -> tuple[str, ...]:
    """Name the segments that a file's rows were not counted by: they are compared with all rows of the file."""
    if not is_counted(baseline) or not baseline.counts:
        return ()
    keys = {item.key for item in baseline.counts}
    missing: dict[str, None] = {}
    for model in entry.versions.values():
        plan, columns = _plan(model, entry, settings)
        for segment in plan.segments:
            if any(counts_key(aggregate, segment.expression) not in keys for aggregate in columns):
                missing[segment.name] = None
    return tuple(missing)


def problems(baseline: BaselineDefinition, entry: ModelEntry) -> Iterator[tuple[str, str]]:
    """Give what is wrong with a baseline: the field, and what."""
    ranges = {"start": baseline.start, "end": baseline.end}
    if baseline.type == "rolling":
        if baseline.window_ms is None:
            yield "window", "a rolling baseline needs a window, such as 7d"
        if baseline.file is not None or any(ranges.values()):
            yield "type", "a rolling baseline has a window and an offset, and neither file, start nor end"
    else:
        if baseline.window_ms is not None or baseline.offset_ms is not None:
            yield "type", "a static baseline has a file, or a start and an end; window and offset are of rolling ones"
        if (baseline.file is None) == (baseline.range_ms is None):
            yield "type", "a static baseline needs a file, or a start and an end"
    if baseline.range_ms is not None and baseline.range_ms[0] >= baseline.range_ms[1]:
        yield "end", f"end {baseline.end} is not after start {baseline.start}"
    times = {"start": baseline.range_ms and baseline.range_ms[0], "end": baseline.range_ms and baseline.range_ms[1]}
    for name, ms in {**times, "window": baseline.window_ms, "offset": baseline.offset_ms}.items():
        for model in entry.versions.values():
            pane_ms = model.windows.pane_ms
            if ms is not None and ms % pane_ms:
                yield (
                    name,
                    f"{name} must lie on a whole pane of {format_duration(pane_ms)} (model version {model.version!r})",
                )
                break
