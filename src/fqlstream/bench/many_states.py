"""A model of many states: two hundred overlapping segments over minutes of event time, and what batch says of its windows.

A state is what one pane holds of one segment: sums, an extreme, a quantile sketch, and aggregates that read labels. The
events of a pane are in one partition, so that there are as many states as panes times segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.bench.pipeline import PARTITIONS
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.compile_arrow import LANES, compile_model
from fqlstream.fql.planner import plan_model
from fqlstream.fql.readings import Result
from fqlstream.settings import FqlSettings

MODEL: Final = "many"
SEGMENTS: Final = 200
#: Events of one pane: half of them are in a segment, so that each state is one of about twenty rows.
ROWS_PER_PANE: Final = 40
PANE_MS: Final = 60_000
WINDOWS_MS: Final = (3_600_000, 86_400_000)
_ROWS_PER_RECORD: Final = 1_000
_LEVEL: Final = 0.95
#: What streams: quantiles become sketches early, as they do in panes of ordinary traffic. What batch asks: exact quantiles.
SKETCHED_FROM: Final = 8
_EXACT: Final = FqlSettings(quantile_values_max=10**7, score_values_max=10**7)
METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "events": "traffic()",
        "latency_sum": "sum(latency_ms)",
        "mean_score": "average(score)",
        "latency_most": "max(latency_ms)",
        "latency_p95": f"quantile(latency_ms, {_LEVEL})",
        "precision": "precision()",
        "cost": "sum(if(fp(), 10, 0) + if(fn(), 200, 0))",
        "auroc": "auroc()",
    }
)


def definitions() -> list[dict[str, Any]]:
    """Give the model, its metrics and its segments."""
    return [
        {
            "kind": "model",
            "name": MODEL,
            "version": "v1",
            "task": "binary_classification",
            "columns": [
                {"name": "age", "type": "int", "role": "input"},
                {"name": "latency_ms", "type": "float", "role": "metadata"},
                {"name": "score", "type": "float", "role": "output"},
                {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
            ],
            "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
            "windows": {"pane": "1m", "sizes": ["1h", "1d"], "lateness": "1h"},
        },
        *({"kind": "metric", "model": MODEL, "name": name, "definition": text} for name, text in METRICS.items()),
        *(
            {"kind": "segment", "model": MODEL, "name": f"s{n:03}", "definition": _condition(n)}
            for n in range(SEGMENTS)
        ),
    ]


def _condition(number: int) -> str:
    """Overlapping segments, from nearly all rows to few."""
    return f"age >= {number}" if number % 2 else f"age < {number + 200}"


@dataclass(slots=True)
class Rows:
    """What was sent so far, in columns; `random` decides what comes next."""

    begin_ms: int
    random: np.random.Generator
    tables: list[pa.Table] = field(default_factory=list)
    count: int = 0

    def draw(self, event_at_ms: npt.NDArray[np.int64]) -> pa.Table:
        """Draw events at these times, and remember them."""
        count = len(event_at_ms)
        score = np.round(self.random.random(count), 4)
        table = pa.table(
            {
                "event_id": [f"e-{number:010}" for number in range(self.count, self.count + count)],
                "event_at": pa.array(event_at_ms),
                "age": pa.array(self.random.integers(0, 400, count)),
                "latency_ms": np.round(self.random.lognormal(3.0, 0.6, count), 2),
                "score": score,
                "churned": np.where(self.random.random(count) < score, "yes", "no"),
            }
        )
        self.count += count
        self.tables.append(table)
        return table

    def of_panes(self, panes: int) -> pa.Table:
        """Draw the events of the first panes, in the order of time."""
        within = np.sort(self.random.integers(0, PANE_MS, (panes, ROWS_PER_PANE)), axis=1)
        return self.draw((self.begin_ms + np.arange(panes)[:, None] * PANE_MS + within).ravel().astype(np.int64))

    def anywhere(self, count: int, panes: int) -> pa.Table:
        """Draw events at random over the time of the first panes."""
        return self.draw(self.begin_ms + self.random.integers(0, panes * PANE_MS, count))

    @property
    def table(self) -> pa.Table:
        """All events."""
        return pa.concat_tables(self.tables)


def partition_of(event_at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Say which partition holds the pane of a time."""
    return event_at_ms // PANE_MS % PARTITIONS


