"""Records that hold an Arrow IPC stream of many rows.

Records of one producer begin with the same bytes, their schema: that is read once. Rows of one model version, kind and schema
then are one table, checked and typed together. Where that fails, `decode` comes again by halves, so that a bad stream is
alone in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.events.columns import coerce_table, is_utf8
from fqlstream.events.definitions import ModelDefinition
from fqlstream.events.refusals import (
    ARROW_TOO_LARGE,
    BAD_EVENT_AT,
    BROKEN_ARROW,
    EMPTY,
    NO_EVENT_ID,
    NOT_UTF8,
    OVERSIZE,
    RefusedError,
)
from fqlstream.events.times import ticks_ms
from fqlstream.stream.batches import Fetch, Headers, RowKind
from fqlstream.stream.findings import (
    Context,
    Findings,
    Ints,
    Mask,
    Refused,
    UnknownModelError,
    far_times,
    model_version,
    row_kind,
    shown,
    time_fault,
)

ARROW_CONTENT_TYPE: Final = "application/vnd.apache.arrow.stream"

#: One core is one partition's; a pool of threads would take the others'.
_READ_OPTIONS: Final = pa.ipc.IpcReadOptions(use_threads=False)
#: Of today's streams, and of those before Arrow 0.15.
_END_MARKER: Final = b"\xff\xff\xff\xff\0\0\0\0"
_END_MARKERS: Final = (_END_MARKER, b"\0\0\0\0")
#: Beginnings that are compared with a record's: more of them in one fetch are no producers but every record its own.
_HEADS_MAX: Final = 16
#: Texts are checked as the bytes that they are: which are UTF-8 is looked at later.
_BYTES_OF: Final = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
_ENVELOPE_HEADERS: Final = frozenset({"model", "version", "type"})


#: Layouts in which many rows may share one value: small on the wire, of any size once written out.
_SHARING: Final = frozenset({
    pa.dictionary(pa.int32(), pa.string()).id,
    pa.string_view().id,
    pa.binary_view().id,
    pa.list_view(pa.int8()).id,
    pa.large_list_view(pa.int8()).id,
    pa.run_end_encoded(pa.int32(), pa.int8()).id,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Record:
    """One record that has not been opened: its place in the fetch, its bytes, and what its headers say that they are."""

    at: int
    model: ModelDefinition
    kind: RowKind
    value: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """How the streams of one producer begin: the bytes of their schema, and what they say."""

    text: bytes
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class _Stream:
    """One opened record: its place in the fetch and its rows."""

    at: int
    model: ModelDefinition
    kind: RowKind
    schema: pa.Schema
    batches: Sequence[pa.RecordBatch]
    rows: int

    @property
    def table(self) -> pa.Table:
        """The rows as a table."""
        return pa.Table.from_batches(self.batches, self.schema)


def content_types(fetch: Fetch) -> dict[int, str]:
    """Give the content-type of the records that name one, in lower case and without parameters."""
    types: dict[int, str] = {}
    known: dict[bytes, str] = {}
    for at, headers in fetch.headers.items():
        for name, value in headers:
            if name.lower() == "content-type" and value:
                if value not in known:
                    known[value] = value.split(b";")[0].strip().lower().decode("utf-8", "replace")
                types[at] = known[value]
    return types


def read_arrow(fetch: Fetch, at: Sequence[int], context: Context) -> Findings:
    """Read the Arrow records that stand at these places of a fetch, in order."""
    found = Findings()
    envelopes: dict[Headers, tuple[ModelDefinition, RowKind]] = {}
    groups: dict[tuple[int, RowKind], list[_Record]] = {}
    for place in at:
        try:
            record = _record(fetch, place, context, envelopes)
        except UnknownModelError as error:
            found.unknown_models.add(error.model)
            found.refused.append(Refused(place, error.refusal, error.reason))
        except RefusedError as error:
            found.refused.append(Refused(place, error.refusal, error.reason))
        else:
            groups.setdefault((id(record.model), record.kind), []).append(record)
    for records in groups.values():
        for run in _same_schema(_opened(records, context, found)):
            _tabulate(fetch, run, context, found)
    return found


def _record(
    fetch: Fetch, at: int, context: Context, envelopes: dict[Headers, tuple[ModelDefinition, RowKind]]
) -> _Record:
    """Give one record with what its headers say; raises RefusedError. `envelopes` are those that were read already."""
    value = fetch.values[at]
    if not value:
        raise RefusedError(EMPTY, "the value is null" if value is None else "the value is empty")
    if len(value) > context.record_bytes_max:
        raise RefusedError(OVERSIZE, f"the value has {len(value)} bytes, the limit is {context.record_bytes_max}")
    headers = tuple(fetch.headers.get(at, ()))
    known = envelopes.get(headers)
    if known is None:
        envelope = _envelope(headers)
        model = model_version(context.catalogue, envelope.get("model"), envelope.get("version"))
        known = envelopes[headers] = model, row_kind(envelope.get("type"))
    return _Record(at, *known, value)


def _envelope(headers: Headers) -> dict[str, str]:
    """Give the headers that say what the rows are; of one that stands twice the last counts, as everywhere in Kafka."""
    envelope: dict[str, str] = {}
    for name, value in headers:
        if name in _ENVELOPE_HEADERS and value is not None:
            try:
                envelope[name] = value.decode()
            except UnicodeDecodeError:
                raise RefusedError(NOT_UTF8, f"header {name} is not UTF-8: {shown(value)}") from None
    return envelope


# ------------------------------------------------------------------------------------------ opening


def _opened(records: Iterable[_Record], context: Context, found: Findings) -> list[_Stream]:
    """Open records of one model version and kind; what is no stream is refused."""
    heads: list[_Head] = []
    streams: list[_Stream] = []
    for record in records:
        head = _head_of(record.value, heads)
        stream = None if head is None else _read_after(head, record, context)
        try:
            streams.append(_read_whole(record, context) if stream is None else stream)
        except RefusedError as error:
            found.refused.append(Refused(record.at, error.refusal, error.reason))
    return streams


def _head_of(value: bytes, heads: list[_Head]) -> _Head | None:
    """Give how a stream begins, one of `heads` or a new one; None where it must be read as a whole.

    A dictionary stands between schema and batches, and is every stream's own.
    """
    for head in heads:
        if value.startswith(head.text):
            return head
    if len(heads) == _HEADS_MAX:
        return None
    source = pa.BufferReader(value)
    try:
        with pa.ipc.open_stream(source, options=_READ_OPTIONS) as reader:
            schema, length = reader.schema, source.tell()
    except (pa.ArrowException, OSError, MemoryError, ValueError):
        return None
    if any("dictionary" in str(kind) for kind in schema.types):
        return None
    heads.append(_Head(value[:length], schema))
    return heads[-1]


def _read_after(head: _Head, record: _Record, context: Context) -> _Stream | None:
    """Read a stream's batches, its schema being known; None where it is not plain: it is then read as a whole."""
    value = record.value
    at, end = len(head.text), len(value) - len(_END_MARKER)
    if not value.endswith(_END_MARKER):
        return None
    source = pa.BufferReader(value)
    source.seek(at)
    bounds = _Bounds(head.schema, context)
    batches = []
    try:
        while at < end:
            message = pa.ipc.read_message(source)
            batch = pa.ipc.read_record_batch(message, head.schema)
            at = source.tell()
            if bounds.count(batch) > message.body.size:
                return None  # compressed: unpacking it here would take other threads' processors
            batches.append(batch)
    except (pa.ArrowException, OSError, MemoryError, ValueError, EOFError, RefusedError):
        return None
    if at != end:
        return None
    return _Stream(record.at, record.model, record.kind, head.schema, batches, bounds.rows)


