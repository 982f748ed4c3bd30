"""Event rows and label rows: what the worker writes, and what it reads back to repair, to join labels and to take over.

Rows are keyed by their place in the log, so writing them again changes nothing; every read keeps one of each place.
Tables that come back have the canonical columns of `Rows.table`: offset, row, record_at, event_at (Unix ms), event_id, the
model's columns in its Arrow types, both violation columns; rows with the targets that their labels give them also
`_elsewhere_at`, the record time (Unix ms) of the latest label of their event in another partition, null for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS, arrow_schema, arrow_type, event_columns
from fqlstream.events.definitions import Column, ColumnType, ModelDefinition, Role
from fqlstream.store.client import Store, int_list, rows_of
from fqlstream.store.model_tables import (
    VIOLATIONS,
    StoredColumn,
    asked_of,
    chosen_sql,
    labelled_sql,
    last_labels_sql,
    stored_columns,
    value_sql,
    violations_sql,
)
from fqlstream.store.naming import event_table, identifier, label_table, literal, stored_column
from fqlstream.stream.batches import DeadLetter, RowKind, StoredEvents
from fqlstream.stream.protocol import PaneKey, RepairNeed
from fqlstream.stream.recent import ELSEWHERE_AT

_TIME: Final = pa.timestamp("ms", tz="UTC")
_PLACE: Final = (
    ("offset", pa.int64()),
    ("row", pa.int32()),
    ("record_at", pa.int64()),
    ("event_at", pa.int64()),
    ("event_id", pa.string()),
)
#: Ids named in one query. Each is a literal: ClickHouse's limit on a statement's length is lifted for them.
_IDS_MAX: Final = 20_000
_LONG_STATEMENT: Final = {
    "max_query_size": 1 << 30,
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
}
#: No two rows of one insert have the same place: looking for such would cost a tenth of it.
_NEW_ROWS: Final = {"optimize_on_insert": 0}


def _writing(store: Store) -> dict[str, object]:
    return {**_NEW_ROWS, **store.quorum_write()}


def _reading(store: Store) -> dict[str, object]:
    """Give the settings of reads that must see all that a flush row speaks for, on whichever replica."""
    return {**_LONG_STATEMENT, **store.quorum_read()}


# ---- writing -------------------------------------------------------------------------------------------------------


def write_events(store: Store, model: ModelDefinition, partition: int, table: pa.Table) -> None:
    """Write event rows of one model version: the columns of `Rows.table` and `duplicate`."""
    store.insert_arrow(event_table(model.name), _stored(model, RowKind.INFERENCE, partition, table), _writing(store))


def write_labels(store: Store, model: ModelDefinition, partition: int, table: pa.Table) -> None:
    """Write label rows of one model version: the columns of `Rows.table`."""
    store.insert_arrow(label_table(model.name), _stored(model, RowKind.LABEL, partition, table), _writing(store))


def _stored(model: ModelDefinition, kind: RowKind, partition: int, table: pa.Table) -> pa.Table:
    rows = table.num_rows
    arrays: dict[str, Any] = {
        "partition": pa.repeat(pa.scalar(partition, pa.int32()), rows),
        "offset": table.column("offset"),
        "row": table.column("row"),
        "record_at": table.column("record_at").cast(pa.int64()).cast(_TIME),
        "event_at": table.column("event_at").cast(pa.int64()).cast(_TIME),
        "event_id": table.column("event_id"),
        "version": pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([model.version])),
    }
    if kind is RowKind.INFERENCE:
        arrays["duplicate"] = table.column("duplicate")
    present = set(table.column_names)
    for column in event_columns(model, kind):
        if column.name in present:
            values = table.column(column.name)
            # an array cannot be null in ClickHouse: an empty one stands for it
            arrays[stored_column(column)] = _filled(values) if column.type is ColumnType.VECTOR else values
    for name in VIOLATIONS:
        if name in present:
            arrays[name] = table.column(name)
    return pa.table(arrays)


def _filled(vectors: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_valid(vectors), vectors, pa.scalar([], vectors.type)) if vectors.null_count else vectors


def write_dead_letters(store: Store, letters: Sequence[DeadLetter], *, seen_at_ms: int) -> None:
    """Write what was refused, for SQL; the bytes stay in the dead-letter topic."""
    data = pa.table(
        {
            "topic": pa.array([letter.topic for letter in letters], pa.string()),
            "partition": pa.array([letter.partition for letter in letters], pa.int32()),
            "offset": pa.array([letter.offset for letter in letters], pa.int64()),
            "row": pa.array([letter.row for letter in letters], pa.string()),
            "code": pa.array([letter.code for letter in letters], pa.string()),
            "reason": pa.array([letter.reason for letter in letters], pa.string()),
            "record_at": pa.array([letter.record_at_ms for letter in letters], _TIME),
            "seen_at": pa.array([seen_at_ms] * len(letters), _TIME),
            "content_type": pa.array([letter.content_type or "" for letter in letters], pa.string()),
            "value_bytes": pa.array([len(letter.value or b"") for letter in letters], pa.uint64()),
        }
    )
    store.insert_arrow("dead_letter_rows", data, store.quorum_write())


def forget_record(store: Store, models: Sequence[str], partition: int, offset: int) -> None:
    """Delete the rows that one record has left in these models' tables; most often there are none."""
    where = f"partition = {int(partition)} AND offset = {int(offset)}"
    for table in [name(model) for model in models for name in (event_table, label_table)]:
        if store.query_rows(f"SELECT count() FROM {identifier(table)} WHERE {where}", settings=_reading(store))[0][0]:
            store.command(f"DELETE FROM {identifier(table)} WHERE {where}")


