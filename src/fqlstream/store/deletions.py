"""Events that are deleted for good: their ids as digests, the requests to owners, and taking the rows out of the files.

No statement names an id: servers log statements.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa

from fqlstream.events.definitions import ModelDefinition
from fqlstream.store.client import Store, int_list, rows_of
from fqlstream.store.naming import event_table, identifier, label_table, literal
from fqlstream.stream.deleted import DeletedIds
from fqlstream.stream.fingerprints import Fingerprints, fingerprint
from fqlstream.stream.protocol import PaneKey, RepairNeed

_TIME: Final = pa.timestamp("ms", tz="UTC")
#: The last moment that `kept_until` can say, a DateTime: in the year 2106.
KEPT_UNTIL_MAX_MS: Final = (2**32 - 1) * 1000
#: Ids written by one insert.
_IDS_AT_ONCE: Final = 100_000
#: What a mutation's subquery reads was written with the quorum, and rows that a replica lacks are not its to judge.
_MUTATION: Final = {"mutations_sync": 0, "allow_nondeterministic_mutations": 1}


@dataclass(frozen=True, slots=True)
class DeletionRequest:
    """A partition whose owner shall delete the rows of a model's deleted ids."""

    id: str
    partition: int
    model: str


@dataclass(frozen=True, slots=True)
class Matches:
    """Rows of deleted ids that are stored, over all partitions, and how many of the ids have any."""

    events: int
    labels: int
    ids: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A deletion that was begun: ClickHouse writes parts of a table anew. `mark` stands in its text and in no other's."""

    table: str
    mark: str


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How far such deletions are: `refusal` says why one of them fails, though ClickHouse goes on trying."""

    is_done: bool
    refusal: str | None


# ---- ids -----------------------------------------------------------------------------------------------------------


def add_ids(store: Store, model: str, ids: Iterable[str], *, deleted_at_ms: int, kept_until_ms: int) -> int:
    """Note ids as deleted, as digests. Gives how many there were."""
    count, part = 0, list[str]()
    for text in ids:
        part.append(text)
        if len(part) >= _IDS_AT_ONCE:
            count += _add(store, model, part, deleted_at_ms, kept_until_ms)
            part = []
    return count + _add(store, model, part, deleted_at_ms, kept_until_ms)


def _add(store: Store, model: str, ids: Sequence[str], deleted_at_ms: int, kept_until_ms: int) -> int:
    if not ids:
        return 0
    marks = fingerprint(pa.array(ids, pa.string()), model)
    data = pa.table({
        "model": pa.array([model] * len(ids), pa.string()),
        "id_hash": pa.array([hashlib.sha256(text.encode()).digest() for text in ids], pa.binary(32)),
        "high": pa.array(marks.high, pa.uint64()),
        "low": pa.array(marks.low, pa.uint64()),
        "deleted_at": pa.array([deleted_at_ms] * len(ids), _TIME),
        "kept_until": pa.array([datetime.fromtimestamp(kept_until_ms // 1000, UTC)] * len(ids), pa.timestamp("s", tz="UTC")),
    })  # fmt: skip
    store.insert_arrow("deleted_ids", data, store.quorum_write())
    return len(ids)


def ids_of_range(store: Store, model: str, start_ms: int, end_ms: int) -> Iterable[str]:
    """Give the ids that have an event in a half-open range of event time (Unix ms)."""
    sql = (
        f"SELECT DISTINCT event_id FROM {identifier(event_table(model))} "
        f"WHERE event_at >= fromUnixTimestamp64Milli({int(start_ms)}) AND event_at < fromUnixTimestamp64Milli({int(end_ms)})"
    )
    for batch in store.stream_arrow(sql):
        yield from batch.column(0).to_pylist()


def ids_state(store: Store) -> dict[str, tuple[int, int]]:
    """Give per model how many ids are noted and when the last one was (Unix ms): it changes whenever they do."""
    table = store.query_arrow(
        "SELECT model, count() AS ids, max(toUnixTimestamp64Milli(deleted_at)) AS newest FROM deleted_ids "
        "WHERE kept_until > now() GROUP BY model",
        settings=store.quorum_read(),
    )
    return {row["model"]: (row["ids"], row["newest"]) for row in rows_of(table)}


def read_ids(store: Store, model: str) -> DeletedIds:
    """Give the deleted ids of a model."""
    table = store.query_arrow(
        "SELECT DISTINCT high, low FROM deleted_ids WHERE model = {model:String} AND kept_until > now()",
        {"model": model},
        store.quorum_read(),
    )
    high, low = (table.column(name).to_numpy().astype(np.uint64, copy=False) for name in ("high", "low"))
    return DeletedIds.of(Fingerprints(high, low))


def first_deleted_at(store: Store, model: str) -> int:
    """Say since when ids of a model are deleted (Unix ms)."""
    rows = store.query_rows(
        "SELECT min(toUnixTimestamp64Milli(deleted_at)) FROM deleted_ids WHERE model = {model:String} AND kept_until > now()",
        {"model": model},
    )
    return int(rows[0][0])


def _condition(model: str) -> str:
    """Write what holds for rows of deleted ids."""
    # a mutation must be the same wherever and whenever it is carried out: no now() of ClickHouse's
    kept = f"kept_until > toDateTime({int(time.time())}, 'UTC')"
    return f"SHA256(event_id) IN (SELECT id_hash FROM deleted_ids WHERE model = {literal(model)} AND {kept})"


# ---- requests ------------------------------------------------------------------------------------------------------


def request(store: Store, model: str, partitions: Iterable[int], *, requested_at_ms: int) -> list[DeletionRequest]:
    """Ask the owners of partitions to delete the rows of a model's deleted ids."""
    requests = [DeletionRequest(uuid.uuid4().hex, partition, model) for partition in sorted(partitions)]
    if requests:
        _write(store, requests, requested_at_ms, None)
    return requests