def _read_whole(record: _Record, context: Context) -> _Stream:
    """Read a stream; raises RefusedError."""
    schema, batches = _rows(record.value, context)
    return _Stream(record.at, record.model, record.kind, schema, batches, sum(batch.num_rows for batch in batches))


def _rows(value: bytes, context: Context) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Give the rows of one record; raises RefusedError."""
    source = pa.BufferReader(value)
    try:
        with pa.ipc.open_stream(source, options=_READ_OPTIONS) as reader:
            schema = reader.schema
            batches, end = _bounded(reader, source, context)
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        reason = "this is Arrow's file format" if value.startswith(b"ARROW1") else shown(str(error))
        raise RefusedError(BROKEN_ARROW, f"not an Arrow IPC stream: {reason}") from None
    # A stream that is cut between two messages reads without an error: only its end marker says that it is whole, and
    # only after the last message, since data may look like one.
    if value[end:] not in _END_MARKERS:
        raise RefusedError(BROKEN_ARROW, "the stream has no end marker, or bytes after it")
    return schema, batches


def _bounded(
    reader: pa.ipc.RecordBatchStreamReader, source: pa.BufferReader, context: Context
) -> tuple[list[pa.RecordBatch], int]:
    """Give the batches of a stream, and where its last message ends."""
    batches: list[pa.RecordBatch] = []
    bounds = _Bounds(reader.schema, context)
    end = source.tell()
    for batch in reader:
        end = source.tell()
        bounds.count(batch)
        batches.append(batch)
    return batches, end


class _Bounds:
    """Counts the rows and the unpacked bytes of a record."""

    __slots__ = ("_bytes", "_settings", "_sharing", "rows")

    def __init__(self, schema: pa.Schema, context: Context) -> None:
        self._settings = context.settings
        self._sharing = [place for place, kind in enumerate(schema.types) if kind.id in _SHARING]
        self.rows = self._bytes = 0

    def count(self, batch: pa.RecordBatch) -> int:
        """Count a batch and give its bytes; raises RefusedError where the record holds too much."""
        settings = self._settings
        self.rows += batch.num_rows
        if self.rows > settings.arrow_rows_max:
            raise RefusedError(ARROW_TOO_LARGE, f"more than {settings.arrow_rows_max} rows")
        size = int(batch.get_total_buffer_size())
        self._bytes += size + sum(_shared_bytes(batch.column(place)) for place in self._sharing)
        if self._bytes > settings.arrow_bytes_max:
            raise RefusedError(ARROW_TOO_LARGE, f"more than {settings.arrow_bytes_max} bytes unpacked")
        return size


def _shared_bytes(column: pa.Array) -> int:
    """Give a bound of what a column grows to when layouts that share values between rows are written out; 0 for plain ones."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return len(column) * _longest(column.dictionary)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        lengths = np.frombuffer(column.buffers()[1], np.int32)[::4]
        return int(lengths[column.offset : column.offset + len(column)].sum(dtype=np.int64))
    if kind.id in _SHARING:
        # rare: as if every row held all of it
        return len(column) * int(column.get_total_buffer_size())
    return 0


