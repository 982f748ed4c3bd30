"""Values of a model's columns in Arrow: the one place where JSON, Arrow and pandas values become typed columns.

Nothing here fails: a value that does not fit its column is null and a type violation; one outside its range keeps its
value and is a range violation. Rules: null is never a violation (None, NaN, a missing column, the empty text where texts
do not belong, whatever `replace_with_nulls` names, by text or by number); an integral float passes for an integer; a
Boolean is no number; a numeric text is no number; BOOL takes true, false, 0, 1; CATEGORY takes any type that occurs among
its categories and keeps it as text; an infinity is null, and a range violation where the column has a bound; an empty vector
is null, since ClickHouse cannot tell it from null, and a range violation where the column says how many numbers it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.events.definitions import Column, ColumnType, ModelDefinition, Role

Mask = npt.NDArray[np.bool_]
Coerced = tuple[pa.Array, Mask, Mask]

TYPE_VIOLATIONS: Final = "_type_violations"
RANGE_VIOLATIONS: Final = "_range_violations"
VIOLATIONS_TYPE: Final = pa.list_(pa.string())

#: Relative slack of a bound: a value that went through text or float32 is not out of range for that.
RANGE_TOLERANCE: Final = 1e-9
#: ClickHouse's DateTime64 holds 1900 to 2299; what lies outside is no time of ours.
TIMESTAMP_MS_MIN: Final = -2_208_988_800_000
TIMESTAMP_MS_MAX: Final = 10_413_792_000_000 - 1

_TIMESTAMP = pa.timestamp("ms", tz="UTC")
_ARROW_TYPES: Final[Mapping[ColumnType, pa.DataType]] = {
    ColumnType.INT: pa.int64(),
    ColumnType.FLOAT: pa.float64(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.STRING: pa.string(),
    ColumnType.CATEGORY: pa.string(),
    ColumnType.TIMESTAMP: _TIMESTAMP,
    ColumnType.VECTOR: pa.list_(pa.float64()),
}
_LABEL_ROLES: Final = frozenset({Role.TARGET, Role.METADATA})
_NONE = type(None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)
#: What the vectorised parser may be given: Arrow's own reader of times takes more than RFC 3339.
_RFC3339_PLAIN: Final = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:[0-5]\d)$"


def arrow_type(column: Column) -> pa.DataType:
    """Give the Arrow type that a column's values have everywhere in the engine."""
    return _ARROW_TYPES[column.type]


def event_columns(model: ModelDefinition, kind: Literal["inference", "label"] | str) -> tuple[Column, ...]:
    """Give the columns an event of this kind may carry: a label carries only targets and metadata."""
    if kind == "label":
        return tuple(column for column in model.columns if column.role in _LABEL_ROLES)
    return model.columns


def arrow_schema(model: ModelDefinition, kind: Literal["inference", "label"] | str) -> pa.Schema:
    """Give the schema of a model's typed columns, then both violation columns."""
    fields = [pa.field(column.name, arrow_type(column)) for column in event_columns(model, kind)]
    return pa.schema([*fields, (TYPE_VIOLATIONS, VIOLATIONS_TYPE), (RANGE_VIOLATIONS, VIOLATIONS_TYPE)])


def coerce_values(values: Sequence[Any], column: Column) -> Coerced:
    """Give a column out of Python values (of JSON, or of an object column): array, type violations, range violations.

    All three have one entry per value.
    """
    rules = _rules(column)
    return _finish(rules, *_FROM_VALUES[column.type](rules, values))


def coerce_array(array: pa.Array | pa.ChunkedArray, column: Column) -> Coerced:
    """Give a column out of an Arrow array of any type: array, type violations, range violations."""
    rules = _rules(column)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return _finish(rules, pa.nulls(len(array), arrow_type(column)), _clear(array), None)
    read = _FROM_ARROW[column.type](rules, array)
    if read is None:
        return coerce_values(array.to_pylist(), column)
    return _finish(rules, *read)


