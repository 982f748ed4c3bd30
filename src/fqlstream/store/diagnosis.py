"""What ClickHouse says about itself and about work that waits, for whoever looks for trouble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fqlstream.store.client import Store

#: Values that were written so lately say how a worker's clock stands to ClickHouse's.
_LATELY_S: Final = 600
#: Tables that answer "where are too many parts": the fullest few are enough to act on.
_TABLES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of ClickHouse, in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Dead letters of one code: how many, and when the last one was seen (Unix ms)."""

    code: str
    count: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Requests that no owner has carried out: how many, and since when the oldest waits (Unix ms)."""

    count: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """How far a model's values are published: version of the newest flush by partition, its watermark, when (Unix ms)."""

    model: str
    vector: Mapping[int, int]
    watermark_ms: int | None
    updated_at_ms: int


def version(store: Store) -> str:
    """Give ClickHouse's version."""
    return str(store.query_rows("SELECT version()")[0][0])


def disks(store: Store) -> list[Disk]:
    """Give the disks that ClickHouse writes to."""
    rows = store.query_rows("SELECT name, free_space, total_space FROM system.disks ORDER BY name")
    return [Disk(str(name), int(free), int(total)) for name, free, total in rows]


def fullest_partitions(store: Store) -> list[tuple[str, int]]:
    """Give the tables of this database with the most parts in one partition: ClickHouse slows inserts down at many."""
    rows = store.query_rows(
        "SELECT table, max(parts) AS most FROM (SELECT table, partition_id, count() AS parts FROM system.parts "
        "WHERE active AND database = currentDatabase() GROUP BY table, partition_id) "
        f"GROUP BY table ORDER BY most DESC LIMIT {_TABLES_MAX}"
    )
    return [(str(table), int(most)) for table, most in rows]


def failing_mutations(store: Store) -> list[tuple[str, str]]:
    """Name tables with a mutation that fails, and why."""
    rows = store.query_rows(
        "SELECT table, any(latest_fail_reason) FROM system.mutations "
        "WHERE database = currentDatabase() AND NOT is_done AND latest_fail_reason != '' GROUP BY table ORDER BY table"
    )
    return [(str(table), str(reason)) for table, reason in rows]


def broken_parts(store: Store) -> list[tuple[str, int]]:
    """Count per table the parts that ClickHouse set aside because it could not read them."""
    rows = store.query_rows(
        "SELECT table, count() FROM system.detached_parts "
        "WHERE database = currentDatabase() AND startsWith(reason, 'broken') GROUP BY table ORDER BY table"
    )
    return [(str(table), int(count)) for table, count in rows]


def readonly_replicas(store: Store) -> list[str]:
    """Name the replicated tables that take no inserts."""
    rows = store.query_rows(
        "SELECT table FROM system.replicas WHERE database = currentDatabase() AND is_readonly ORDER BY table"
    )
    return [str(table) for (table,) in rows]


def refused_since(store: Store, since_ms: int) -> list[Refused]:
    """Count the dead letters that were seen since a time (Unix ms) by code, the most frequent first."""
    rows = store.query_rows(
        "SELECT code, count() AS letters, max(toUnixTimestamp64Milli(seen_at)) FROM dead_letters "
        "WHERE seen_at >= fromUnixTimestamp64Milli({since:Int64}) GROUP BY code ORDER BY letters DESC, code",
        {"since": since_ms},
    )
    return [Refused(str(code), int(count), int(newest)) for code, count, newest in rows]


def waiting_repairs(store: Store) -> Waiting:
    """Count panes whose rebuilding was asked for and not done."""
    return _waiting(store, "repair_requests")


def waiting_deletions(store: Store) -> Waiting:
    """Count deletions that were asked for and not carried out."""
    return _waiting(store, "deletion_requests")


def _waiting(store: Store, table: str) -> Waiting:
    rows = store.query_rows(
        f"SELECT count(), min(toUnixTimestamp64Milli(requested_at)) FROM {table} FINAL WHERE step = 0"
    )
    return Waiting(int(rows[0][0]), int(rows[0][1]))


def published_models(store: Store) -> list[PublishedModel]:
    """Say how far each model's values are published."""
    rows = store.query_rows(
        "SELECT model, vector, watermark_ms, toUnixTimestamp64Milli(updated_at) FROM published FINAL ORDER BY model"
    )
    return [
        PublishedModel(str(model), {int(p): int(v) for p, v in dict(vector).items()}, watermark_ms, int(updated_ms))
        for model, vector, watermark_ms, updated_ms in rows
    ]


def workers_ahead_ms(store: Store) -> int | None:
    """Say by how much the clocks of workers are ahead of ClickHouse's at most; None where nothing was published lately.

    Values carry a worker's time and ClickHouse's at their insertion, which is later: so this sees a worker that is ahead, and
    none that is behind. ClickHouse's is in whole seconds, rounded down.
    """
    rows = store.query_rows(
        "SELECT count(), max(toUnixTimestamp64Milli(updated_at) - toInt64(toUnixTimestamp(written_at)) * 1000) "
        f"FROM metric_values WHERE written_at >= now() - {_LATELY_S}"
    )
    return int(rows[0][1]) if rows[0][0] else None
