"""Each model's own tables: event rows, label rows, and the view that joins them.

A stored column is named after the column and its type (`age:int`), so a version that changes a type writes a column of its
own and old rows stay what they are; the view shows one column of a type that holds them all. The label rule, once, here:
the last label of a partition is the one with the highest (offset, row); the event's own partition's is replaced by another
partition's if that one's record is later (of several the latest, then the highest partition). A label replaces every target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS, event_columns
from fqlstream.events.definitions import Column, ColumnType, ModelDefinition, Role
from fqlstream.store.client import Store
from fqlstream.store.naming import event_table, event_view, identifier, label_table, literal, stored_column
from fqlstream.stream.batches import RowKind

_STORED_TYPES: Final[Mapping[ColumnType, str]] = {
    ColumnType.INT: "Nullable(Int64)",
    ColumnType.FLOAT: "Nullable(Float64)",
    ColumnType.BOOL: "Nullable(Bool)",
    ColumnType.STRING: "Nullable(String)",
    ColumnType.CATEGORY: "LowCardinality(Nullable(String))",
    ColumnType.TIMESTAMP: "Nullable(DateTime64(3, 'UTC'))",
    ColumnType.VECTOR: "Array(Float64)",  # arrays cannot be null: an empty one stands for it
}
#: Types of a view's column, in ClickHouse's words for casts.
_CAST_TYPES: Final[Mapping[ColumnType, str]] = {
    ColumnType.INT: "Int64",
    ColumnType.FLOAT: "Float64",
    ColumnType.BOOL: "Bool",
    ColumnType.STRING: "String",
    ColumnType.CATEGORY: "String",
    ColumnType.TIMESTAMP: "DateTime64(3, ''UTC'')",
}
_NUMBERS: Final = frozenset({ColumnType.INT, ColumnType.FLOAT, ColumnType.BOOL})
_TEXTS: Final = frozenset({ColumnType.STRING, ColumnType.CATEGORY})
#: ClickHouse's DateTime ends in 2106: a sum beyond would be in the past.
_RETENTION_S_MAX: Final = 70 * 366 * 86_400
#: More partitions than any topic has.
_PARTITIONS_MAX: Final = 1_000_000
VIOLATIONS: Final = (TYPE_VIOLATIONS, RANGE_VIOLATIONS)
#: Columns of every event row and label row, before the model's own.
ROW_COLUMNS: Final = ("partition", "offset", "row", "record_at", "event_at", "event_id", "version")


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column as a table has it."""

    name: str
    type: ColumnType
    role: Role

    @property
    def stored(self) -> str:
        """Its name in the table, quoted."""
        return identifier(f"{self.name}:{self.type}")


def ensure(store: Store, model_versions: Sequence[ModelDefinition]) -> None:
    """Make, or bring up to date, the tables and the view of every model among these versions.

    May be run by several processes at once and again: what is there already stays.
    """
    for _, versions in groupby(sorted(model_versions, key=lambda item: item.name), key=lambda item: item.name):
        _ensure_model(store, list(versions))