def coerce_table(table: pa.Table, model: ModelDefinition, columns: Iterable[str] | None = None) -> pa.Table:
    """Give a table's columns in the model's types, then both violation columns.

    `columns` names what to take (all of the model's by default); one that the table lacks is null throughout. Columns
    that the model does not have are left out.
    """
    names = [column.name for column in model.columns] if columns is None else list(columns)
    arrays: dict[str, pa.Array] = {}
    type_bad: dict[str, Mask] = {}
    range_bad: dict[str, Mask] = {}
    for name in names:
        column = model.column(name)
        if column is None:
            continue
        if name in table.column_names:
            arrays[name], type_bad[name], range_bad[name] = coerce_array(table.column(name), column)
        else:
            arrays[name] = pa.nulls(table.num_rows, arrow_type(column))
    arrays[TYPE_VIOLATIONS] = violation_lists(table.num_rows, type_bad)
    arrays[RANGE_VIOLATIONS] = violation_lists(table.num_rows, range_bad)
    return pa.table(arrays)


def violation_lists(rows: int, bad: Mapping[str, Mask]) -> pa.ListArray:
    """Give per row the names of the columns whose mask is set; rows without any have an empty list."""
    hit = {name: mask for name, mask in bad.items() if mask.any()}
    if not hit:
        return pa.ListArray.from_arrays(np.zeros(rows + 1, dtype=np.int32), pa.array([], pa.string()))
    matrix = np.column_stack(list(hit.values()))
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(matrix.sum(axis=1), out=offsets[1:])
    names = pa.array(list(hit), pa.string()).take(pa.array(np.nonzero(matrix)[1]))
    return pa.ListArray.from_arrays(offsets, names)


def number_text(value: float) -> str:
    """Write a number as FQL's to_string does: shortest form that reads back the same, integral values without `.0`."""
    text = repr(value)
    return text.removesuffix(".0")


def scalar_text(value: str | float | bool) -> str:  # noqa: FBT001 (a value, not a switch)
    """Write any value as FQL's to_string does: `true`, `42`, `1.5`, and a text as itself."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else number_text(value)


@dataclass(frozen=True, slots=True)
class _Rules:
    """A column's definition, in the form that coercion asks it."""

    column: Column
    null_texts: frozenset[str]
    null_numbers: tuple[float, ...]
    null_set: pa.Array | None  # of texts
    categories: pa.Array | None  # of texts
    accepts: frozenset[type]  # plain Python types a category may come in
    plain_categories: frozenset[str | None] | None  # where a text among them needs no further look

    @property
    def bounded(self) -> bool:
        return self.column.min is not None or self.column.max is not None

    def is_replaced(self, value: Any) -> bool:
        """Whether `replace_with_nulls` names this value, by its text or as a number."""
        if isinstance(value, (str, bool)):
            return scalar_text(value) in self.null_texts
        if isinstance(value, (int, float)):
            return number_text(value) in self.null_texts or value in self.null_numbers
        return False


#: By identity, since equal definitions may differ in what they mean: 1 == True. An entry keeps its column alive.
_RULES: dict[int, _Rules] = {}
_RULES_MAX: Final = 10_000


def _rules(column: Column) -> _Rules:
    known = _RULES.get(id(column))
    if known is None or known.column is not column:
        if len(_RULES) >= _RULES_MAX:
            _RULES.clear()
        known = _RULES[id(column)] = _make_rules(column)
    return known


def _make_rules(column: Column) -> _Rules:
    texts = frozenset(scalar_text(value) for value in column.replace_with_nulls)
    numbers = tuple(n for n in map(_parsed, column.replace_with_nulls) if n is not None)
    categories = column.categories
    if categories is None:
        accepts = frozenset({str, int, float, bool})
    else:
        accepts = frozenset(type(value) for value in categories)
    return _Rules(
        column=column,
        null_texts=texts,
        null_numbers=numbers,
        null_set=pa.array(sorted(texts), pa.string()) if texts else None,
        categories=None if categories is None else pa.array([scalar_text(value) for value in categories], pa.string()),
        accepts=accepts,
        plain_categories=_plain_categories(column, texts),
    )


