"""Published values in ClickHouse: written by the finaliser, read by everyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from fqlstream.store.client import Store, rows_of
from fqlstream.stream.protocol import MetricValue

_TIME: Final = pa.timestamp("ms", tz="UTC")
_SCHEMA: Final = pa.schema([
    ("model", pa.string()),
    ("version", pa.string()),
    ("metric", pa.string()),
    ("segment", pa.string()),
    ("window_start", _TIME),
    ("window_end", _TIME),
    ("window_s", pa.uint32()),
    ("value", pa.float64()),
    ("rows", pa.uint64()),
    ("labelled_rows", pa.uint64()),
    ("exact", pa.bool_()),
    ("error_bound", pa.float64()),
    ("status", pa.string()),
    ("value_version", pa.uint64()),
    ("definition_revision", pa.uint32()),
    ("updated_at", _TIME),
    ("retention_s", pa.uint32()),
])  # fmt: skip
#: The columns of `metric_values`, `metric_series` and `metric_latest`.
COLUMNS: Final = tuple(_SCHEMA.names[:-1])
_SELECTED: Final = ", ".join("toString(status) AS status" if name == "status" else name for name in COLUMNS)
#: ClickHouse's DateTime ends in 2106: a sum beyond would be in the past.
_RETENTION_S_MAX: Final = 70 * 366 * 86_400
_SPANS_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class ValueFilter:
    """Which values to read; None takes all. Times are Unix ms, half-open over window starts."""

    model: str
    metric: str | None = None
    segment: str | None = None
    version: str | None = None
    window_s: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    rows_max: int | None = None


def write_values(store: Store, values: Sequence[MetricValue], *, retention_ms: int) -> None:
    """Write values in one insert; they are kept for the model's retention after that."""
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for value in values:
        row = (
            value.model, value.version, value.metric, value.segment, value.window_start_ms, value.window_end_ms,
            (value.window_end_ms - value.window_start_ms) // 1000, value.value, value.rows, value.labelled_rows, value.exact,
            value.error_bound, value.status, value.value_version, value.definition_revision, value.updated_at_ms,
            min(retention_ms // 1000, _RETENTION_S_MAX),
        )  # fmt: skip
        for name, item in zip(columns, row, strict=True):
            columns[name].append(item)
    data = pa.table({field.name: pa.array(columns[field.name], field.type) for field in _SCHEMA})
    store.insert_arrow("metric_values", data)


def read_series(store: Store, wanted: ValueFilter) -> pa.Table:
    """Give the newest value of every window, in the order of their start; columns are those of `metric_values`."""
    return _read(store, "metric_series", wanted)


def read_latest(store: Store, wanted: ValueFilter) -> pa.Table:
    """Give the newest window's value per version, metric, segment and window length; columns as `metric_values`."""
    return _read(store, "metric_latest", wanted)


def latest_of_windows(store: Store, model: str, windows: Sequence[tuple[int, int]]) -> list[MetricValue]:
    """Give the newest values of windows (start and end, Unix ms) under every version, metric and segment."""
    found: list[MetricValue] = []
    for at in range(0, len(windows), _SPANS_MAX):
        part = windows[at : at + _SPANS_MAX]
        table = store.query_arrow(
            f"SELECT {_SELECTED} FROM metric_series WHERE model = {{model:String}} "
            "AND (toUnixTimestamp64Milli(window_start), toUnixTimestamp64Milli(window_end)) "
            "IN (SELECT arrayJoin(arrayZip({starts:Array(Int64)}, {ends:Array(Int64)}))) "
            "AND window_start >= fromUnixTimestamp64Milli({low:Int64}) AND window_start <= fromUnixTimestamp64Milli({high:Int64})",
            {
                "model": model,
                "starts": [start for start, _ in part],
                "ends": [end for _, end in part],
                "low": min(start for start, _ in part),
                "high": max(start for start, _ in part),
            },
        )
        found.extend(values_of(table))
    return found


def open_windows(store: Store, model: str) -> list[tuple[int, int]]:
    """Name the windows (start and end, Unix ms) of which some newest value is not final yet."""
    table = store.query_arrow(
        "SELECT DISTINCT toUnixTimestamp64Milli(window_start) AS start_ms, toUnixTimestamp64Milli(window_end) AS end_ms "
        "FROM metric_series WHERE model = {model:String} AND status = 'early' ORDER BY start_ms, end_ms",
        {"model": model},
    )
    return [(row["start_ms"], row["end_ms"]) for row in rows_of(table)]


def values_of(table: pa.Table) -> list[MetricValue]:
    """Turn rows with the columns of `metric_values` into values."""
    times = {
        name: table.column(name).cast(pa.int64()).to_pylist() for name in ("window_start", "window_end", "updated_at")
    }
    rows = rows_of(table.drop_columns(list(times)))
    return [
        MetricValue(
            row["model"], row["version"], row["metric"], row["segment"], start, end, row["value"], row["rows"],
            row["labelled_rows"], row["exact"], row["error_bound"], row["status"], row["value_version"],
            row["definition_revision"], updated,
        )
        for row, start, end, updated in zip(rows, times["window_start"], times["window_end"], times["updated_at"], strict=True)
    ]  # fmt: skip


def _read(store: Store, view: str, wanted: ValueFilter) -> pa.Table:
    conditions = ["model = {model:String}"]
    parameters: dict[str, Any] = {"model": wanted.model}
    for name, kind in (("metric", "String"), ("segment", "String"), ("version", "String"), ("window_s", "UInt32")):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"{name} = {{{name}:{kind}}}")
            parameters[name] = value
    for name, sign in (("from_ms", ">="), ("to_ms", "<")):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"window_start {sign} fromUnixTimestamp64Milli({{{name}:Int64}})")
            parameters[name] = value
    order = "window_start, window_s, metric, segment, version"
    limit = ""
    if wanted.rows_max is not None:
        limit = f" ORDER BY window_start DESC LIMIT {int(wanted.rows_max)}"
    inner = f"SELECT * FROM {view} WHERE {' AND '.join(conditions)}{limit}"
    return store.query_arrow(f"SELECT {_SELECTED} FROM ({inner}) ORDER BY {order}", parameters)
