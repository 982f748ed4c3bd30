"""Files to the topic of events: each row as its own JSON event, or many as Arrow batches, at a rate that a person chose."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import pyarrow as pa

from fqlstream.errors import DefinitionError, UsageError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.columns import arrow_type, event_columns, parse_rfc3339_ms
from fqlstream.events.definitions import Column, ModelDefinition, Task
from fqlstream.ops.data_files import holds_events, listed, read_columns

#: Rows that are handed over between two looks at the clock: often enough for an even rate and a lively progress bar.
_STEP_ROWS: Final = 1_000
_STEPS_PER_S: Final = 20
#: Of a file's digest, in the names of rows that have none: with a thousand files of one name two share it in one of 5 * 10^8 cases.
_DIGEST_CHARACTERS: Final = 12


class Form(StrEnum):
    """How rows travel."""

    JSON = "json"
    ARROW = "arrow"


class EventProducer(Protocol):
    """What is asked of the SDK's producer."""

    def log_inference(
        self, model: str, event_id: str, columns: Mapping[str, Any], event_at: Any, version: str | None, *, key: Any
    ) -> None:
        """Send a prediction."""
        ...

    def log_label(
        self, model: str, event_id: str, columns: Mapping[str, Any], event_at: Any, version: str | None, *, key: Any
    ) -> None:
        """Send a label."""
        ...

    def log_inferences(
        self, model: str, frame: Any, *, event_at: str | None, version: str | None, key: str | None
    ) -> int:
        """Send predictions."""
        ...

    def log_labels(self, model: str, frame: Any, *, event_at: str | None, version: str | None, key: str | None) -> int:
        """Send labels."""
        ...

    def finish(self, model: str, event_at: Any = None) -> None:
        """Send watermarks."""
        ...


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """What is sent. `event_id` and `event_at` name columns of flat rows; `rate` is rows per second, None: as fast as it goes."""

    path: Path
    model: ModelDefinition
    version: str | None = None
    labels: bool = False
    form: Form | None = None
    event_id: str = "event_id"
    event_at: str = "event_at"
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What was sent."""

    rows: int
    form: Form
    notes: tuple[str, ...] = ()


Progress = Callable[[int, int], None]  # rows sent, of how many
Pace = Callable[[int], None]  # rows sent


def find_model(catalogue: Catalogue, name: str, version: str | None) -> ModelDefinition:
    """Give a model's version, the newest where none is named.

    Raises DefinitionError where it is not defined.
    """
    entry = catalogue.models.get(name)
    newest = None if entry is None else entry.newest
    if entry is None or newest is None:
        known = ", ".join(sorted(catalogue.models)) or "none"
        raise DefinitionError(
            "PUB001", f"model {name!r} is not defined", f"defined are: {known}; `fqlstream apply -f FILE` defines one"
        )
    if version is not None and version not in entry.versions:
        raise DefinitionError(
            "PUB001", f"model {name!r} has no version {version!r}", f"it has {', '.join(entry.versions)}"
        )
    return newest if version is None else entry.versions[version]


def publish(producer: EventProducer, plan: PublishPlan, progress: Progress = lambda _sent, _all: None) -> PublishReport:
    """Send a file. Returns once every row is handed to the producer, whose flush says whether all arrived.

    Raises UsageError for a file that cannot be read or holds rows that the engine would refuse; what was handed over before
    such a row stays sent.
    """
    started_s = time.monotonic()

    def pace(sent: int) -> None:
        if plan.rate is not None:
            time.sleep(max(0.0, started_s + sent / plan.rate - time.monotonic()))

    step = _STEP_ROWS if plan.rate is None else max(1, min(_STEP_ROWS, int(plan.rate / _STEPS_PER_S)))
    if holds_events(plan.path):
        if plan.form is Form.ARROW:
            raise UsageError("PUB002", f"{plan.path} holds events as JSON", "leave --arrow out, or give flat rows")
        return _publish_events(producer, plan, step, pace, progress)
    return _publish_rows(producer, plan, step, pace, progress)


# ------------------------------------------------------------------------------------------------ events as on the topic


def _publish_events(
    producer: EventProducer, plan: PublishPlan, step: int, pace: Pace, progress: Progress
) -> PublishReport:
    lines = [line for line in plan.path.read_bytes().splitlines() if line.strip()]
    group_by = _group_by(plan.model)
    for number, line in enumerate(lines, 1):
        try:
            _send_line(producer, plan, line, number, group_by)
        except UsageError as error:
            raise _told_what_was_sent(error, number - 1) from None
        if number % step == 0 or number == len(lines):
            progress(number, len(lines))
            pace(number)
    return PublishReport(len(lines), Form.JSON)


def _send_line(producer: EventProducer, plan: PublishPlan, line: bytes, number: int, group_by: str | None) -> None:
    event = _parsed(line, number, plan)
    kind = event.get("type") or ("label" if plan.labels else "inference")
    if kind == "watermark":
        producer.finish(plan.model.name, event.get("event_at"))
    else:
        _log_event(producer, plan, event, kind, number, group_by)


def _parsed(line: bytes, number: int, plan: PublishPlan) -> dict[str, Any]:
    place = f"{plan.path}:{number}"
    try:
        event = _loaded(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError("PUB003", f"{place} is no JSON: {error}") from None
    if not isinstance(event, dict):
        raise UsageError("PUB003", f"{place} is no event", "an event is an object with event_id and columns")
    if event.get("model", plan.model.name) != plan.model.name:
        raise UsageError(
            "PUB003", f"{place} is an event of model {event['model']!r}", f"--model is {plan.model.name!r}"
        )
    return event


def _loaded(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.ValidationError:  # a number beyond every double, which is JSON and to a column an infinity
        return json.loads(line)


def _log_event(
    producer: EventProducer, plan: PublishPlan, event: Mapping[str, Any], kind: str, number: int, group_by: str | None
) -> None:
    place = f"{plan.path}:{number}"
    columns, event_at = event.get("columns"), event.get("event_at")
    if not isinstance(kind, str) or kind not in {"inference", "label"} or (plan.labels and kind != "label"):
        wanted = "a label" if plan.labels else "inference, label or watermark"
        raise UsageError("PUB003", f"{place} has type {kind!r}, not {wanted}")
    if not isinstance(columns, dict):
        raise UsageError(
            "PUB003", f"{place} has no columns object", 'write {"event_id": "r-1", "columns": {"age": 41}}'
        )
    if isinstance(event_at, str) and parse_rfc3339_ms(event_at) is None:
        raise UsageError(
            "PUB003", f"{place}: event_at {event_at!r} is no RFC 3339 time", "it needs an offset, such as Z"
        )
    log = producer.log_inference if kind == "inference" else producer.log_label
    key = None if group_by is None else columns.get(group_by)
    version = event.get("version", plan.version)
    try:
        log(plan.model.name, event.get("event_id", ""), columns, event_at, version, key=key)
    except UsageError as error:
        raise UsageError(error.code, f"{place}: {error.message}", error.hint) from None


def _told_what_was_sent(error: UsageError, sent: int, *, have_ids: bool = True) -> UsageError:
    """Say beside what is wrong with a row that those before it are on their way: nobody can take them back."""
    if not sent:
        return error
    mended = (
        "send it again, an event_id counts once"
        if have_ids
        else "send the rest: without event_id they would count twice"
    )
    kept = f"the {sent:,} before it were sent: mend the file and {mended}"
    return UsageError(error.code, error.message, kept if error.hint is None else f"{error.hint}; {kept}")


# ------------------------------------------------------------------------------------------------ flat rows


def _publish_rows(
    producer: EventProducer, plan: PublishPlan, step: int, pace: Pace, progress: Progress
) -> PublishReport:
    found = read_columns(plan.path, plan.model)
    rows = len(next(iter(found.values()), ()))
    if not rows:
        return PublishReport(0, plan.form or Form.JSON, (f"{plan.path.name} holds no rows",))
    ids, notes = _ids(found, rows, plan)
    wanted = event_columns(plan.model, "label" if plan.labels else "inference")
    notes += _left_out(found, wanted, plan)
    columns = {column.name: found[column.name] for column in wanted if column.name in found}
    if not columns:
        names = ", ".join(column.name for column in wanted)
        raise UsageError("PUB004", f"{plan.path} has no column that such an event carries", f"those are: {names}")
    times = _times(found.get(plan.event_at))
    form, table = _as_table(ids, times, columns, plan)
    group_by = _group_by(plan.model)
    key = group_by if group_by in columns else None
    if table is not None:
        _send_table(producer, table, plan, key, step, pace, progress)
    else:
        _send_rows(producer, ids, times, columns, plan, key, step, pace, progress, have_ids=plan.event_id in found)
    return PublishReport(rows, form, tuple(notes))


def _ids(found: Mapping[str, Any], rows: int, plan: PublishPlan) -> tuple[Any, list[str]]:
    if plan.event_id in found:
        return found[plan.event_id], []
    if plan.event_id != "event_id" or plan.labels:
        have = ", ".join(found)
        raise UsageError(
            "PUB005", f"{plan.path} has no column {plan.event_id!r}", f"--event-id-column names one of: {have}"
        )
    # the same file gives the same names, so that sending it again counts nothing twice; another of its name gives others
    with plan.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_CHARACTERS]
    ids = [f"{plan.path.name}:{digest}:{row}" for row in range(1, rows + 1)]
    return ids, [f"there is no column event_id: rows are named {ids[0]} to {ids[-1]}"]


def _times(values: Any) -> Any:
    """Give a column of times; a CSV's Unix milliseconds are texts until here."""
    if isinstance(values, pa.Array | pa.ChunkedArray) and pa.types.is_string(values.type):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            return values
    return values


