"""`fqlstream bench code_metrics`: metrics in Python, from stored rows to values, through the real sandbox and the engine of the settings.

Rows lie in the store as a worker writes them; a run exports them, and the sandbox computes all rows and every segment. Figures are the first
run of a runner and one by a sandbox that was ready, over 100,000 rows and over as many as `--events` says, and twenty metrics over
ten segments one after the other. Every value is compared with numpy's.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fqlstream.bench import Report, Request, machine
from fqlstream.clock import SystemClock
from fqlstream.code_metrics.pool import Pool
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.columns import arrow_schema
from fqlstream.events.definitions import CodeMetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.local.progress import SILENT
from fqlstream.local.stack import running_stack
from fqlstream.runner.execution import Asked, Execution, Finished
from fqlstream.settings import Settings, load
from fqlstream.store import migrations
from fqlstream.store.client import Store
from fqlstream.store.history import write_events
from fqlstream.store.model_tables import ensure
from fqlstream.store.snapshots import Range
from fqlstream.stream.batches import RowKind

_SMALL: Final = 100_000
_CHUNK: Final = 500_000
_SEGMENTS: Final = 10
_METRICS: Final = 20
#: A sandbox is waited for so long before a run that shall find one ready.
_READY_S: Final = 300.0
_CODE: Final = """
from pyspark.sql import functions as F

def calc_metric(df):
    return df.agg(F.avg("age") + {number}).first()[0]
"""


def run(request: Request) -> Report:
    """Measure 100,000 rows and as many as are asked for. `checked`: every value was numpy's."""
    figures: dict[str, float] = {}
    course = _Course(request)
    for rows in sorted({min(_SMALL, request.events_count), request.events_count}):
        figures |= {f"{name}_{rows}_rows": value for name, value in course.measure(rows).items()}
    return Report("code_metrics", machine(), course.checked, figures)


@dataclass(slots=True)
class _Course:
    """The measurements of one request."""

    request: Request
    checked: bool = True
    peak_bytes: int = 0
    ages: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def measure(self, rows: int) -> Mapping[str, float]:
        """Store so many rows and run; gives the figures of this size."""
        settings = load()
        local = settings.local.model_copy(update={"runners": 0})
        settings = settings.model_copy(update={"local": local, "store": settings.store.model_copy(update={"port": 0})})
        self.ages, self.peak_bytes = [], 0
        with (
            tempfile.TemporaryDirectory(prefix="fqlstream-bench-") as name,
            running_stack(settings, Path(name), workers=0, progress=SILENT) as stack,
            Store.connect(stack.settings.store) as store,
        ):
            migrations.apply(store)
            entry = _entry()
            self._write(store, entry, rows)
            return self._runs(stack.settings, store, entry, Path(name) / "rows", rows)

    def _write(self, store: Store, entry: ModelEntry, rows: int) -> None:
        model = entry.versions["v1"]
        ensure(store, [model])
        random = np.random.default_rng(7)
        for first in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - first)
            ages = random.integers(0, 100, count)
            self.ages.append(ages)
            write_events(store, model, 0, _rows(model, first, ages))
        self.request.say(f"{rows:,} rows are stored")

    def _runs(self, settings: Settings, store: Store, entry: ModelEntry, folder: Path, rows: int) -> dict[str, float]:
        pool = Pool(settings.code_metrics)
        try:
            execution = Execution(store, pool, settings, SystemClock(), folder)
            first_s, first = self._timed(execution, entry, 0)
            figures = {"first_run_s": first_s, "export_s": first.report.seconds.get("export", math.nan)}
            _await_ready(pool)
            figures["warm_run_s"], _ = self._timed(execution, entry, 0)
            if rows == _SMALL:
                began_s = time.monotonic()
                for number in range(_METRICS):
                    self._timed(execution, entry, number)
                figures[f"{_METRICS}_metrics_{_SEGMENTS}_segments_s"] = time.monotonic() - began_s
            figures["peak_memory_mib"] = self.peak_bytes / 2**20
            return figures
        finally:
            pool.close()

    def _timed(self, execution: Execution, entry: ModelEntry, number: int) -> tuple[float, Finished]:
        metric = CodeMetricDefinition(
            model=entry.name, name=f"m{number}", code=_CODE.format(number=number), id=f"m{number}"
        )
        began_s = time.monotonic()
        finished = execution.run(Asked(metric, entry, Range()), lambda _: None)
        took_s = time.monotonic() - began_s
        self.peak_bytes = max(self.peak_bytes, finished.report.peak_memory_bytes)
        self._check(finished, number)
        self.request.say(f"metric {number}: {took_s:.1f} s, {finished.report.error or 'right'}")
        return took_s, finished

    def _check(self, finished: Finished, number: int) -> None:
        ages = np.concatenate(self.ages)
        wanted = {"": ages, **{f"s{at}": ages[ages % _SEGMENTS == at] for at in range(_SEGMENTS)}}
        found = {value.segment: value.value for value in finished.values}
        same = found.keys() == wanted.keys() and all(
            math.isclose(found[name] or math.nan, float(values.mean()) + number, rel_tol=1e-12)
            for name, values in wanted.items()
        )
        self.checked = self.checked and same


def _entry() -> ModelEntry:
    model = ModelDefinition.model_validate(
        {"name": "measured", "columns": [{"name": "age", "type": "int"}, {"name": "score", "type": "float"}]}
    )
    catalogue = Catalogue().with_definition(model)
    for at in range(_SEGMENTS):
        text = " or ".join(f"age == {age}" for age in range(at, 100, _SEGMENTS))
        catalogue = catalogue.with_definition(SegmentDefinition(model="measured", name=f"s{at}", definition=text))
    return catalogue.models["measured"]


def _rows(model: ModelDefinition, first: int, ages: np.ndarray[Any, Any]) -> pa.Table:
    """Make event rows as the decoder does, a millisecond apart from each other."""
    count = len(ages)
    offsets = np.arange(first, first + count, dtype=np.int64)
    at_ms = 1_780_000_000_000 + offsets
    empty = pa.array([[]] * count, pa.list_(pa.string()))
    columns: dict[str, Any] = {
        "offset": offsets,
        "row": np.zeros(count, dtype=np.int32),
        "record_at": at_ms,
        "event_at": at_ms,
        "event_id": pa.array(offsets).cast(pa.string()),
        "duplicate": np.zeros(count, dtype=bool),
    }
    for column in arrow_schema(model, RowKind.INFERENCE):
        values: Any = {"age": ages, "score": ages / 100}.get(column.name, empty)
        columns[column.name] = pa.array(values).cast(column.type)
    return pa.table(columns)


def _await_ready(pool: Pool) -> None:
    """Wait until a sandbox waits for a job, where the settings keep any."""
    pool.warm()
    deadline_s = time.monotonic() + _READY_S
    while pool.ready() < min(1, pool.settings.warm) and time.monotonic() < deadline_s:
        time.sleep(0.1)
