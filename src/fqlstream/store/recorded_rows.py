"""Recorded metrics into ClickHouse, as the record agent applies them, and what it reads back to go on with a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fqlstream.aggregates.running import RunningSummary
from fqlstream.store.client import Store, rows_of
from fqlstream.store.recorded import AMONG, VALUES_AT_ONCE, in_parts, keys_of
from fqlstream.stream.protocol import FLUSHES_PER_EPOCH, Version
from fqlstream.stream.recorded import ForgetRow, JobRow, ListKey, ListRow, ListState, Needs, PipelineRow, Row, Summary

_TIME: Final = pa.timestamp("ms", tz="UTC")
_NUMBER: Final = (
    ("at_us", "at_us", pa.int64()), ("recorded_at", "record_at_ms", _TIME), ("offset", "offset", pa.uint64()),
)  # fmt: skip
_PIPELINE: Final = (
    ("execution_id", "execution_id", pa.string()), ("name", "name", pa.string()), ("value", "value", pa.float64()), *_NUMBER,
)  # fmt: skip
_JOB: Final = (
    ("job_id", "job_id", pa.string()), ("name", "name", pa.string()), ("step", "step", pa.int64()),
    ("value", "value", pa.float64()), *_NUMBER,
)  # fmt: skip
_LIST: Final = (
    ("execution_id", "execution_id", pa.string()), ("name", "name", pa.string()), ("start", "start", pa.uint32()), *_NUMBER,
)  # fmt: skip
_SUMMARY: Final = tuple(
    (name, name, kind)
    for name, kind in (
        ("execution_id", pa.string()), ("name", pa.string()), ("fence", pa.int64()), ("count", pa.uint64()),
        ("finite", pa.uint64()), ("mean", pa.float64()), ("variance", pa.float64()), ("min", pa.float64()),
        ("max", pa.float64()), ("quantiles", pa.map_(pa.string(), pa.float64())), ("state", pa.binary()),
        ("created_us", pa.int64()), ("updated_us", pa.int64()), ("is_forgotten", pa.bool_()),
    )
)  # fmt: skip
#: Per kind of id: tables, the column of the id, the columns that a forgotten row keeps, and the one that says since where.
_FORGOTTEN: Final = {
    "execution": (
        ("pipeline_metric_rows", "execution_id", "execution_id, name, partition", "offset"),
        ("list_metric_rows", "execution_id", "execution_id, name, partition, offset", "said_at"),
    ),
    "job": (("job_metric_rows", "job_id", "job_id, name, step, partition", "offset"),),
}


def inserts(store: Store, rows: Mapping[int, Sequence[Row]]) -> list[Callable[[], None]]:
    """Give the inserts that write rows of numbers, by partition: one per table, as they may run side by side."""
    found: list[tuple[str, pa.Table]] = []
    pipeline = [(partition, row) for partition, part in rows.items() for row in part if isinstance(row, PipelineRow)]
    if pipeline:
        found.append(("pipeline_metric_rows", _table(pipeline, _PIPELINE)))
    lists = [(partition, row) for partition, part in rows.items() for row in part if isinstance(row, ListRow)]
    if lists:
        found.append(("list_metric_rows", _list_table(lists)))
    jobs = [(partition, row) for partition, part in rows.items() for row in part if isinstance(row, JobRow)]
    if jobs:
        found.append(("job_metric_rows", _table(jobs, _JOB)))
    return [partial(store.insert_arrow, name, table, store.quorum_write()) for name, table in found]


def _list_table(rows: Sequence[tuple[int, ListRow]]) -> pa.Table:
    ends = np.cumsum([0, *(len(row.values) for _, row in rows)])
    values = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), np.concatenate([row.values for _, row in rows]))
    table = _table(rows, _LIST)
    return table.append_column("values", values).append_column("said_at", table.column("offset"))


def write_summaries(store: Store, summaries: Mapping[int, tuple[Version, Sequence[Summary]]]) -> None:
    """Write summaries of lists, by partition with their version, in one insert."""
    table = _table([(partition, one) for partition, (_, part) in summaries.items() for one in part], _SUMMARY)
    versions = [version.number for version, part in summaries.values() for _ in part]
    table = table.append_column("summary_version", pa.array(versions, pa.uint64()))
    store.insert_arrow("list_summary_rows", table, store.quorum_write())


def forget(store: Store, partition: int, row: ForgetRow) -> None:
    """Mark what was recorded of an execution or job below an offset as gone. Rows before it must be durable.

    A later row of the same key stands above the mark, an earlier one that a sleeping worker writes afterwards below it.
    """
    keys = {"id": row.id, "offset": row.offset, "partition": partition}
    below = "partition = {partition:Int32} AND offset < {offset:UInt64}"
    for table, key, kept, since in _FORGOTTEN[row.kind]:
        store.command(
            f"INSERT INTO {table} ({kept}, {since}, is_forgotten) SELECT {kept}, {{offset:UInt64}}, 1 FROM {table} FINAL "
            f"WHERE {key} = {{id:String}} AND {below}",
            keys,
            store.quorum_write() | store.quorum_read(),
        )


def read_lists(store: Store, partition: int, needs: Needs) -> dict[ListKey, ListState]:
    """Give lists as their newest summary has them, forgotten ones included, as far as there are any.

    What a summary does not hold in itself is made again from the values that it contains.
    """
    found: dict[ListKey, ListState] = {}
    for rows in _summaries(store, partition, needs):
        values = _contained_values(store, partition, [row for row in rows if not row["is_forgotten"]])
        for row in rows:
            key = ListKey(row["execution_id"].decode(), row["name"].decode())
            epoch = row["summary_version"] // FLUSHES_PER_EPOCH
            if row["is_forgotten"]:
                found[key] = ListState.empty(row["fence"], is_forgotten=True, epoch=epoch)
            else:
                summary = RunningSummary.decode(row["state"], values.get(key, []))
                found[key] = ListState(summary, row["fence"], row["created_us"], row["updated_us"], epoch=epoch)
    return found


def _summaries(store: Store, partition: int, needs: Needs) -> Iterator[list[dict[str, Any]]]:
    """Give the newest summary rows, some lists at a time: their values are read together."""
    wanted = sorted(needs.lists)
    parts = in_parts(wanted, lambda key: (key.execution_id, key.name))
    conditions: list[tuple[str, dict[str, Any]]] = [(AMONG, keys_of(part)) for part in parts]
    conditions += [("execution_id = {id:String}", {"id": execution}) for execution in sorted(needs.executions)]
    for where, parameters in conditions:
        table = store.query_arrow(
            "SELECT execution_id, name, fence, count, state, created_us, updated_us, is_forgotten, summary_version "
            "FROM list_summary_rows "
            f"WHERE {where} AND partition = {{partition:Int32}} "
            "ORDER BY execution_id, name, summary_version DESC LIMIT 1 BY execution_id, name",
            {**parameters, "partition": partition},
            {**store.quorum_read(), "output_format_arrow_string_as_string": 0},
        )
        rows: list[dict[str, Any]] = []
        count = 0
        for row in rows_of(table):
            if rows and count + row["count"] > VALUES_AT_ONCE:
                yield rows
                rows, count = [], 0
            rows.append(row)
            count += row["count"]
        if rows:
            yield rows


def _contained_values(store: Store, partition: int, rows: Sequence[Mapping[str, Any]]) -> dict[ListKey, list[float]]:
    """Give the values that summaries contain, in the order in which they were recorded."""
    if not rows:
        return {}
    keys = [ListKey(row["execution_id"].decode(), row["name"].decode()) for row in rows]
    fences = dict(zip(keys, (row["fence"] for row in rows), strict=True))
    table = store.query_arrow(
        f"SELECT execution_id, name, offset, values FROM list_metric_rows FINAL WHERE {AMONG} "
        "AND partition = {partition:Int32} ORDER BY execution_id, name, start",
        {**keys_of(keys), "partition": partition},
        store.quorum_read(),
    )
    found: dict[ListKey, list[float]] = {}
    columns = (table.column(name).to_pylist() for name in ("execution_id", "name", "offset", "values"))
    for execution_id, name, offset, values in zip(*columns, strict=True):
        key = ListKey(execution_id, name)
        if offset <= fences[key]:
            found.setdefault(key, []).extend(values)
    return found


def _table(rows: Sequence[tuple[int, Any]], fields: Sequence[tuple[str, str, pa.DataType]]) -> pa.Table:
    """Make a table of rows with their partitions: per column its name, the field that it shows, and its type."""
    columns = {name: pa.array([getattr(row, shown) for _, row in rows], kind) for name, shown, kind in fields}
    return pa.table({**columns, "partition": pa.array([partition for partition, _ in rows], pa.int32())})