def _left_out(found: Mapping[str, Any], wanted: Sequence[Column], plan: PublishPlan) -> list[str]:
    known = {column.name for column in wanted} | {plan.event_id, plan.event_at}
    extra = [name for name in found if name not in known]
    missing = [column.name for column in wanted if column.name not in found]
    notes = []
    if extra:
        notes.append(
            f"left out, since {'a label' if plan.labels else 'the model'} does not have them: {', '.join(extra)}"
        )
    if missing and not plan.labels:
        notes.append(f"not in the file, so null: {', '.join(missing)}")
    return notes


def _as_table(ids: Any, times: Any, columns: Mapping[str, Any], plan: PublishPlan) -> tuple[Form, pa.Table | None]:
    """Give the rows as a table where they are to travel as Arrow: unless asked for JSON, or a column has several types."""
    if plan.form is Form.JSON:
        return Form.JSON, None
    arrays: dict[str, Any] = {}
    try:
        arrays["event_id"] = _array(ids, None)
        if times is not None:
            arrays["event_at"] = _array(times, None)
        for name, values in columns.items():
            column = plan.model.column(name)
            arrays[name] = _array(values, None if column is None else arrow_type(column))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        if plan.form is Form.ARROW:
            name = list(arrays)[-1] if arrays else "event_id"
            raise UsageError(
                "PUB006", f"the column after {name!r} holds values of several types: {error}", "use --json"
            ) from None
        return Form.JSON, None
    return Form.ARROW, pa.table(arrays)


