"""Samples of consumer lag, kept so that a restart goes on judging and `lag --since` has something to draw."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Final

import pyarrow as pa

from fqlstream.store.client import Store, rows_of

_TABLE: Final = "lag_samples"
_SCHEMA: Final = pa.schema([
    ("cluster", pa.string()), ("consumer_group", pa.string()), ("topic", pa.string()), ("partition", pa.int32()),
    ("at", pa.timestamp("ms", tz="UTC")), ("committed", pa.int64()), ("log_end", pa.int64()), ("lag_records", pa.int64()),
    ("lag_rows", pa.int64()), ("lag_seconds", pa.float64()), ("is_left", pa.bool_()), ("is_held", pa.bool_()), ("status", pa.string()),
])  # fmt: skip
#: Points of a drawing: more than a terminal has columns.
_POINTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class LagRow:
    """One sample of one partition, in the table's columns; `at` in Unix ms."""

    cluster: str
    consumer_group: str
    topic: str
    partition: int
    at: int
    committed: int
    log_end: int
    lag_records: int
    lag_rows: int | None
    lag_seconds: float | None
    is_left: bool | None
    is_held: bool
    status: str


@dataclass(frozen=True, slots=True)
class LagPoint:
    """A topic of a group over one stretch of time that begins at `at_ms` (Unix ms): the most that was seen in it.

    `lag_records` and `lag_rows` are of all partitions together, `lag_seconds` of the oldest. `end` and `committed` are sums over
    partitions, the last that were seen: what came and went between two points is their difference.
    """

    consumer_group: str
    topic: str
    at_ms: int
    lag_records: int
    lag_rows: int | None
    lag_seconds: float | None
    log_end: int
    committed: int
    worst: str


def write_samples(store: Store, rows: Sequence[LagRow]) -> None:
    """Store samples; returns once they are durable. The same sample again changes nothing."""
    columns = list(zip(*(astuple(row) for row in rows), strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(list(column), kind.type) for column, kind in zip(columns, _SCHEMA, strict=True)]
    store.insert_arrow(_TABLE, pa.table(arrays, schema=_SCHEMA))


def read_samples(store: Store, cluster: str, groups: Sequence[str], since_ms: int) -> list[LagRow]:
    """Give the samples of groups from a time on (Unix ms), the oldest first."""
    names = ", ".join("toUnixTimestamp64Milli(at) AS at" if f.name == "at" else f.name for f in fields(LagRow))
    table = store.query_arrow(
        f"SELECT {names} FROM {_TABLE} FINAL WHERE cluster = {{cluster:String}} AND consumer_group IN {{groups:Array(String)}} "
        "AND lag_samples.at >= fromUnixTimestamp64Milli({since:Int64}) ORDER BY lag_samples.at",
        {"cluster": cluster, "groups": list(groups), "since": since_ms},
    )
    return [LagRow(**row) for row in rows_of(table)]


def read_points(store: Store, groups: Sequence[str], since_ms: int, step_ms: int) -> list[LagPoint]:
    """Give a line for each topic of groups of these names since a time (Unix ms), a point for every `step_ms`; `*` stands for any text.

    By group, topic and time. What the groups of several clusters of that name did is told together.
    """
    table = store.query_arrow(
        # a moment's partitions are added up first, then the highest moment of a stretch is taken
        "SELECT consumer_group, topic, intDiv(moment, {step:Int64}) * {step:Int64} AS at_ms, max(records) AS lag_records, "
        "max(counted) AS lag_rows, max(seconds) AS lag_seconds, argMax(ends, moment) AS log_end, argMax(commits, moment) AS committed, "
        "argMax(bad, severity) AS worst FROM ("
        "SELECT consumer_group, topic, toUnixTimestamp64Milli(at) AS moment, sum(s.lag_records) AS records, "
        "if(countIf(s.lag_rows IS NULL) > 0, NULL, sum(s.lag_rows)) AS counted, max(s.lag_seconds) AS seconds, sum(s.log_end) AS ends, "
        "sum(s.committed) AS commits, max(indexOf(['', 'OK', 'WARN', 'STALL', 'STOP', 'REWIND', 'ERR'], s.status)) AS severity, "
        "argMax(s.status, indexOf(['', 'OK', 'WARN', 'STALL', 'STOP', 'REWIND', 'ERR'], s.status)) AS bad "
        f"FROM {_TABLE} AS s FINAL WHERE arrayExists(name -> s.consumer_group LIKE name, {{groups:Array(String)}}) "
        "AND s.at >= fromUnixTimestamp64Milli({since:Int64}) GROUP BY consumer_group, topic, s.at"
        f") GROUP BY consumer_group, topic, at_ms ORDER BY consumer_group, topic, at_ms LIMIT {_POINTS_MAX} BY consumer_group, topic",
        {"groups": [_like(name) for name in groups], "since": since_ms, "step": step_ms},
    )
    return [LagPoint(**row) for row in rows_of(table)]


def _like(name: str) -> str:
    """Write a name as a pattern of LIKE."""
    return re.sub(r"([\\%_])", r"\\\1", name).replace("*", "%")