def known_dead_letters(store: Store, topic: str) -> set[tuple[int, int]]:
    """Give the places (partition, offset) of a topic's records that have been refused already."""
    rows = store.query_rows(
        "SELECT DISTINCT partition, offset FROM dead_letter_rows WHERE topic = {topic:String}",
        {"topic": topic},
        _reading(store),
    )
    return {(partition, offset) for partition, offset in rows}


# ---- reading rows --------------------------------------------------------------------------------------------------


def read_pane(
    store: Store,
    model: ModelDefinition,
    partition: int,
    start_ms: int,
    end_ms: int,
    upto_offset: int,
    label_upto_offset: int | None = None,
) -> Iterator[pa.Table]:
    """Give a version's counted rows of a half-open time range up to an offset, in the order of the log.

    Targets are those of the last label up to `label_upto_offset` (the same offset by default); labels of other partitions
    count by their record's time, whatever their offset.
    """
    where = (
        f"version = {literal(model.version)} AND offset <= {int(upto_offset)} "
        f"AND event_at >= fromUnixTimestamp64Milli({int(start_ms)}) AND event_at < fromUnixTimestamp64Milli({int(end_ms)})"
    )
    label_upto = upto_offset if label_upto_offset is None else label_upto_offset
    sql = _rows_sql(store, model, partition, where, label_upto)
    for batch in store.stream_arrow(f"{sql} ORDER BY offset, row", settings=_reading(store)):
        if batch.num_rows:
            yield _canonical(pa.Table.from_batches([batch]), model)


def recent_rows(store: Store, model: ModelDefinition, partition: int, upto_offset: int, rows_max: int) -> pa.Table:
    """Give a version's latest counted rows up to an offset, with the targets they have at it, in the order of the log."""
    floor = store.query_rows(
        f"SELECT min(offset) FROM (SELECT offset FROM {identifier(event_table(model.name))} "
        f"WHERE partition = {int(partition)} AND offset <= {int(upto_offset)} AND NOT duplicate "
        f"AND version = {literal(model.version)} ORDER BY offset DESC LIMIT {int(rows_max)})",
        settings=_reading(store),
    )[0][0]
    where = f"version = {literal(model.version)} AND offset <= {int(upto_offset)} AND offset >= {int(floor)}"
    sql = _rows_sql(store, model, partition, where, upto_offset)
    table = _canonical(store.query_arrow(f"{sql} ORDER BY offset, row", settings=_reading(store)), model)
    return table.slice(max(0, table.num_rows - rows_max))


