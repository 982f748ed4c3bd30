"""Data files as typed tables: flat rows (.jsonl, .csv, .parquet), or events as they are on the topic (.jsonl).

The same rules as on the topic hold: what does not fit its column is null and a violation, the first of two rows with one
event_id counts, a label replaces the targets of its event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import UsageError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.columns import (
    RANGE_VIOLATIONS,
    TYPE_VIOLATIONS,
    Mask,
    arrow_type,
    coerce_array,
    coerce_values,
    violation_lists,
)
from fqlstream.events.definitions import Column, ColumnType, ModelDefinition, Role
from fqlstream.settings import StreamSettings
from fqlstream.stream.batches import Decoded, Fetch, RowKind
from fqlstream.stream.decode import decode
from fqlstream.stream.recent import replace_targets

Times = npt.NDArray[np.int64]
Columns = Mapping[str, "pa.Array | pa.ChunkedArray | list[Any]"]

FORMATS: Final = (".jsonl", ".csv", ".parquet")
EVENT_AT: Final = "event_at"
EVENT_ID: Final = "event_id"
#: What a CSV field without quotes means nothing by.
_CSV_NULLS: Final = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None")
_TIME: Final = Column(name=EVENT_AT, type=ColumnType.TIMESTAMP)
#: A file is read long after its events happened.
_ANY_TIME: Final = StreamSettings(past_ms_max=2**53, future_ms_max=2**53)


#: Cells of a Parquet file that are unpacked at once, and rows at most.
_BATCH_CELLS: Final = 2**20
_BATCH_ROWS_MAX: Final = 8_192
#: Places that rows leave empty, 8 bytes each: names of its own in every row would make billions of a small file.
_FILLED_MAX: Final = 2**27
#: What a cell of a column takes at most that is of one size, and the place in a list of any value.
_CELL_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a file is read: its first rows, and how many bytes they may take unpacked (None: whatever it holds)."""

    rows_max: int | None = None
    bytes_max: int | None = None


_ALL: Final = Bounds()


@dataclass(frozen=True, slots=True)
class Data:
    """Rows of one model: `table` as `coerce_table` gives it, times in Unix milliseconds where the file has them.

    `notes` say what was left out, and why.
    """

    table: pa.Table
    event_at_ms: Times | None
    notes: tuple[str, ...] = ()


def read_data(path: Path, model: ModelDefinition, *, event_at: str = EVENT_AT, clock: Clock | None = None) -> Data:
    """Read a data file for a model. `event_at` names the column of times in flat rows.

    Raises UsageError for a file that cannot be read.
    """
    with _telling(path):
        if path.suffix == ".jsonl":
            lines = path.read_bytes().splitlines()
            if _holds_events(lines):
                return _read_events(path, lines, model, clock if clock is not None else SystemClock())
            return _typed(_columns_of_rows(_parsed(path, lines), path), model, event_at)
        return _typed(read_columns(path, model), model, event_at)


def read_columns(path: Path, model: ModelDefinition | None, bounds: Bounds = _ALL) -> Columns:
    """Read a file of flat rows column by column, every value as it is in the file.

    A CSV has texts only: a field is read as its column's type in the model, and stays a text where there is no model. Raises
    UsageError for a file that cannot be read, or unpacks to more than `bounds` allow.
    """
    with _telling(path):
        if path.suffix == ".jsonl":
            with path.open("rb") as lines:
                return _columns_of_rows(islice(_parsed(path, lines), bounds.rows_max), path)
        if path.suffix == ".csv":
            return _read_csv(path, model, bounds)
        if path.suffix == ".parquet":
            table = pa.parquet.read_table(path) if bounds == _ALL else _read_parquet(path, bounds)
            return {name: table.column(name) for name in table.column_names}
    raise UsageError("DAT003", f"{path}: the ending {path.suffix or 'none'} is unknown", f"known: {', '.join(FORMATS)}")


def _read_parquet(path: Path, bounds: Bounds) -> pa.Table:
    """Read a file piece by piece: few bytes of it may stand for very many."""
    with pa.parquet.ParquetFile(path) as file:
        batches = (pa.Table.from_batches([batch]) for batch in _batches(path, file, bounds))
        return _first_tables(path, batches, file.schema_arrow, bounds)