def poll(store: Store) -> list[DeletionRequest]:
    """Give the requests that wait, of all partitions, the oldest first."""
    table = store.query_arrow(
        "SELECT id, partition, model, min(requested_at) AS asked FROM deletion_requests "
        "GROUP BY partition, model, id HAVING max(step) = 0 ORDER BY asked, partition, model, id",
        settings=store.quorum_read(),
    )
    return [DeletionRequest(row["id"], row["partition"], row["model"]) for row in rows_of(table)]


def waiting_of(store: Store, requests: Sequence[DeletionRequest]) -> list[DeletionRequest]:
    """Give those of these requests that were not carried out yet."""
    waiting = {request.id for request in poll(store)}
    return [request for request in requests if request.id in waiting]


def finish(store: Store, requests: Sequence[DeletionRequest], *, finished_at_ms: int) -> None:
    """Say that requests were carried out: the rows are gone and the panes made anew are durable."""
    _write(store, requests, finished_at_ms, finished_at_ms)


def _write(store: Store, requests: Sequence[DeletionRequest], at_ms: int, finished_at_ms: int | None) -> None:
    count = len(requests)
    data = pa.table({
        "partition": pa.array([item.partition for item in requests], pa.int32()),
        "model": pa.array([item.model for item in requests], pa.string()),
        "id": pa.array([item.id for item in requests], pa.string()),
        "requested_at": pa.array([at_ms] * count, _TIME),
        "finished_at": pa.array([finished_at_ms] * count, _TIME),
        "step": pa.array([0 if finished_at_ms is None else 1] * count, pa.uint8()),
    })  # fmt: skip
    store.insert_arrow("deletion_requests", data, store.quorum_write())


# ---- searches ------------------------------------------------------------------------------------------------------


def now_ms(store: Store) -> int:
    """Give ClickHouse's time (Unix ms): rows are stamped with it."""
    ((at_ms,),) = store.query_rows("SELECT toUnixTimestamp64Milli(now64(3))")
    return int(at_ms)


def note_search(store: Store, partition: int, until_ms: int) -> None:
    """Note that what was written to a partition until a time (Unix ms) was searched for rows of deleted ids."""
    data = pa.table({
        "partition": pa.array([partition], pa.int32()), "searched_until": pa.array([until_ms], _TIME)
    })  # fmt: skip
    store.insert_arrow("deletion_searches", data, store.quorum_write())


