"""Code metrics in ClickHouse: who runs them, runs with their progress, values, and validations that were asked for.

Rows are absolute and carry a version: the newest wins, whatever order they arrive in. A run's version begins with the epoch of
the partition's owner, so what a forgotten runner still writes loses against its successor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from fqlstream.store.claims import newest_claims
from fqlstream.store.client import Store, rows_of

_TIME: Final = pa.timestamp("ms", tz="UTC")
_SECOND: Final = pa.timestamp("s", tz="UTC")
_REPORT: Final = (
    ("stage", pa.string()), ("progress", pa.uint8()), ("rows", pa.uint64()), ("engine", pa.string()), ("layers", pa.list_(pa.string())),
    ("seconds", pa.map_(pa.string(), pa.float64())), ("peak_memory_bytes", pa.uint64()), ("code", pa.string()), ("error", pa.string()),
    ("traceback", pa.string()), ("hint", pa.string()),
)  # fmt: skip
_RUNS: Final = pa.schema([
    ("metric_id", pa.string()), ("period_end", _TIME), ("run_version", pa.uint64()), ("owner", pa.string()), ("model", pa.string()),
    ("metric", pa.string()), ("inputs_hash", pa.string()), ("data_from", _TIME), ("data_to", _TIME),
    ("vector", pa.map_(pa.int32(), pa.uint64())), ("state", pa.string()), *_REPORT, ("tries", pa.uint32()), ("started_at", _TIME),
    ("updated_at", _TIME), ("finished_at", _TIME), ("kept_until", _SECOND),
])  # fmt: skip
_VALUES: Final = pa.schema([
    ("metric_id", pa.string()), ("version", pa.string()), ("segment", pa.string()), ("period_end", _TIME), ("run_version", pa.uint64()),
    ("model", pa.string()), ("metric", pa.string()), ("value", pa.float64()), ("rows", pa.uint64()), ("data_from", _TIME),
    ("data_to", _TIME), ("computed_at", _TIME), ("kept_until", _SECOND),
])  # fmt: skip
_TASKS: Final = pa.schema([
    ("metric_id", pa.string()), ("dataset_id", pa.string()), ("code_hash", pa.string()), ("attempt", pa.uint32()), ("step", pa.uint64()),
    ("model", pa.string()), ("metric", pa.string()), ("state", pa.string()), ("is_delivered", pa.uint8()), *_REPORT,
    ("value", pa.float64()), ("segments", pa.map_(pa.string(), pa.float64())), ("requested_at", _TIME), ("updated_at", _TIME),
])  # fmt: skip
_OWNERS: Final = pa.schema([
    ("partition", pa.int32()), ("epoch", pa.uint64()), ("owner", pa.string()), ("claimed_at", _TIME),
])  # fmt: skip

_RUNNERS: Final = pa.schema([
    ("owner", pa.string()), ("host", pa.string()), ("engine", pa.string()), ("layers", pa.list_(pa.string())),
    ("missing", pa.list_(pa.string())), ("code", pa.string()), ("error", pa.string()), ("partitions", pa.list_(pa.int32())),
    ("seen_at", _TIME),
])  # fmt: skip

RUNNING, SUCCESS, FAILED, GIVEN_UP = "running", "success", "failed", "given_up"
PENDING: Final = "pending"
#: Stage of a task that a runner has seen and has no place for yet.
WAITING: Final = "waiting for a place"
#: Steps of a task: rows of its progress lie between the first and the second, whatever runner writes them.
STEP_FINAL: Final = 2**62
STEP_DELIVERED: Final = STEP_FINAL + 1
#: Run numbers of one epoch stay below this.
RUNS_PER_EPOCH: Final = 2**32


@dataclass(frozen=True, slots=True)
class Report:
    """How far a run is, or how it went. `seconds` are per stage; `code` is empty where nothing went wrong."""

    stage: str = ""
    progress: int = 0
    rows: int = 0
    engine: str = ""
    layers: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    code: str = ""
    error: str = ""
    traceback: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RunnerRow:
    """A runner as it was seen last: layers that hold there, those that are missing with the reason, why it runs nothing ('' where it does)."""

    owner: str
    host: str
    engine: str
    layers: tuple[str, ...]
    missing: tuple[str, ...]
    code: str
    error: str
    partitions: tuple[int, ...]
    seen_at_ms: int


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run of a code metric for one aggregation period. Times in Unix ms; `vector` has the flushes whose rows it certainly has.

    `state`: running, success, failed, or given_up, which is to be run again.
    """

    metric_id: str
    period_end_ms: int
    run_version: int
    owner: str
    model: str
    metric: str
    inputs_hash: str
    data_from_ms: int
    data_to_ms: int
    vector: Mapping[int, int]
    state: str
    report: Report
    tries: int
    started_at_ms: int
    updated_at_ms: int
    finished_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A value of a run, under one version (or `all`) and segment ('' is all rows). None: it has no rows, or its run failed."""

    version: str
    segment: str
    value: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A validation that was asked for, or a run of the newest period (`dataset_id` empty). `segments` has the values of each."""

    metric_id: str
    dataset_id: str
    code_hash: str
    attempt: int
    step: int
    model: str
    metric: str
    state: str
    report: Report
    requested_at_ms: int
    updated_at_ms: int
    value: float | None = None
    segments: Mapping[str, float | None] = field(default_factory=dict)
    is_delivered: bool = False

    @property
    def is_final(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state != PENDING

    @property
    def is_begun(self) -> bool:
        """Whether a runner has begun with it; whether that goes on is another question."""
        return self.report.stage not in ("", WAITING)


# ---- who runs what ---------------------------------------------------------------------------------------------------


def claim_partition(store: Store, partition: int, epoch: int, owner: str, claimed_at_ms: int) -> None:
    """Say that from now on this runner runs the metrics of a partition."""
    _insert(store, "code_metric_owners", [(partition, epoch, owner, claimed_at_ms)], _OWNERS)


def partition_owners(store: Store, partition: int) -> dict[str, int]:
    """Give the runners that claimed a partition with the highest epoch: one, or rivals."""
    return newest_claims(store, "code_metric_owners", partition)


def write_runner(store: Store, row: RunnerRow) -> None:
    """Say that a runner is there."""
    values = (
        row.owner, row.host, row.engine, list(row.layers), list(row.missing), row.code, row.error, list(row.partitions), row.seen_at_ms,
    )  # fmt: skip
    _insert(store, "code_metric_runner_rows", [values], _RUNNERS)


def runners(store: Store, since_ms: int) -> list[RunnerRow]:
    """Give the runners that were seen since then, by host."""
    columns = ", ".join(name for name in _RUNNERS.names[:-1])
    table = store.query_arrow(
        f"SELECT {columns}, toUnixTimestamp64Milli(seen_at) AS seen_at_ms FROM code_metric_runner_rows FINAL "
        "WHERE seen_at >= fromUnixTimestamp64Milli({since:Int64}) ORDER BY host, owner",
        {"since": since_ms},
    )
    tuples = ("layers", "missing", "partitions")
    return [RunnerRow(**{**row, **{name: tuple(row[name]) for name in tuples}}) for row in rows_of(table)]


def watermarks(store: Store, models: Sequence[str]) -> dict[str, int]:
    """Give how far event time has come for each model, Unix ms, as far as that is known."""
    found = store.query_rows(
        "SELECT model, max(watermark_ms) FROM published WHERE model IN {models:Array(String)} GROUP BY model",
        {"models": list(models)},
    )
    return {model: at_ms for model, at_ms in found if at_ms is not None}


# ---- runs and values -------------------------------------------------------------------------------------------------


def write_run(store: Store, run: RunRow, *, kept_ms: int) -> None:
    """Write how a run stands."""
    row = (
        run.metric_id, run.period_end_ms, run.run_version, run.owner, run.model, run.metric, run.inputs_hash, run.data_from_ms,
        run.data_to_ms, list(run.vector.items()), run.state, *_report_values(run.report), run.tries, run.started_at_ms, run.updated_at_ms,
        run.finished_at_ms, (run.updated_at_ms + kept_ms) // 1000,
    )  # fmt: skip
    _insert(store, "code_metric_run_rows", [row], _RUNS)


def newest_runs(store: Store, metric_ids: Sequence[str], *, each_max: int) -> dict[str, list[RunRow]]:
    """Give the runs of the newest periods of each metric, the newest first, however they stand."""
    return _newest_runs(store, _RUNS.names[:-1], metric_ids, {}, each_max)


def newest_runs_since(
    store: Store, metric_ids: Sequence[str], since_ms: Mapping[str, int], *, each_max: int
) -> dict[str, list[RunRow]]:
    """Give the same from a period on, by metric (Unix ms; of all where none is given), and without reports: to be asked often."""
    reported = {name for name, _ in _REPORT}
    names = [name for name in _RUNS.names[:-1] if name not in reported]
    return _newest_runs(store, names, metric_ids, since_ms, each_max)


def _newest_runs(
    store: Store, names: Sequence[str], metric_ids: Sequence[str], since_ms: Mapping[str, int], each_max: int
) -> dict[str, list[RunRow]]:
    times = [name for name in names if _RUNS.field(name).type == _TIME]
    columns = [f"toUnixTimestamp64Milli({name}) AS {name}_ms" if name in times else name for name in names]
    since = [since_ms.get(metric_id, 0) for metric_id in metric_ids]
    table = store.query_arrow(
        f"SELECT {', '.join(columns)} FROM (SELECT {', '.join(names)} FROM code_metric_run_rows "
        "WHERE metric_id IN {ids:Array(String)} AND period_end >= fromUnixTimestamp64Milli({first:Int64}) "
        "AND toUnixTimestamp64Milli(period_end) >= {since:Array(Int64)}[indexOf({ids:Array(String)}, metric_id)] "
        "ORDER BY metric_id, period_end DESC, run_version DESC LIMIT 1 BY metric_id, period_end) "
        f"ORDER BY metric_id, period_end_ms DESC LIMIT {int(each_max)} BY metric_id",
        {"ids": list(metric_ids), "since": since, "first": min(since, default=0)},
        store.quorum_read(),
    )
    found: dict[str, list[RunRow]] = {metric_id: [] for metric_id in metric_ids}
    for row in rows_of(table):
        report = _report(row)
        found[row["metric_id"]].append(RunRow(**{**row, "vector": dict(row["vector"])}, report=report))
    return found


def known_parts(store: Store, metric_id: str, period_end_ms: int) -> list[tuple[str, str]]:
    """Give the versions with the segments that a period of a metric has values of, or had."""
    table = store.query_arrow(
        "SELECT DISTINCT version, segment FROM code_metric_value_rows "
        "WHERE metric_id = {metric_id:String} AND period_end = fromUnixTimestamp64Milli({end:Int64})",
        {"metric_id": metric_id, "end": period_end_ms},
        store.quorum_read(),
    )
    return [(row["version"], row["segment"]) for row in rows_of(table)]


def write_values(store: Store, run: RunRow, values: Iterable[ValueRow], *, kept_ms: int) -> None:
    """Write the values of a run."""
    rows = [
        (
            run.metric_id, value.version, value.segment, run.period_end_ms, run.run_version, run.model, run.metric, value.value, value.rows,
            run.data_from_ms, run.data_to_ms, run.updated_at_ms, (run.updated_at_ms + kept_ms) // 1000,
        )
        for value in values
    ]  # fmt: skip
    _insert(store, "code_metric_value_rows", rows, _VALUES)


def latest_values(store: Store, metric_id: str) -> list[dict[str, Any]]:
    """Give the values of a metric's newest period, by version and segment; times as aware datetimes."""
    table = store.query_arrow(
        "SELECT version, segment, period_end, value, rows, data_from, data_to, computed_at FROM code_metric_latest "
        "WHERE metric_id = {metric_id:String} ORDER BY version, segment",
        {"metric_id": metric_id},
    )
    return rows_of(table)


def whole_values(store: Store, metric_ids: Sequence[str], version: str) -> dict[tuple[str, int], float | None]:
    """Give the value of all rows of each metric's newest period, under a version; by metric and that period's end, Unix ms."""
    found = store.query_rows(
        "SELECT metric_id, toUnixTimestamp64Milli(period_end), value FROM code_metric_latest "
        "WHERE metric_id IN {ids:Array(String)} AND version = {version:String} AND segment = ''",
        {"ids": list(metric_ids), "version": version},
    )
    return {(metric_id, end_ms): value for metric_id, end_ms, value in found}


# ---- tasks -----------------------------------------------------------------------------------------------------------


def write_task(store: Store, task: TaskRow) -> None:
    """Write how a task stands."""
    segments = list(task.segments.items())
    row = (
        task.metric_id, task.dataset_id, task.code_hash, task.attempt, task.step, task.model, task.metric, task.state,
        int(task.is_delivered), *_report_values(task.report), task.value, segments, task.requested_at_ms, task.updated_at_ms,
    )  # fmt: skip
    _insert(store, "code_metric_task_rows", [row], _TASKS)


def newest_task(
    store: Store, metric_id: str, dataset_id: str, code_hash: str, attempt: int | None = None
) -> TaskRow | None:
    """Give how the last task of a text over a dataset stands, or the one of an attempt."""
    times = ("requested_at", "updated_at")
    columns = [f"toUnixTimestamp64Milli({name}) AS {name}_ms" if name in times else name for name in _TASKS.names]
    which = "" if attempt is None else f" AND attempt = {int(attempt)}"
    table = store.query_arrow(
        f"SELECT {', '.join(columns)} FROM code_metric_task_rows WHERE metric_id = {{metric_id:String}} "
        f"AND dataset_id = {{dataset_id:String}} AND code_hash = {{code_hash:String}}{which} ORDER BY attempt DESC, step DESC LIMIT 1",
        {"metric_id": metric_id, "dataset_id": dataset_id, "code_hash": code_hash},
        store.quorum_read(),
    )
    for row in rows_of(table):
        report = _report(row)
        changed = {"segments": dict(row["segments"]), "is_delivered": bool(row["is_delivered"])}
        return TaskRow(**{**row, **changed}, report=report)
    return None


# ---- rows ------------------------------------------------------------------------------------------------------------


def _report_values(report: Report) -> tuple[Any, ...]:
    return (
        _text(report.stage), report.progress, report.rows, report.engine, list(report.layers), list(report.seconds.items()),
        report.peak_memory_bytes, report.code, _text(report.error), _text(report.traceback), _text(report.hint),
    )  # fmt: skip


def _text(given: str) -> str:
    """Give what can be stored of a text that may come from a metric's code: a half of a surrogate pair is no character."""
    return given.encode("utf-8", "replace").decode()


def _report(row: dict[str, Any]) -> Report:
    """Take what is of the report out of a row."""
    found = {name: row.pop(name) for name, _ in _REPORT if name in row}
    if not found:
        return Report()
    return Report(**{**found, "layers": tuple(found["layers"]), "seconds": dict(found["seconds"])})


def _insert(store: Store, table: str, rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> None:
    if not rows:
        return
    columns = zip(*rows, strict=True)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)]
    store.insert_arrow(table, pa.table(arrays, schema=schema), store.quorum_write())