def _longest(values: pa.Array) -> int:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        _check(values)
        return int(pc.max(pc.binary_length(values), min_count=0).as_py() or 0)
    return int(values.get_total_buffer_size()) if values.type.num_fields else 16


def _same_schema(streams: list[_Stream]) -> list[list[_Stream]]:
    runs: list[list[_Stream]] = []
    for stream in streams:
        run = next((run for run in runs if run[0].schema is stream.schema or run[0].schema.equals(stream.schema)), None)
        if run is None:
            runs.append([stream])
        else:
            run.append(stream)
    return runs


# ------------------------------------------------------------------------------------------ streams to a table


def _tabulate(fetch: Fetch, streams: list[_Stream], context: Context, found: Findings) -> None:
    """Turn the rows of streams of one schema into a table, the unusable rows of each into one refusal."""
    columns = context.columns_of(streams[0].model, streams[0].kind)
    known = {"event_id", "event_at", *(column.name for column in streams[0].model.columns)}
    if not known.issuperset(streams[0].table.schema.names):
        found.foreign.add(streams[0].model.name)
    try:
        table = _selected(streams, ["event_id", "event_at", *(column.name for column in columns)])
    except pa.ArrowInvalid as error:
        if len(streams) > 1:
            raise  # the caller halves until the broken one is alone
        found.refused.append(
            Refused(streams[0].at, BROKEN_ARROW, f"the stream contradicts itself: {shown(str(error))}")
        )
        return
    counts = [stream.rows for stream in streams]
    starts = np.cumsum([0, *counts])
    at = np.repeat([stream.at for stream in streams], counts)
    row = (np.arange(len(at)) - np.repeat(starts[:-1], counts)).astype(np.int32)
    record_at = np.asarray(fetch.record_at_ms, np.int64)[at]
    ids = _ids(table)
    event_at, no_times = _times(table, record_at)
    nameless = _are_empty(ids)
    bad = nameless | no_times | far_times(event_at, record_at, context.settings)
    if bad.any():
        for stream, start, count in zip(streams, starts.tolist(), counts, strict=False):
            part = slice(start, start + count)
            if bad[part].any():
                faults = _Faults(nameless[part], no_times[part], event_at[part], record_at[part])
                found.refused.append(_refuse_rows(stream, np.flatnonzero(bad[part]), faults, context))
        good = np.flatnonzero(~bad)
        table, ids = table.take(pa.array(good)), ids.take(pa.array(good))
        at, row, record_at, event_at = at[good], row[good], record_at[good], event_at[good]
    if not len(at):
        return
    typed = coerce_table(table, streams[0].model, [column.name for column in columns])
    envelope = {
        "offset": np.asarray(fetch.offsets, np.int64)[at],
        "row": row,
        "record_at": record_at,
        "event_at": event_at,
        "event_id": ids,
    }
    key = streams[0].model.name, streams[0].model.version, streams[0].kind
    rows = pa.table(envelope | dict(zip(typed.column_names, typed.columns, strict=True)))
    found.tables.setdefault(key, []).append(rows)