def searched_until(store: Store, partition: int) -> int | None:
    """Say until when a partition was searched (Unix ms); None where it never was."""
    table = store.query_arrow(
        "SELECT max(toUnixTimestamp64Milli(searched_until)) AS at_ms FROM deletion_searches "
        "WHERE partition = {partition:Int32} HAVING count() > 0",
        {"partition": partition},
        store.quorum_read(),
    )
    return int(table.column(0)[0].as_py()) if table.num_rows else None


# ---- rows ----------------------------------------------------------------------------------------------------------


def count_rows(store: Store, model: str) -> Matches:
    """Count the stored rows of deleted ids."""
    # a row may be there twice until parts are merged
    tables = " UNION ALL ".join(
        f"SELECT {number} AS kind, partition, offset, row, SHA256(event_id) AS id FROM {identifier(table)} WHERE {_condition(model)}"
        for number, table in enumerate((event_table(model), label_table(model)))
    )
    found = store.query_arrow(
        "SELECT uniqExactIf((partition, offset, row), kind = 0) AS events, uniqExactIf((partition, offset, row), kind = 1) AS labels, "
        f"uniqExact(id) AS ids FROM ({tables})",
        settings=store.quorum_read(),
    )
    return Matches(**rows_of(found)[0])


def has_rows(store: Store, model: str, partition: int, since_ms: int) -> bool:
    """Say whether a partition has rows of deleted ids that were written since a time (Unix ms)."""
    where = (
        f"partition = {int(partition)} AND written_at >= toDateTime({max(0, int(since_ms) // 1000)}, 'UTC') "
        f"AND {_condition(model)}"
    )
    return any(_has(store, table, where) for table in (event_table(model), label_table(model)))


def _has(store: Store, table: str, where: str) -> bool:
    # what is deleted is known by `deleted_ids`: a replica that lacks its newest rows must not answer
    sql = f"SELECT 1 AS found FROM {identifier(table)} WHERE {where} LIMIT 1"
    return bool(store.query_arrow(sql, settings=store.quorum_read()).num_rows)


def held_panes(store: Store, versions: Sequence[ModelDefinition], partition: int) -> list[RepairNeed]:
    """Name the panes of a partition that hold an event of a deleted id."""
    model = versions[0].name
    needs = []
    for version in versions:
        pane_ms = int(version.windows.pane_ms)
        found = store.query_arrow(
            f"SELECT DISTINCT intDiv(toUnixTimestamp64Milli(event_at), {pane_ms}) * {pane_ms} AS start_ms "
            f"FROM {identifier(event_table(model))} WHERE partition = {int(partition)} "
            f"AND version = {literal(version.version)} AND NOT duplicate AND {_condition(model)}",
            settings=store.quorum_read(),
        )
        starts = found.column(0).to_pylist()
        needs += [RepairNeed(partition, PaneKey(model, version.version, start_ms)) for start_ms in starts]
    return sorted(needs)


def delete_rows(store: Store, model: str, partition: int) -> list[Rewrite]:
    """Begin to take the rows of deleted ids out of a partition's history; names what was begun, in tables that have any.

    They are gone once `rewriting` says so. ClickHouse keeps the files of the parts before for a while (`files_kept_s`).
    """
    where = f"partition = {int(partition)} AND {_condition(model)}"
    return [
        rewrite
        for table in (event_table(model), label_table(model))
        for rewrite in _delete(store, table, where, _mark(model, partition))
    ]


def delete_older_states(store: Store, model: str, partition: int) -> list[Rewrite]:
    """Begin to take states out of a partition that newer ones have replaced: exact states hold values of single events."""
    where = f"model = {literal(model)} AND partition = {int(partition)}"
    newest = (
        f"SELECT version, pane_start, lane, max(state_version) FROM states WHERE {where} "
        "GROUP BY version, pane_start, lane"
    )
    older = f"{where} AND (version, pane_start, lane, state_version) NOT IN ({newest})"
    return _delete(store, "states", older, _mark(model, partition))


