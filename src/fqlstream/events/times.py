"""Event times: RFC 3339 texts and Unix milliseconds as int64, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.events.columns import parse_rfc3339_ms

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Below this many texts Arrow's reader costs more than one text after the other.
_VECTOR_MIN: Final = 16
_INT64_MAX: Final = 2**63 - 1
_ZULU_TAIL, _OFFSET_TAIL = 1, 6


def event_at_ms(value: Any) -> int | None:
    """Give the Unix milliseconds of one JSON value; None where it is no time.

    A text is RFC 3339 with an offset, digits beyond milliseconds are cut; a number is whole milliseconds (1e12 is one).
    """
    if isinstance(value, str):
        return parse_rfc3339_ms(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        return None
    # what int64 cannot hold is a time too far away, and stays one
    return max(-_INT64_MAX, min(_INT64_MAX, value))


def event_times_ms(values: Sequence[Any], absent: Ints) -> tuple[Ints, Mask]:
    """Give Unix milliseconds of JSON values, those of `absent` where a value is None, and which values are no time."""
    kinds = set(map(type, values))
    try:
        if kinds == {str}:
            return text_times_ms(pa.array(values, pa.string()))
        if kinds == {int}:
            return np.fromiter(values, np.int64, len(values)), np.zeros(len(values), np.bool_)
    except (OverflowError, UnicodeEncodeError):
        pass
    if kinds == {type(None)}:
        return absent, np.zeros(len(values), np.bool_)
    times = absent.copy()
    bad = np.zeros(len(values), np.bool_)
    texts = [at for at, value in enumerate(values) if type(value) is str]
    if len(texts) >= _VECTOR_MIN:
        times[texts], bad[texts] = event_times_ms([values[at] for at in texts], absent[texts])
        rest = [at for at, value in enumerate(values) if value is not None and type(value) is not str]
    else:
        rest = [at for at, value in enumerate(values) if value is not None]
    for at in rest:
        ms = event_at_ms(values[at])
        if ms is None:
            bad[at] = True
        else:
            times[at] = ms
    return times, bad


def text_times_ms(texts: pa.StringArray) -> tuple[Ints, Mask]:
    """Give Unix milliseconds of RFC 3339 texts (no nulls), and which of them are none; those are 0."""
    lengths = np.diff(_offsets(texts))
    times = np.zeros(len(texts), np.int64)
    bad = np.zeros(len(texts), np.bool_)
    shapes = np.flatnonzero(np.bincount(np.minimum(lengths, 64))) if len(texts) else lengths
    for length in shapes.tolist():
        if len(shapes) == 1:
            times, bad = _same_length(texts, length)
            break
        at = np.flatnonzero(lengths == length) if length < 64 else np.flatnonzero(lengths >= 64)
        times[at], bad[at] = _same_length(texts.take(pa.array(at)), length)
    return times, bad


def _offsets(texts: pa.StringArray) -> npt.NDArray[np.int32]:
    buffer = texts.buffers()[1]
    if buffer is None or not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _same_length(texts: pa.StringArray, length: int) -> tuple[Ints, Mask]:
    """Read texts of one length: Arrow parses the numbers, we check the form, in which Arrow is laxer than RFC 3339."""
    if len(texts) < _VECTOR_MIN or not 20 <= length <= 35:
        return _one_by_one(texts)
    start = int(_offsets(texts)[0])
    letters = np.frombuffer(texts.buffers()[2], np.uint8)[start : start + len(texts) * length].reshape(-1, length)
    tail = _ZULU_TAIL if letters[0, -1] == ord("Z") else _OFFSET_TAIL
    digits = length - 20 - tail
    if not (digits == -1 or 1 <= digits <= 9):
        return _one_by_one(texts)
    plain = _has(letters, 4, "-") & _has(letters, 7, "-") & _has(letters, 13, ":") & _has(letters, 16, ":")
    plain &= _has(letters, 10, "T") | _has(letters, 10, " ")
    if digits > 0:
        plain &= _has(letters, 19, ".")
    if tail == _ZULU_TAIL:
        plain &= _has(letters, -1, "Z")
    else:
        plain &= (_has(letters, -6, "+") | _has(letters, -6, "-")) & _has(letters, -3, ":")
    unit = "s" if digits == -1 else "ms" if digits <= 3 else "us" if digits <= 6 else "ns"
    if plain.all():
        return _parsed(texts, unit)
    times, bad = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.bool_)
    for at, read in ((np.flatnonzero(plain), lambda part: _parsed(part, unit)), (np.flatnonzero(~plain), _one_by_one)):
        times[at], bad[at] = read(texts.take(pa.array(at)))
    return times, bad


def _has(letters: npt.NDArray[np.uint8], place: int, letter: str) -> Mask:
    return letters[:, place] == ord(letter)


def _parsed(texts: pa.StringArray, unit: str) -> tuple[Ints, Mask]:
    """Let Arrow read texts of a known form; where it refuses one, halve until that one is alone."""
    if len(texts) < _VECTOR_MIN:
        return _one_by_one(texts)
    try:
        ticks = texts.cast(pa.timestamp(unit, "UTC"))
    except pa.ArrowInvalid:
        half = len(texts) // 2
        left, right = _parsed(texts[:half], unit), _parsed(texts[half:], unit)
        return np.concatenate((left[0], right[0])), np.concatenate((left[1], right[1]))
    return ticks_ms(ticks), np.zeros(len(texts), np.bool_)


def ticks_ms(ticks: pa.Array) -> Ints:
    """Give Unix milliseconds of a timestamp array of any unit, rounded down; a null is 0."""
    numbers = np.asarray(ticks.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    match ticks.type.unit:
        case "s":
            # seconds beyond the range of milliseconds are too far away in any unit
            limit = _INT64_MAX // 1000
            return np.asarray(np.clip(numbers, -limit, limit) * 1000)
        case "ms":
            return numbers
        case "us":
            return np.asarray(numbers // 1_000)
        case _:
            return np.asarray(numbers // 1_000_000)


def _one_by_one(texts: pa.StringArray) -> tuple[Ints, Mask]:
    read = [parse_rfc3339_ms(text) for text in texts.to_pylist()]
    bad = np.fromiter((ms is None for ms in read), np.bool_, len(read))
    return np.fromiter((ms or 0 for ms in read), np.int64, len(read)), bad
