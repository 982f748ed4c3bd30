"""A model definition out of a data file: types and ranges as they are seen, roles and task as names suggest."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from fqlstream.errors import UsageError
from fqlstream.events.columns import parse_rfc3339_ms
from fqlstream.events.definitions import RESERVED_COLUMNS, ColumnType, ModelDefinition, Role, Task
from fqlstream.events.documents import dump_inline, parse_definition, read_documents
from fqlstream.ops.data_files import Bounds, holds_events, listed, read_columns

#: Rows that are looked at: types and ranges settle long before.
ROWS_MAX: Final = 100_000
#: A text column with more different values is free text, and so is one where most values are different.
_CATEGORIES_MAX: Final = 50
_CATEGORY_SHARE_MAX: Final = 0.2
#: More classes than this and a whole-numbered target is a count.
_CLASSES_MAX: Final = 20

_ID_NAMES: Final = ("event_id", "request_id", "prediction_id", "inference_id", "id", "uuid", "key")
_TIME_NAMES: Final = ("event_at", "timestamp", "event_time", "time", "ts", "datetime", "date", "created_at", "at")
_TARGET_NAMES: Final = frozenset(
    {"y", "target", "label", "labels", "truth", "actual", "outcome", "groundtruth", "true"}
)
#: Names that outcomes have; only of a column with two or a few classes, beside an output, and of no other.
_OUTCOME_NAMES: Final = frozenset({
    "churn", "churned", "click", "clicked", "converted", "conversion", "purchased", "bought", "fraud", "default", "defaulted", "spam",
    "survived", "class", "verdict", "diagnosis", "species", "relevance", "grade", "result",
})  # fmt: skip
_OUTPUT_NAMES: Final = frozenset(
    {"prediction", "predictions", "predicted", "pred", "proba", "probability", "prob", "output", "yhat", "score"}
)
_METADATA_NAMES: Final = frozenset({"id", "uuid", "latency", "duration", "trace", "session", "host", "user"})
_GROUP_NAMES: Final = frozenset({"query", "qid", "search", "session", "group", "request"})
#: The class that people call positive stands second in `target_class_order`.
_NEGATIVE_FIRST: Final = (
    ("no", "yes"), ("false", "true"), ("0", "1"), ("negative", "positive"), ("legitimate", "fraud"), ("ham", "spam"), ("n", "y"), ("good", "bad"),
)  # fmt: skip

_INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d{0,18})", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_NULLS: Final = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None"})
_MS_2000, _MS_2100 = 946_684_800_000, 4_102_444_800_000


@dataclass(frozen=True, slots=True)
class Inferred:
    """A model, what was guessed about it (by column, by `task`, or by `task_params`), and which columns it left out."""

    model: ModelDefinition
    rows: int
    guesses: Mapping[str, str]
    event_id: str | None
    event_at: str | None
    left_out: tuple[str, ...]


@dataclass(slots=True)
class _Seen:
    """One column of the file."""

    name: str
    values: list[Any]  # without nulls
    type: ColumnType
    note: str = ""
    role: Role = Role.INPUT
    role_note: str = ""
    distinct: list[Any] = field(default_factory=list)  # a few, in order; empty where there are many

    @property
    def words(self) -> list[str]:
        """The words of its name."""
        return [word for word in re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[A-Z])", self.name.lower()) if word]


def infer_model(
    path: Path, name: str | None = None, task: Task | None = None, *, bytes_max: int | None = None
) -> Inferred:
    """Look at the first rows of a data file (events or flat rows) and give a model that they fit.

    Raises UsageError for a file that cannot be read, whose first rows take more than `bytes_max`, or that holds nothing to go by.
    """
    rows, columns, labels = _read(path, Bounds(ROWS_MAX, bytes_max))
    event_id = _find_id(columns, rows)
    event_at = _find_time(columns)
    seen = []
    left_out = [column for column in columns if column in RESERVED_COLUMNS and column not in {event_id, event_at}]
    for column, values in columns.items():
        if column in {event_id, event_at} or column in RESERVED_COLUMNS:
            continue
        seen.append(_look_at(column, [value for value in values if not _is_null(value)], is_text=path.suffix == ".csv"))
    if not seen:
        raise UsageError(
            "INF001",
            f"{path} has no column that a model could have",
            "give a file with a column per feature, output and target",
        )
    _give_roles(seen, labels)
    guessed, params, guesses = _guess_task(seen)
    if task is not None and task is not guessed:
        guessed, params = task, _params(task, seen, guesses)
        guesses.pop("task", None)
    for found in seen:
        note = "; ".join(filter(None, (found.role_note, found.note)))
        if note:
            guesses[f"column {found.name}"] = note
    try:
        model = ModelDefinition.model_validate(
            {
                "name": name or path.stem,
                "task": guessed,
                "columns": [_column(found, guessed) for found in seen],
                "task_params": params,
            }
        )
    except (ValidationError, OverflowError) as error:
        raise _no_model(path, error) from None
    return Inferred(model, rows, guesses, event_id, event_at, tuple(left_out))


def _no_model(path: Path, error: ValidationError | OverflowError) -> UsageError:
    if isinstance(error, OverflowError):
        why = str(error)
    else:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return UsageError(
        "INF002",
        f"{path} fits no model: {why}",
        "rename or leave out that column, counted from 0; or give the model a name",
    )


def inferred_yaml(inferred: Inferred, path: Path) -> str:
    """Write the model as YAML for a person to look over, every guess with a comment; `apply` takes it as it is."""
    model, guesses = inferred.model, inferred.guesses
    data = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    lines = [
        f"# Inferred from {path.name}, {inferred.rows:,} rows. Look over what says guess, then: fqlstream apply -f THIS-FILE",
        "kind: model",
        f"name: {dump_inline(model.name)}",
        f"version: {dump_inline(model.version)}",
        _commented(f"task: {model.task.value}", guesses.get("task")),
        "columns:",
    ]
    for column, plain in zip(model.columns, data["columns"], strict=True):
        kept = {key: _tidy(value) for key, value in plain.items() if value not in ([], ())}
        lines.append(_commented(f"  - {dump_inline(kept)}", guesses.get(f"column {column.name}")))
    params = {key: value for key, value in data["task_params"].items() if value is not None}
    if "binary_classification_threshold" in params:
        params = {"threshold": params.pop("binary_classification_threshold"), **params}
    if params:
        lines.append(_commented(f"task_params: {dump_inline(params)}", guesses.get("task_params")))
    windows = {"pane": "1m", "sizes": ["1h", "1d"], "lateness": "1d"}
    lines += [f"windows: {dump_inline(windows)}", "retention: 90d"]
    for column_name in inferred.left_out:
        lines.append(f"# {column_name!r} is left out: the name is fqlstream's own")
    lines.append(f"# send the file with: {_publish_command(inferred, path)}")
    text = "\n".join(lines) + "\n"
    (document,) = read_documents(text, "the inferred model")
    if parse_definition(document) != model:
        raise AssertionError("the YAML does not read back as the model")
    return text


def _tidy(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def _commented(line: str, comment: str | None) -> str:
    return f"{line}  # {comment}" if comment else line


def _publish_command(inferred: Inferred, path: Path) -> str:
    options = ""
    if inferred.event_id not in {None, "event_id"}:
        options += f" --event-id-column {inferred.event_id}"
    if inferred.event_at not in {None, "event_at"}:
        options += f" --event-at-column {inferred.event_at}"
    return f"fqlstream publish --model {inferred.model.name!r} {path.name}{options}"


# ------------------------------------------------------------------------------------------------ reading


def _read(path: Path, bounds: Bounds) -> tuple[int, dict[str, list[Any]], frozenset[str]]:
    """Give rows, columns, and the columns that only labels carry."""
    if not holds_events(path):
        found = {name: listed(values) for name, values in read_columns(path, None, bounds).items()}
        rows = len(next(iter(found.values()), []))
        return rows, found, frozenset()
    rows = 0
    columns: dict[str, list[Any]] = {}
    by_kind: dict[str, set[str]] = {"inference": set(), "label": set()}
    with path.open("rb") as file:
        for line in file:
            event = _event(line)
            if event is None:
                continue
            kind = event.get("type") or "inference"
            by_kind.setdefault(kind, set()).update(event["columns"])
            for name, value in event["columns"].items():
                columns.setdefault(name, []).append(value)
            rows += kind == "inference"
            if rows >= ROWS_MAX:
                break
    return rows, columns, frozenset(by_kind["label"] - by_kind["inference"])


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    is_one = isinstance(event, dict) and isinstance(event.get("columns"), dict)
    return event if is_one and isinstance(event.get("type") or "inference", str) else None


def _is_null(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and value in _NULLS)


def _find_id(columns: Mapping[str, list[Any]], rows: int) -> str | None:
    for name in _ID_NAMES:
        values = columns.get(name, [])
        plain = [value for value in values if isinstance(value, (str, int)) and not _is_null(value)]
        if rows and len(plain) == len(values) == len(set(plain)) > 1:
            return name
    return "event_id" if "event_id" in columns else None


def _find_time(columns: Mapping[str, list[Any]]) -> str | None:
    for name in _TIME_NAMES:
        values = [value for value in columns.get(name, []) if not _is_null(value)]
        if values and all(_is_time(value) for value in values[:1000]):
            return name
    return None


def _is_time(value: Any) -> bool:
    if isinstance(value, str):
        if not _INTEGER.fullmatch(value):
            return parse_rfc3339_ms(value) is not None
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _MS_2000 <= value < _MS_2100
    return isinstance(value, dt.datetime | dt.date)


# ------------------------------------------------------------------------------------------------ types


def _look_at(name: str, values: list[Any], *, is_text: bool) -> _Seen:
    if is_text:
        values = _from_texts(values)
    if not values:
        return _Seen(name, [], ColumnType.STRING, "guess: the file has no value of it")
    kinds = Counter(map(_kind, values))
    kind, count = kinds.most_common(1)[0]
    if kind == "int" and kinds["float"]:
        kind, count = "float", kinds["int"] + kinds["float"]
    elif kind == "float":
        count += kinds["int"]
    note = "" if count == len(values) else f"guess: {len(values) - count} of {len(values)} values are of other types"
    kept = [value for value in values if _kind(value) == kind or (kind == "float" and _kind(value) == "int")]
    seen = _Seen(name, kept, ColumnType.STRING, note)
    match kind:
        case "int" | "float" | "bool" | "timestamp" | "vector":
            seen.type = ColumnType(kind)
        case "text":
            _look_at_texts(seen)
        case _:
            seen.note = "guess: lists and objects are no type of a column: each is a type violation"
    if kind in {"int", "text", "bool"}:
        distinct = set(seen.values)
        seen.distinct = sorted(distinct) if len(distinct) <= _CATEGORIES_MAX else []
    return seen


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "timestamp" if parse_rfc3339_ms(value) is not None else "text"
    if isinstance(value, dt.datetime | dt.date):
        return "timestamp"
    if isinstance(value, list) and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
        return "vector"
    return "other"


def _from_texts(texts: list[Any]) -> list[Any]:
    """Read the fields of a CSV as what all of them are: numbers, Booleans, or texts (007 is a text)."""
    if all(_INTEGER.fullmatch(text) for text in texts):
        return [int(text) for text in texts]
    if all(_FLOAT.fullmatch(text) and not re.match(r"[-+]?0\d", text) for text in texts):
        return [float(text) for text in texts]
    if all(text.lower() in {"true", "false"} for text in texts):
        return [text.lower() == "true" for text in texts]
    return texts


def _look_at_texts(seen: _Seen) -> None:
    distinct, count = len(set(seen.values)), len(seen.values)
    if distinct <= _CATEGORIES_MAX and distinct <= max(2, count * _CATEGORY_SHARE_MAX):
        seen.type = ColumnType.CATEGORY
        seen.note = seen.note or "categories as seen"
    else:
        seen.note = seen.note or f"{distinct} different values in {count} rows"


def _column(seen: _Seen, task: Task) -> dict[str, Any]:
    column: dict[str, Any] = {"name": seen.name, "type": seen.type, "role": seen.role}
    numeric = seen.type in {ColumnType.INT, ColumnType.FLOAT} and bool(seen.values)
    if seen.role is Role.TARGET and task is Task.MULTICLASS and numeric and seen.distinct:
        return {**column, "type": ColumnType.CATEGORY, "categories": seen.distinct}
    finite = [value for value in seen.values if numeric and value not in (float("inf"), float("-inf"))]
    if finite and seen.role in {Role.INPUT, Role.OUTPUT, Role.DECISION}:
        low, high = min(finite), max(finite)
        if _is_probability(seen):
            low, high = 0, 1
        column |= {"min": low, "max": high}
    if seen.type is ColumnType.CATEGORY:
        column["categories"] = seen.distinct
    if seen.type is ColumnType.VECTOR:
        lengths = Counter(map(len, seen.values))
        if len(lengths) == 1 and next(iter(lengths)) > 0:
            column["n_dimensions"] = next(iter(lengths))
    return column


# ------------------------------------------------------------------------------------------------ roles and task


def _give_roles(seen: Sequence[_Seen], labels: frozenset[str]) -> None:
    for column in seen:
        words = set(column.words)
        joined = "".join(column.words)
        if column.name in labels:
            column.role = Role.TARGET
        elif joined in {"ypred", "yhat"} or words & (_OUTPUT_NAMES - {"score"}) or column.words == ["score"]:
            column.role, column.role_note = Role.OUTPUT, "guess: an output by its name"
        elif joined == "ytrue" or words & _TARGET_NAMES:
            column.role, column.role_note = Role.TARGET, "guess: the target by its name"
        elif column.words[-1:] in (["id"], ["uuid"]) or words & (_METADATA_NAMES - {"user", "session", "host"}):
            column.role, column.role_note = Role.METADATA, "guess: metadata by its name"
    if not any(column.role is Role.OUTPUT for column in seen):
        # only where nothing fits better: a credit_score is an input of many models
        for column in seen:
            if column.role is Role.INPUT and column.words[-1:] == ["score"] and _is_probability(column):
                column.role, column.role_note = Role.OUTPUT, "guess: an output by its name"
    if not any(column.role is Role.TARGET for column in seen):
        _find_outcome(seen)
    for column in seen:
        if column.role is Role.INPUT and column.type in {ColumnType.INT, ColumnType.FLOAT} and column.values:
            column.note = column.note or "range as seen"


def _find_outcome(seen: Sequence[_Seen]) -> None:
    if not any(column.role is Role.OUTPUT for column in seen):
        return
    few = [column for column in seen if column.role is Role.INPUT and 2 <= len(column.distinct) <= _CLASSES_MAX]
    named = [column for column in few if set(column.words) & _OUTCOME_NAMES]
    if len(named) == 1:
        named[0].role, named[0].role_note = Role.TARGET, "guess: the target, since its name is that of an outcome"


def _is_probability(column: _Seen) -> bool:
    numeric = column.type in {ColumnType.INT, ColumnType.FLOAT} and bool(column.values)
    return (
        numeric
        and column.role is not Role.TARGET
        and column.type is ColumnType.FLOAT
        and all(0 <= v <= 1 for v in column.values)
    )


def _guess_task(seen: Sequence[_Seen]) -> tuple[Task, dict[str, Any], dict[str, str]]:
    guesses: dict[str, str] = {}
    targets = [column for column in seen if column.role is Role.TARGET]
    outputs = [column for column in seen if column.role is Role.OUTPUT]
    if len(targets) != 1 or not outputs:
        missing = "a target" if not targets else "one target" if len(targets) > 1 else "an output"
        guesses["task"] = (
            f"guess: no column is named like {missing}; give roles and task by hand for performance metrics"
        )
        return Task.NOT_SET, {}, guesses
    target = targets[0]
    names = f"{target.name!r} and {', '.join(repr(column.name) for column in outputs[:3])}"
    group = next((column for column in seen if set(column.words) & _GROUP_NAMES and _repeats(column)), None)
    if group is not None and len(outputs) == 1 and target.type in {ColumnType.INT, ColumnType.FLOAT}:
        task, why = Task.RANKING, f"{group.name!r} groups rows"
    elif len(target.distinct) == 2 and len(outputs) == 1 and _is_probability(outputs[0]):
        task, why = Task.BINARY, f"two classes and one probability, {names}"
    elif 2 <= len(target.distinct) <= _CLASSES_MAX and len(outputs) == len(target.distinct):
        task, why = Task.MULTICLASS, f"one output per class, {names}"
    elif target.type in {ColumnType.INT, ColumnType.FLOAT} and len(outputs) == 1:
        task, why = Task.REGRESSION, f"a number and its prediction, {names}"
    else:
        guesses["task"] = f"guess: no task fits {names}"
        return Task.NOT_SET, {}, guesses
    guesses["task"] = f"guess: {why}"
    return task, _params(task, seen, guesses), guesses


def _repeats(column: _Seen) -> bool:
    return 0 < len(set(map(str, column.values))) < len(column.values)


def _params(task: Task, seen: Sequence[_Seen], guesses: dict[str, str]) -> dict[str, Any]:
    target = next((column for column in seen if column.role is Role.TARGET), None)
    outputs = [column for column in seen if column.role is Role.OUTPUT]
    match task:
        case Task.BINARY if target is not None and len(target.distinct) == 2:
            guesses["task_params"] = "guess: the second class is the positive one"
            order = _class_order(target.distinct)
            return {"threshold": 0.5, "target_class_order": order}
        case Task.MULTICLASS if target is not None and target.distinct:
            guesses["task_params"] = "guess: the order of the classes is that of the outputs"
            return {"target_class_order": _output_order(target.distinct, outputs)}
        case Task.RANKING:
            group = next((column for column in seen if set(column.words) & _GROUP_NAMES and _repeats(column)), None)
            guesses["task_params"] = "guess: rows of one value belong to one query"
            return {} if group is None else {"group_by": group.name}
        case _:
            return {}


def _class_order(classes: Sequence[Any]) -> list[Any]:
    texts = [str(value).lower() for value in classes]
    for negative, positive in _NEGATIVE_FIRST:
        if set(texts) == {negative, positive} or texts.count(negative) == 1:
            return sorted(classes, key=lambda value: str(value).lower() != negative)
    return list(classes)


def _output_order(classes: Sequence[Any], outputs: Sequence[_Seen]) -> list[Any]:
    """Give the classes in the order of the outputs that name them, or as they sort."""
    order = []
    for output in outputs:
        named = [value for value in classes if str(value).lower() in {*output.words, "_".join(output.words[1:])}]
        if len(named) == 1:
            order.append(named[0])
    return order if len(order) == len(set(map(str, order))) == len(classes) else list(classes)