def _array(values: Any, kind: pa.DataType | None) -> Any:
    if not isinstance(values, list):
        return values
    # a list that is null throughout needs the column's type; of any other the values tell it, ill-typed ones as well
    return pa.array(values, kind) if kind is not None and all(value is None for value in values) else pa.array(values)


def _send_table(
    producer: EventProducer,
    table: pa.Table,
    plan: PublishPlan,
    key: str | None,
    step: int,
    pace: Pace,
    progress: Progress,
) -> None:
    log = producer.log_labels if plan.labels else producer.log_inferences
    event_at = "event_at" if "event_at" in table.column_names else None
    if plan.rate is None:
        step = max(step, 50_000)  # rows are spread over partitions: fewer at once make small batches
    for start in range(0, table.num_rows, step):
        part = table[start : start + step]
        log(plan.model.name, part, event_at=event_at, version=plan.version, key=key)
        progress(start + part.num_rows, table.num_rows)
        pace(start + part.num_rows)


def _send_rows(
    producer: EventProducer,
    ids: Any,
    times: Any,
    columns: Mapping[str, Any],
    plan: PublishPlan,
    key: str | None,
    step: int,
    pace: Pace,
    progress: Progress,
    *,
    have_ids: bool,
) -> None:
    log = producer.log_label if plan.labels else producer.log_inference
    names = list(columns)
    lists = [listed(values) for values in columns.values()]
    moments = [None] * len(ids) if times is None else [_moment(value, plan) for value in listed(times)]
    for row, (event_id, event_at, *values) in enumerate(zip(listed(ids), moments, *lists, strict=True), 1):
        event = dict(zip(names, values, strict=True))
        try:
            log(plan.model.name, event_id, event, event_at, plan.version, key=None if key is None else event[key])
        except UsageError as error:
            told = UsageError(error.code, f"{plan.path}, row {row}: {error.message}", error.hint)
            raise _told_what_was_sent(told, row - 1, have_ids=have_ids) from None
        if row % step == 0 or row == len(ids):
            progress(row, len(ids))
            pace(row)


def _moment(value: Any, plan: PublishPlan) -> Any:
    """Give a time for one event: files write times without an offset in UTC."""
    if hasattr(value, "tzinfo") and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    if isinstance(value, str) and parse_rfc3339_ms(value) is None:
        raise UsageError(
            "PUB007", f"{plan.path}: {plan.event_at} {value!r} is no RFC 3339 time", "it needs an offset, such as Z"
        )
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value


def _group_by(model: ModelDefinition) -> str | None:
    """Give the column whose values keep events in one partition, for a ranking model."""
    return model.task_params.group_by if model.task is Task.RANKING else None
