"""Tables in the memory of this process, asked in SQL: chDB without a directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from fqlstream.errors import StoreError
from fqlstream.events.columns import VIOLATIONS_TYPE
from fqlstream.store.embedded.exceptions import engine_error
from fqlstream.store.naming import identifier

#: Types as the tables of events have them.
_COLUMN_TYPES: Final[Mapping[pa.DataType, str]] = {
    pa.int64(): "Nullable(Int64)",
    pa.float64(): "Nullable(Float64)",
    pa.bool_(): "Nullable(Bool)",
    pa.string(): "Nullable(String)",
    pa.timestamp("ms", tz="UTC"): "Nullable(DateTime64(3, 'UTC'))",
    pa.list_(pa.float64()): "Array(Float64)",
    VIOLATIONS_TYPE: "Array(String)",
}


class MemoryTables:
    """An engine of ClickHouse in this process, which forgets everything when it is closed. One thread at a time."""

    def __init__(self) -> None:
        # chDB takes the zone of the process for DateTime without one
        os.environ["TZ"] = "UTC"
        from chdb import _chdb  # half a second: only where it is used

        self._connection: Any = _chdb.connect(":memory:")  # type: ignore[attr-defined]  # chDB's stubs leave it out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop everything."""
        self._connection.close()

    def add(self, name: str, table: pa.Table) -> None:
        """Make a table of typed columns, as `events.columns.coerce_table` gives them; an empty vector stands for null."""
        columns = ", ".join(f"{identifier(field.name)} {_COLUMN_TYPES[field.type]}" for field in table.schema)
        self._run(f"CREATE TABLE {identifier(name)} ({columns}) ENGINE = Memory", "Null", {})
        if not table.num_rows:
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        with _translated():
            handle = self._connection.send_insert(f"INSERT INTO {identifier(name)}", "ArrowStream")
            self._connection.insert_append(handle, sink.getvalue().to_pybytes())
            self._connection.insert_done(handle)

    def drop(self, name: str) -> None:
        """Drop a table, if it is there."""
        self._run(f"DROP TABLE IF EXISTS {identifier(name)}", "Null", {})

    def query_arrow(self, sql: str, settings: Mapping[str, int] | None = None) -> pa.Table:
        """Run a query and give its whole result. Raises StoreError where ClickHouse refuses it."""
        data = self._run(sql, "ArrowStream", settings or {})
        return pa.ipc.open_stream(data).read_all()

    def _run(self, sql: str, format_name: str, settings: Mapping[str, int]) -> bytes:
        with _translated():
            for name, value in settings.items():
                self._connection.query(f"SET {name} = {int(value)}", "Null")
            return bytes(self._connection.query(sql, format_name).bytes() or b"")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StoreError("STO002", f"ClickHouse refused: {engine_error(error).text}") from None
