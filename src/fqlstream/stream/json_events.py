"""JSON records of one fetch, read as a batch.

Nearly all records of a fetch belong to few (model, version, kind). For each, a msgspec struct is generated that declares
exactly that model's columns and accepts only its envelope. Whatever such a struct refuses, for whatever reason, is read
again by the slow rules in `_examine`: they are the definition of what an event is, and tests hold the two to agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from operator import length_hint
from typing import Any, Final, Literal, NoReturn

import msgspec
import numpy as np
import pyarrow as pa

from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS, coerce_values, violation_lists
from fqlstream.events.definitions import Column, ModelDefinition
from fqlstream.events.refusals import (
    BROKEN_JSON,
    EMPTY,
    NO_COLUMNS,
    NO_EVENT_ID,
    NOT_AN_EVENT,
    NOT_UTF8,
    OVERSIZE,
    TOO_DEEP,
    RefusedError,
)
from fqlstream.events.times import event_at_ms, event_times_ms
from fqlstream.stream.batches import Fetch, RowKind, WatermarkMark
from fqlstream.stream.findings import (
    Context,
    Findings,
    Ints,
    Key,
    Refused,
    UnknownModelError,
    far_times,
    model_version,
    no_time,
    row_kind,
    shown,
    time_fault,
)

#: Records whose envelopes are looked at to guess whether the whole fetch is of one shape.
_SAMPLE: Final = 16
#: A guessed shape is given up once it refused more records than this, and more than one in eight.
_FOREIGN_MAX: Final = 32
#: More ways than this to begin a record, and grouping by them gains nothing.
_PREFIXES_MAX: Final = 256
#: Records that are looked at together before they are decoded: about 100 KB of common events.
_RUN: Final = 512
#: Generated structs kept; a few kilobytes each. A larger catalogue makes them again.
_SHAPES_MAX: Final = 4_096
#: A longer integer is infinite to every type we have; Python itself refuses to read one of 4,301 digits.
_INTEGER_DIGITS_MAX: Final = 4_000
#: An event and its columns object: every event that was decoded opens at least these two.
_OPENINGS_MIN: Final = 2
#: Columns of a model's events that the model lacks, and that are told apart: more of them are no slip of a definition.
_FOREIGN_COLUMNS_MAX: Final = 256
#: What msgspec cannot rename a field to.
_UNNAMEABLE: Final = re.compile(r'[\x00-\x1f"\\]')
_REFUSED_BY_MSGSPEC: Final = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
#: A text, or the rest of the value where it does not end.
_TEXTS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class _Envelope(msgspec.Struct, gc=False):
    model: str
    version: str | None = None
    type: str | None = None


class _Nothing(msgspec.Struct):
    """Declares no field: its decoder checks JSON's grammar and builds nothing."""


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_ANYTHING: Final = msgspec.json.Decoder()
_GRAMMAR: Final = msgspec.json.Decoder(_Nothing)


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """How events of one model version and kind are read. One object each, so compared by identity."""

    model: ModelDefinition
    kind: RowKind
    columns: tuple[Column, ...]
    foreign: frozenset[str]  # columns that events of this model were seen to hold, and that it lacks
    decode: Callable[[bytes], Any]
    event: Callable[[Any, Any, Any], Any]  # makes an event of event_id, event_at and what `values` gives
    values: Callable[[dict[str, Any]], Any]  # makes an event's columns of a JSON object
    getters: tuple[Callable[[list[Any]], list[Any]], ...]  # the values of one column out of many events' columns

    @property
    def key(self) -> Key:
        return self.model.name, self.model.version, self.kind


