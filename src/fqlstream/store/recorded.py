"""Recorded metrics as ClickHouse has them, for the API and the client; `recorded_rows` writes them.

Readers give plain values, in an order that does not change while rows are replaced: by id and name. What was recorded after a
page was read may appear on a later one; nothing that stood is left out or given twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.running import RANKS
from fqlstream.store.client import Store, rows_of
from fqlstream.store.states import newest_flushes
from fqlstream.stream.recorded import ListKey

R = TypeVar("R")
T = TypeVar("T")
Floats = npt.NDArray[np.float64]

METRIC_EVENTS: Final = "metric-events"
#: Lists by their keys: the first condition is exact, the second lets the primary index cut.
AMONG: Final = (
    "(execution_id, name) IN (SELECT arrayJoin(arrayZip({ids:Array(String)}, {names:Array(String)}))) "
    "AND execution_id IN {ids:Array(String)}"
)
#: Ids of one query, and their length as they travel: a parameter is one form field, of which ClickHouse reads 128 KiB.
_IDS_MAX: Final = 2_000
_IDS_BYTES_MAX: Final = 100_000
#: Values of lists that one query brings: about 16 MB.
VALUES_AT_ONCE: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A metric event that was not stored: a stable code, what is stored and what was refused, and how many values the list holds."""

    code: str
    message: str
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some rows of a list of `total_count`."""

    rows: tuple[R, ...]
    total_count: int


@dataclass(frozen=True, slots=True)
class PipelineValue:
    """The number last recorded of an execution under a name; `at_us` is when it was measured, Unix microseconds."""

    execution_id: str
    name: str
    value: float
    at_us: int


@dataclass(frozen=True, slots=True)
class ListHead:
    """A list of an execution without its values. `created_us` and `updated_us`: when its first and last values were measured."""

    execution_id: str
    name: str
    count: int
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True)
class ListSummary:
    """A list in numbers: of its `finite` values, as they were seen one after the other.

    `quantiles` are a sketch's, `exact_quantiles` computed from the stored values, both by rank. What cannot be said of so few
    values is None or missing.
    """

    execution_id: str
    name: str
    count: int
    finite: int
    mean: float | None
    variance: float | None
    min: float | None
    max: float | None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    exact_quantiles: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobValue:
    """One number of a job at a step; `at_us` is when it was measured, Unix microseconds."""

    job_id: str
    name: str
    step: int
    value: float
    at_us: int


# ---- pipeline metrics ----------------------------------------------------------------------------------------------


def pipeline_metrics(
    store: Store,
    *,
    name: str | None = None,
    executions: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 5_000,
) -> Page[PipelineValue]:
    """Give pipeline metrics by execution and name: of one name, and of these executions, where given."""
    sql = "SELECT execution_id, name, value, at_us FROM pipeline_metric_rows FINAL WHERE {where} ORDER BY execution_id, name"
    return _paged(
        store, sql, "SELECT count() FROM pipeline_metric_rows FINAL WHERE {where}", _pipeline_value, name, executions,
        offset, limit,
    )  # fmt: skip


def _pipeline_value(row: Mapping[str, Any]) -> PipelineValue:
    return PipelineValue(row["execution_id"], row["name"], row["value"], row["at_us"])


# ---- list metrics --------------------------------------------------------------------------------------------------


def list_metrics(
    store: Store,
    *,
    name: str | None = None,
    executions: Sequence[str] | None = None,
    offset: int = 0,
    limit: int = 5_000,
) -> Page[ListHead]:
    """Give lists without their values, by execution and name; as `pipeline_metrics`. `list_values` reads the values."""
    sql = (
        "SELECT execution_id, name, toUInt64(sum(length(values))) AS count, min(at_us) AS created_us, max(at_us) AS updated_us "
        "FROM list_metric_rows FINAL WHERE {where} GROUP BY execution_id, name ORDER BY execution_id, name"
    )
    count_sql = "SELECT count() FROM (SELECT 1 FROM list_metric_rows FINAL WHERE {where} GROUP BY execution_id, name)"
    return _paged(store, sql, count_sql, _list_head, name, executions, offset, limit)


def _list_head(row: Mapping[str, Any]) -> ListHead:
    return ListHead(row["execution_id"], row["name"], row["count"], row["created_us"], row["updated_us"])


def list_values(
    store: Store, heads: Sequence[ListHead], *, values_max: int = VALUES_AT_ONCE
) -> Iterator[tuple[ListHead, Floats]]:
    """Give the values of these lists, in the order in which they were recorded; not more than so many, about, are in memory."""
    for part in _parts_of(heads, values_max):
        found: dict[tuple[str, str], list[Floats]] = {}
        table = _read(
            store,
            f"SELECT execution_id, name, values FROM list_metric_rows FINAL WHERE {AMONG} "
            "ORDER BY execution_id, name, start",
            keys_of(part),
        )
        values = table.column("values")
        keys = zip(table.column("execution_id").to_pylist(), table.column("name").to_pylist(), strict=True)
        for at, key in enumerate(keys):
            found.setdefault(key, []).append(values[at].values.to_numpy(zero_copy_only=False))
        for head in part:
            chunks = found.get((head.execution_id, head.name))
            yield head, np.concatenate(chunks) if chunks else np.empty(0)


def list_slice(store: Store, execution_id: str, name: str, *, offset: int = 0, limit: int = 50_000) -> Page[float]:
    """Give values of one list from an index on; `total_count` is the length of the list."""
    total = _number(
        store,
        "SELECT sum(length(values)) FROM list_metric_rows FINAL WHERE execution_id = {id:String} AND name = {name:String}",
        {"id": execution_id, "name": name},
    )
    table = _read(
        store,
        "SELECT value FROM (SELECT values, start FROM list_metric_rows FINAL WHERE execution_id = {id:String} "
        "AND name = {name:String} AND start < {end:Int64} AND start + length(values) > {offset:Int64}) "
        "ARRAY JOIN values AS value, arrayEnumerate(values) AS position "
        "WHERE start + position > {offset:Int64} AND start + position <= {end:Int64} ORDER BY start, position",
        {"id": execution_id, "name": name, "offset": offset, "end": min(offset + limit, 2**62)},
    )
    return Page(tuple(table.column("value").to_pylist()), int(total))


def list_summaries(store: Store, heads: Sequence[ListHead]) -> list[ListSummary]:
    """Give the summaries of these lists, in their order; one that was recorded a moment ago and is not summarised is left out."""
    found: dict[tuple[str, str], ListSummary] = {}
    for part in in_parts(heads, lambda head: (head.execution_id, head.name)):
        keys = keys_of(part)
        levels = ", ".join(str(rank) for rank in RANKS)
        exact = {
            (row["execution_id"], row["name"]): dict(zip(RANKS, row["exact"], strict=True))
            for row in rows_of(
                _read(
                    store,
                    f"SELECT execution_id, name, quantilesExactInclusiveArray({levels})(arrayFilter(v -> isFinite(v), values)) "
                    f"AS exact FROM list_metric_rows FINAL WHERE {AMONG} GROUP BY execution_id, name",
                    keys,
                )
            )
        }
        for row in rows_of(
            _read(
                store,
                "SELECT execution_id, name, count, finite, mean, variance, min, max, quantiles FROM list_summary_rows FINAL "
                f"WHERE {AMONG} ORDER BY count",
                keys,
            )
        ):
            key = row["execution_id"], row["name"]
            quantiles = {rank: value for rank, value in exact.get(key, {}).items() if not math.isnan(value)}
            found[key] = ListSummary(
                **{**row, "quantiles": {float(rank): value for rank, value in row["quantiles"]}},
                exact_quantiles=quantiles,
            )
    named = [found.get((head.execution_id, head.name)) for head in heads]
    return [summary for summary in named if summary is not None]


def keys_of(lists: Sequence[ListKey] | Sequence[ListHead]) -> dict[str, Any]:
    """Give the parameters of `AMONG`."""
    return {"ids": [one.execution_id for one in lists], "names": [one.name for one in lists]}


def _parts_of(heads: Sequence[ListHead], values_max: int) -> Iterator[Sequence[ListHead]]:
    for part in in_parts(heads, lambda head: (head.execution_id, head.name)):
        start, count = 0, 0
        for at, head in enumerate(part):
            if at > start and count + head.count > values_max:
                yield part[start:at]
                start, count = at, 0
            count += head.count
        yield part[start:]


# ---- job metrics ---------------------------------------------------------------------------------------------------


def job_metrics_latest(store: Store, jobs: Sequence[str]) -> dict[str, list[JobValue]]:
    """Give, for each of these jobs that has any, its metrics at their highest steps, by name."""
    found: dict[str, list[JobValue]] = {}
    for part in in_parts(jobs, lambda job: (job,)):
        table = _read(
            store,
            "SELECT job_id, name, step, value, at_us FROM job_metric_rows FINAL WHERE job_id IN {ids:Array(String)} "
            "ORDER BY job_id, name, step DESC LIMIT 1 BY job_id, name",
            {"ids": list(part)},
        )
        for row in rows_of(table):
            found.setdefault(row["job_id"], []).append(JobValue(**row))
    return found


def job_metric_steps(store: Store, job: str, name: str, *, offset: int = 0, limit: int = 10) -> Page[JobValue]:
    """Give every step of one metric of a job, in the order of the steps."""
    key = {"job": job, "name": name}
    where = "FROM job_metric_rows FINAL WHERE job_id = {job:String} AND name = {name:String}"
    total = _number(store, f"SELECT count() {where}", key)
    table = _read(
        store,
        f"SELECT job_id, name, step, value, at_us {where} ORDER BY step LIMIT {{limit:Int64}} OFFSET {{offset:Int64}}",
        {**key, "limit": limit, "offset": offset},
    )
    return Page(tuple(JobValue(**row) for row in rows_of(table)), int(total))


# ---- who has recorded ----------------------------------------------------------------------------------------------


def executions_with_pipeline_metrics(store: Store, name: str | None = None) -> list[str]:
    """Give the executions that have pipeline metrics, or one of this name."""
    return _recorded_by(store, "pipeline_metric_rows", name)


def executions_with_list_metrics(store: Store, name: str | None = None) -> list[str]:
    """Give the executions that have lists, or one of this name."""
    return _recorded_by(store, "list_metric_rows", name)


def _recorded_by(store: Store, table: str, name: str | None) -> list[str]:
    where, parameters = ("WHERE name = {name:String}", {"name": name}) if name is not None else ("", {})
    found = _read(store, f"SELECT DISTINCT execution_id FROM {table} FINAL {where}", parameters)
    return list(found.column("execution_id").to_pylist())


# ---- how far it is -------------------------------------------------------------------------------------------------


def flushed_upto(store: Store) -> dict[int, int]:
    """Give, per partition of metric-events, the last offset whose outcome is in ClickHouse."""
    return {row.partition: row.fence for row in newest_flushes(store, METRIC_EVENTS)}


def refusal_at(store: Store, partition: int, offset: int) -> Refusal | None:
    """Give why the record at this place of metric-events was refused; None: it was not, or the record agent is not there yet."""
    return refusals_from(store, partition, offset, offset).get(offset)


def stored_before(store: Store, of: ListKey, partition: int, offset: int) -> int:
    """Count the values of a list that records below an offset have appended: what it held when the record there was refused."""
    return _number(
        store,
        "SELECT sum(length(values)) FROM list_metric_rows FINAL WHERE execution_id = {id:String} AND name = {name:String} "
        "AND partition = {partition:Int32} AND offset < {offset:UInt64}",
        {"id": of.execution_id, "name": of.name, "partition": partition, "offset": offset},
    )


def refusals_from(store: Store, partition: int, first: int, last: int | None = None) -> dict[int, Refusal]:
    """Give the refused records of a partition of metric-events from one offset on, up to another one where it is given."""
    table = _read(
        store,
        "SELECT offset, code, reason FROM dead_letter_rows FINAL WHERE topic = {topic:String} "
        "AND partition = {partition:Int32} AND offset >= {first:Int64} AND offset <= {last:Int64}",
        {"topic": METRIC_EVENTS, "partition": partition, "first": first, "last": 2**62 if last is None else last},
    )
    return {row["offset"]: Refusal(row["code"], row["reason"]) for row in rows_of(table)}


# ---- queries -------------------------------------------------------------------------------------------------------


def in_parts(items: Sequence[T], texts_of: Callable[[T], Iterable[str]]) -> Iterator[Sequence[T]]:
    """Cut what a query names into parts that fit one: `texts_of` gives what it says of each."""
    start, bytes_count = 0, 0
    for at, item in enumerate(items):
        # every byte may be written as three, and each text has quotes and a comma
        needed = max(3 * len(text.encode()) + 9 for text in texts_of(item))
        if at > start and (bytes_count + needed > _IDS_BYTES_MAX or at - start >= _IDS_MAX):
            yield items[start:at]
            start, bytes_count = at, 0
        bytes_count += needed
    if start < len(items):
        yield items[start:]


def _read(store: Store, sql: str, parameters: Mapping[str, Any]) -> pa.Table:
    """Read what every acknowledged write is in, of whichever replica is asked."""
    return store.query_arrow(sql, parameters, store.quorum_read())


def _number(store: Store, sql: str, parameters: Mapping[str, Any]) -> int:
    return int(_read(store, sql, parameters).column(0)[0].as_py() or 0)


# ---- pages ---------------------------------------------------------------------------------------------------------


def _paged(
    store: Store,
    sql: str,
    count_sql: str,
    make: Any,
    name: str | None,
    executions: Sequence[str] | None,
    offset: int,
    limit: int,
) -> Page[Any]:
    """Read a page over any number of executions: sorted ids are asked for some at a time, so parts follow each other in order."""
    ids = None if executions is None else sorted(set(executions))
    parts = [None] if ids is None else list(in_parts(ids, lambda id_: (id_,)))
    rows: list[Any] = []
    total = 0
    for part in parts:
        conditions, parameters = ["1"], dict[str, Any]()
        if name is not None:
            conditions.append("name = {name:String}")
            parameters["name"] = name
        if part is not None:
            conditions.append("execution_id IN {ids:Array(String)}")
            parameters["ids"] = list(part)
        where = " AND ".join(conditions)
        count = _number(store, count_sql.replace("{where}", where), parameters)
        skipped, wanted = max(0, offset - total), limit - len(rows)
        total += count
        if wanted > 0 and skipped < count:
            page = {"rows_limit": wanted, "rows_offset": skipped}
            table = _read(
                store,
                sql.replace("{where}", where) + " LIMIT {rows_limit:Int64} OFFSET {rows_offset:Int64}",
                parameters | page,
            )
            rows += [make(row) for row in rows_of(table)]
    return Page(tuple(rows), total)
