"""Kernels over Strings, by code point, whole arrays at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.events.columns import number_text
from fqlstream.functions.arrays import FLOAT64, UTF8, Datum, as_numbers, as_texts, doubles, row_count, validity

#: Positions beyond this are past the end of every String; Arrow's own slices take 32 bits.
_POSITION_MAX = 2.0**31 - 2


def length(text: Datum) -> pa.Array:
    """Count code points."""
    return pc.utf8_length(as_texts(text)).cast(FLOAT64)


def to_string(value: Datum) -> pa.Array:
    """Write any value; Numbers in the shortest form that reads back the same."""
    kind = value.type
    if pa.types.is_boolean(kind):
        return value.cast(UTF8)
    if pa.types.is_integer(kind) and _fits_double(value):
        return value.cast(UTF8)
    if pa.types.is_integer(kind):
        value = as_numbers(value)
        kind = value.type
    return _numbers_to_texts(value) if pa.types.is_floating(kind) else as_texts(value)


def _fits_double(integers: pa.Array) -> bool:
    """Whether all integers are written as the doubles that they are to FQL."""
    size = pc.min_max(integers)
    return all(side is None or abs(side) < 2**53 for side in (size["min"].as_py(), size["max"].as_py()))


def _numbers_to_texts(array: pa.Array) -> pa.Array:
    # Arrow writes the same digits as Python but changes to exponents elsewhere, and integral values need no digits at all
    values = np.where(np.asarray(array.is_valid().to_numpy(zero_copy_only=False)), doubles(as_numbers(array)), 0.0)
    size = np.abs(values)
    whole = (values == np.trunc(values)) & (size < 1e16) & ~((values == 0) & np.signbit(values))
    plain = ~whole & (size >= 1e-4) & (size < 1e10)
    texts = pc.if_else(
        pa.array(whole),
        pa.array(np.where(whole, values, 0.0).astype(np.int64)).cast(UTF8),
        pa.array(np.where(plain, values, 0.5)).cast(UTF8),
    )
    rest = np.nonzero(~whole & ~plain)[0]
    if len(rest):
        mask = np.zeros(len(values), dtype=np.bool_)
        mask[rest] = True
        written = pa.array([number_text(value) for value in values[rest].tolist()], UTF8)
        texts = pc.replace_with_mask(texts, pa.array(mask), written)
    if array.null_count:
        texts = pc.if_else(array.is_valid(), texts, pa.scalar(None, UTF8))
    return texts


def pattern_problem(pattern: str) -> str | None:
    """Say what is wrong with an RE2 pattern, None where it compiles. Asks the very library that will run it."""
    try:
        pc.match_substring_regex(pa.array([""]), pattern=pattern)
    except pa.ArrowInvalid as error:
        return str(error).removeprefix("Invalid regular expression: ")
    return None


def match(text: Datum, pattern: Datum) -> pa.Array:
    """Search an RE2 pattern anywhere in the text. The pattern is constant and has compiled already."""
    if not pattern.is_valid:
        return pa.nulls(row_count((text,)), pa.bool_())
    return pc.match_substring_regex(as_texts(text), pattern=pattern.as_py())


def starts_with(text: Datum, prefix: Datum) -> pa.Array:
    """Compare byte by byte; an empty prefix fits every text."""
    if isinstance(prefix, pa.Scalar):
        if not prefix.is_valid:
            return pa.nulls(row_count((text,)), pa.bool_())
        return pc.starts_with(as_texts(text), pattern=prefix.as_py())
    rows = len(prefix)
    valid = validity((text, prefix))
    start, size, data = _bytes_of(_as_array(text, rows))
    prefix_start, prefix_size, prefix_data = _bytes_of(_as_array(prefix, rows))
    fits = prefix_size <= size
    looked_at = np.where(fits, prefix_size, 0)
    row = np.repeat(np.arange(rows), looked_at)
    within = np.arange(len(row)) - np.repeat(np.cumsum(looked_at) - looked_at, looked_at)
    differs = data[start[row] + within] != prefix_data[prefix_start[row] + within]
    result = fits & (np.bincount(row[differs], minlength=rows) == 0)
    nothing = isinstance(text, pa.Scalar) and not text.is_valid
    mask = np.full(rows, nothing) if valid is None else ~np.asarray(valid.to_numpy(zero_copy_only=False)) | nothing
    return pa.array(result, mask=mask)


def substring(text: Datum, offset: Datum, size: Datum) -> pa.Array:
    """Cut `size` code points from the 1-based `offset`, both truncated to integers.

    An offset below 1 gives null, a size below 1 gives the empty text; what lies beyond the end is left out.
    """
    rows = row_count((text, offset, size))
    if any(isinstance(arg, pa.Scalar) and not arg.is_valid for arg in (text, offset, size)):
        return pa.nulls(rows, UTF8)
    if isinstance(offset, pa.Scalar) and isinstance(size, pa.Scalar):
        return _slice_all(as_texts(text), _position(offset), _position(size))
    first = np.broadcast_to(_positions(offset), rows)
    count = np.broadcast_to(_positions(size), rows)
    cut = _slice_each(_as_array(text, rows), first - 1, np.maximum(count, 0))
    valid = validity((text, offset, size))
    here = pa.array(first >= 1) if valid is None else pc.and_(valid, pa.array(first >= 1))
    return pc.if_else(here, cut, pa.scalar(None, UTF8))


def _position(number: Datum) -> int:
    return int(np.trunc(np.clip(float(number.as_py()), -1.0, _POSITION_MAX)))


def _positions(numbers: Datum) -> npt.NDArray[np.int64]:
    if isinstance(numbers, pa.Scalar):
        return np.array(_position(numbers), dtype=np.int64)
    values = np.nan_to_num(np.clip(doubles(numbers), -1.0, _POSITION_MAX))
    return np.trunc(values).astype(np.int64)


def _slice_all(text: pa.Array, offset: int, size: int) -> pa.Array:
    if offset < 1:
        return pa.nulls(len(text), UTF8)
    stop = min(offset - 1 + max(size, 0), int(_POSITION_MAX))
    return pc.utf8_slice_codeunits(text, start=offset - 1, stop=max(stop, offset - 1))


def _slice_each(text: pa.Array, skip: npt.NDArray[np.int64], keep: npt.NDArray[np.int64]) -> pa.Array:
    """Cut each text at its own place: every byte knows its row and the code point of that row it belongs to."""
    start, size, data = _bytes_of(text)
    row = np.repeat(np.arange(len(text)), size)
    # texts under nulls may hold bytes too, so rows are gathered by their offsets
    used = data[start[row] + np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)]
    begins = (used & 0xC0) != 0x80
    counted = np.cumsum(begins)
    before = np.concatenate([[0], counted])[np.cumsum(size) - size]
    point = counted - 1 - before[row]
    kept = (point >= skip[row]) & (point < skip[row] + keep[row])
    offsets = np.zeros(len(text) + 1, dtype=np.int32)
    np.cumsum(np.bincount(row[kept], minlength=len(text)), out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(used[kept]))]
    return pa.Array.from_buffers(UTF8, len(text), buffers)


def _as_array(text: Datum, rows: int) -> pa.Array:
    if isinstance(text, pa.Scalar):
        return pa.array([text.as_py() or ""] * rows, UTF8) if rows else pa.array([], UTF8)
    return as_texts(text)


def _bytes_of(text: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Give where each text starts, how many bytes it has, and all bytes."""
    _, offset_buffer, data_buffer = text.buffers()
    if offset_buffer is None or not len(text):
        nothing = np.zeros(len(text), dtype=np.int64)
        return nothing, nothing, np.zeros(0, dtype=np.uint8)
    offsets = np.frombuffer(offset_buffer, np.int32)[text.offset : text.offset + len(text) + 1].astype(np.int64)
    data = np.zeros(0, dtype=np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return offsets[:-1], np.diff(offsets), data
