"""History as tests write it: rows that name what matters to a test, stored as the decoder's are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from fqlstream.events.columns import arrow_schema
from fqlstream.events.definitions import ModelDefinition
from fqlstream.store.client import Store
from fqlstream.store.history import write_events, write_labels
from fqlstream.store.model_tables import ensure
from fqlstream.stream.batches import RowKind

#: Noon of a day. A row that names no time is of its offset in milliseconds after it.
T0: Final = 1_763_726_400_000
MINUTE: Final = 60_000
_PLACE: Final = {
    "offset": pa.int64(),
    "row": pa.int32(),
    "record_at": pa.int64(),
    "event_at": pa.int64(),
    "event_id": pa.string(),
}


def rows(definition: ModelDefinition, kind: RowKind, records: Sequence[dict[str, Any]]) -> pa.Table:
    """Make a table as the decoder does."""
    full = [{"row": 0, "record_at": T0 + r["offset"], "event_at": T0 + r["offset"], **r} for r in records]
    columns = {name: pa.array([r.get(name) for r in full], type_) for name, type_ in _PLACE.items()}
    for field in arrow_schema(definition, kind):
        default: Any = [] if field.name.startswith("_") else None
        columns[field.name] = pa.array([r.get(field.name, default) for r in full], field.type)
    if kind is RowKind.INFERENCE:
        columns["duplicate"] = pa.array([r.get("duplicate", False) for r in full])
    return pa.table(columns)


def written(
    store: Store,
    definition: ModelDefinition,
    partition: int,
    *,
    events: Sequence[dict[str, Any]] = (),
    labels: Sequence[dict[str, Any]] = (),
) -> None:
    """Store events and labels of one partition, the model's tables first."""
    ensure(store, [definition])
    if events:
        write_events(store, definition, partition, rows(definition, RowKind.INFERENCE, events))
    if labels:
        write_labels(store, definition, partition, rows(definition, RowKind.LABEL, labels))