def _ensure_model(store: Store, versions: Sequence[ModelDefinition]) -> None:
    model = versions[0].name
    retention_s = min(max(version.retention_ms for version in versions) // 1000, _RETENTION_S_MAX)
    engine = "ReplicatedReplacingMergeTree" if store.quorum else "ReplacingMergeTree"
    for table, kind in ((event_table(model), RowKind.INFERENCE), (label_table(model), RowKind.LABEL)):
        columns = {stored_column(c): c for version in versions for c in event_columns(version, kind)}
        store.command(_table_sql(table, model, kind, retention_s, engine))
        _add_columns(store, table, columns)
        _keep_for(store, table, retention_s)
    events = stored_columns(store, event_table(model))
    labels = stored_columns(store, label_table(model))
    sql = view_sql(model, events, labels)
    mark = f"events of model {model!r}; made by fqlstream {hashlib.blake2b(sql.encode(), digest_size=8).hexdigest()}"
    if _comment(store, event_view(model)) != mark:
        store.command(f"{sql}\nCOMMENT {literal(mark)}")


def _table_sql(table: str, model: str, kind: RowKind, retention_s: int, engine: str) -> str:
    # events are read by ranges of the log, labels by the ids of events; both orders hold (partition, offset, row), the key
    if kind is RowKind.INFERENCE:
        own = "duplicate Bool COMMENT 'the same event_id came before: kept, not counted',"
        indexes = "INDEX by_id event_id TYPE bloom_filter(0.001) GRANULARITY 1,\n    INDEX by_time event_at TYPE minmax GRANULARITY 1"
        order = "(partition, offset, row)"
    else:
        own = ""
        indexes = "INDEX by_place offset TYPE minmax GRANULARITY 1"
        order = "(event_id, partition, offset, row)"
    return f"""CREATE TABLE IF NOT EXISTS {identifier(table)} (
    partition Int32 COMMENT 'source partition',
    offset Int64 CODEC(Delta, LZ4) COMMENT 'offset of the record in its partition',
    row Int32 COMMENT 'row in the record',
    record_at DateTime64(3, 'UTC') CODEC(Delta, LZ4) COMMENT 'timestamp of the record',
    event_at DateTime64(3, 'UTC') CODEC(Delta, LZ4),
    event_id String,
    version LowCardinality(String) COMMENT 'model version',
    written_at DateTime('UTC') DEFAULT now() COMMENT 'a replay of old records is kept as long as new ones',
    {own}
    {TYPE_VIOLATIONS} Array(LowCardinality(String)) COMMENT 'columns whose value did not fit their type',
    {RANGE_VIOLATIONS} Array(LowCardinality(String)) COMMENT 'columns whose value was out of range',
    {indexes}
) ENGINE = {engine} ORDER BY {order}
TTL {_ttl(retention_s)}
SETTINGS index_granularity = {8192 if kind is RowKind.INFERENCE else 1024}
COMMENT {literal(f"{kind} rows of model {model!r}; read {event_view(model)}")}"""


def _ttl(retention_s: int) -> str:
    return f"written_at + toIntervalSecond({retention_s})"


def _add_columns(store: Store, table: str, columns: Mapping[str, Column]) -> None:
    known = {column.stored for column in stored_columns(store, table)}
    missing = [
        f"ADD COLUMN IF NOT EXISTS {identifier(name)} {_STORED_TYPES[column.type]} COMMENT {literal(column.role)}"
        for name, column in columns.items()
        if identifier(name) not in known
    ]
    if missing:
        store.command(f"ALTER TABLE {identifier(table)} {', '.join(missing)}")


def _keep_for(store: Store, table: str, retention_s: int) -> None:
    rows = store.query_rows(
        "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {name:String}",
        {"name": table},
    )
    if rows and _ttl(retention_s) not in rows[0][0]:
        store.command(
            f"ALTER TABLE {identifier(table)} MODIFY TTL {_ttl(retention_s)}",
            settings={"materialize_ttl_after_modify": 0},
        )


def stored_columns(store: Store, table: str) -> list[StoredColumn]:
    """Give the model's columns that a table has, of every version there ever was, in their order."""
    rows = store.query_rows(
        "SELECT name, comment FROM system.columns WHERE database = currentDatabase() AND table = {name:String} "
        "AND position(name, ':') > 0 ORDER BY position",
        {"name": table},
    )
    return [StoredColumn(*_parted(name), Role(role)) for name, role in rows]


def _parted(stored: str) -> tuple[str, ColumnType]:
    name, _, kind = stored.rpartition(":")
    return name, ColumnType(kind)


def _comment(store: Store, table: str) -> str | None:
    rows = store.query_rows(
        "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {name:String}", {"name": table}
    )
    return str(rows[0][0]) if rows else None


# ---- SQL of rows and labels ----------------------------------------------------------------------------------------


def common_type(types: Iterable[ColumnType]) -> ColumnType:
    """Give the type that holds values of all these: itself, a float for numbers, else text."""
    found = set(types)
    if len(found) == 1:
        return found.pop()
    return ColumnType.FLOAT if found <= _NUMBERS else ColumnType.STRING


def value_sql(columns: Sequence[StoredColumn], wanted: ColumnType, prefix: str = "") -> str:
    """Write the value of one column out of its stored forms, in one type. At most one of them is set in a row."""
    parts = []
    for column in sorted(columns, key=lambda c: c.type is not wanted):
        name = prefix + column.stored
        same = column.type is wanted or {column.type, wanted} <= _TEXTS
        if same:
            parts.append(name)
        elif wanted is ColumnType.VECTOR:
            continue
        elif column.type is ColumnType.VECTOR:
            parts.append(f"if(empty({name}), NULL, toString({name}))" if wanted in _TEXTS else "NULL")
        else:
            parts.append(f"accurateCastOrNull({name}, '{_CAST_TYPES[wanted]}')")
    if not parts:
        return "[]" if wanted is ColumnType.VECTOR else "NULL"
    return parts[0] if len(parts) == 1 else f"coalesce({', '.join(parts)})"


def last_labels_sql(table: str, values: Sequence[str], where: str) -> str:
    """Write the query of each partition's last label of each event: event_id, partition, record_at, then what is asked.

    What is asked comes as t0, t1 and so on, then both violation columns. Reads in the table's order and keeps no state.
    """
    asked = [f"{sql} AS t{at}" for at, sql in enumerate([*values, *VIOLATIONS])]
    return (
        f"SELECT event_id, partition, record_at, {', '.join(asked)} FROM {identifier(table)} WHERE {where} "
        "ORDER BY event_id, partition, offset DESC, row DESC LIMIT 1 BY event_id, partition"
    )


def labelled_sql(source: str, last_labels: str) -> str:
    """Write the join of events `e` with the label `l` whose record is the latest, and `o`, their own partition's other one."""
    ranked = f"SELECT *, 1 AS hit FROM ({last_labels}) ORDER BY event_id, record_at DESC, partition DESC LIMIT"
    return (
        f"{source} AS e\n"
        f"LEFT ANY JOIN ({ranked} 1 BY event_id) AS l ON e.event_id = l.event_id\n"
        # nearly always empty: only of events with labels in several partitions
        f"LEFT ANY JOIN ({ranked} 1, {_PARTITIONS_MAX} BY event_id) AS o ON e.event_id = o.event_id AND e.partition = o.partition"
    )


def chosen_sql(unlabelled: str, of_label: Callable[[str], str]) -> str:
    """Write a value that a label replaces. At a tie of record times the event's own partition's label stands."""
    return f"multiIf(o.hit AND o.record_at = l.record_at, {of_label('o')}, l.hit, {of_label('l')}, {unlabelled})"


def asked_of(place: int) -> Callable[[str], str]:
    """Name what was asked for at a place, of either label."""
    return lambda label: f"{label}.t{place}"


def violations_sql(column: str, place: int, targets: Sequence[str]) -> str:
    """Write an event's violations with those of its targets taken from its label."""
    names = f"[{', '.join(literal(name) for name in targets)}]"
    kept = f"arrayFilter(v -> NOT has({names}, v), e.{column})"
    return chosen_sql(
        f"e.{column}", lambda of: f"arrayConcat({kept}, arrayFilter(v -> has({names}, v), {of}.t{place}))"
    )


def view_sql(model: str, events: Sequence[StoredColumn], labels: Sequence[StoredColumn]) -> str:
    """Write the view of a model's counted events with their last labels."""
    forms = _by_name(events)
    label_forms = _by_name(labels)
    targets = [name for name, columns in forms.items() if any(c.role is Role.TARGET for c in columns)]
    types = {name: common_type(c.type for c in columns) for name, columns in forms.items()}
    select = [f"e.{name} AS {name}" for name in ("event_id", "event_at", "version", "partition", "offset", "row")]
    for name, columns in forms.items():
        value = value_sql(columns, types[name], "e.")
        if name in targets:
            place = targets.index(name)
            value = chosen_sql(value, asked_of(place))
        select.append(f"{value} AS {identifier(name)}")
    for place, column in enumerate(VIOLATIONS, start=len(targets)):
        value = violations_sql(column, place, targets) if targets else f"e.{column}"
        select.append(f"{value} AS {column}")
    select.append("e.record_at AS record_at")
    source = f"(SELECT * FROM {identifier(event_table(model))} FINAL WHERE NOT duplicate)"
    if targets:
        values = [value_sql(label_forms.get(name, ()), types[name]) for name in targets]
        source = labelled_sql(source, last_labels_sql(label_table(model), values, "1"))
    else:
        source = f"{source} AS e"
    return f"CREATE OR REPLACE VIEW {identifier(event_view(model))} AS\nSELECT {', '.join(select)}\nFROM {source}"


def _by_name(columns: Sequence[StoredColumn]) -> dict[str, list[StoredColumn]]:
    forms: dict[str, list[StoredColumn]] = {}
    for column in columns:
        forms.setdefault(column.name, []).append(column)
    return forms
