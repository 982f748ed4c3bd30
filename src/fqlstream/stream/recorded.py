"""Metric events of one partition: records in, rows, summaries and refusals out. Pure; the limit of a list is decided here.

What becomes of a record is a function of the log before it and of nothing else: whoever applies it, and however the log is cut
into fetches, takes the same verdict. So verdicts may be told before anything is durable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from fqlstream.aggregates.running import RunningSummary
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.payloads import JOB_METRIC_NAME
from fqlstream.events.refusals import (
    BAD_FORGET,
    BAD_LIST_VALUES,
    BAD_METRIC_NAME,
    BAD_METRIC_TIME,
    BAD_METRIC_VALUE,
    BAD_STEP,
    LIST_FULL,
    NO_RECORD_ID,
    POISON,
    UNKNOWN_METRIC_TYPE,
    RefusedError,
)
from fqlstream.events.times import event_at_us
from fqlstream.settings import KafkaSettings, RecordSettings, StreamSettings
from fqlstream.stream.batches import DeadLetter, Fetch
from fqlstream.stream.findings import Context, shown
from fqlstream.stream.json_events import openings_of, parse_object

Floats = npt.NDArray[np.float64]
Kind = Literal["execution", "job"]

#: Years 1 to 9999: what every language's calendar can show.
_AT_US_MIN: Final = -62_135_596_800_000_000
_AT_US_MAX: Final = 253_402_300_799_999_999
_JOB_NAME: Final = re.compile(JOB_METRIC_NAME)
_NAMED_NUMBERS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_RECORD_BYTES_MAX: Final[int] = KafkaSettings.model_fields["record_bytes_max"].default
#: What a row of numbers takes in memory beside its texts, about.
_ROW_BYTES: Final = 200


@dataclass(frozen=True, slots=True, order=True)
class ListKey:
    """One list of an execution."""

    execution_id: str
    name: str


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """A number of an execution; `at_us` is when it was measured, `record_at_ms` the record's time. Fields as columns."""

    execution_id: str
    name: str
    value: float
    at_us: int
    record_at_ms: int
    offset: int


@dataclass(frozen=True, slots=True)
class JobRow:
    """A number of a job at a step."""

    job_id: str
    name: str
    step: int
    value: float
    at_us: int
    record_at_ms: int
    offset: int


@dataclass(frozen=True, slots=True)
class ListRow:
    """What one record appended to a list that held `start` values."""

    execution_id: str
    name: str
    start: int
    values: Floats
    at_us: int
    record_at_ms: int
    offset: int


@dataclass(frozen=True, slots=True)
class ForgetRow:
    """Everything recorded of an execution or job below this offset is gone."""

    kind: Kind
    id: str
    record_at_ms: int
    offset: int


Row = PipelineRow | JobRow | ListRow | ForgetRow


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is not stored: where it stands in the fetch, why, and what its list holds."""

    at: int
    code: str
    message: str
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A fetch, read: rows in log order (a list's without its start, which is decided later), and what has no usable form."""

    rows: Sequence[Row]
    places: Sequence[int]  # of each row in the fetch
    refused: Sequence[Refused]


# ---- records to rows -----------------------------------------------------------------------------------------------


class _Pipeline(msgspec.Struct, tag="pipeline_metric", tag_field="type", gc=False):
    id: str | int
    name: str
    value: float
    at: str | int | None = None


class _List(msgspec.Struct, tag="list_metric", tag_field="type", gc=False):
    id: str | int
    name: str
    values: list[float]
    at: str | int | None = None


class _Job(msgspec.Struct, tag="job_metric", tag_field="type", gc=False):
    id: str | int
    name: str
    value: float
    step: int = 0
    at: str | int | None = None


class _Forget(msgspec.Struct, tag="forget", tag_field="type", gc=False):
    id: str | int
    kind: Kind