@dataclass(slots=True)
class _Batch:
    """The records being read: `values[i]` stands at `places[i]` of the fetch and becomes `events[i]`."""

    fetch: Fetch
    places: Ints
    values: Sequence[bytes | None]
    context: Context
    events: list[Any]
    found: Findings = field(default_factory=Findings)
    members: dict[Key, list[int]] = field(default_factory=dict)  # which events are of a shape
    shapes: dict[Key, _Shape] = field(default_factory=dict)
    envelopes: dict[tuple[str, str | None, str | None], _Shape | None] = field(default_factory=dict)

    @property
    def decoded_count(self) -> int:
        """How many records have become events so far."""
        return sum(map(len, self.members.values()))

    def shape(self, envelope: _Envelope) -> _Shape | None:
        """Give the shape an envelope asks for; None where it is refused, or is no row (a watermark)."""
        key = envelope.model, envelope.version, envelope.type
        if key not in self.envelopes:
            try:
                model = model_version(self.context.catalogue, envelope.model, envelope.version)
                self.envelopes[key] = self.shape_of(model, row_kind(envelope.type))
            except RefusedError:
                self.envelopes[key] = None
        return self.envelopes[key]

    def shape_of(self, model: ModelDefinition, kind: RowKind) -> _Shape:
        """Give the shape of a model version and kind."""
        key = model.name, model.version, kind
        if key not in self.shapes:
            newest = self.context.catalogue.models[model.name].newest is model
            self.shapes[key] = _shape(model, kind, self.context.columns_of(model, kind), newest=newest)
        return self.shapes[key]


def read_json(fetch: Fetch, at: Sequence[int], context: Context) -> Findings:
    """Read the JSON records that stand at these places of a fetch, in order."""
    values = fetch.values if len(at) == len(fetch.values) else [fetch.values[i] for i in at]
    batch = _Batch(fetch, np.asarray(at, np.int64), values, context, events=[None] * len(values))
    left, openings = _readable(values, context)
    refused: dict[int, _Shape] = {}
    for group in (_by_sample, _by_prefix, _by_envelope):
        for shape, members in group(batch, left).items():
            # what a shape has refused already it would refuse again
            fresh = [i for i in members if refused.get(i) is not shape] if refused else members
            refused.update(dict.fromkeys(_decode_as(batch, shape, fresh), shape))
        left = [i for i in left if batch.events[i] is None] if batch.decoded_count < len(left) else []
    _set_deep_aside(batch, openings)
    if batch.decoded_count < len(values):
        for i, event in enumerate(batch.events):
            if event is None:
                _examine_into(batch, i)
    for key, members in batch.members.items():
        shape = batch.shapes[key]
        if members and (shape.foreign or _hold_foreign(batch, shape, members)):
            batch.found.foreign.add(shape.model.name)
        _tabulate(batch, shape)
    return batch.found


# ------------------------------------------------------------------------------------------ whole batches


def _readable(values: Sequence[bytes | None], context: Context) -> tuple[Sequence[int], int]:
    """Give which records are worth decoding (of a bearable size, in UTF-8), and how many brackets all of them open."""
    openings = 0
    unreadable: list[int] = []
    # in runs that stay in a core's cache
    for start in range(0, len(values), _RUN):
        run = values[start : start + _RUN]
        try:
            joined = b"\n".join(run)  # type: ignore[arg-type]  # a None raises
        except TypeError:
            joined = b"\n".join(value or b"" for value in run)
        # one bit tells a brace from a bracket, so that one comparison finds both
        openings += int(np.count_nonzero((np.frombuffer(joined, np.uint8) & 0xDF) == ord("[")))
        if len(joined) > context.record_bytes_max or not _is_utf8(joined):
            unreadable += [start + i for i, value in enumerate(run) if not _is_bearable(value, context)]
    if not unreadable:
        return range(len(values)), openings
    gone = set(unreadable)
    return [i for i in range(len(values)) if i not in gone], openings


def _is_bearable(value: bytes | None, context: Context) -> bool:
    return value is not None and len(value) <= context.record_bytes_max and _is_utf8(value)


