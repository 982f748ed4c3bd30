"""Rows of a model as Parquet files, for metrics written in Python: what streaming counts of a range, and which segment has which row.

One file for each version of the model, all of one schema: `event_id`, `event_at`, `version`, every column that a version has, in
a type that holds them all, targets of the last label. Which rows a version or a segment has is a boolean column of its own, made
by FQL's own SQL, so a segment is the same rows here as everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fqlstream.errors import StoreError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import Column, ColumnType, ModelDefinition
from fqlstream.fql.compile_clickhouse import SQL_SETTINGS, compile_rows
from fqlstream.fql.plan import ModelPlan
from fqlstream.fql.planner import plan_model
from fqlstream.settings import FqlSettings
from fqlstream.store.client import Store
from fqlstream.store.model_tables import common_type
from fqlstream.store.naming import identifier, literal
from fqlstream.store.snapshots import Range, nothing_sql, rows_sql

#: The version under which all versions of a model are together.
ALL: Final = "all"
_HEADS: Final = ("event_id", "event_at")
_ARROW: Final[Mapping[ColumnType, pa.DataType]] = {
    ColumnType.INT: pa.int64(),
    ColumnType.FLOAT: pa.float64(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.STRING: pa.string(),
    ColumnType.CATEGORY: pa.string(),
    ColumnType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ColumnType.VECTOR: pa.list_(pa.float64()),
}
#: Rows of a group of a file: what a reader takes at once.
_GROUP_ROWS: Final = 1 << 17
_TEXTS: Final = frozenset({ColumnType.STRING, ColumnType.CATEGORY})


@dataclass(frozen=True, slots=True)
class Part:
    """What a metric is computed over: a version (or `all`) and a segment ('' is all rows). `flag` is true in its rows; None: in every row."""

    version: str
    segment: str
    flag: str | None


@dataclass(frozen=True, slots=True)
class Exported:
    """Files of one schema with `rows` rows together, and the parts they hold."""

    paths: tuple[Path, ...]
    parts: tuple[Part, ...]
    rows: int


def export_rows(
    store: Store,
    entry: ModelEntry,
    within: Range,
    folder: Path,
    *,
    version: str | None = None,
    rows_max: int,
    settings: FqlSettings,
) -> Exported:
    """Write the counted rows of a range into a folder.

    Parts are all rows of a version and each segment's. `version` None: of all versions together and, where there are several, of each.
    Raises StoreError STO040 where there are more than `rows_max`.
    """
    models = list(entry.versions.values()) if version is None else [entry.versions[version]]
    names = [version or ALL, *(model.version for model in models if len(models) > 1)]
    taken = {column.name for model in models for column in model.columns}
    parts = _parts(names, list(entry.segments), _free_prefix(taken))
    columns = _columns(models)
    paths: list[Path] = []
    rows = 0
    for number, model in enumerate(models):
        plan, _ = plan_model(model, [], entry.segments.values(), settings=settings, skip_invalid=True)
        flags = {part.flag: _segment_in(part, model, plan) for part in parts if part.flag is not None}
        source = rows_sql(store, model, within, _HEADS)
        sql = compile_rows(plan, source, _values(model, columns), flags)
        paths.append(folder / f"{number}.parquet")
        rows += _write(store, sql, paths[-1], _schema(columns, flags), rows_max - rows)
    return Exported(tuple(paths), parts, rows)


def _parts(names: Sequence[str], segments: Iterable[str], prefix: str) -> tuple[Part, ...]:
    pairs = [(name, segment) for name in names for segment in ("", *segments)]
    return tuple(Part(name, segment, f"{prefix}{at}" if at else None) for at, (name, segment) in enumerate(pairs))


def _free_prefix(taken: Iterable[str]) -> str:
    prefix = "_in_"
    while any(name.startswith(prefix) for name in taken):
        prefix = f"_{prefix}"
    return prefix


def _segment_in(part: Part, model: ModelDefinition, plan: ModelPlan) -> str | None:
    """Give the segment of the plan whose rows a part has of a version; None where it has none: of another version, or it does not fit."""
    fits = any(segment.name == part.segment for segment in plan.segments)
    return part.segment if fits and part.version in (ALL, model.version) else None


def _columns(models: Sequence[ModelDefinition]) -> dict[str, ColumnType]:
    """Give every column of the versions, in their order, with the type that holds the values of all."""
    types: dict[str, list[ColumnType]] = {}
    for model in models:
        for column in model.columns:
            types.setdefault(column.name, []).append(column.type)
    return {name: common_type(found) for name, found in types.items()}


def _values(model: ModelDefinition, columns: Mapping[str, ColumnType]) -> dict[str, str]:
    """Give the SQL of what a file has of a row of a version."""
    heads = {**{name: name for name in _HEADS}, "version": literal(model.version)}
    return heads | {name: _value(model.column(name), wanted) for name, wanted in columns.items()}


def _value(column: Column | None, wanted: ColumnType) -> str:
    if column is None:
        return nothing_sql(wanted)
    name = identifier(column.name)
    if column.type is wanted or {column.type, wanted} <= _TEXTS:
        return name
    if column.type is ColumnType.VECTOR:
        return f"if(empty({name}), NULL, toString({name}))"
    # several types have a number or a text in common
    return f"accurateCastOrNull({name}, '{'Float64' if wanted is ColumnType.FLOAT else 'String'}')"


def _schema(columns: Mapping[str, ColumnType], flags: Mapping[str, Any]) -> pa.Schema:
    heads = [("event_id", pa.string()), ("event_at", pa.timestamp("us", tz="UTC")), ("version", pa.string())]
    return pa.schema(
        [*heads, *((name, _ARROW[kind]) for name, kind in columns.items()), *((name, pa.bool_()) for name in flags)]
    )


def _write(store: Store, sql: str, path: Path, schema: pa.Schema, rows_max: int) -> int:
    """Write what a query gives into a file, group by group; gives the number of rows."""
    settings = ", ".join(f"{name} = {value}" for name, value in SQL_SETTINGS.items())
    rows = 0
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for batch in store.stream_arrow(f"{sql}\nSETTINGS {settings}"):
            rows += batch.num_rows
            if rows > rows_max:
                raise StoreError(
                    "STO040",
                    "a code metric's rows are more than one run may have",
                    "give the metric a period, or raise FQLSTREAM_RUNNER__ROWS_MAX",
                )
            arrays = [_array(batch.column(field.name), field.type) for field in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema), row_group_size=_GROUP_ROWS)
    return rows


def _array(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        # an array cannot be null in ClickHouse: an empty one stands for it
        return pc.if_else(pc.equal(pc.list_value_length(values), 0), pa.scalar(None, kind), values.cast(kind))
    return values.cast(kind)