def _mark(model: str, partition: int | None = None) -> str:
    """Mark what is deleted for a model, and a partition: the text of a mutation is all that tells it from those of others."""
    mark = f"fqlstream:{hashlib.blake2b(model.encode(), digest_size=8).hexdigest()}:"
    return mark if partition is None else f"{mark}{int(partition)}:"


def _delete(store: Store, table: str, where: str, mark: str) -> list[Rewrite]:
    """Ask for the parts of a table to be written anew without some rows; nothing is begun where there are none."""
    # another replica may have rows that this one lacks: a mutation reaches them, a look does not
    if store.quorum is None and not _has(store, table, where):
        return []
    rewrite = Rewrite(table, f"{mark}{uuid.uuid4().hex}")
    store.command(
        f"ALTER TABLE {identifier(table)} DELETE WHERE {where} AND {literal(rewrite.mark)} != ''", settings=_MUTATION
    )
    return [rewrite]


def rewriting(store: Store, rewrites: Sequence[Rewrite]) -> Rewriting:
    """Say how far ClickHouse is with these."""
    under_way = False
    for rewrite in rewrites:
        rows = store.query_rows(
            "SELECT is_done, is_killed, latest_fail_reason FROM system.mutations WHERE database = currentDatabase() "
            "AND table = {table:String} AND position(command, {mark:String}) > 0",
            {"table": rewrite.table, "mark": rewrite.mark},
        )
        if not rows and store.quorum is None:
            return Rewriting(False, f"the deletion from {rewrite.table} was killed")
        for is_done, is_killed, reason in rows:
            if not is_done and (is_killed or reason):
                return Rewriting(False, reason or f"the deletion from {rewrite.table} was killed")
        # a replica that does not know of it yet will
        under_way = under_way or not rows or not all(is_done for is_done, _, _ in rows)
    return Rewriting(not under_way, None)


def refusal(store: Store, model: str, partition: int | None = None) -> str | None:
    """Say why deletions of a model that were begun, for a partition or for any, cannot be carried out; None where they can."""
    rows = store.query_rows(
        "SELECT table, latest_fail_reason FROM system.mutations WHERE database = currentDatabase() "
        "AND position(command, {mark:String}) > 0 AND NOT is_done AND NOT is_killed AND latest_fail_reason != '' LIMIT 1",
        {"mark": _mark(model, partition)},
    )
    return f"rows of {rows[0][0]} cannot be deleted: {rows[0][1]}" if rows else None


def progress(store: Store, model: str, partitions: Iterable[int]) -> tuple[int, ...]:
    """Give numbers that change while ClickHouse works on deletions of a model, or owners of partitions on the panes that changed."""
    asked = {"mark": _mark(model), "events": event_table(model), "labels": label_table(model), "model": model}
    ((begun, parts, ended),) = store.query_rows(
        "SELECT count(), sum(parts_to_do), countIf(is_done) FROM system.mutations WHERE database = currentDatabase() "
        "AND position(command, {mark:String}) > 0",
        asked,
    )
    ((rows, written),) = store.query_rows(
        "SELECT sum(rows_read), sum(bytes_written_uncompressed) FROM system.merges WHERE database = currentDatabase() "
        "AND is_mutation AND table IN ({events:String}, {labels:String}, 'states')",
        asked,
    )
    ((panes,),) = store.query_rows(
        "SELECT count() FROM (SELECT id FROM repair_requests WHERE model = {model:String} "
        f"AND partition IN ({int_list([-1, *partitions])}) GROUP BY id HAVING max(step) = 0)",
        asked,
    )
    return int(begun), int(parts), int(ended), int(rows), int(written), int(panes)


def files_kept_s(store: Store, model: str) -> int:
    """Say for how many seconds ClickHouse keeps the files of parts that it has replaced."""
    rows = store.query_rows(
        "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        {"name": event_table(model)},
    )
    text = rows[0][0] if rows else ""
    if "old_parts_lifetime = " in text:
        return int(text.split("old_parts_lifetime = ")[1].split(",")[0].split()[0])
    rows = store.query_rows("SELECT value FROM system.merge_tree_settings WHERE name = 'old_parts_lifetime'")
    return int(rows[0][0])