def records(table: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Write events as Arrow streams, each with its partition; partitions take turns, so that time goes on in all alike."""
    places = partition_of(table.column("event_at").to_numpy())
    parts = [table.filter(pa.array(places == partition)) for partition in range(PARTITIONS)]
    for start in range(0, max(map(len, parts)), _ROWS_PER_RECORD):
        for partition, part in enumerate(parts):
            rows = part.slice(start, _ROWS_PER_RECORD)
            if len(rows):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, rows.schema) as writer:
                    writer.write_table(rows)
                yield partition, sink.getvalue().to_pybytes()


Key = tuple[str, str, int, int]  # metric, segment, window's start and length in ms


def batch(table: pa.Table) -> dict[Key, Result]:
    """Say what every window is, from its rows in memory, quantiles exact."""
    documents = definitions()
    model = ModelDefinition.model_validate(documents[0])
    metrics = [MetricDefinition.model_validate(each) for each in documents if each["kind"] == "metric"]
    segments = [SegmentDefinition.model_validate(each) for each in documents if each["kind"] == "segment"]
    engine = compile_model(plan_model(model, metrics, segments, settings=_EXACT), _EXACT)
    typed = coerce_table(table.select([column.name for column in model.columns]), model)
    event_at = table.column("event_at").to_numpy()
    found = {}
    for size_ms in WINDOWS_MS:
        starts, codes = np.unique(event_at // size_ms * size_ms, return_inverse=True)
        cells = engine.partials_both(typed, codes.astype(np.int64), len(starts))
        windows = [{lane: cells[lane][place] for lane in LANES} for place in range(len(starts))]
        for start, results in zip(starts.tolist(), engine.results_many(windows), strict=True):
            found.update({(result.metric, result.segment, start, size_ms): result for result in results})
    return found


@dataclass(frozen=True, slots=True)
class Value:
    """A published value."""

    value: float | None
    rows: int
    labelled_rows: int
    error_bound: float | None


def differences(published: Mapping[Key, Value], wanted: Mapping[Key, Result], table: pa.Table) -> list[str]:
    """Name what is published otherwise than batch says: other numbers, or further off than their bound."""
    wrong = [f"{key}: not published" for key in sorted(wanted.keys() - published.keys())]
    wrong += [f"{key}: a window without events" for key in sorted(published.keys() - wanted.keys())]
    ranks = _Ranks(table)
    for key in sorted(wanted.keys() & published.keys()):
        value, right = published[key], wanted[key]
        if (value.rows, value.labelled_rows) != (right.rows, right.labelled_rows) or not _same(
            key, value, right, ranks
        ):
            wrong.append(f"{key}: {value}, in memory {right.value} of {right.rows} rows")
    return wrong


def _same(key: Key, value: Value, right: Result, ranks: _Ranks) -> bool:
    if value.value is None or right.value is None or value.error_bound is None:
        return value.value == right.value
    if key[0] == "latency_p95":
        return ranks.off(key, value.value) <= value.error_bound
    return abs(value.value - right.value) <= value.error_bound


class _Ranks:
    """How far in rank a value is from a quantile of a window and segment."""

    def __init__(self, table: pa.Table) -> None:
        in_time = table.sort_by("event_at")
        self._event_at = in_time.column("event_at").to_numpy()
        self._age = in_time.column("age").to_numpy()
        self._latency = in_time.column("latency_ms").to_numpy()

    def off(self, key: Key, value: float) -> float:
        """Give the distance of the value's ranks from the quantile's level, 0 where it is between them."""
        _, segment, start_ms, size_ms = key
        window = slice(*np.searchsorted(self._event_at, (start_ms, start_ms + size_ms)))
        values = self._latency[window]
        if segment:
            number, age = int(segment[1:]), self._age[window]
            values = values[age >= number if number % 2 else age < number + 200]
        values = np.sort(values)
        low, high = (np.searchsorted(values, value, side) / len(values) for side in ("left", "right"))
        return float(max(low - _LEVEL, _LEVEL - high, 0.0))


__all__ = [
    "METRICS", "MODEL", "PANE_MS", "ROWS_PER_PANE", "SEGMENTS", "SKETCHED_FROM", "Key", "Rows", "Value", "batch",
    "definitions", "differences", "partition_of", "records",
]  # fmt: skip
