"""The delivery protocol's rows in ClickHouse: flush rows, claims, states of panes, what was published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from fqlstream.events.refusals import KILLER
from fqlstream.fql.plan import Lane
from fqlstream.store.claims import newest_claims
from fqlstream.store.client import Store, rows_of
from fqlstream.stream.protocol import FLUSHES_PER_EPOCH, FlushRow, PaneKey, Published, StateRecord, Suspicion, Version

_TIME: Final = pa.timestamp("ms", tz="UTC")
_FLUSH_SCHEMA: Final = pa.schema([
    ("topic", pa.string()),
    ("partition", pa.int32()),
    ("epoch", pa.uint64()),
    ("flush", pa.uint64()),
    ("owner", pa.string()),
    ("topic_id", pa.string()),
    ("fences", pa.map_(pa.string(), pa.int64())),
    ("watermarks", pa.map_(pa.string(), pa.map_(pa.string(), pa.int64()))),
    ("idle", pa.list_(pa.string())),
    ("panes", pa.list_(pa.struct([("model", pa.string()), ("version", pa.string()), ("start_ms", pa.int64())]))),
    ("counters", pa.map_(pa.string(), pa.int64())),
    ("adopted", pa.map_(pa.string(), pa.string())),
    ("deaths", pa.uint32()),
    ("suspects", pa.list_(pa.int64())),
    ("trying", pa.list_(pa.int64())),
    ("has_left", pa.bool_()),
    ("written_at", _TIME),
])  # fmt: skip
_STATE_SCHEMA: Final = pa.schema([
    ("model", pa.string()),
    ("version", pa.string()),
    ("pane_start", _TIME),
    ("partition", pa.int32()),
    ("lane", pa.string()),
    ("state_version", pa.uint64()),
    ("fence", pa.int64()),
    ("cells", pa.binary()),
    ("retention_s", pa.uint32()),
])  # fmt: skip
_FLUSH_COLUMNS: Final = ", ".join(_FLUSH_SCHEMA.names)
_NEWEST_FIRST: Final = "ORDER BY epoch DESC, flush DESC, owner DESC"
_STATE_COLUMNS: Final = (
    "model, version, toUnixTimestamp64Milli(pane_start) AS start_ms, partition, lane, state_version, fence"
)
#: ClickHouse's DateTime ends in 2106: a sum beyond would be in the past.
_RETENTION_S_MAX: Final = 70 * 366 * 86_400
#: Keys of one query: its text stays below ClickHouse's limit.
_KEYS_MAX: Final = 2_000


# ---- flush rows ----------------------------------------------------------------------------------------------------


def write_flushes(store: Store, rows: Sequence[FlushRow]) -> None:
    """Write flush or claim rows in one insert."""
    values = [_flush_values(row) for row in rows]
    data = pa.table({name: pa.array([v[name] for v in values], kind) for name, kind in _types(_FLUSH_SCHEMA)})
    store.insert_arrow("flushes", data, store.quorum_write())


def write_flush(store: Store, row: FlushRow) -> None:
    """Write one flush or claim row."""
    write_flushes(store, [row])


def newest_flush(store: Store, topic: str, partition: int) -> FlushRow | None:
    """Give the row of the highest version; of rivals that claimed the same epoch the one with the highest owner id."""
    table = store.query_arrow(
        f"SELECT {_FLUSH_COLUMNS} FROM flushes WHERE topic = {{topic:String}} AND partition = {{partition:Int32}} "
        f"{_NEWEST_FIRST} LIMIT 1",
        {"topic": topic, "partition": partition},
        store.quorum_read(),
    )
    return next(iter(_flush_rows(table)), None)


def newest_flushes(store: Store, topic: str) -> list[FlushRow]:
    """Give every partition's newest flush row, read in one query: one moment of all partitions."""
    table = store.query_arrow(
        f"SELECT {_FLUSH_COLUMNS} FROM flushes WHERE topic = {{topic:String}} {_NEWEST_FIRST} LIMIT 1 BY partition",
        {"topic": topic},
        store.quorum_read(),
    )
    return sorted(_flush_rows(table), key=lambda row: row.partition)


