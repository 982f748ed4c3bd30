"""Definitions in ClickHouse, for people who ask in SQL: a copy of what stands on the topic, which stays the truth."""

from __future__ import annotations

import pyarrow as pa

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import parse_key
from fqlstream.ops.definition_log import Folded
from fqlstream.store.client import Store
from fqlstream.store.model_tables import ensure

TABLE = "definition_rows"
_SCHEMA = pa.schema([
    ("kind", pa.string()), ("model", pa.string()), ("name", pa.string()), ("position", pa.int64()),
    ("definition", pa.string()), ("revision", pa.uint32()), ("updated_at", pa.timestamp("ms", tz="UTC")),
])  # fmt: skip


def prepare_store(store: Store, folded: Folded, catalogue: Catalogue) -> None:
    """Make the tables of every model, and bring the copy of the definitions up to date.

    May be run by several processes at once, and again. Raises StoreError where ClickHouse refuses or does not answer.
    """
    ensure(store, [version for entry in catalogue.models.values() for version in entry.versions.values()])
    mirror(store, folded)


def mirror(store: Store, folded: Folded) -> int:
    """Write the definitions that the copy lacks or has in an older form, and take back those that are gone.

    A row carries the offset of its record, and the highest stands: writing one twice or late changes nothing. Gives the
    number of rows written.
    """
    sql = f"SELECT kind, model, name, position, definition != '' FROM {TABLE} FINAL"  # noqa: S608  # no outside text
    known = {(kind, model, name): (position, stands) for kind, model, name, position, stands in store.query_rows(sql)}
    rows: list[tuple[object, ...]] = []
    standing = set()
    for key, stored in folded.stored.items():
        parts = parse_key(key)
        standing.add(parts)
        record = stored.record
        if known.get(parts, (-1, False))[0] < record.offset:
            text = (record.value or b"").decode()
            rows.append((*parts, record.offset, text, stored.revision, record.record_at_ms))
    for parts, (position, stands) in known.items():
        # gone at the latest where we stopped reading; what is newer than that we do not know
        if stands and parts not in standing and position < folded.position:
            rows.append((*parts, folded.position, "", 0, 0))
    if rows:
        columns = zip(*rows, strict=True)
        arrays = [pa.array(list(column)).cast(field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        store.insert_arrow(TABLE, pa.table(arrays, schema=_SCHEMA))
    return len(rows)