def events_by_id(
    store: Store, versions: Sequence[ModelDefinition], partition: int, ids: Sequence[str] | pa.Array, upto_offset: int
) -> StoredEvents:
    """Find counted events of a model by id: this partition's up to an offset, and where others are."""
    by_version = {version.version: version for version in versions}
    offsets: dict[str, list[int]] = {}
    others: list[dict[str, Any]] = []
    for part in _parts(ids):
        for row in _places(store, versions[0].name, f"event_id IN ({_literals(part)})"):
            if row["partition"] != partition:
                others.append(row)
            elif row["offset"] <= upto_offset and row["version"] in by_version:
                offsets.setdefault(row["version"], []).append(row["offset"])
    asked = pa.array(ids, pa.string()) if not isinstance(ids, (pa.Array, pa.ChunkedArray)) else ids
    tables = {}
    for name, places in offsets.items():
        where = f"version = {literal(name)} AND offset IN ({int_list(sorted(set(places)))})"
        sql = _rows_sql(store, by_version[name], partition, where, upto_offset)
        found = _canonical(store.query_arrow(f"{sql} ORDER BY offset, row", settings=_reading(store)), by_version[name])
        # a record may hold rows of other ids
        tables[name] = found.filter(pc.is_in(found.column("event_id"), value_set=asked))
    found_ids = frozenset(row["event_id"] for row in others if row["version"] in by_version)
    return StoredEvents(tables, _needs(versions, others), found_ids)


def labelled_elsewhere(
    store: Store, versions: Sequence[ModelDefinition], partition: int, since_ms: int
) -> list[RepairNeed]:
    """Name panes of other partitions' events that have a label in this one, if either was written since a time (Unix ms).

    ClickHouse stamps what is written: the time is one of its clock. Costs by what was written since: events of that time are
    looked up among all labels, labels of that time among all events.
    """
    events, labels = identifier(event_table(versions[0].name)), identifier(label_table(versions[0].name))
    ours, theirs = f"partition = {int(partition)}", f"partition != {int(partition)} AND NOT duplicate"
    # stamps are whole seconds; before 1970 there is none, and what is smaller would mean the year 2106
    lately = f"written_at >= toDateTime({max(0, int(since_ms) // 1000)}, 'UTC')"
    new_events = f"SELECT event_id FROM {events} WHERE {theirs} AND {lately}"
    known_labels = f"SELECT event_id FROM {labels} WHERE {ours} AND event_id IN ({new_events})"
    new_labels = f"SELECT event_id FROM {labels} WHERE {ours} AND {lately}"
    where = f"{theirs} AND (event_id IN ({new_labels}) OR {lately} AND event_id IN ({known_labels}))"
    return _needs(versions, _places(store, versions[0].name, where))


def _needs(versions: Sequence[ModelDefinition], rows: Sequence[Mapping[str, Any]]) -> list[RepairNeed]:
    """Name the panes of events, each with the last offset that its owner must have applied."""
    by_version = {version.version: version for version in versions}
    offsets: dict[tuple[int, PaneKey], int] = {}
    for row in rows:
        version = by_version.get(row["version"])
        if version is not None:
            start = row["event_ms"] // version.windows.pane_ms * version.windows.pane_ms
            key = row["partition"], PaneKey(version.name, version.version, start)
            offsets[key] = max(row["offset"], offsets.get(key, -1))
    return [RepairNeed(*key, offset) for key, offset in sorted(offsets.items())]


def _places(store: Store, model: str, where: str) -> list[dict[str, Any]]:
    """Say where the counted events are for which a condition holds."""
    sql = (
        "SELECT DISTINCT event_id, partition, offset, row, version, toUnixTimestamp64Milli(event_at) AS event_ms "
        f"FROM {identifier(event_table(model))} WHERE {where} AND NOT duplicate"
    )
    return rows_of(store.query_arrow(sql, settings=_reading(store)))