def claims(store: Store, topic: str, partition: int, epoch: int) -> dict[str, int]:
    """Give the owners that claimed this epoch or a higher one, with their highest epoch."""
    rows = store.query_arrow(
        "SELECT owner, max(epoch) AS newest FROM flushes "
        "WHERE topic = {topic:String} AND partition = {partition:Int32} AND epoch >= {epoch:UInt64} GROUP BY owner",
        {"topic": topic, "partition": partition, "epoch": epoch},
        store.quorum_read(),
    )
    return {row["owner"]: row["newest"] for row in rows_of(rows)}


def was_survived(store: Store, topic: str, partition: int, offset: int, epoch: int) -> bool:
    """Say whether an owner of an epoch or a later one has written a flush row whose states contain an offset.

    Not where somebody has set that offset aside.
    """
    table = store.query_arrow(
        "SELECT count() AS n FROM flushes WHERE topic = {topic:String} AND partition = {partition:Int32} "
        "AND epoch >= {epoch:UInt64} AND arrayMin(mapValues(fences)) >= {offset:Int64} AND (topic, partition, {offset:Int64}) NOT IN "
        "(SELECT topic, partition, offset FROM dead_letter_rows WHERE code = {code:String})",
        {"topic": topic, "partition": partition, "offset": offset, "epoch": epoch, "code": KILLER.code},
        store.quorum_read(),
    )
    return bool(rows_of(table)[0]["n"])


def _flush_values(row: FlushRow) -> dict[str, Any]:
    return {
        "topic": row.topic,
        "partition": row.partition,
        "epoch": row.version.epoch,
        "flush": row.version.flush,
        "owner": row.owner,
        "topic_id": row.topic_id,
        "fences": [(str(lane), fence) for lane, fence in row.fences.items()],
        "watermarks": [(str(lane), list(marks.items())) for lane, marks in row.watermarks.items()],
        "idle": sorted(row.idle),
        "panes": [{"model": key.model, "version": key.version, "start_ms": key.start_ms} for key in row.panes],
        "counters": list(row.counters.items()),
        "adopted": list(row.adopted.items()),
        "deaths": row.suspicion.deaths,
        "suspects": row.suspicion.suspects or (),
        "trying": row.suspicion.trying or (),
        "has_left": row.suspicion.has_left,
        "written_at": row.written_at_ms,
    }


def _flush_rows(table: pa.Table) -> Iterable[FlushRow]:
    written = table.column("written_at").cast(pa.int64()).to_pylist()
    for row, written_at_ms in zip(rows_of(table.drop_columns("written_at")), written, strict=True):
        yield FlushRow(
            row["topic"],
            row["partition"],
            Version(row["epoch"], row["flush"]),
            row["owner"],
            row["topic_id"],
            {Lane(lane): fence for lane, fence in row["fences"]},
            {Lane(lane): dict(marks) for lane, marks in row["watermarks"]},
            frozenset(row["idle"]),
            tuple(PaneKey(pane["model"], pane["version"], pane["start_ms"]) for pane in row["panes"]),
            written_at_ms,
            dict(row["counters"]),
            dict(row["adopted"]),
            Suspicion(row["deaths"], _span(row["suspects"]), _span(row["trying"]), bool(row["has_left"])),
        )


def _span(offsets: Sequence[int]) -> tuple[int, int] | None:
    return (offsets[0], offsets[1]) if offsets else None


# ---- states --------------------------------------------------------------------------------------------------------


