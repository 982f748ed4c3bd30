"""What drift is compared with: which rows a baseline is for a window, and which windows a changed pane of it touches.

Rows of a file were counted when it was applied and travel with the definition. Rows of a stored time, fixed or the period
before, are panes of the model itself: their states are merged like any other's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from fqlstream.aggregates.histograms import HistogramState
from fqlstream.errors import Diagnostic, FqlError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import BaselineDefinition, Window
from fqlstream.events.durations import window_origin_ms
from fqlstream.fql.plan import Compared, ModelPlan, cell_key
from fqlstream.fql.planner import ALL_ROWS, Skipped, aggregates_of
from fqlstream.functions.drift import baseline_of
from fqlstream.functions.expression import Aggregate, Expression
from fqlstream.stream.windows import Span

#: In the keys of counts: they change when bins do, and never with how states are encoded.
_COUNTS_VERSION: Final = 1


def counts_key(histogram: Aggregate, segment: Expression) -> str:
    """Name the counts of a file's rows in these bins, of this segment."""
    return cell_key(histogram, segment, _COUNTS_VERSION)


def counted_state(baseline: BaselineDefinition, compared: Compared) -> HistogramState | None:
    """Give the counts of a file's rows, those of the segment if they were counted, else of all; None where bins differ."""
    known = {item.key: item.counts for item in baseline.counts}
    counts = known.get(counts_key(compared.production, compared.segment))
    if counts is None:
        counts = known.get(counts_key(compared.production, ALL_ROWS.expression))
    return None if counts is None else HistogramState(counts)


def is_counted(baseline: BaselineDefinition) -> bool:
    """Whether a baseline's counts come with it, rather than from stored panes."""
    return baseline.type == "static" and baseline.range_ms is None


def uncounted(plan: ModelPlan, baselines: Mapping[str, BaselineDefinition]) -> tuple[Skipped, ...]:
    """Find metrics whose baseline has no counts in the bins that their columns have now."""
    lacking = {
        item.aggregate
        for item in plan.compared
        if is_counted(baselines[item.baseline]) and counted_state(baselines[item.baseline], item) is None
    }
    found = []
    for metric in plan.metrics:
        names = [baseline_of(aggregate) for aggregate in aggregates_of(metric.expression) if aggregate in lacking]
        if names:
            message = f"baseline {names[0]!r} has no counts in the bins of this column"
            hint = "apply the baseline again: the rows of its file are counted when it is applied"
            item = Diagnostic("FQL064", message, 0, len(metric.text), hint)
            found.append(Skipped("metric", metric.name, FqlError(metric.text, [item])))
    return tuple(found)


def touched_spans(
    entry: ModelEntry, names: Collection[str], windows: Sequence[Window], panes: Iterable[Span], newest_ms: int
) -> set[Span]:
    """Give the windows that changed panes are the past of, under rolling baselines; none that begin after `newest_ms`."""
    spans: set[Span] = set()
    panes = list(panes)
    for name in names:
        baseline = entry.baselines[name]
        if baseline.type != "rolling" or baseline.window_ms is None:
            continue
        offset_ms = baseline.offset_ms or 0
        # a window that ends at e is compared with [e - offset - window, e - offset)
        ends = [(pane.start_ms + offset_ms, pane.end_ms - 1 + offset_ms + baseline.window_ms) for pane in panes]
        for after_ms, upto_ms in _joined(ends):
            for window in windows:
                spans.update(_ending_in(window, after_ms, min(upto_ms, newest_ms + window.size_ms)))
    return spans


def is_in_fixed_range(entry: ModelEntry, names: Collection[str], panes: Collection[Span]) -> bool:
    """Whether a changed pane lies in the stored time of a static baseline, so that every window is compared anew."""
    ranges = [found for name in names if (found := entry.baselines[name].range_ms) is not None]
    return any(start < pane.end_ms and pane.start_ms < end for start, end in ranges for pane in panes)


def reach_ms(baselines: Iterable[BaselineDefinition]) -> int:
    """Say how far before a window's end the rolling baselines of a model begin."""
    return max(
        ((item.window_ms or 0) + (item.offset_ms or 0) for item in baselines if item.type == "rolling"), default=0
    )


def _ending_in(window: Window, after_ms: int, upto_ms: int) -> Iterator[Span]:
    origin = window_origin_ms(window.size_ms) + window.size_ms
    end = (after_ms - origin) // window.every_ms * window.every_ms + origin + window.every_ms
    while end <= upto_ms:
        yield Span(end - window.size_ms, end)
        end += window.every_ms


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