def _rows_sql(store: Store, model: ModelDefinition, partition: int, where: str, label_upto: int) -> str:
    """Write the query of a version's counted rows with their targets as of an offset."""
    table = identifier(event_table(model.name))
    own = f"partition = {int(partition)} AND NOT duplicate AND {where}"
    columns = [
        "partition",
        *(name for name, _ in _PLACE),
        *(identifier(stored_column(c)) for c in model.columns),
        *VIOLATIONS,
    ]
    # one of each place: a row that was written twice may not have been merged yet
    source = f"(SELECT {', '.join(columns)} FROM {table} WHERE {own} LIMIT 1 BY offset, row)"
    targets = model.role(Role.TARGET)
    if not targets:
        return (
            f"SELECT {', '.join(_selected(model))}, CAST(NULL AS Nullable(Int64)) AS {ELSEWHERE_AT} FROM {source} AS e"
        )
    forms = stored_columns(store, label_table(model.name))
    values = [value_sql([f for f in forms if f.name == c.name], c.type) for c in targets]
    # the last label of this partition up to the offset, of any other one at all
    of_these = (
        f"(partition != {int(partition)} OR offset <= {int(label_upto)}) "
        f"AND event_id IN (SELECT event_id FROM {table} WHERE {own})"
    )
    labels = last_labels_sql(label_table(model.name), values, of_these)
    others = (
        f"SELECT event_id, 1 AS hit, max(record_at) AS record_at FROM {identifier(label_table(model.name))} "
        f"WHERE partition != {int(partition)} AND {of_these} GROUP BY event_id"
    )
    return (
        f"SELECT {', '.join(_selected(model))}, "
        f"if(f.hit, toUnixTimestamp64Milli(f.record_at), NULL) AS {ELSEWHERE_AT} "
        f"FROM {labelled_sql(source, labels)}\nLEFT ANY JOIN ({others}) AS f ON e.event_id = f.event_id"
    )


def _selected(model: ModelDefinition) -> list[str]:
    targets = [column.name for column in model.role(Role.TARGET)]
    selected = [f"e.{name} AS {name}" for name, _ in _PLACE]
    for column in model.columns:
        # a column may be called anything, so also like one of those above: it keeps its stored name until it is Arrow
        name = identifier(stored_column(column))
        value = f"e.{name}"
        if column.name in targets:
            place = targets.index(column.name)
            value = chosen_sql(value, asked_of(place))
        selected.append(f"{value} AS {name}")
    for place, column_name in enumerate(VIOLATIONS, start=len(targets)):
        value = violations_sql(column_name, place, targets) if targets else f"e.{column_name}"
        selected.append(f"{value} AS {column_name}")
    return selected


def _canonical(table: pa.Table, model: ModelDefinition) -> pa.Table:
    arrays: dict[str, Any] = {name: _plain(table.column(name), kind) for name, kind in _PLACE}
    for column in model.columns:
        arrays[column.name] = _value(table.column(stored_column(column)), column)
    schema = arrow_schema(model, RowKind.INFERENCE)
    for name in (TYPE_VIOLATIONS, RANGE_VIOLATIONS):
        arrays[name] = _plain(table.column(name), schema.field(name).type)
    arrays[ELSEWHERE_AT] = _plain(table.column(ELSEWHERE_AT), pa.int64())
    return pa.table(arrays)