def write_states(store: Store, records: Sequence[StateRecord], *, retention_ms: Mapping[str, int]) -> None:
    """Write state records in one insert; each is kept for its model's retention after that."""
    columns: dict[str, list[Any]] = {name: [] for name in _STATE_SCHEMA.names}
    for record in records:
        row = (
            record.pane.model, record.pane.version, record.pane.start_ms, record.partition, str(record.lane),
            record.version.number, record.fence, record.cells, min(retention_ms[record.pane.model] // 1000, _RETENTION_S_MAX),
        )  # fmt: skip
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    data = pa.table({name: pa.array(columns[name], kind) for name, kind in _types(_STATE_SCHEMA)})
    store.insert_arrow("states", data, store.quorum_write())


def read_states(store: Store, partition: int, keys: Sequence[PaneKey]) -> list[StateRecord]:
    """Give one partition's newest record of each lane of these panes, as far as there is one."""
    return [record for part in _parts(keys) for record in _read_keys(store, part, partition)]


def read_records(store: Store, keys: Sequence[PaneKey]) -> list[StateRecord]:
    """Give the newest record of each lane and partition of these panes."""
    return [record for part in _parts(keys) for record in _read_keys(store, part, None)]


def read_range(
    store: Store,
    model: str,
    version: str | None,
    start_ms: int,
    end_ms: int,
    partitions: Sequence[int] | None = None,
) -> list[StateRecord]:
    """Give the newest record of each lane and partition of a model's panes in a half-open time range."""
    where, parameters = _of_model(model, version)
    where += " AND pane_start >= fromUnixTimestamp64Milli({start:Int64}) AND pane_start < fromUnixTimestamp64Milli({end:Int64})"
    parameters |= {"start": start_ms, "end": end_ms}
    if partitions is not None:
        where += " AND partition IN {partitions:Array(Int32)}"
        parameters["partitions"] = list(partitions)
    return _read(store, where, parameters)


def pane_keys(store: Store, partition: int, model: str, version: str, from_ms: int) -> list[PaneKey]:
    """Name one partition's panes from a time on that have a record, in their order."""
    where, parameters = _of_model(model, version)
    starts = _starts(
        store,
        f"{where} AND partition = {{partition:Int32}} AND pane_start >= fromUnixTimestamp64Milli({{start:Int64}})",
        parameters | {"partition": partition, "start": from_ms},
    )
    return [PaneKey(model, version, start) for start in starts]


def panes_beyond(store: Store, partition: int, fence: int) -> list[PaneKey]:
    """Name one partition's panes with a record that contains a later offset. Reads all of the partition's states."""
    table = store.query_arrow(
        "SELECT DISTINCT model, version, toUnixTimestamp64Milli(pane_start) AS start_ms FROM states "
        "WHERE partition = {partition:Int32} AND fence > {fence:Int64} ORDER BY model, version, start_ms",
        {"partition": partition, "fence": fence},
        store.quorum_read(),
    )
    return [PaneKey(row["model"], row["version"], row["start_ms"]) for row in rows_of(table)]


def pane_starts(store: Store, model: str, version: str, start_ms: int, end_ms: int) -> list[int]:
    """Name the panes of a half-open time range that have a record of any partition, by their first millisecond."""
    where, parameters = _of_model(model, version)
    return _starts(
        store,
        f"{where} AND pane_start >= fromUnixTimestamp64Milli({{start:Int64}}) AND pane_start < fromUnixTimestamp64Milli({{end:Int64}})",
        parameters | {"start": start_ms, "end": end_ms},
    )


def changed_panes(store: Store, model: str, after: Mapping[int, int]) -> list[PaneKey]:
    """Name the panes with a record newer than the given version number of its partition (a partition not given: any)."""
    known = [partition for partition in after if after[partition] >= 0]
    newer = [f"(partition = {int(p)} AND state_version > {int(after[p])})" for p in known]
    others = f"partition NOT IN ({','.join(str(int(p)) for p in known)})" if known else "1"
    table = store.query_arrow(
        "SELECT DISTINCT version, toUnixTimestamp64Milli(pane_start) AS start_ms FROM states "
        f"WHERE model = {{model:String}} AND ({' OR '.join([*newer, others])}) ORDER BY version, start_ms",
        {"model": model},
        store.quorum_read(),
    )
    return [PaneKey(model, row["version"], row["start_ms"]) for row in rows_of(table)]


def _read_keys(store: Store, keys: Sequence[PaneKey], partition: int | None) -> list[StateRecord]:
    parameters: dict[str, Any] = {
        "models": [key.model for key in keys],
        "versions": [key.version for key in keys],
        "starts": [key.start_ms for key in keys],
    }
    # the first three conditions let the primary index cut; the last one is exact
    where = (
        "model IN {models:Array(String)} AND version IN {versions:Array(String)} "
        "AND pane_start IN (SELECT fromUnixTimestamp64Milli(arrayJoin({starts:Array(Int64)}))) "
        "AND (model, version, toUnixTimestamp64Milli(pane_start)) "
        "IN (SELECT arrayJoin(arrayZip({models:Array(String)}, {versions:Array(String)}, {starts:Array(Int64)})))"
    )
    if partition is not None:
        where += " AND partition = {partition:Int32}"
        parameters["partition"] = partition
    return _read(store, where, parameters)


def _read(store: Store, where: str, parameters: Mapping[str, Any]) -> list[StateRecord]:
    table = store.query_arrow(
        f"SELECT {_STATE_COLUMNS}, cells FROM states WHERE {where} "
        "ORDER BY model, version, pane_start, partition, lane, state_version DESC "
        "LIMIT 1 BY model, version, pane_start, partition, lane",
        parameters,
        {**store.quorum_read(), "output_format_arrow_string_as_string": 0},
    )
    return [_record(row) for row in rows_of(table)]


def _record(row: Mapping[str, Any]) -> StateRecord:
    pane = PaneKey(row["model"].decode(), row["version"].decode(), row["start_ms"])
    version = Version(*divmod(row["state_version"], FLUSHES_PER_EPOCH))
    return StateRecord(pane, row["partition"], Lane(row["lane"].decode()), version, row["fence"], row["cells"])


def _starts(store: Store, where: str, parameters: Mapping[str, Any]) -> list[int]:
    table = store.query_arrow(
        f"SELECT DISTINCT toUnixTimestamp64Milli(pane_start) AS start_ms FROM states WHERE {where} ORDER BY start_ms",
        parameters,
        store.quorum_read(),
    )
    return [int(start) for start in table.column("start_ms").to_pylist()]


def _of_model(model: str, version: str | None) -> tuple[str, dict[str, Any]]:
    if version is None:
        return "model = {model:String}", {"model": model}
    return "model = {model:String} AND version = {version:String}", {"model": model, "version": version}


def _parts(keys: Sequence[PaneKey]) -> list[Sequence[PaneKey]]:
    return [keys[at : at + _KEYS_MAX] for at in range(0, len(keys), _KEYS_MAX)]


def _types(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


# ---- what was published --------------------------------------------------------------------------------------------


def write_published(store: Store, model: str, published: Published, updated_at_ms: int) -> None:
    """Remember up to which flush of each partition a model's values were published, and under which watermark."""
    data = pa.table(
        {
            "model": [model],
            "value_version": pa.array([published.value_version], pa.uint64()),
            "vector": pa.array([list(published.vector.items())], pa.map_(pa.int32(), pa.uint64())),
            "watermark_ms": pa.array([published.watermark_ms], pa.int64()),
            "definitions": [published.definitions],
            "updated_at": pa.array([updated_at_ms], _TIME),
        }
    )
    store.insert_arrow("published", data, store.quorum_write())


def read_published(store: Store, model: str) -> Published | None:
    """Give what was remembered last, with the highest watermark that was ever published."""
    table = store.query_arrow(
        "SELECT vector, (SELECT max(watermark_ms) FROM published WHERE model = {model:String}) AS watermark_ms, definitions "
        "FROM published WHERE model = {model:String} ORDER BY value_version DESC, updated_at DESC LIMIT 1",
        {"model": model},
        store.quorum_read(),
    )
    for row in rows_of(table):
        return Published(dict(row["vector"]), row["watermark_ms"], row["definitions"])
    return None


def claim_finaliser(store: Store, model: str, epoch: int, owner: str, claimed_at_ms: int) -> None:
    """Say that from now on this finaliser publishes a model's values."""
    data = pa.table(
        {
            "model": [model],
            "epoch": pa.array([epoch], pa.uint64()),
            "owner": [owner],
            "claimed_at": pa.array([claimed_at_ms], _TIME),
        }
    )
    store.insert_arrow("finalisers", data, store.quorum_write())


def finalisers(store: Store, model: str) -> dict[str, int]:
    """Give the finalisers that claimed a model with the highest epoch: one, or rivals."""
    return newest_claims(store, "finalisers", model)