_Event = _Pipeline | _List | _Job | _Forget
_DECODE: Final = msgspec.json.Decoder(_Event).decode
_REFUSED_BY_MSGSPEC: Final = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What metric events are read against."""

    record: RecordSettings = field(default_factory=RecordSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)
    record_bytes_max: int = _RECORD_BYTES_MAX

    def context(self) -> Context:
        """Give the rules that all JSON records have in common."""
        return Context(Catalogue(), self.stream, self.record_bytes_max)


def read(fetch: Fetch, limits: Limits) -> Read:
    """Read records, each on its own. A record of plain form is decoded at once; any other by the rules in `_examine`."""
    context = limits.context()
    rows: list[Row] = []
    places: list[int] = []
    refused: list[Refused] = []
    offsets, times = fetch.offsets.tolist(), fetch.record_at_ms.tolist()
    for at, value in enumerate(fetch.values):
        try:
            event = _plain(value, context)
            rows.append(_row(event if event is not None else _examine(value, context), offsets[at], times[at], limits))
            places.append(at)
        except RefusedError as error:
            refused.append(Refused(at, error.refusal.code, error.reason))
    return Read(rows, places, refused)


def _plain(value: bytes | None, context: Context) -> _Event | None:
    """Decode a record of plain form; None where the rules have to look at it."""
    if not value or len(value) > context.record_bytes_max or openings_of(value) > context.settings.json_depth_max:
        return None
    try:
        return _DECODE(value) if value.isascii() or value.decode() else None
    except _REFUSED_BY_MSGSPEC:
        return None


def _examine(value: bytes | None, context: Context) -> _Event:
    """Read one record by the rules. Raises RefusedError."""
    event = parse_object(value, context)
    name, id_, at = event.get("name"), event.get("id"), event.get("at")
    match event.get("type"):
        case "pipeline_metric":
            return _Pipeline(_checked_id(id_), _checked_name(name), _checked_number(event.get("value")), at)
        case "list_metric":
            return _List(_checked_id(id_), _checked_name(name), _checked_numbers(event.get("values")), at)
        case "job_metric":
            number = _checked_number(event.get("value"))
            return _Job(_checked_id(id_), _checked_name(name), number, _checked_step(event.get("step", 0)), at)
        case "forget":
            kind = event.get("kind")
            if kind != "execution" and kind != "job":  # a set would ask for the hash of whatever was sent
                raise RefusedError(BAD_FORGET, f"kind is {shown(kind)}")
            return _Forget(_checked_id(id_), kind)
        case other:
            raise RefusedError(UNKNOWN_METRIC_TYPE, "type is missing" if other is None else f"type is {shown(other)}")


def _row(event: _Event, offset: int, record_at_ms: int, limits: Limits) -> Row:
    """Give the row of an event whose fields have the right types. Raises RefusedError for what they hold."""
    longest = limits.record.name_characters_max
    id_ = _bounded_id(event.id, longest)
    if isinstance(event, _Forget):
        return ForgetRow(event.kind, id_, record_at_ms, offset)
    if not 0 < len(event.name) <= longest:
        raise RefusedError(
            BAD_METRIC_NAME, f"name {shown(event.name)} has {len(event.name)} characters, {longest} are allowed"
        )
    at_us = record_at_ms * 1000 if event.at is None else _checked_at(event.at)
    match event:
        case _Pipeline():
            return PipelineRow(id_, event.name, event.value, at_us, record_at_ms, offset)
        case _List():
            return ListRow(id_, event.name, 0, np.array(event.values, np.float64), at_us, record_at_ms, offset)
        case _Job():
            if _JOB_NAME.fullmatch(event.name) is None:
                raise RefusedError(BAD_METRIC_NAME, f"name {shown(event.name)} is no name of a job metric")
            if not -(2**63) <= event.step < 2**63:
                raise RefusedError(BAD_STEP, f"step {shown(event.step)} does not fit 64 bits")
            return JobRow(id_, event.name, event.step, event.value, at_us, record_at_ms, offset)


def _bounded_id(value: str | int, longest: int) -> str:
    # an integer of a million digits is no id, and Python refuses to write it
    text = str(value) if isinstance(value, str) or abs(value) < 10**longest else ""
    if not text:
        raise RefusedError(NO_RECORD_ID, "id is empty" if value == "" else f"id has more than {longest} digits")
    if len(text) > longest:
        raise RefusedError(NO_RECORD_ID, f"id {shown(text)} has {len(text)} characters, {longest} are allowed")
    return text


def _checked_id(value: Any) -> str | int:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise RefusedError(NO_RECORD_ID, "id is missing" if value is None else f"id is {shown(value)}")


def _checked_name(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise RefusedError(BAD_METRIC_NAME, "name is missing" if value is None else f"name is {shown(value)}")


def _number(value: Any) -> float | None:
    """Give a JSON number, or one that JSON lacks by its name; None for anything else."""
    if isinstance(value, str):
        return _NAMED_NUMBERS.get(value)
    if isinstance(value, float):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # as 1e999 is


def _checked_number(value: Any) -> float:
    number = _number(value)
    if number is None:
        raise RefusedError(BAD_METRIC_VALUE, "value is missing" if value is None else f"value is {shown(value)}")
    return number


def _checked_numbers(values: Any) -> list[float]:
    if not isinstance(values, list):
        raise RefusedError(BAD_LIST_VALUES, "values is missing" if values is None else f"values is {shown(values)}")
    numbers = []
    for at, value in enumerate(values):
        number = _number(value)
        if number is None:
            raise RefusedError(BAD_LIST_VALUES, f"values[{at}] is {shown(value)}")
        numbers.append(number)
    return numbers


def _checked_step(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RefusedError(BAD_STEP, f"step is {shown(value)}")
    return value


def _checked_at(value: Any) -> int:
    at_us = event_at_us(value)
    if at_us is None or not _AT_US_MIN <= at_us <= _AT_US_MAX:
        raise RefusedError(BAD_METRIC_TIME, f"at is {shown(value)}")
    return at_us


# ---- rows to what is stored ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Summary:
    """A list in numbers, as it is written: absolute, with the last offset that it contains. Fields as columns."""

    execution_id: str
    name: str
    fence: int
    count: int
    finite: int
    mean: float | None
    variance: float | None
    min: float | None
    max: float | None
    quantiles: Mapping[str, float]  # by rank, as it is written
    state: bytes
    created_us: int
    updated_us: int
    is_forgotten: bool


@dataclass(slots=True)
class ListState:
    """A list as this partition has applied it: its summary, and the last offset that it contains."""

    summary: RunningSummary
    fence: int = -1
    created_us: int = 0
    updated_us: int = 0
    is_forgotten: bool = False
    epoch: int = 0  # of the owner that wrote it, where it was loaded

    @classmethod
    def empty(cls, fence: int = -1, *, is_forgotten: bool = False, epoch: int = 0) -> ListState:
        """Give a list without values; what was forgotten leaves one that remembers up to where."""
        return cls(RunningSummary(), fence, is_forgotten=is_forgotten, epoch=epoch)

    def append(self, row: ListRow) -> None:
        """Take in what a record appended. Cannot fail: the numbers are numbers."""
        self.created_us = row.at_us if self.summary.count == 0 else min(self.created_us, row.at_us)
        self.updated_us = row.at_us if self.summary.count == 0 else max(self.updated_us, row.at_us)
        self.summary.learn(row.values.tolist())
        self.fence = row.offset
        self.is_forgotten = False

    def summarised(self, key: ListKey) -> Summary:
        """Give what is written of it."""
        of = self.summary
        return Summary(
            key.execution_id, key.name, self.fence, of.count, of.finite, of.mean, of.variance, of.min, of.max,
            {str(rank): value for rank, value in of.quantiles().items()}, of.encode(), self.created_us, self.updated_us, self.is_forgotten,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What a batch asks of ClickHouse before it can be decided: these lists, and all lists of these executions."""

    lists: frozenset[ListKey] = frozenset()
    executions: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.lists or self.executions)