def _selected(streams: list[_Stream], names: list[str]) -> pa.Table:
    """Give the named columns of all streams, safe to compute with; raises ArrowInvalid where buffers lie."""
    schema = streams[0].schema
    index = {name: place for place, name in enumerate(schema.names)}  # of a name that stands twice the last counts
    present = [name for name in names if name in index]
    whole = pa.Table.from_batches([batch for stream in streams for batch in stream.batches], schema)
    arrays = {}
    for name in present:
        chunks = whole.column(index[name])
        _check_all(chunks)
        column = chunks.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            message = f"column {name!r} of this fetch is too large for one array"
            raise pa.ArrowInvalid(message)
        arrays[name] = column.cast(pa.string()) if pa.types.is_string_view(chunks.type) else column
    if not arrays:
        return pa.table({"_": pa.nulls(whole.num_rows)})
    return pa.table(arrays)


def _check_all(column: pa.ChunkedArray) -> None:
    """Raise ArrowInvalid where the buffers of any chunk contradict each other."""
    as_bytes = _BYTES_OF.get(column.type)
    (column if as_bytes is None else column.cast(as_bytes)).validate(full=True)


def _check(array: pa.Array) -> None:
    """Raise ArrowInvalid where an array's buffers contradict each other, which to read would end the process.

    Text that is not UTF-8 passes: it is one bad value and not a broken stream.
    """
    as_bytes = _BYTES_OF.get(array.type)
    (array if as_bytes is None else array.view(as_bytes)).validate(full=True)


def _ids(table: pa.Table) -> pa.StringArray:
    """Give the event ids as text, '' where there is none."""
    if "event_id" not in table.column_names:
        return pa.array([""] * table.num_rows, pa.string())
    ids = _plain(table.column("event_id"))
    kind = ids.type
    if pa.types.is_integer(kind):
        ids = ids.cast(pa.string())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        ids = ids.cast(pa.string())
        if not is_utf8(ids):
            raw = ids.view(pa.binary()).to_pylist()
            return pa.array([_utf8(value) for value in raw], pa.string())
    else:
        return pa.array([""] * table.num_rows, pa.string())
    return ids.fill_null("") if ids.null_count else ids