def require_bounded(path: Path, bytes_max: int) -> None:
    """Unpack a file once, keeping nothing. Raises UsageError DAT006 where it takes more than `bytes_max`; only Parquet can."""
    if path.suffix != ".parquet":
        return
    size = 0
    with _telling(path), pa.parquet.ParquetFile(path) as file:
        for batch in _batches(path, file, Bounds(None, bytes_max)):
            size += batch.nbytes
            if size > bytes_max:
                raise _unpacks_to_more(path, bytes_max)


def _batches(path: Path, file: pa.parquet.ParquetFile, bounds: Bounds) -> Iterator[pa.RecordBatch]:
    names = file.schema_arrow.names
    if len(names) != len(set(names)):
        raise UsageError("DAT002", f"{path}: a column stands twice")
    _require_small_chunks(path, file, bounds)
    yield from file.iter_batches(max(1, min(_BATCH_ROWS_MAX, _BATCH_CELLS // max(1, len(file.schema)))))


def _first_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, bounds: Bounds) -> pa.Table:
    """Give the first rows of a file, read no further than they take."""
    kept, rows, size = [], 0, 0
    for table in tables:
        part = table if bounds.rows_max is None else table[: bounds.rows_max - rows]
        kept.append(part)
        rows, size = rows + part.num_rows, size + part.nbytes
        if bounds.bytes_max is not None and size > bounds.bytes_max:
            raise _unpacks_to_more(path, bounds.bytes_max)
        if rows == bounds.rows_max:
            break
    return pa.concat_tables(kept) if kept else schema.empty_table()


def _require_small_chunks(path: Path, file: pa.parquet.ParquetFile, bounds: Bounds) -> None:
    """Refuse by what the file says of itself: a page is unpacked whole, and so are all values of a row."""
    if bounds.bytes_max is None:
        return
    for group in range(file.metadata.num_row_groups):
        for place in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(place)
            of_lists = file.schema.column(place).max_repetition_level * chunk.num_values * _CELL_BYTES
            if max(chunk.total_uncompressed_size, of_lists) > bounds.bytes_max:
                raise _unpacks_to_more(path, bounds.bytes_max)


def _unpacks_to_more(path: Path, bytes_max: int) -> UsageError:
    return UsageError("DAT006", f"{path} unpacks to more than {bytes_max:,} bytes", "send it in parts")


def listed(values: Any) -> list[Any]:
    """Give a column's values as Python's. Raises UsageError DAT007 for times that Python has none for."""
    if isinstance(values, list):
        return values
    try:
        return list(values.to_pylist())
    except (OverflowError, ValueError) as error:
        raise UsageError("DAT007", f"a column of type {values.type} holds what is no time: {error}") from None


def holds_events(path: Path) -> bool:
    """Tell a file of events as they are on the topic from one of flat rows, by its first line."""
    with _telling(path):
        if path.suffix != ".jsonl":
            return False
        with path.open("rb") as file:
            return _holds_events(file)


def _holds_events(lines: Iterable[bytes]) -> bool:
    return is_event(next((line for line in lines if line.strip()), b""))


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError("DAT001", f"{path} cannot be read: {error.strerror or error}") from None
    except pa.ArrowInvalid as error:
        raise UsageError("DAT002", f"{path} is no valid {path.suffix} file: {error}") from None


def is_event(line: bytes) -> bool:
    """Tell an event as it is on the topic from a flat row."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and (isinstance(value.get("columns"), dict) or value.get("type") == "watermark")


# ------------------------------------------------------------------------------------------------ events


def _read_events(path: Path, lines: Sequence[bytes], model: ModelDefinition, clock: Clock) -> Data:
    lines = [line for line in lines if line.strip()]
    now_ms = clock.now_ms()
    fetch = Fetch(
        topic=str(path),
        partition=0,
        offsets=np.arange(len(lines), dtype=np.int64),
        record_at_ms=np.full(len(lines), now_ms, dtype=np.int64),
        keys=[None] * len(lines),
        values=lines,
        headers={},
        next_offset=len(lines),
    )
    decoded = decode(fetch, Catalogue().with_definition(model), _ANY_TIME)
    events = _rows_of(decoded, RowKind.INFERENCE)
    if events is None:
        reasons = "; ".join(dict.fromkeys(letter.reason for letter in decoded.dead_letters[:20]))
        raise UsageError("DAT004", f"{path} holds no event of model {model.name} {model.version}", reasons or None)
    notes = _notes(decoded, len(lines))
    events, repeated = _first_of_each(events)
    if repeated:
        notes.append(f"{repeated} rows repeat an event_id and are left out")
    labels = _rows_of(decoded, RowKind.LABEL)
    if labels is not None:
        events = _labelled(events, labels, model)
    times = np.asarray(events.column(EVENT_AT).to_numpy())
    names = [column.name for column in model.columns]
    return Data(events.select([*names, TYPE_VIOLATIONS, RANGE_VIOLATIONS]).combine_chunks(), times, tuple(notes))


def _rows_of(decoded: Decoded, kind: RowKind) -> pa.Table | None:
    return next((rows.table for rows in decoded.rows if rows.kind is kind), None)


def _notes(decoded: Decoded, lines: int) -> list[str]:
    letters = decoded.dead_letters
    if not letters:
        return []
    first = letters[0]
    return [f"{len(letters)} of {lines} events are refused, the first in line {first.offset + 1}: {first.reason}"]


def _first_of_each(events: pa.Table) -> tuple[pa.Table, int]:
    ids = events.column(EVENT_ID).combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(ids, return_index=True)
    if len(first) == len(events):
        return events, 0
    return events.take(pa.array(np.sort(first))), len(events) - len(first)


def _labelled(events: pa.Table, labels: pa.Table, model: ModelDefinition) -> pa.Table:
    """Replace the targets of every event that has a label by those of its last one."""
    last = {event_id: place for place, event_id in enumerate(labels.column(EVENT_ID).to_pylist())}
    places = np.array([last.get(event_id, -1) for event_id in events.column(EVENT_ID).to_pylist()], dtype=np.int64)
    found = np.flatnonzero(places >= 0)
    if not len(found):
        return events
    targets = [column.name for column in model.role(Role.TARGET)]
    replaced = replace_targets(events.take(pa.array(found)), labels.take(pa.array(places[found])), targets)
    rest = events.take(pa.array(np.flatnonzero(places < 0)))
    order = np.argsort(np.concatenate([found, np.flatnonzero(places < 0)]), kind="stable")
    return pa.concat_tables([replaced, rest]).take(pa.array(order))


# ------------------------------------------------------------------------------------------------ flat rows


def _typed(columns: Columns, model: ModelDefinition, event_at: str) -> Data:
    rows = len(next(iter(columns.values()), ()))
    arrays: dict[str, pa.Array] = {}
    type_bad: dict[str, Mask] = {}
    range_bad: dict[str, Mask] = {}
    for column in model.columns:
        if column.name in columns:
            arrays[column.name], type_bad[column.name], range_bad[column.name] = _coerced(columns[column.name], column)
        else:
            arrays[column.name] = pa.nulls(rows, arrow_type(column))
    missing = [column.name for column in model.columns if column.name not in columns]
    arrays[TYPE_VIOLATIONS] = violation_lists(rows, type_bad)
    arrays[RANGE_VIOLATIONS] = violation_lists(rows, range_bad)
    notes = [f"the file has no column {', '.join(missing)}: null throughout"] if missing else []
    table, times = pa.table(arrays), _times(columns, event_at)
    kept = _first_rows(columns)
    if kept is not None:
        notes.append(f"{rows - len(kept)} rows repeat an event_id and are left out")
        table = table.take(pa.array(kept)).combine_chunks()
        times = None if times is None else times[kept]
    return Data(table, times, tuple(notes))


def _coerced(values: pa.Array | pa.ChunkedArray | list[Any], column: Column) -> tuple[pa.Array, Mask, Mask]:
    return coerce_values(values, column) if isinstance(values, list) else coerce_array(values, column)


def _times(columns: Columns, event_at: str) -> Times | None:
    if event_at not in columns:
        return None
    times, _, _ = _coerced(columns[event_at], _TIME)
    if times.null_count:
        first = pc.index(times.is_null(), True).as_py()
        raise UsageError(
            "DAT005",
            f"{times.null_count} rows have no usable time in {event_at!r}, the first is row {first + 1}",
            "times are RFC 3339 texts with an offset, Unix milliseconds, or timestamps",
        )
    return np.asarray(times.cast(pa.int64()).to_numpy())


def _first_rows(columns: Columns) -> Times | None:
    """Give the first row of each event_id; None where none repeats. Rows without an id are all kept."""
    values = columns.get(EVENT_ID)
    if values is None:
        return None
    ids = listed(values)
    seen: set[Any] = set()
    kept = []
    for row, event_id in enumerate(ids):
        key = str(event_id)
        if event_id is None or key not in seen:
            kept.append(row)
        seen.add(key)
    return None if len(kept) == len(ids) else np.array(kept, dtype=np.int64)


def _parsed(path: Path, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError("DAT002", f"{path}:{number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise UsageError("DAT002", f"{path}:{number} is no JSON object", 'a flat row is {"column": value, ...}')
        yield row


def _columns_of_rows(rows: Iterable[dict[str, Any]], path: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    count = filled = 0
    for row in rows:
        for name, value in row.items():
            values = columns.setdefault(name, [])
            filled += count - len(values)
            if filled > _FILLED_MAX:
                raise UsageError("DAT006", f"{path} has {len(columns)} columns, and hardly any row has several of them")
            values.extend([None] * (count - len(values)))
            values.append(value)
        count += 1
    for values in columns.values():
        filled += count - len(values)
    if filled > _FILLED_MAX:
        raise UsageError("DAT006", f"{path} has {len(columns)} columns, and hardly any row has several of them")
    for values in columns.values():
        values.extend([None] * (count - len(values)))
    return columns


# ------------------------------------------------------------------------------------------------ CSV has no types


def _read_csv(path: Path, model: ModelDefinition | None, bounds: Bounds) -> dict[str, Any]:
    """Read every field as text, then as its column's type; a text that is no such value stays a text."""
    with path.open("rb") as file:
        header = pa.csv.open_csv(file).schema.names
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UsageError("DAT002", f"{path}: the column {twice!r} stands twice")
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    if bounds == _ALL:
        table = pa.csv.read_csv(path, convert_options=options)
    else:
        with path.open("rb") as file, pa.csv.open_csv(file, convert_options=options) as reader:
            batches = (pa.Table.from_batches([batch]) for batch in reader)
            table = _first_tables(path, batches, reader.schema, bounds)
    result: dict[str, Any] = {}
    for name in table.column_names:
        column = None if model is None else model.column(name)
        texts = table.column(name).combine_chunks()
        if model is None:
            result[name] = texts
        elif column is None:
            result[name] = _whole_numbers(texts) if name == EVENT_AT else texts
        else:
            result[name] = _read_field_type(texts, column)
    return result


def _whole_numbers(texts: pa.Array) -> pa.Array:
    """Give Unix milliseconds as numbers; any other text as it is."""
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts


def _read_field_type(texts: pa.Array, column: Column) -> pa.Array | list[Any]:
    match column.type:
        case ColumnType.STRING:
            return texts
        case ColumnType.CATEGORY if column.categories is None or any(isinstance(c, str) for c in column.categories):
            return texts
        case ColumnType.INT:
            return _cast_or_each(texts, pa.int64())
        case ColumnType.FLOAT:
            return _cast_or_each(texts, pa.float64())
        case ColumnType.TIMESTAMP:
            return _whole_numbers(texts)
        case _:
            return [_scalar(text) for text in texts.to_pylist()]


def _cast_or_each(texts: pa.Array, kind: pa.DataType) -> pa.Array | list[Any]:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return [_scalar(text) for text in texts.to_pylist()]


def _scalar(text: str | None) -> Any:
    """Read a field as JSON would have it, or else as the text that it is."""
    if text is None or text in _CSV_NULLS:
        return None
    for read in _SCALARS:
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


_SCALARS: Final[tuple[Callable[[str], Any], ...]] = (int, float, json.loads)
