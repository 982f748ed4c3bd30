"""The events that benchmarks send: one churn model, the same events for the same seed, columns that look like life.

Every event carries its target, so that metrics of both kinds have work. Event time runs evenly over the workload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MODEL: Final = "churn"
VERSION: Final = "v1"
#: 2026-11-21T10:00:00Z. Fixed, so that a run can be repeated; topics of benchmarks keep their records for ever.
_STARTS_AT_MS: Final = 1_795_255_200_000
_COUNTRIES: Final = ("FR", "DE", "IT", "ES", "GB")
_SHARES: Final = (0.35, 0.25, 0.2, 0.15, 0.05)

#: The model, ten metrics, and five segments beside all rows.
DEFINITIONS: Final[tuple[dict[str, Any], ...]] = (
    {
        "kind": "model",
        "name": MODEL,
        "version": VERSION,
        "task": "binary_classification",
        "columns": [
            {"name": "age", "type": "int", "role": "input", "min": 18, "max": 100},
            {"name": "country", "type": "category", "role": "input", "categories": list(_COUNTRIES)},
            {"name": "latency_ms", "type": "float", "role": "metadata"},
            {"name": "score", "type": "float", "role": "output"},
            {"name": "churned", "type": "category", "role": "target", "categories": ["no", "yes"]},
        ],
        "task_params": {"threshold": 0.5, "target_class_order": ["no", "yes"]},
        "windows": {"pane": "1m", "sizes": ["1h"], "lateness": "1h"},
    },
    *(
        {"kind": "metric", "model": MODEL, "name": name, "definition": definition}
        for name, definition in (
            ("events", "traffic()"),
            ("mean_score", "average(score)"),
            ("latency_sum", "sum(latency_ms)"),
            ("latency_least", "min(latency_ms)"),
            ("latency_most", "max(latency_ms)"),
            ("latency_p95", "quantile(latency_ms, 0.95)"),
            ("score_median", "quantile(score, 0.5)"),
            ("older", "sum(if(age >= 60, 1, 0))"),
            ("precision", "precision()"),
            ("cost", "sum(if(fp(), 10, 0) + if(fn(), 200, 0))"),
        )
    ),
    *(
        {"kind": "segment", "model": MODEL, "name": name, "definition": definition}
        for name, definition in (
            ("seniors", "age >= 60"),
            ("france", "country == 'FR'"),
            ("slow", "latency_ms > 40"),
            ("likely", "score >= 0.5"),
            ("italy_or_spain", "country == 'IT' or country == 'ES'"),
        )
    ),
)


@dataclass(frozen=True)
class Workload:
    """`events_count` events over `minutes` of event time, in the order of their ids."""

    events_count: int
    minutes: int = 60
    seed: int = 7

    @cached_property
    def columns(self) -> pa.Table:
        """The model's columns of all events."""
        random = np.random.default_rng(self.seed)
        count = self.events_count
        # A few people use the service much more slowly than most; the longest wait is what the p95 metrics are for.
        latency_ms = np.round(random.lognormal(3.0, 0.6, count), 2)
        score = np.round(random.beta(2.0, 3.5, count), 4)
        churned = random.random(count) < score
        return pa.table(
            {
                "age": pa.array(random.integers(18, 91, count)),
                "country": pa.array(random.choice(_COUNTRIES, count, p=_SHARES)),
                "latency_ms": pa.array(latency_ms),
                "score": pa.array(score),
                "churned": pa.array(np.where(churned, "yes", "no")),
            }
        )

    @cached_property
    def table(self) -> pa.Table:
        """All events: event_id, event_at (Unix ms), then the model's columns."""
        count = self.events_count
        envelope = {
            "event_id": pa.array([f"e-{index:012d}" for index in range(count)]),
            "event_at": pa.array(_STARTS_AT_MS + np.arange(count) * (self.minutes * 60_000) // max(1, count)),
        }
        return pa.table({**envelope, **{name: self.columns.column(name) for name in self.columns.column_names}})

    def rows_of(self, segment: str) -> pa.Table:
        """Give the model's columns of a segment's events, by conditions written here once more."""
        table = self.columns
        country = table.column("country")
        conditions = {
            "": pc.is_valid(country),
            "seniors": pc.greater_equal(table.column("age"), 60),
            "france": pc.equal(country, "FR"),
            "slow": pc.greater(table.column("latency_ms"), 40),
            "likely": pc.greater_equal(table.column("score"), 0.5),
            "italy_or_spain": pc.is_in(country, pa.array(["IT", "ES"])),
        }
        return table.filter(conditions[segment])

    def json_records(self) -> Iterator[tuple[str, int, bytes]]:
        """Give (event_id, event_at in Unix ms, JSON event) of each event; an event is about 200 bytes."""
        for batch in self.table.to_batches(max_chunksize=65_536):
            columns = (column.to_pylist() for column in batch.columns)
            for event_id, at_ms, age, country, latency_ms, score, churned in zip(*columns, strict=True):
                text = (
                    f'{{"type":"inference","model":"{MODEL}","version":"{VERSION}","event_id":"{event_id}",'
                    f'"event_at":{at_ms},"columns":{{"age":{age},"country":"{country}","latency_ms":{latency_ms},'
                    f'"score":{score},"churned":"{churned}"}}}}'
                )
                yield event_id, at_ms, text.encode()

    def arrow_records(self, rows: int) -> Iterator[tuple[str, int, bytes]]:
        """Give (first event_id, its event_at in Unix ms, Arrow stream) of batches of `rows` events each."""
        for batch in self.table.to_batches(max_chunksize=rows):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            yield batch["event_id"][0].as_py(), batch["event_at"][0].as_py(), sink.getvalue().to_pybytes()