def _plain(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Drop the details of how ClickHouse wrote a column: names of list items, time zones of milliseconds."""
    return values if values.type == kind else values.cast(kind)


def _value(values: pa.ChunkedArray, column: Column | StoredColumn) -> pa.ChunkedArray:
    kind = arrow_type(column) if isinstance(column, Column) else arrow_type(Column(name=column.name, type=column.type))
    values = _plain(values, kind)
    if column.type is ColumnType.VECTOR:
        return pc.if_else(pc.greater(pc.list_value_length(values), 0), values, pa.scalar(None, kind))
    return values


# ---- reading ids and labels ----------------------------------------------------------------------------------------


def recent_ids(
    store: Store, models: Sequence[str], partition: int, upto_offset: int, rows_max: int
) -> dict[str, pa.Table]:
    """Give the last rows of a partition over all models, duplicates included, in the order of the log.

    Per model: event_id, offset, row, record_at (Unix ms), duplicate.
    """
    if not models:
        return {}
    where = f"WHERE partition = {int(partition)} AND offset <= {int(upto_offset)}"
    union = " UNION ALL ".join(
        f"SELECT offset FROM (SELECT offset FROM {identifier(event_table(m))} {where} "
        f"ORDER BY offset DESC, row DESC LIMIT {int(rows_max)})"
        for m in models
    )
    floor = store.query_rows(
        f"SELECT min(offset) FROM (SELECT offset FROM ({union}) ORDER BY offset DESC LIMIT {int(rows_max)})",
        settings=_reading(store),
    )
    tables = {}
    for model in models:
        table = store.query_arrow(
            "SELECT event_id, offset, row, toUnixTimestamp64Milli(record_at) AS record_at, duplicate "
            f"FROM {identifier(event_table(model))} {where} AND offset >= {int(floor[0][0])} "
            "ORDER BY offset, row LIMIT 1 BY offset, row",
            settings=_reading(store),
        )
        if table.num_rows:
            tables[model] = table
    return tables


def labels_by_id(
    store: Store, versions: Sequence[ModelDefinition], partition: int, ids: Sequence[str] | pa.Array, upto_offset: int
) -> pa.Table:
    """Give the last label of each id: this partition's up to an offset, or another partition's later one.

    Columns: those of `Rows.table` over all versions (of a name the newest version's type).
    """
    tables = []
    for part in _parts(ids):
        sql = _labels_sql(store, versions, partition, f"event_id IN ({_literals(part)})", upto_offset)
        tables.append(_canonical_labels(store.query_arrow(sql, settings=_reading(store)), versions))
    return pa.concat_tables(tables) if tables else _canonical_labels(_no_labels(versions), versions)


def waiting_labels(
    store: Store, versions: Sequence[ModelDefinition], partition: int, upto_offset: int, rows_max: int
) -> pa.Table:
    """Give the newest labels of a partition, up to an offset, whose event is not in it; the last one of each id.

    Labels of other partitions' events are among them: whether those were told is not known here. In the order of the log,
    with the columns of `labels_by_id`.
    """
    table = identifier(event_table(versions[0].name))
    where = (
        f"partition = {int(partition)} AND event_id NOT IN (SELECT event_id FROM {table} "
        f"WHERE partition = {int(partition)} AND offset <= {int(upto_offset)})"
    )
    sql = _labels_sql(store, versions, partition, where, upto_offset)
    found = store.query_arrow(
        f"SELECT * FROM ({sql}) ORDER BY offset DESC, row DESC LIMIT {int(rows_max)}", settings=_reading(store)
    )
    return _canonical_labels(found, versions).sort_by([("offset", "ascending"), ("row", "ascending")])


def _label_columns(versions: Sequence[ModelDefinition]) -> list[Column]:
    columns = {column.name: column for version in versions for column in event_columns(version, RowKind.LABEL)}
    return list(columns.values())


def _labels_sql(store: Store, versions: Sequence[ModelDefinition], partition: int, where: str, upto: int) -> str:
    """Write the query of the label that counts for each id, were its event in this partition."""
    table = label_table(versions[0].name)
    columns = _label_columns(versions)
    forms = stored_columns(store, table)
    values = [value_sql([f for f in forms if f.name == c.name], c.type) for c in columns]
    of_these = f"(partition != {int(partition)} OR offset <= {int(upto)}) AND {where}"
    last = last_labels_sql(table, ["offset", "row", "event_at", *values], of_these)
    names = ["offset", "row", "event_at", *(identifier(stored_column(c)) for c in columns), *VIOLATIONS]
    selected = ", ".join(f"t{at} AS {name}" for at, name in enumerate(names))
    return (
        f"SELECT event_id, record_at, {selected} FROM ({last}) "
        f"ORDER BY event_id, record_at DESC, partition = {int(partition)} DESC, partition DESC LIMIT 1 BY event_id"
    )


def _canonical_labels(table: pa.Table, versions: Sequence[ModelDefinition]) -> pa.Table:
    arrays: dict[str, Any] = {name: _plain(table.column(name), kind) for name, kind in _PLACE}
    for column in _label_columns(versions):
        arrays[column.name] = _value(table.column(stored_column(column)), column)
    for name in VIOLATIONS:
        arrays[name] = _plain(table.column(name), pa.list_(pa.string()))
    return pa.table(arrays)


def _no_labels(versions: Sequence[ModelDefinition]) -> pa.Table:
    fields: Mapping[str, pa.DataType] = {
        **dict(_PLACE),
        **{stored_column(c): arrow_type(c) for c in _label_columns(versions)},
        **dict.fromkeys(VIOLATIONS, pa.list_(pa.string())),
    }
    return pa.table({name: pa.array([], kind) for name, kind in fields.items()})


def _parts(ids: Sequence[str] | pa.Array) -> list[list[str]]:
    texts = ids.to_pylist() if isinstance(ids, (pa.Array, pa.ChunkedArray)) else list(ids)
    return [texts[at : at + _IDS_MAX] for at in range(0, len(texts), _IDS_MAX)]


def _literals(ids: Sequence[str]) -> str:
    return ",".join(literal(text) for text in ids)
