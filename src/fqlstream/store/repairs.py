"""Requests to rebuild panes from history; the owner of the partition polls them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from fqlstream.events.definitions import ModelDefinition
from fqlstream.store.client import Store, rows_of
from fqlstream.store.naming import event_table, identifier
from fqlstream.stream.protocol import PaneKey, RepairNeed

_TIME: Final = pa.timestamp("ms", tz="UTC")
#: Requests taken at once: a repair of a year of panes must not fill a worker's memory.
TAKEN_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """One pane of one partition that is to be rebuilt, once its owner has applied `applied_offset`."""

    id: str
    partition: int
    pane: PaneKey
    reason: str
    applied_offset: int = -1


def request(store: Store, needs: Sequence[RepairNeed], reason: str, *, requested_at_ms: int) -> None:
    """Ask the owners of these partitions to rebuild panes.

    Every asking is a request of its own: one that is being carried out may have read history before what this one is about.
    """
    requests = [
        RepairRequest(uuid.uuid4().hex, need.partition, need.pane, reason, need.applied_offset)
        for need in sorted(set(needs))
    ]
    _write(store, requests, requested_at_ms, None)


def stored_panes(store: Store, model: ModelDefinition, start_ms: int, end_ms: int) -> list[RepairNeed]:
    """Name the panes of a version that hold an event of a half-open time range, or have a state of it, per partition."""
    pane_ms = model.windows.pane_ms
    start = start_ms // pane_ms * pane_ms
    table = store.query_arrow(
        "SELECT DISTINCT partition, intDiv(toUnixTimestamp64Milli(event_at), {pane:Int64}) * {pane:Int64} AS start_ms "
        f"FROM {identifier(event_table(model.name))} WHERE version = {{version:String}} AND NOT duplicate "
        "AND event_at >= fromUnixTimestamp64Milli({start:Int64}) AND event_at < fromUnixTimestamp64Milli({end:Int64}) "
        "UNION DISTINCT SELECT DISTINCT partition, toUnixTimestamp64Milli(pane_start) AS start_ms FROM states "
        "WHERE model = {model:String} AND version = {version:String} "
        "AND pane_start >= fromUnixTimestamp64Milli({start:Int64}) AND pane_start < fromUnixTimestamp64Milli({end:Int64})",
        {"model": model.name, "version": model.version, "pane": pane_ms, "start": start, "end": end_ms},
        store.quorum_read(),
    )
    return sorted(
        RepairNeed(row["partition"], PaneKey(model.name, model.version, row["start_ms"])) for row in rows_of(table)
    )


def count_waiting(store: Store, model: str, requested_at_ms: int) -> int:
    """Count the requests of that moment that were not carried out yet."""
    rows = store.query_rows(
        "SELECT count() FROM (SELECT id FROM repair_requests WHERE model = {model:String} GROUP BY id "
        "HAVING max(step) = 0 AND toUnixTimestamp64Milli(min(requested_at)) = {at:Int64})",
        {"model": model, "at": requested_at_ms},
    )
    return int(rows[0][0])


def poll(store: Store, partition: int, next_offset: int = 2**63 - 1) -> list[RepairRequest]:
    """Give the requests that wait for an owner that has applied what is before an offset, the oldest first: `TAKEN_MAX` at most.

    Those for which it has not applied enough are not among them: they would take the places of others.
    """
    table = store.query_arrow(
        "SELECT id, model, version, toUnixTimestamp64Milli(pane_start) AS start_ms, any(reason) AS reason, "
        "max(applied_offset) AS applied_offset, min(requested_at) AS asked FROM repair_requests WHERE partition = {partition:Int32} "
        "GROUP BY model, version, pane_start, id HAVING max(step) = 0 AND max(repair_requests.applied_offset) < {next:Int64} "
        "ORDER BY asked, model, version, pane_start, id LIMIT {taken:UInt32}",
        {"partition": partition, "next": next_offset, "taken": TAKEN_MAX},
        store.quorum_read(),
    )
    return [
        RepairRequest(
            row["id"],
            partition,
            PaneKey(row["model"], row["version"], row["start_ms"]),
            row["reason"],
            row["applied_offset"],
        )
        for row in rows_of(table)
    ]


def finish(store: Store, requests: Sequence[RepairRequest], *, finished_at_ms: int) -> None:
    """Say that requests were carried out, by a flush that is durable."""
    _write(store, requests, finished_at_ms, finished_at_ms)


def _write(store: Store, requests: Sequence[RepairRequest], at_ms: int, finished_at_ms: int | None) -> None:
    count = len(requests)
    data = pa.table(
        {
            "partition": pa.array([item.partition for item in requests], pa.int32()),
            "model": pa.array([item.pane.model for item in requests], pa.string()),
            "version": pa.array([item.pane.version for item in requests], pa.string()),
            "pane_start": pa.array([item.pane.start_ms for item in requests], _TIME),
            "applied_offset": pa.array([item.applied_offset for item in requests], pa.int64()),
            "id": pa.array([item.id for item in requests], pa.string()),
            "reason": pa.array([item.reason for item in requests], pa.string()),
            "requested_at": pa.array([at_ms] * count, _TIME),
            "finished_at": pa.array([finished_at_ms] * count, _TIME),
            "step": pa.array([0 if finished_at_ms is None else 1] * count, pa.uint8()),
        }
    )
    store.insert_arrow("repair_requests", data, store.quorum_write())