def _are_empty(texts: pa.StringArray) -> Mask:
    """Say which texts, none of them null, are empty: their ends are their starts."""
    if not len(texts):
        return np.zeros(0, np.bool_)
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.asarray(ends[1:] == ends[:-1])


def _utf8(value: bytes | None) -> str:
    try:
        return "" if value is None else value.decode()
    except UnicodeDecodeError:
        return ""


def _times(table: pa.Table, record_at: Ints) -> tuple[Ints, Mask]:
    """Give event times, the record's where they are null, and which values are no time."""
    none = np.zeros(table.num_rows, np.bool_)
    if "event_at" not in table.column_names:
        return record_at, none
    times = _plain(table.column("event_at"))
    kind = times.type
    if pa.types.is_int64(kind) and not times.null_count:
        return np.asarray(times.to_numpy()), none
    missing = np.asarray(times.is_null().to_numpy(zero_copy_only=False), np.bool_)
    bad = none
    if pa.types.is_timestamp(kind):
        event_at = ticks_ms(times)
    elif pa.types.is_uint64(kind):
        numbers = times.fill_null(0).to_numpy(zero_copy_only=False)
        event_at = np.minimum(numbers, np.uint64(2**63 - 1)).astype(np.int64)
    elif pa.types.is_integer(kind):
        event_at = np.asarray(times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    elif pa.types.is_floating(kind):
        # integral floats pass for integers, as in a column; NaN is pandas' null
        numbers = times.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        whole = np.where(missing, 0.0, numbers)
        bad = (whole != np.floor(whole)) | np.isinf(whole)
        event_at = np.where(bad, 0.0, np.clip(whole, -(2.0**62), 2.0**62)).astype(np.int64)
    else:
        return record_at, ~missing
    return (np.where(missing, record_at, event_at) if missing.any() else event_at), bad


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


# ------------------------------------------------------------------------------------------ bad rows


@dataclass(frozen=True, slots=True)
class _Faults:
    """What is wrong with the rows of one stream."""

    nameless: Mask
    no_times: Mask
    event_at: Ints
    record_at: Ints

    def of(self, row: int, context: Context) -> RefusedError:
        """Say what is wrong with a bad row; the first fault counts, as for JSON."""
        if self.nameless[row]:
            return RefusedError(NO_EVENT_ID, "event_id is missing, empty, or neither text nor an integer")
        fault = None
        if not self.no_times[row]:
            fault = time_fault(int(self.event_at[row]), int(self.record_at[row]), context.settings)
        return fault or RefusedError(BAD_EVENT_AT, "event_at is neither whole milliseconds nor a timestamp")


def _refuse_rows(stream: _Stream, rows: npt.NDArray[np.intp], faults: _Faults, context: Context) -> Refused:
    """Set the bad rows of a record aside as one small stream; code and reason are the first one's, others are counted."""
    first = faults.of(int(rows[0]), context)
    same = sum(faults.of(row, context).refusal is first.refusal for row in rows.tolist())
    reason = f"{same} of {stream.rows} rows: {first.reason}"
    if same < len(rows):
        reason += f"; {len(rows) - same} more rows have other faults"
    value = None if len(rows) == stream.rows else _stream_of(stream.table, rows)
    return Refused(stream.at, first.refusal, reason, ",".join(map(str, rows.tolist())), value)


def _stream_of(table: pa.Table, rows: npt.NDArray[np.intp]) -> bytes:
    columns = []
    for column in table.columns:
        for chunk in column.chunks:
            _check(chunk)
        try:
            columns.append(column.take(pa.array(rows)))
        except pa.ArrowNotImplementedError:
            columns.append(pa.chunked_array([[column[row].as_py() for row in rows.tolist()]], column.type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=table.schema))
    return bytes(sink.getvalue())