def _plain_categories(column: Column, null_texts: frozenset[str]) -> frozenset[str | None] | None:
    if column.type is not ColumnType.CATEGORY or column.categories is None:
        return None
    texts = frozenset(value for value in column.categories if isinstance(value, str))
    return (texts - null_texts) | {None} if texts else None


def _parsed(value: str | float | bool) -> float | None:  # noqa: FBT001 (a value, not a switch)
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


# What a reader gives: the array, type violations, and where an infinity was made null (None: nowhere).
_Read = tuple[pa.Array, Mask, Mask | None]


def _finish(rules: _Rules, array: pa.Array, type_bad: Mask, infinite: Mask | None) -> Coerced:
    range_bad = _range_violations(rules, array)
    if infinite is not None and rules.bounded:
        range_bad |= infinite
    if rules.column.type is ColumnType.VECTOR:
        empty = pc.fill_null(pc.equal(pc.list_value_length(array), 0), False)
        array = _without(array, np.asarray(empty.to_numpy(zero_copy_only=False), dtype=np.bool_))
    return array, type_bad, range_bad


def _range_violations(rules: _Rules, array: pa.Array) -> Mask:
    column = rules.column
    match column.type:
        case ColumnType.INT | ColumnType.FLOAT if rules.bounded:
            return _outside(_doubles(array), column.min, column.max)
        case ColumnType.CATEGORY if rules.categories is not None:
            # '' counts as null, and what is null is no violation
            known = pc.is_in(array, value_set=pa.concat_arrays([rules.categories, pa.array(["", None], pa.string())]))
            return np.asarray(pc.invert(known).to_numpy(zero_copy_only=False), dtype=np.bool_)
        case ColumnType.BOOL if rules.categories is not None:
            known = pc.is_in(
                array.cast(pa.string()), value_set=pa.concat_arrays([rules.categories, pa.nulls(1, pa.string())])
            )
            return np.asarray(pc.invert(known).to_numpy(zero_copy_only=False), dtype=np.bool_)
        case ColumnType.VECTOR if column.n_dimensions is not None:
            wrong = pc.not_equal(pc.list_value_length(array), column.n_dimensions)
            return np.asarray(pc.fill_null(wrong, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
        case _:
            return _clear(array)


def _outside(numbers: npt.NDArray[np.float64], low: float | None, high: float | None) -> Mask:
    outside = np.zeros(len(numbers), dtype=np.bool_)
    # a NaN (null) compares false throughout, and so is never out of range
    if low is not None:
        below = numbers < low
        if below.any():
            outside |= below & (low - numbers > RANGE_TOLERANCE * np.abs(np.maximum(numbers, low)))
    if high is not None:
        above = numbers > high
        if above.any():
            outside |= above & (numbers - high > RANGE_TOLERANCE * np.abs(np.maximum(numbers, high)))
    return outside


def _clear(values: Sequence[Any] | pa.Array) -> Mask:
    return np.zeros(len(values), dtype=np.bool_)


def _doubles(array: pa.Array) -> npt.NDArray[np.float64]:
    """Give a numeric array as doubles, null as NaN."""
    if not pa.types.is_float64(array.type):
        array = array.cast(pa.float64(), safe=False)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _without(array: pa.Array, gone: Mask) -> pa.Array:
    """Make the masked entries null."""
    return pc.if_else(pa.array(gone), pa.scalar(None, array.type), array) if gone.any() else array


def _cleaned(values: Sequence[Any], plain: frozenset[type], fix: Callable[[Any], Any]) -> tuple[list[Any], Mask]:
    """Pass plain values on and the others through `fix`, which gives a plain value, None, or `_BAD`."""
    clean = [value if type(value) in plain else fix(value) for value in values]
    bad = np.fromiter((value is _BAD for value in clean), np.bool_, len(clean))
    if bad.any():
        clean = [None if value is _BAD else value for value in clean]
    return clean, bad


class _Bad:
    """A value that does not fit its column."""


_BAD: Final = _Bad()


def _plain(value: Any) -> Any:
    """Turn NumPy's and pandas' scalars into Python's; everything that means null into None, the empty text included."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in {"NAType", "NaTType"} or (isinstance(value, str) and not value):
        return None
    if isinstance(value, float) and value != value:
        return None
    return value


# ------------------------------------------------------------------------------------------------ numbers


def _floats_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    bad = None
    if not set(map(type, values)) <= {float, int, _NONE}:
        values, bad = _cleaned(values, frozenset({float, int, _NONE}), lambda v: _number(rules, v))
    try:
        numbers = np.fromiter(values, np.float64, len(values))
    except OverflowError:
        # an integer beyond every double is an infinity to us
        numbers = np.fromiter(map(_double, values), np.float64, len(values))
    return _floats(rules, numbers, bad)


def _double(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _number(rules: _Rules, value: Any) -> Any:
    value = _plain(value)
    if value is None or rules.is_replaced(value):
        return None
    return value if type(value) in {int, float} else _BAD


def _floats(rules: _Rules, numbers: npt.NDArray[np.float64], bad: Mask | None) -> _Read:
    infinite = np.isinf(numbers)
    some_infinite = bool(infinite.any())
    if some_infinite or rules.null_numbers:
        gone = infinite.copy()
        for number in rules.null_numbers:
            gone |= numbers == number
        numbers = np.where(gone, np.nan, numbers)
        for number in rules.null_numbers:
            infinite &= numbers != number
    array = pa.array(numbers, pa.float64(), from_pandas=True)
    return array, _clear(numbers) if bad is None else bad, infinite if some_infinite else None


def _integers_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    kinds = set(map(type, values))
    try:
        if kinds == {int}:
            return _integers(rules, pa.array(np.fromiter(values, np.int64, len(values))), _clear(values))
        if kinds <= {int, _NONE}:
            return _integers(rules, pa.array(values, pa.int64()), _clear(values))
    except (OverflowError, pa.ArrowInvalid):
        pass  # beyond 64 bits: value by value
    if kinds <= {int, float, _NONE}:
        read = _integers_from_doubles(rules, np.fromiter(map(_double, values), np.float64, len(values)))
        if read is not None:
            return read
    infinite = _clear(values)
    if kinds - _NEVER_INFINITE:
        infinite = np.fromiter((isinstance(v, float) and v in _INFINITIES for v in values), np.bool_, len(values))
    # a few values of other types must not cost the many that are integers a call each
    clean, bad = _cleaned(values, frozenset({int, _NONE}), lambda v: _integer(rules, v))
    try:
        array = pa.array(clean, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        clean, bad = _cleaned(values, frozenset({_NONE}), lambda v: _integer(rules, v))
        array = pa.array(clean, pa.int64())
    return (*_integers(rules, array, bad)[:2], infinite if infinite.any() else None)


_INFINITIES: Final = (float("inf"), float("-inf"))
_NEVER_INFINITE: Final = frozenset({int, str, bool, list, dict, _NONE})


def _integer(rules: _Rules, value: Any) -> Any:
    value = _number(rules, value)
    if value is None or value is _BAD:
        return value
    if isinstance(value, float):
        if value in _INFINITIES:
            return None
        if not value.is_integer():
            return _BAD
        value = int(value)
    return value if -(2**63) <= value < 2**63 else _BAD


def _integers_from_doubles(rules: _Rules, numbers: npt.NDArray[np.float64]) -> _Read | None:
    """Give integers out of doubles; None where one is so large that a double does not tell it from its neighbours."""
    infinite = np.isinf(numbers)
    missing = np.isnan(numbers) | infinite
    if (np.abs(numbers[~missing]) >= 2.0**53).any():
        return None
    for number in rules.null_numbers:
        missing |= numbers == number
    whole = np.where(missing, 0.0, numbers)
    bad = whole != np.floor(whole)
    array = pa.array(np.where(bad, 0.0, whole).astype(np.int64), mask=missing | bad)
    return array, bad, infinite if infinite.any() else None


def _integers(rules: _Rules, array: pa.Array, bad: Mask) -> _Read:
    if rules.null_numbers:
        whole = [int(number) for number in rules.null_numbers if number.is_integer() and abs(number) < 2**63]
        named = pc.is_in(array, value_set=pa.array(whole, pa.int64()))
        array = _without(array, np.asarray(named.to_numpy(zero_copy_only=False), dtype=np.bool_))
    return array, bad, None


def _floats_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    kind = array.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        return None
    numbers = _doubles(array)
    if pa.types.is_float64(kind) and not array.null_count and not rules.null_numbers and np.isfinite(numbers).all():
        return array, _clear(array), None
    return _floats(rules, numbers, None)


def _integers_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    kind = array.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _integers_from_doubles(rules, _doubles(array))
    if not pa.types.is_integer(kind):
        return None
    try:
        return _integers(rules, array.cast(pa.int64()), _clear(array))
    except pa.ArrowInvalid:
        return None


# ------------------------------------------------------------------------------------------------ Booleans


def _booleans_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    if set(map(type, values)) <= {bool, _NONE} and not rules.null_texts:
        return pa.array(values, pa.bool_()), _clear(values), None
    clean, bad = _cleaned(values, frozenset({_NONE}), lambda v: _boolean(rules, v))
    return pa.array(clean, pa.bool_()), bad, None


def _boolean(rules: _Rules, value: Any) -> Any:
    value = _plain(value)
    if value is None or rules.is_replaced(value):
        return None
    if isinstance(value, bool):
        return value
    return bool(value) if isinstance(value, (int, float)) and value in {0, 1} else _BAD


def _booleans_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    if rules.null_texts:
        return None
    if pa.types.is_boolean(array.type):
        return array, _clear(array), None
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        return None
    numbers = _doubles(array)
    missing = np.isnan(numbers)
    bad = ~(missing | (numbers == 0.0) | (numbers == 1.0))
    return pa.array(numbers == 1.0, mask=missing | bad), bad, None


# ------------------------------------------------------------------------------------------------ texts


def _strings_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    if set(map(type, values)) <= {str, _NONE}:
        try:
            return _texts(rules, pa.array(values, pa.string()), _clear(values))
        except UnicodeEncodeError:
            pass  # half a surrogate pair is no text that UTF-8 could hold
    clean, bad = _cleaned(values, frozenset({_NONE}), lambda v: _text(rules, v, _ONLY_TEXT))
    return _texts(rules, pa.array(clean, pa.string()), bad)


def _categories_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    if rules.plain_categories is not None and _are_among(values, rules.plain_categories):
        return pa.array(values, pa.string()), _clear(values), None
    kinds = set(map(type, values))
    if kinds <= {str, _NONE} and str in rules.accepts:
        return _strings_from_values(rules, values)
    if kinds <= {int, _NONE} and int in rules.accepts:
        try:
            return _texts(rules, pa.array(values, pa.int64()).cast(pa.string()), _clear(values))
        except (OverflowError, pa.ArrowInvalid):
            pass
    clean, bad = _cleaned(values, frozenset({_NONE}), lambda v: _text(rules, v, rules.accepts))
    return _texts(rules, pa.array(clean, pa.string()), bad)


def _are_among(values: Sequence[Any], known: frozenset[str | None]) -> bool:
    """Whether every value is one of these texts: the few distinct ones of a category are looked at once each."""
    try:
        return known.issuperset(values)
    except TypeError:
        return False  # a list or an object among them


_ONLY_TEXT: Final = frozenset({str})


def _text(rules: _Rules, value: Any, accepts: frozenset[type]) -> Any:
    if isinstance(value, str) and not value and str in accepts and value not in rules.null_texts:
        return ""  # counts as null, and keeps its value
    value = _plain(value)
    if value is None or rules.is_replaced(value):
        return None
    if value in _INFINITIES:
        return None if accepts & {int, float} else _BAD
    kind: type = type(value)
    if kind is float and value.is_integer() and int in accepts:
        kind, value = int, int(value)
    if kind is int and float in accepts:
        kind = float
    if kind not in accepts:
        return _BAD
    text = scalar_text(value)
    return text if _is_utf8(text) else _BAD


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(rules: _Rules, array: pa.Array, bad: Mask) -> _Read:
    if rules.null_set is not None:
        named = pc.is_in(array, value_set=rules.null_set)
        array = _without(array, np.asarray(named.to_numpy(zero_copy_only=False), dtype=np.bool_))
    return array, bad, None


def _strings_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    if not _is_text(array.type):
        return None
    array = array.cast(pa.string())
    if not is_utf8(array):
        return _strings_from_values(rules, [_decoded(value) for value in array.cast(pa.binary()).to_pylist()])
    return _texts(rules, array, _clear(array))


def is_utf8(array: pa.StringArray) -> bool:
    """Say whether every text of an array, whose offsets must be right, is UTF-8."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return True
    ends = np.frombuffer(offsets, np.int32)
    letters = np.frombuffer(data, np.uint8)[ends[array.offset] : ends[array.offset + len(array)]]
    if not len(letters) or letters.max() < 0x80:  # ASCII, as most are: a tenth of the time
        return True
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decoded(value: bytes | None) -> str | bytes | None:
    """Give the text of UTF-8 bytes, or the bytes themselves, which fit no column."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _categories_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    if _is_text(array.type) and str in rules.accepts:
        return _strings_from_arrow(rules, array)
    if pa.types.is_integer(array.type) and rules.accepts & {int, float}:
        return _texts(rules, array.cast(pa.string()), _clear(array))
    if pa.types.is_boolean(array.type) and bool in rules.accepts:
        return _texts(rules, array.cast(pa.string()), _clear(array))
    return None


# ------------------------------------------------------------------------------------------------ times


def _times_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    kinds = set(map(type, values))
    try:
        if kinds <= {int, _NONE} and not rules.null_texts:
            return _times(pa.array(values, pa.int64()), _clear(values))
        if kinds <= {str, _NONE} and not rules.null_texts:
            return _times_from_texts(pa.array(values, pa.string()))
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError):
        pass
    clean, bad = _cleaned(values, frozenset({_NONE}), lambda v: _time(rules, v))
    return _times(pa.array(clean, pa.int64()), bad)


def _time(rules: _Rules, value: Any) -> Any:
    """Give Unix milliseconds of a number, a text or a datetime; a part of a millisecond is cut off."""
    if isinstance(value, np.datetime64):
        value = None if np.isnat(value) else int(value.astype("datetime64[ms]").astype(np.int64))
    value = _plain(value)
    if value is None or rules.is_replaced(value):
        return None
    if isinstance(value, str):
        value = parse_rfc3339_ms(value)
    elif isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        value = (moment - _EPOCH) // timedelta(milliseconds=1)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not TIMESTAMP_MS_MIN <= value <= TIMESTAMP_MS_MAX:
        return _BAD
    return value


def parse_rfc3339_ms(text: str) -> int | None:
    """Give the Unix milliseconds of an RFC 3339 time (fractions cut), or None where it is none."""
    us = parse_rfc3339_us(text)
    return None if us is None else us // 1000


def parse_rfc3339_us(text: str) -> int | None:
    """Give the Unix microseconds of an RFC 3339 time (fractions cut), or None where it is none."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    date, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1) + int((fraction or "0")[:6].ljust(6, "0"))


def _times_from_texts(array: pa.Array) -> _Read:
    """Give times out of texts, vectorised; raises ArrowInvalid where one is not plain."""
    if not pc.all(pc.match_substring_regex(array, _RFC3339_PLAIN), min_count=0).as_py():
        message = "not every text is a plain RFC 3339 time"
        raise pa.ArrowInvalid(message)
    nanos_fit = pc.all(pc.less_equal(pc.binary_length(array), 32)).as_py()
    unit = "us" if nanos_fit else "ns"
    parsed = array.cast(pa.timestamp(unit, tz="UTC"))
    return _times(_floored_ms(parsed), _clear(array))


def _floored_ms(array: pa.Array) -> pa.Array:
    """Give Unix milliseconds of a timestamp array, rounded down."""
    per_ms = {"s": None, "ms": 1, "us": 1_000, "ns": 1_000_000}[array.type.unit]
    if per_ms is None:
        return array.cast(pa.timestamp("ms", tz=array.type.tz)).cast(pa.int64())
    ticks = array.cast(pa.int64())
    if per_ms == 1:
        return ticks
    # an integer division cuts towards zero; times before 1970 must go down as well
    return pc.divide(pc.subtract(ticks, pc.if_else(pc.less(ticks, 0), per_ms - 1, 0)), per_ms)


def _times(ticks: pa.Array, bad: Mask) -> _Read:
    outside = pc.or_(pc.less(ticks, TIMESTAMP_MS_MIN), pc.greater(ticks, TIMESTAMP_MS_MAX))
    wrong = np.asarray(pc.fill_null(outside, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
    return _without(ticks, wrong).cast(_TIMESTAMP), bad | wrong, None


def _times_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    kind = array.type
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("ms"))
        kind = array.type
    try:
        if pa.types.is_timestamp(kind):
            return _times(_floored_ms(array), _clear(array))
        if pa.types.is_integer(kind) and not rules.null_texts:
            return _times(array.cast(pa.int64()), _clear(array))
        if _is_text(kind) and not rules.null_texts:
            return _times_from_texts(array.cast(pa.string()))
    except pa.ArrowInvalid:
        pass
    return None


# ------------------------------------------------------------------------------------------------ vectors


def _vectors_from_values(rules: _Rules, values: Sequence[Any]) -> _Read:
    if set(map(type, values)) <= {list, _NONE} and not rules.null_texts:
        numbers = chain.from_iterable(value for value in values if value is not None)
        if set(map(type, numbers)) <= {float}:
            return pa.array(values, pa.list_(pa.float64())), _clear(values), None
    clean, bad = _cleaned(values, frozenset({_NONE}), lambda v: _vector(rules, v))
    return pa.array(clean, pa.list_(pa.float64())), bad, None


def _vector(rules: _Rules, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    value = _plain(value)
    if value is None or rules.is_replaced(value):
        return None
    if not isinstance(value, (list, tuple)):
        return _BAD
    kinds = set(map(type, value))
    if kinds <= {float}:
        return value
    return [_double(number) for number in value] if kinds <= {float, int} else _BAD


def _vectors_from_arrow(rules: _Rules, array: pa.Array) -> _Read | None:
    if rules.null_texts:
        return None
    kind = array.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not nested or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return None
    lists = array.cast(pa.list_(pa.float64()))
    if lists.flatten().null_count:
        return None  # a null among the numbers: value by value
    return lists, _clear(array), None


_FROM_VALUES: Final[Mapping[ColumnType, Callable[[_Rules, Sequence[Any]], _Read]]] = {
    ColumnType.INT: _integers_from_values,
    ColumnType.FLOAT: _floats_from_values,
    ColumnType.BOOL: _booleans_from_values,
    ColumnType.STRING: _strings_from_values,
    ColumnType.CATEGORY: _categories_from_values,
    ColumnType.TIMESTAMP: _times_from_values,
    ColumnType.VECTOR: _vectors_from_values,
}
_FROM_ARROW: Final[Mapping[ColumnType, Callable[[_Rules, pa.Array], _Read | None]]] = {
    ColumnType.INT: _integers_from_arrow,
    ColumnType.FLOAT: _floats_from_arrow,
    ColumnType.BOOL: _booleans_from_arrow,
    ColumnType.STRING: _strings_from_arrow,
    ColumnType.CATEGORY: _categories_from_arrow,
    ColumnType.TIMESTAMP: _times_from_arrow,
    ColumnType.VECTOR: _vectors_from_arrow,
}
