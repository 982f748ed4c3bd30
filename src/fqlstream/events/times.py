"""Event times: RFC 3339 texts and Unix milliseconds as int64, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.events.columns import parse_rfc3339_ms, parse_rfc3339_us

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Below this many texts Arrow's reader costs more than one text after the other.
_VECTOR_MIN: Final = 16
_INT64_MAX: Final = 2**63 - 1
#: Letters of `2026-11-21T10:00:00`, and of the shortest and longest whole time that are read by columns.
_SECONDS_LENGTH, _SHORTEST, _LONGEST = 19, 20, 35
_ZULU_TAIL, _OFFSET_TAIL = 1, 6
_ZULU: Final = (ord("Z"), ord("z"))


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


def event_at_us(value: Any) -> int | None:
    """Give the Unix microseconds of one JSON value, read as `event_at_ms` does; None where it is no time."""
    if isinstance(value, str):
        return parse_rfc3339_us(value)
    ms = event_at_ms(value)
    return None if ms is None else ms * 1000


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
    """Read texts of one length by their columns of letters, none after the other: a bad one costs the others nothing."""
    if len(texts) < _VECTOR_MIN or not _SHORTEST <= length <= _LONGEST:
        return _one_by_one(texts)
    start = int(_offsets(texts)[0])
    letters = np.frombuffer(texts.buffers()[2], np.uint8)[start : start + len(texts) * length].reshape(-1, length)
    letters = np.ascontiguousarray(letters.T)
    # the first text says whether all end in Z or in an offset; those that end otherwise are read alone
    tail = _ZULU_TAIL if letters[-1, 0] in _ZULU else _OFFSET_TAIL
    digits = length - _SECONDS_LENGTH - 1 - tail
    if digits == 0 or digits < -1:
        return _one_by_one(texts)
    times, plain = _columns_ms(letters, tail, digits)
    bad = np.zeros(len(texts), np.bool_)
    if not plain.all():
        at = np.flatnonzero(~plain)
        times[at], bad[at] = _one_by_one(texts.take(pa.array(at)))
    return times, bad


def _columns_ms(letters: npt.NDArray[np.uint8], tail: int, digits: int) -> tuple[Ints, Mask]:
    """Give Unix milliseconds, and which texts are plain RFC 3339; `letters[i]` holds the i-th letter of every text."""
    numbers = letters - np.uint8(ord("0"))  # what is no digit wraps to 10 or more
    # most texts of a fetch are of one day, which then is read once
    dates = numbers[:10, :1] if (letters[:10] == letters[:10, :1]).all() else numbers[:10]
    days, plain = _days(dates)
    plain = plain & (letters[13] == ord(":")) & (letters[16] == ord(":"))
    plain &= (letters[10] == ord("T")) | (letters[10] == ord(" ")) | (letters[10] == ord("t"))
    hour, minute, second = (_two(numbers, place) for place in (11, 14, 17))
    plain &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = (hour.astype(np.int32) * 60 + minute) * 60 + second
    if tail == _ZULU_TAIL:
        plain &= np.isin(letters[-1], _ZULU)
    else:
        offset, is_offset = _offset_seconds(letters, numbers)
        plain &= is_offset
        seconds -= offset
    ms: Ints = (days * 86_400 + seconds) * 1000
    if digits > 0:
        fraction = numbers[_SECONDS_LENGTH + 1 : _SECONDS_LENGTH + 1 + digits]
        plain &= (letters[_SECONDS_LENGTH] == ord(".")) & (fraction <= 9).all(axis=0)
        for digit, weight in zip(fraction, (100, 10, 1), strict=False):
            ms += digit * np.int64(weight)
    return ms, plain


def _two(numbers: npt.NDArray[np.uint8], place: int) -> npt.NDArray[np.uint8]:
    """Give the number of two digits, 200 where one is none: more than any field of a time may hold."""
    tens, ones = numbers[place], numbers[place + 1]
    return np.where((tens <= 9) & (ones <= 9), tens * np.uint8(10) + ones, np.uint8(200))


def _days(numbers: npt.NDArray[np.uint8]) -> tuple[Ints, Mask]:
    """Give the days since 1970 of dates, and which of them exist."""
    century, year, month, day = (_two(numbers, place).astype(np.int64) for place in (0, 2, 5, 8))
    dash = (ord("-") - ord("0")) % 256
    plain = (century < 100) & (year < 100) & (century + year > 0) & (month >= 1) & (month <= 12)
    plain &= (numbers[4] == dash) & (numbers[7] == dash)
    months = np.where(plain, (century * 100 + year - 1970) * 12 + month - 1, 0)
    first = _month_days(months)
    return first + day - 1, plain & (day >= 1) & (day <= _month_days(months + 1) - first)


def _offset_seconds(
    letters: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int32], Mask]:
    """Give the seconds that texts which end in `+hh:mm` are ahead of UTC, and which do end so."""
    hours, minutes = _two(numbers, len(numbers) - 5), _two(numbers, len(numbers) - 2)
    behind = letters[-6] == ord("-")
    plain = (behind | (letters[-6] == ord("+"))) & (letters[-3] == ord(":")) & (hours < 24) & (minutes < 60)
    offset = (hours.astype(np.int32) * 60 + minutes) * 60
    return np.where(behind, -offset, offset), plain


def _month_days(months: Ints) -> Ints:
    """Give the day, counted from 1970, on which each month (counted from there too) begins."""
    days: Ints = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return days


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
