"""Frames of events, cut into Arrow batches: each holds rows of one partition and stays below a size."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.client.partitioning import partitions_of
from fqlstream.errors import UsageError
from fqlstream.events.times import text_times_ms

ARROW_CONTENT_TYPE: Final = b"application/vnd.apache.arrow.stream"


@dataclass(frozen=True, slots=True)
class Batch:
    """One Arrow record: its partition, a key of that partition, and its rows as an Arrow IPC stream."""

    partition: int
    key: bytes
    value: bytes
    rows_count: int


def frame_table(frame: Any) -> pa.Table:
    """Give a frame of any library as an Arrow table, without an index.

    Raises UsageError for what is no frame, and pyarrow.ArrowInvalid or ArrowTypeError where a column of a pandas frame holds
    values of several types.
    """
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    elif type(frame).__module__.split(".")[0] == "pandas":
        frame = pa.Table.from_pandas(frame, preserve_index=False)
    elif hasattr(frame, "__arrow_c_stream__") and not isinstance(frame, pa.Table):
        frame = pa.table(frame)  # polars, DuckDB, and whoever speaks Arrow's own protocol
    if not isinstance(frame, pa.Table):
        raise UsageError(
            "SDK005", f"a {type(frame).__name__} is no frame", "give a pandas DataFrame or a pyarrow Table"
        )
    # what pandas writes into the schema about itself would travel with every batch
    return frame.replace_schema_metadata(None)


def event_table(table: pa.Table, event_id: str, event_at: str | None) -> pa.Table:
    """Give a table as events: `event_id` as text, and where a column of times is named, `event_at`.

    Raises UsageError where a row has no id or no readable time.
    """
    place = _place(table, event_id)
    if not table.num_rows:
        return table  # of an empty column no library knows the type
    table = table.set_column(place, "event_id", _ids(table.column(event_id)))
    if event_at is None:
        return table
    return table.set_column(_place(table, event_at), "event_at", _times(table.column(event_at)))


def row_time(value: Any) -> Any:
    """Give the time of one row of a pandas frame: missing is None, and without an offset it is UTC, as in Arrow."""
    if value is None or value != value:
        return None
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def partition_batches(
    table: pa.Table, partitions_count: int, rows_max: int, bytes_max: int, key: str | None = None
) -> Iterator[Batch]:
    """Cut events into batches by the partition of their key (None: the event_id), in the order of the table."""
    if not table.num_rows:
        return
    keys = _ids(table.column(key)) if key is not None else table.column("event_id")
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    partitions = partitions_of(keys, partitions_count)
    order = np.argsort(partitions, kind="stable")
    ends = np.searchsorted(partitions[order], np.arange(partitions_count + 1))
    rows_max = max(1, min(rows_max, int(table.num_rows * bytes_max / max(1, table.nbytes))))
    for partition in range(partitions_count):
        rows = order[ends[partition] : ends[partition + 1]]
        for start in range(0, len(rows), rows_max):
            part = rows[start : start + rows_max]
            yield from _encoded(table.take(pa.array(part)), keys[int(part[0])].as_py(), partition, bytes_max)


def _encoded(part: pa.Table, key: str, partition: int, bytes_max: int) -> Iterator[Batch]:
    """Encode rows; what came out too large, since rows differ, is halved."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        writer.write_table(part.combine_chunks())
    value = bytes(sink.getvalue())
    if len(value) > bytes_max and part.num_rows > 1:
        half = part.num_rows // 2
        yield from _encoded(part[:half], key, partition, bytes_max)
        yield from _encoded(part[half:], key, partition, bytes_max)
        return
    yield Batch(partition, key.encode(), value, part.num_rows)


def _place(table: pa.Table, name: str) -> int:
    places = [place for place, found in enumerate(table.column_names) if found == name]
    if len(places) == 1:
        return places[0]
    if places:
        raise UsageError(
            "SDK005",
            f"column {name!r} stands {len(places)} times in the frame",
            "rename all but one, or leave them out",
        )
    have = ", ".join(map(repr, table.column_names[:20]))
    raise UsageError("SDK005", f"the frame has no column {name!r}", f"it has {have}")


def _ids(column: pa.ChunkedArray) -> pa.Array:
    """Give ids as text, integers in decimal. Raises UsageError where one is missing."""
    ids = column.combine_chunks()
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    kind = ids.type
    if not (pa.types.is_integer(kind) or _is_text(kind)):
        raise UsageError(
            "SDK005", f"event ids are {kind}, not text or integers", "turn them into text: frame[name].astype(str)"
        )
    ids = ids.cast(pa.string())
    missing = pc.fill_null(pc.equal(ids, ""), True)
    if pc.any(missing, min_count=0).as_py():
        row = pc.index(missing, True).as_py()
        raise UsageError(
            "SDK005", f"row {row} has no event id", "give every event a text or an integer that names it alone"
        )
    return ids


def _times(column: pa.ChunkedArray) -> pa.Array:
    """Give times as Arrow carries them: texts are read, the rest stays. Raises UsageError where one is no time."""
    times = column.combine_chunks()
    kind = times.type
    if pa.types.is_timestamp(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return times
    if pa.types.is_date(kind):
        return times.cast(pa.timestamp("ms", "UTC"))
    if pa.types.is_floating(kind):  # integers beside missing values, as pandas has them
        whole = pc.fill_null(pc.equal(times, pc.floor(times)), True)
        whole = pc.or_(whole, pc.fill_null(pc.is_nan(times), True))
        _refuse_first(pc.invert(whole), times)
        return pc.if_else(pc.is_nan(times), None, times).cast(pa.int64())
    if not _is_text(kind):
        raise UsageError("SDK005", f"event times are {kind}", "give timestamps, Unix milliseconds or RFC 3339 texts")
    texts = times.cast(pa.string())
    found, bad = text_times_ms(texts.fill_null("1970-01-01T00:00:00Z"))
    _refuse_first(pa.array(bad), times)
    return pa.array(found, mask=np.asarray(texts.is_null()))


def _refuse_first(bad: pa.Array, values: pa.Array) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise UsageError(
            "SDK005", f"row {row}: event time {values[row].as_py()!r} is no time", "RFC 3339 needs an offset, such as Z"
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