@dataclass(frozen=True, slots=True)
class Update:
    """What a batch comes to: the rows to be written, and what is refused."""

    rows: Sequence[Row]
    refused: Sequence[Refused]
    next_offset: int

    @property
    def list_values_count(self) -> int:
        """Count the values that lists learn: one after the other, about a microsecond each."""
        return sum(len(row.values) for row in self.rows if isinstance(row, ListRow))


@dataclass(slots=True)
class RecordState:
    """The memory of one partition: lists that are known, and verdicts that a predecessor has taken beyond our fence.

    `dirty` are the lists whose summaries wait to be written.
    """

    partition: int
    limits: Limits
    next_offset: int
    refused_before: Mapping[int, Refused] = field(default_factory=dict)
    lists: dict[ListKey, ListState] = field(default_factory=dict)
    dirty: set[ListKey] = field(default_factory=set)
    _by_execution: dict[str, set[str]] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)  # executions all of whose lists are in memory

    def needs(self, batch: Read) -> Needs:
        """Say what has to be loaded before `compute`."""
        lists: set[ListKey] = set()
        executions: set[str] = set()
        for row in batch.rows:
            if isinstance(row, ListRow):
                lists.add(ListKey(row.execution_id, row.name))
            elif isinstance(row, ForgetRow) and row.kind == "execution":
                executions.add(row.id)
        return Needs(frozenset(lists - self.lists.keys()), frozenset(executions - self._whole))

    def absorb(self, needs: Needs, loaded: Mapping[ListKey, ListState]) -> None:
        """Take in what was loaded; a list that nobody has is empty.

        What was loaded is written again with the next flush, under our own version: until then somebody who sleeps, of an epoch
        between its writer's and ours, could wake and put an older summary in its place.
        """
        self.dirty |= loaded.keys() - self.lists.keys()
        for key in needs.lists | loaded.keys():
            if key not in self.lists:
                self._put(key, loaded.get(key) or ListState.empty())
        self._whole |= needs.executions

    def compute(self, batch: Read) -> Update:
        """Decide what becomes of every record; changes nothing."""
        rows: list[Row] = []
        refused = list(batch.refused)
        counts: dict[ListKey, int] = {}
        for row, at in zip(batch.rows, batch.places, strict=True):
            if isinstance(row, ForgetRow) and row.kind == "execution":
                # a list that a predecessor has written beyond this place was forgotten then, and has grown again since
                counts.update({key: 0 for key in self._lists_of(row.id) if self.lists[key].fence < row.offset})
            if not isinstance(row, ListRow):
                rows.append(row)
                continue
            decided = self._decide(row, at, counts)
            if isinstance(decided, Refused):
                refused.append(decided)
            elif decided is not None:
                rows.append(decided)
        return Update(rows, sorted(refused, key=lambda one: one.at), self.next_offset)

    def _decide(self, row: ListRow, at: int, counts: dict[ListKey, int]) -> ListRow | Refused | None:
        """Give the row with its place in the list, a refusal, or nothing where a predecessor has written what there is."""
        key = ListKey(row.execution_id, row.name)
        state = self.lists[key]
        if row.offset <= state.fence:
            before = self.refused_before.get(row.offset)
            return None if before is None else Refused(at, before.code, before.message, before.stored)
        if not len(row.values):
            return None
        start = counts.get(key, state.summary.count)
        most = self.limits.record.list_values_max
        if start + len(row.values) > most:
            message = (
                f"list {shown(row.name)} of execution {shown(row.execution_id)} holds {start} values, "
                f"{len(row.values)} more would exceed {most}: {start} stay stored, all {len(row.values)} of this record are refused"
            )
            return Refused(at, LIST_FULL.code, message, start)
        counts[key] = start + len(row.values)
        return ListRow(row.execution_id, row.name, start, row.values, row.at_us, row.record_at_ms, row.offset)

    def commit(self, update: Update) -> None:
        """Put what was decided in place. Cannot fail."""
        for row in update.rows:
            if isinstance(row, ListRow):
                key = ListKey(row.execution_id, row.name)
                state = self.lists[key] = self.lists.pop(key)  # known best last: what is evicted stands first
                state.append(row)
                self.dirty.add(key)
            elif isinstance(row, ForgetRow) and row.kind == "execution":
                for key in self._lists_of(row.id):
                    if self.lists[key].fence < row.offset:
                        self.lists[key] = ListState.empty(row.offset, is_forgotten=True)
                        self.dirty.add(key)
        self._whole.clear()

    def evict(self) -> None:
        """Let go of the lists that did not grow for longest and wait for nothing, beyond the bound."""
        excess = len(self.lists) - self.limits.record.lists_max
        if excess <= 0:
            return
        for key in [key for key in self.lists if key not in self.dirty][:excess]:
            del self.lists[key]
            names = self._by_execution[key.execution_id]
            names.discard(key.name)
            if not names:
                del self._by_execution[key.execution_id]

    def _put(self, key: ListKey, state: ListState) -> None:
        self.lists[key] = state
        self._by_execution.setdefault(key.execution_id, set()).add(key.name)

    def _lists_of(self, execution_id: str) -> list[ListKey]:
        return [ListKey(execution_id, name) for name in sorted(self._by_execution.get(execution_id, ()))]


def letters_of(fetch: Fetch, refused: Iterable[Refused]) -> list[DeadLetter]:
    """Set refused records aside, each with its bytes."""
    return [DeadLetter.of(fetch, one.at, one.code, one.message, None) for one in refused]


def poison(error: Exception) -> Refused:
    """Refuse a record that alone makes our own code fail."""
    return Refused(0, POISON.code, f"{type(error).__name__}: {shown(str(error))}")


def bytes_of(row: Row) -> int:
    """Say how much memory a row takes, about."""
    return _ROW_BYTES + (row.values.nbytes if isinstance(row, ListRow) else 0)