def _is_utf8(value: bytes) -> bool:
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _by_sample(batch: _Batch, members: Sequence[int]) -> dict[_Shape, Sequence[int]]:
    """Take all records for one shape where a sample of them has one."""
    # spread over the fetch: a model's records come in runs
    groups = _by_envelope(batch, members[:: max(1, len(members) // _SAMPLE)])
    return dict.fromkeys(groups, members) if len(groups) == 1 else {}


def _by_prefix(batch: _Batch, members: Sequence[int]) -> dict[_Shape, Sequence[int]]:
    """Take records that begin alike, up to their event_id, for one shape: producers write their keys in one order."""
    groups: dict[bytes, list[int]] = {}
    for i in members:
        value = batch.values[i] or b""
        groups.setdefault(value[: value.find(b'"event_id"')], []).append(i)
    if len(groups) > _PREFIXES_MAX:
        return {}
    shapes: dict[_Shape, list[int]] = {}
    for alike in groups.values():
        for shape in _by_envelope(batch, alike[:1]):
            shapes.setdefault(shape, []).extend(alike)
    return {shape: sorted(alike) for shape, alike in shapes.items()}


def _by_envelope(batch: _Batch, members: Sequence[int]) -> dict[_Shape, Sequence[int]]:
    """Group records by the shape that their envelope asks for; those without a usable one are in no group."""
    groups: dict[_Shape, list[int]] = {}
    for i in members:
        try:
            shape = batch.shape(_ENVELOPE.decode(batch.values[i]))  # type: ignore[arg-type]  # a None raises
        except _REFUSED_BY_MSGSPEC:
            continue
        if shape is not None:
            groups.setdefault(shape, []).append(i)
    return dict(groups)


def _decode_as(batch: _Batch, shape: _Shape, members: Sequence[int]) -> list[int]:
    """Decode records as events of this shape and give those it refused; of a wrong guess it gives up soon."""
    whole = len(members) == len(batch.values)
    events: list[Any] = []
    failed: list[int] = []
    rest = iter(batch.values if whole else [batch.values[i] for i in members])
    while True:
        try:
            events.extend(map(shape.decode, rest))  # type: ignore[arg-type]  # a None raises
        except _REFUSED_BY_MSGSPEC:
            # what was decoded before the failure stays in the list; the failed record itself has been taken
            failed.append(members[len(events)])
            events.append(None)
            if len(events) + length_hint(rest) != len(members):
                raise AssertionError("a list did not keep what it was extended by before an error") from None
            if len(failed) > max(_FOREIGN_MAX, len(events) // 8):
                break
        else:
            break
    if whole and len(events) == len(members):
        batch.events = events
    else:
        for i, event in zip(members, events, strict=False):
            batch.events[i] = event
    decoded = members[: len(events)]
    if failed:
        decoded = [i for i, event in zip(decoded, events, strict=True) if event is not None]
    batch.members.setdefault(shape.key, []).extend(decoded)
    return failed


def _set_deep_aside(batch: _Batch, openings: int) -> None:
    """Give events back that may be nested too deeply: a decoder skips what no column reads, however deep.

    The brackets that all records open bound what one can; only where that bound is too weak are they counted by record.
    """
    limit = batch.context.settings.json_depth_max
    decoded = batch.decoded_count
    if decoded < len(batch.values):
        undecoded = (value for value, event in zip(batch.values, batch.events, strict=True) if event is None and value)
        openings -= sum(map(openings_of, undecoded))
    if openings - _OPENINGS_MIN * (decoded - 1) <= limit:
        return
    for members in batch.members.values():
        deep = {i for i in members if openings_of(batch.values[i] or b"") > limit}
        for i in deep:
            batch.events[i] = None
        if deep:
            members[:] = [i for i in members if i not in deep]


def openings_of(value: bytes) -> int:
    """Count the brackets that open: no fewer than a value nests."""
    return value.count(b"{") + value.count(b"[")


def _hold_foreign(batch: _Batch, shape: _Shape, members: list[int]) -> bool:
    """Say whether events hold columns that their model lacks, where they were decoded without looking at that."""
    if not isinstance(batch.events[members[0]].columns, dict):
        return False
    known = {column.name for column in shape.model.columns}
    return any(not known.issuperset(batch.events[i].columns) for i in members)


# ------------------------------------------------------------------------------------------ one record by the rules


def _examine_into(batch: _Batch, i: int) -> None:
    """Read one record by the rules: it becomes an event, a watermark or a refusal."""
    record_at_ms = int(batch.fetch.record_at_ms[int(batch.places[i])])
    try:
        event = parse_object(batch.values[i], batch.context)
        model = model_version(batch.context.catalogue, event.get("model"), event.get("version"))
        if event.get("type") == "watermark":
            at_ms = _checked_time(event.get("event_at"), record_at_ms, batch.context)
            batch.found.marks.append(WatermarkMark(model.name, at_ms, int(batch.fetch.offsets[int(batch.places[i])])))
            return
        shape = batch.shape_of(model, row_kind(event.get("type")))
        event_id, columns = _checked_id(event.get("event_id")), _columns(event)
        batch.events[i] = shape.event(event_id, event.get("event_at"), shape.values(columns))
        if foreign := columns.keys() - {column.name for column in model.columns}:
            batch.found.foreign.add(model.name)
            _remember_foreign(model, foreign)
        batch.members.setdefault(shape.key, []).append(i)
    except UnknownModelError as error:
        batch.found.unknown_models.add(error.model)
        batch.found.refused.append(Refused(int(batch.places[i]), error.refusal, error.reason))
    except RefusedError as error:
        batch.found.refused.append(Refused(int(batch.places[i]), error.refusal, error.reason))


def parse_object(value: bytes | None, context: Context) -> dict[str, Any]:
    """Give the JSON object of a record; raises RefusedError."""
    if not value:
        raise RefusedError(EMPTY, "the value is null" if value is None else "the value is empty")
    if len(value) > context.record_bytes_max:
        raise RefusedError(OVERSIZE, f"the value has {len(value)} bytes, the limit is {context.record_bytes_max}")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(NOT_UTF8, f"byte {error.start} is not UTF-8: {error.reason}") from None
    limit = context.settings.json_depth_max
    if openings_of(value) > limit and _depth(value) > limit:
        raise RefusedError(TOO_DEEP, f"nested deeper than {limit}")
    try:
        event = _loads(value, text)
    except (msgspec.DecodeError, ValueError) as error:
        raise RefusedError(BROKEN_JSON, f"not JSON: {error}") from None
    if not isinstance(event, dict):
        raise RefusedError(NOT_AN_EVENT, f"the JSON is {shown(event)}")
    return event


def _loads(value: bytes, text: str) -> Any:
    try:
        return _ANYTHING.decode(value)
    except msgspec.ValidationError:
        pass  # a number beyond every double: JSON all the same, and to a column an infinity
    try:
        _GRAMMAR.decode(value)
    except msgspec.ValidationError:
        return float("inf")  # nothing but that number
    return json.loads(text, parse_int=_integer, parse_constant=_no_constant)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _INTEGER_DIGITS_MAX else float("-inf" if digits.startswith("-") else "inf")


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _depth(value: bytes) -> int:
    """Give how deep brackets nest outside of texts; millions of them must not cost a loop."""
    brackets = np.frombuffer(_TEXTS.sub(b"", value).translate(None, _NO_BRACKETS), np.uint8)
    steps = np.where((brackets & 0xDF) == ord("["), np.int8(1), np.int8(-1))
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _checked_id(event_id: Any) -> str:
    if isinstance(event_id, int) and not isinstance(event_id, bool):
        return str(event_id)
    if not isinstance(event_id, str) or not event_id:
        reason = "event_id is missing" if event_id is None else f"event_id is {shown(event_id)}"
        raise RefusedError(NO_EVENT_ID, reason)
    return event_id


def _columns(event: dict[str, Any]) -> dict[str, Any]:
    columns = event.get("columns")
    if not isinstance(columns, dict):
        raise RefusedError(NO_COLUMNS, "columns is missing" if columns is None else f"columns is {shown(columns)}")
    return columns


def _checked_time(value: Any, record_at_ms: int, context: Context) -> int:
    at_ms = record_at_ms if value is None else event_at_ms(value)
    if at_ms is None:
        raise no_time(value)
    fault = time_fault(at_ms, record_at_ms, context.settings)
    if fault is not None:
        raise fault
    return at_ms


# ------------------------------------------------------------------------------------------ events to a table


def _tabulate(batch: _Batch, shape: _Shape) -> None:
    """Turn the events of one shape into a table, those with an unusable id or time into refusals."""
    members = batch.members[shape.key]
    members.sort()
    events = batch.events if len(members) == len(batch.events) else [batch.events[i] for i in members]
    at = batch.places if len(members) == len(batch.events) else batch.places[members]
    record_at = np.asarray(batch.fetch.record_at_ms, np.int64)[at]
    ids = [event.event_id for event in events]
    ids = pa.array(ids if set(map(type, ids)) == {str} else list(map(str, ids)), pa.string())
    times = [event.event_at for event in events]
    event_at, no_times = event_times_ms(times, record_at)
    bad = no_times | far_times(event_at, record_at, batch.context.settings)
    bad |= np.asarray(pa.compute.equal(ids, "").to_numpy(zero_copy_only=False))
    if bad.any():
        for i in np.flatnonzero(bad).tolist():
            batch.found.refused.append(
                _refuse_row(int(at[i]), ids[i].as_py(), times[i], int(record_at[i]), batch.context)
            )
        good = np.flatnonzero(~bad)
        events = [events[i] for i in good.tolist()]
        ids, at, record_at, event_at = ids.take(pa.array(good)), at[good], record_at[good], event_at[good]
    if not events:
        return
    envelope = {
        "offset": np.asarray(batch.fetch.offsets, np.int64)[at],
        "row": np.zeros(len(at), np.int32),
        "record_at": record_at,
        "event_at": event_at,
        "event_id": ids,
    }
    columns = _typed([event.columns for event in events], shape)
    batch.found.tables.setdefault(shape.key, []).append(pa.table(envelope | columns))


def _typed(values: list[Any], shape: _Shape) -> dict[str, pa.Array]:
    arrays: dict[str, pa.Array] = {}
    type_bad, range_bad = {}, {}
    for column, get in zip(shape.columns, shape.getters, strict=True):
        name = column.name
        arrays[name], type_bad[name], range_bad[name] = coerce_values(get(values), column)
    arrays[TYPE_VIOLATIONS] = violation_lists(len(values), type_bad)
    arrays[RANGE_VIOLATIONS] = violation_lists(len(values), range_bad)
    return arrays


def _refuse_row(at: int, event_id: str, event_at: Any, record_at_ms: int, context: Context) -> Refused:
    try:
        _checked_id(event_id)
        _checked_time(event_at, record_at_ms, context)
    except RefusedError as error:
        return Refused(at, error.refusal, error.reason)
    message = f"a row was refused that the rules accept: {shown(event_id)}, {shown(event_at)}"
    raise AssertionError(message)


# ------------------------------------------------------------------------------------------ generated structs

#: By identity of the model, since equal definitions may differ in what they mean (1 == True); an entry keeps its model alive.
_SHAPES: dict[tuple[int, RowKind, bool, tuple[str, ...]], _Shape] = {}
#: By identity of the model too. It makes decoding fast and changes no row: a shape skips what it knows it can skip.
_FOREIGN: dict[int, tuple[ModelDefinition, frozenset[str]]] = {}


def _shape(model: ModelDefinition, kind: RowKind, columns: tuple[Column, ...], *, newest: bool) -> _Shape:
    key = id(model), kind, newest, tuple(column.name for column in columns)
    shape = _SHAPES.get(key)
    foreign = _foreign(model)
    if shape is None or shape.model is not model or shape.foreign != foreign:
        if len(_SHAPES) >= _SHAPES_MAX:
            _SHAPES.clear()
        shape = _SHAPES[key] = _generate(model, kind, columns, foreign, newest=newest)
    return shape


def _foreign(model: ModelDefinition) -> frozenset[str]:
    known, foreign = _FOREIGN.get(id(model), (None, frozenset()))
    return foreign if known is model else frozenset()


def _remember_foreign(model: ModelDefinition, names: Set[str]) -> None:
    """Have later fetches skip these columns without looking at their events one by one."""
    before = _foreign(model)
    if len(before) <= _FOREIGN_COLUMNS_MAX and not names <= before:
        if len(_FOREIGN) >= _SHAPES_MAX:
            _FOREIGN.clear()
        _FOREIGN[id(model)] = model, frozenset(islice(chain(before, names - before), _FOREIGN_COLUMNS_MAX + 1))


def _generate(
    model: ModelDefinition, kind: RowKind, columns: tuple[Column, ...], foreign: frozenset[str], *, newest: bool
) -> _Shape:
    names = [column.name for column in columns]
    is_closed = len(foreign) <= _FOREIGN_COLUMNS_MAX
    skipped = {column.name for column in model.columns}.union(foreign).difference(names) if is_closed else ()
    values_type, make_values, getters = _values_type(names, sorted(skipped), is_closed=is_closed)
    # what may be left out has a default: the type of an inference, the version of the newest
    kinds = Literal["inference", None] if kind is RowKind.INFERENCE else Literal["label"]
    versions = Literal[model.version, None] if newest else Literal[model.version]
    event = msgspec.defstruct(
        "Event",
        [
            ("model", Literal[model.name]),
            ("event_id", str | int),
            ("columns", values_type),
            ("type", kinds, None) if kind is RowKind.INFERENCE else ("type", kinds),
            ("version", versions, None) if newest else ("version", versions),
            ("event_at", str | int | None, None),
        ],
        gc=False,
        kw_only=True,
    )
    return _Shape(
        model=model,
        kind=kind,
        columns=columns,
        foreign=foreign,
        decode=msgspec.json.Decoder(event).decode,
        event=lambda event_id, event_at, values: event(
            model=model.name,
            version=model.version,
            type=kind.value,
            event_id=event_id,
            event_at=event_at,
            columns=values,
        ),
        values=make_values,
        getters=getters,
    )


def _values_type(
    names: list[str], skipped: list[str], *, is_closed: bool
) -> tuple[Any, Callable[[dict[str, Any]], Any], tuple[Callable[[list[Any]], list[Any]], ...]]:
    """Give a type for the columns object, how to make one of a JSON object, and how to read each column of many.

    A closed one refuses an object with any other column than these names and those that are skipped.
    """
    if any(_UNNAMEABLE.search(name) for name in names):
        return dict[str, Any], lambda columns: columns, tuple(_item_getter(name) for name in names)
    skipped = [name for name in skipped if not _UNNAMEABLE.search(name)]
    fields = [f"c{index}" for index in range(len(names) + len(skipped))]
    values = msgspec.defstruct(
        "Columns",
        # any value at all: a column that does not fit its type is no reason to read the event again
        [(name, Any if index < len(names) else msgspec.Raw, None) for index, name in enumerate(fields)],
        rename=dict(zip(fields, [*names, *skipped], strict=True)),
        forbid_unknown_fields=is_closed,
        gc=False,
    )
    getters = tuple(_field_getter(index) for index in range(len(names)))
    return values, lambda columns: values(*map(columns.get, names)), getters


def _item_getter(name: str) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [row.get(name) for row in rows]


@cache
def _field_getter(index: int) -> Callable[[list[Any]], list[Any]]:
    # written out, an attribute costs half of what attrgetter or getattr do; the text holds nothing but our own number
    getter: Callable[[list[Any]], list[Any]] = eval(f"lambda rows: [row.c{index:d} for row in rows]")  # noqa: S307  # a number and nothing else goes in
    return getter
