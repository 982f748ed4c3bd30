"""What is registered, in ClickHouse for people who ask in SQL: a copy of the topic's records, which stay the truth.

Whoever reads the topic from its beginning writes what the copy lacks, in the order of the log: what stands before the highest
offset in the copy is in it. Several may do so at once, and again: a row carries the offset of its record, and the highest stands.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from fqlstream.errors import StoreError
from fqlstream.ops.definition_log import Record, Registration, registration_of
from fqlstream.store.client import Store

LOG = logging.getLogger("fqlstream.api.definitions")

_TIME: Final = pa.timestamp("ms", tz="UTC")
_SCHEMA: Final = pa.schema([
    ("kind", pa.string()), ("name", pa.string()), ("position", pa.int64()), ("definition", pa.string()),
    ("created_at", _TIME), ("changed_at", _TIME),
])  # fmt: skip
#: Rows of one insert: a hundred thousand executions are ten of them.
_ROWS_MAX: Final = 10_000
#: What StoreError calls a statement that ClickHouse refused, and how many rows of one insert may be the reason.
_REFUSED: Final = "STO002"
_REFUSED_MAX: Final = 8


class RegistryMirror:
    """Keeps records until they are written: the newest of each key, so that waiting for ClickHouse costs no more than the registry."""

    def __init__(self) -> None:
        self._waiting: dict[bytes | None, Record] = {}
        self._written_upto: int | None = None  # the copy holds what is up to this offset; None: not asked yet
        self._lock = threading.Lock()

    @property
    def waits(self) -> bool:
        """Whether there is something to write, or may be."""
        return bool(self._waiting)

    def hear(self, records: Sequence[Record]) -> None:
        """Take records in, in the order of the log; any thread may."""
        with self._lock:
            for record in records:
                self._waiting.pop(record.key, None)  # the newest is the last one
                self._waiting[record.key] = record

    def write(self, store: Store) -> int:
        """Write what the copy lacks; gives the number of rows. Raises StoreError; what was not written waits for the next call."""
        if self._written_upto is None:
            ((upto,),) = store.query_rows("SELECT max(position) FROM registry_rows HAVING count() > 0") or [(-1,)]
            self._written_upto = int(upto)
        with self._lock:
            heard = sorted(self._waiting.values(), key=lambda record: record.offset)
        fresh = [record for record in heard if record.offset > self._written_upto]
        found = [registration for record in fresh if (registration := registration_of(record)) is not None]
        for start in range(0, len(found), _ROWS_MAX):
            part = found[start : start + _ROWS_MAX]
            _insert(store, part)
            self._written_upto = part[-1].position
        with self._lock:
            for record in heard:
                if self._waiting.get(record.key) is record:
                    del self._waiting[record.key]
        return len(found)


def _insert(store: Store, rows: Sequence[Registration]) -> None:
    """Write rows, without those few that ClickHouse refuses for good. Raises StoreError where it takes none: no fault of theirs."""
    refused: list[tuple[Registration, StoreError]] = []
    _halve(store, rows, refused)
    if len(refused) == len(rows):
        raise refused[0][1]
    for row, error in refused:
        LOG.warning("%s %r at offset %d is not shown in ClickHouse: %s", row.kind, row.name, row.position, error)


def _halve(store: Store, rows: Sequence[Registration], refused: list[tuple[Registration, StoreError]]) -> None:
    """Write rows, or each half of them, down to the one that is refused."""
    try:
        store.insert_arrow("registry_rows", _table(rows), store.quorum_write())
    except StoreError as error:
        if error.retryable or error.code != _REFUSED or len(refused) >= _REFUSED_MAX:
            raise
        if len(rows) == 1:
            refused.append((rows[0], error))
            return
        half = len(rows) // 2
        _halve(store, rows[:half], refused)
        _halve(store, rows[half:], refused)


def _table(rows: Sequence[Registration]) -> pa.Table:
    values = [(row.kind, row.name, row.position, row.text, row.created_ms, row.changed_ms) for row in rows]
    columns = zip(*values, strict=True)
    return pa.table(
        [pa.array(list(column)).cast(field.type) for column, field in zip(columns, _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )
