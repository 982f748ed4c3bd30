"""What people define: models, metrics, segments, baselines, and what recorded metrics belong to. YAML or JSON in, frozen values out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from fqlstream.events.durations import DurationMs, format_duration, parse_duration_ms

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: Of any one text: expressions and descriptions are far shorter.
TEXT_CHARACTERS_MAX = 2**20
#: Of a code metric: it is a function, and travels with each of its runs.
CODE_BYTES_MAX = 64 * 2**10
#: What clients of code metrics were made for.
CODE_METRIC_NAME_CHARACTERS_MAX = 255
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Name = Annotated[str, Field(min_length=1, max_length=256, description="Free text, unique per model and kind.")]


class ColumnType(StrEnum):
    """Types a column may have; `str` is an alias of `string`."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STRING = "string"
    CATEGORY = "category"
    TIMESTAMP = "timestamp"
    VECTOR = "vector"

    @classmethod
    def _missing_(cls, value: object) -> ColumnType | None:
        return cls.STRING if value == "str" else None


class Role(StrEnum):
    """What a column is to its model."""

    INPUT = "input"
    OUTPUT = "output"
    TARGET = "target"
    METADATA = "metadata"
    DECISION = "decision"


class Task(StrEnum):
    """What a model does; decides which functions exist for it."""

    BINARY = "binary_classification"
    MULTICLASS = "multiclass_classification"
    REGRESSION = "regression"
    RANKING = "ranking"
    LLM = "llm"
    NOT_SET = "not_set"


class _Definition(BaseModel):
    # pydantic looks into bounded texts only: in others it takes half surrogate pairs, which then cannot be written
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, str_max_length=TEXT_CHARACTERS_MAX)


class Column(_Definition):
    """One column of a model's events."""

    name: Name
    type: ColumnType
    role: Role = Role.INPUT
    min: float | None = None
    max: float | None = None
    categories: tuple[str | int | float | bool, ...] | None = None
    bins: tuple[float, ...] | None = None
    replace_with_nulls: tuple[str | int | float | bool, ...] = ()
    n_dimensions: int | None = Field(None, ge=1)
    source: Literal["system", "user", "evaluator"] | None = None
    scope: Literal["span", "session", "trace"] | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            message = f"column {self.name!r}: min {self.min} is above max {self.max}"
            raise ValueError(message)
        if self.bins is not None and any(a >= b for a, b in zip(self.bins, self.bins[1:], strict=False)):
            message = f"column {self.name!r}: bins must rise"
            raise ValueError(message)
        return self


class TaskParams(_Definition):
    """How outputs and targets are read."""

    threshold: float | None = Field(None, alias="binary_classification_threshold")
    target_class_order: tuple[str | int | float | bool, ...] | None = None
    group_by: str | None = None
    top_k: int | None = Field(None, ge=1)
    class_weights: tuple[float, ...] | None = None
    is_binary_ranking_model: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_both_names(cls, data: Any) -> Any:
        if isinstance(data, dict) and "threshold" in data and "binary_classification_threshold" in data:
            message = "threshold and binary_classification_threshold are the same setting: give one"
            raise ValueError(message)
        return data


class Choices(_Definition):
    """What FQL's documentation leaves open, decided for one model; what is absent follows the settings of the same names."""

    calibration_bins: int | None = Field(None, ge=1, le=1_000)
    probability_epsilon: float | None = Field(None, gt=0, lt=0.5)
    calibrated_threshold_rule: Literal["youden", "f1"] | None = None
    drift_bins: int | None = Field(None, ge=1, le=1_000)
    psi_increment: float | None = Field(None, ge=0)
    null_condition: Literal["else", "null"] | None = None


class Window(_Definition):
    """One window size; `every_ms` below `size_ms` makes it hop."""

    size_ms: DurationMs = Field(alias="size")
    every_ms: DurationMs = Field(alias="every")

    @model_validator(mode="before")
    @classmethod
    def _accept_short_form(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"size": data, "every": data}
        if isinstance(data, dict) and "every" not in data and "every_ms" not in data:
            return {**data, "every": data.get("size", data.get("size_ms"))}
        return data

    @property
    def label(self) -> str:
        """`1h`, or `1h every 5m` where it hops."""
        size = format_duration(self.size_ms)
        return size if self.size_ms == self.every_ms else f"{size} every {format_duration(self.every_ms)}"


class Windows(_Definition):
    """How a model's time is cut."""

    pane_ms: DurationMs = Field(60_000, alias="pane", validate_default=False)
    sizes: tuple[Window, ...] = Field((), validate_default=False)
    lateness_ms: DurationMs = Field(DAY_MS, alias="lateness", validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _default_sizes(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("sizes"):
            return {**data, "sizes": ["1h", "1d"]}
        return data

    @model_validator(mode="after")
    def _check_multiples(self) -> Self:
        if self.pane_ms <= 0:
            message = "pane must be longer than nothing"
            raise ValueError(message)
        for window in self.sizes:
            if (
                window.size_ms <= 0
                or window.size_ms % self.pane_ms
                or window.every_ms <= 0
                or window.every_ms % self.pane_ms
                or window.every_ms > window.size_ms
            ):
                message = f"window {window.label} is no multiple of the pane {format_duration(self.pane_ms)} (or hops further than it is long)"
                raise ValueError(message)
        if len({(w.size_ms, w.every_ms) for w in self.sizes}) != len(self.sizes):
            message = "the same window stands twice in sizes"
            raise ValueError(message)
        return self


class ModelDefinition(_Definition):
    """A model: its columns, task and windows."""

    kind: Literal["model"] = "model"
    name: Name
    version: Name = "v1"
    task: Task = Task.NOT_SET
    columns: tuple[Column, ...]
    task_params: TaskParams = TaskParams()
    choices: Choices = Choices()
    windows: Windows = Field(default_factory=lambda: Windows.model_validate({}))
    retention_ms: DurationMs = Field(90 * DAY_MS, alias="retention", validate_default=False)

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"column {twice[0]!r} stands twice"
            raise ValueError(message)
        taken = sorted(set(names) & RESERVED_COLUMNS)
        if taken:
            message = f"column name {taken[0]!r} is taken by fqlstream itself: rename it"
            raise ValueError(message)
        group_by = self.task_params.group_by
        if group_by is not None and group_by not in names:
            message = f"task_params.group_by names {group_by!r}, which is no column"
            raise ValueError(message)
        return self

    def column(self, name: str) -> Column | None:
        """Give a column by its name."""
        return next((column for column in self.columns if column.name == name), None)

    def role(self, role: Role) -> tuple[Column, ...]:
        """Give all columns of a role, in their order."""
        return tuple(column for column in self.columns if column.role is role)


#: Columns of every history row beside the model's own.
RESERVED_COLUMNS = frozenset({
    "event_id", "event_at", "record_at", "version", "partition", "offset", "row", "duplicate", "_type_violations", "_range_violations",
})  # fmt: skip


class MetricDefinition(_Definition):
    """A custom metric: an aggregate FQL expression."""

    kind: Literal["metric"] = "metric"
    model: Name
    name: Name
    definition: Annotated[str, Field(min_length=1)]
    description: str = ""


class SegmentDefinition(_Definition):
    """A part of a model's rows: a Boolean row-level FQL expression."""

    kind: Literal["segment"] = "segment"
    model: Name
    name: Name
    definition: Annotated[str, Field(min_length=1)]
    description: str = ""


class BaselineCounts(_Definition):
    """How many of a file's rows are in each bin of a column, outer bins included; of all rows or of a segment's.

    `key` names bins and segment by what they are, so that counts of bins that have changed since are not taken for theirs.
    """

    column: Name
    segment: str = ""
    key: str
    counts: tuple[int, ...]


class BaselineDefinition(_Definition):
    """What drift is measured against: a file, a stored time range, or the period before.

    Rows of a file are counted when it is applied, into `counts`, so that nobody needs the file later.
    """

    kind: Literal["baseline"] = "baseline"
    model: Name
    name: Name
    type: Literal["static", "rolling"]
    file: str | None = None
    start: str | None = None
    end: str | None = None
    window_ms: DurationMs | None = Field(None, alias="window")
    offset_ms: DurationMs | None = Field(None, alias="offset")
    counts: tuple[BaselineCounts, ...] = ()

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        for name, text in (("start", self.start), ("end", self.end)):
            if text is not None:
                _unix_ms(name, text)
        return self

    @property
    def range_ms(self) -> tuple[int, int] | None:
        """Give the stored time range of a static baseline, half-open, Unix ms; None for others."""
        if self.type != "static" or self.start is None or self.end is None:
            return None
        return _unix_ms("start", self.start), _unix_ms("end", self.end)

    def range_before(self, end_ms: int) -> tuple[int, int] | None:
        """Give what a window that ends there is compared with, half-open, Unix ms; None where that is a file."""
        if self.type == "static" or self.window_ms is None:
            return self.range_ms
        upto_ms = end_ms - (self.offset_ms or 0)
        return upto_ms - self.window_ms, upto_ms


class Period(_Definition):
    """Which of a model's rows a code metric is computed over: the last so many before the end of a run, or a fixed range."""

    last_ms: DurationMs | None = Field(None, alias="last")
    start: str | None = None
    end: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_short_form(cls, data: Any) -> Any:
        return {"last": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _check_one_of_both(self) -> Self:
        if (self.last_ms is None) == (self.start is None) or (self.start is None) != (self.end is None):
            message = "a period is a length, such as 7d, or has a start and an end"
            raise ValueError(message)
        if self.last_ms is not None and self.last_ms <= 0:
            message = "a period must be longer than nothing"
            raise ValueError(message)
        if (
            self.start is not None
            and self.end is not None
            and _unix_ms("start", self.start) >= _unix_ms("end", self.end)
        ):
            message = f"end {self.end} is not after start {self.start}"
            raise ValueError(message)
        return self

    def range_before(self, end_ms: int) -> tuple[int, int]:
        """Give the event times of a run whose data ends there, half-open, Unix ms."""
        if self.start is not None and self.end is not None:
            return _unix_ms("start", self.start), _unix_ms("end", self.end)
        return end_ms - (self.last_ms or 0), end_ms


class CodeMetricDefinition(_Definition):
    """A metric written in Python: `calc_metric(df)` over a PySpark DataFrame of the model's rows, and of each segment's.

    `file` is read when it is applied, relative to the YAML that names it; what is stored is `code`. `id` is given then, too.
    """

    kind: Literal["code_metric"] = "code_metric"
    model: Name
    name: Annotated[str, Field(min_length=1, max_length=CODE_METRIC_NAME_CHARACTERS_MAX)]
    code: str | None = None
    file: str | None = None
    period: Period | None = Field(None, description="All rows that the model keeps where it is left out.")
    description: str = ""
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None

    @model_validator(mode="after")
    def _check_code(self) -> Self:
        if self.code is None and self.file is None:
            message = "a code metric has its code, or names a file of it"
            raise ValueError(message)
        if self.code is not None and not self.code.strip():
            message = "code: there is none; define calc_metric(df)"
            raise ValueError(message)
        size = len((self.code or "").encode())
        if size > CODE_BYTES_MAX:
            message = f"code: {size} bytes; a code metric may have {CODE_BYTES_MAX}"
            raise ValueError(message)
        return self


def _unix_ms(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        message = f"{name} {text!r} is no time; write it like 2026-11-21T10:00:00Z"
        raise ValueError(message)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


#: Beyond it a number is not the same in every client: JavaScript has no larger whole ones.
ENTRY_ID_MAX = 2**53 - 1
EntryId = Annotated[int, Field(strict=True, ge=1, le=ENTRY_ID_MAX, description="Given when it is first applied.")]


class PipelineInput(_Definition):
    """One input of a pipeline, as the Craft AI SDK asks for it before a run."""

    name: Name
    data_type: Literal["string", "number", "boolean", "array", "json", "file"] = "string"


class PipelineDefinition(_Definition):
    """A pipeline, whose executions record metrics."""

    kind: Literal["pipeline"] = "pipeline"
    name: Name
    description: str = ""
    inputs: tuple[PipelineInput, ...] = ()

    @model_validator(mode="after")
    def _check_inputs(self) -> Self:
        names = [item.name for item in self.inputs]
        if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
            message = f"input {twice!r} stands twice"
            raise ValueError(message)
        return self


class DeploymentDefinition(_Definition):
    """A deployment: a way in which a pipeline is run."""

    kind: Literal["deployment"] = "deployment"
    name: Name
    pipeline: Name
    description: str = ""


class ExecutionDefinition(_Definition):
    """One run of a pipeline, perhaps by a deployment of it. Its name is the id under which it records metrics."""

    kind: Literal["execution"] = "execution"
    name: Name
    pipeline: Name
    deployment: Name | None = None
    description: str = ""


class ExperimentDefinition(_Definition):
    """A group of jobs. It has a number beside its name."""

    kind: Literal["experiment"] = "experiment"
    name: Name
    id: EntryId | None = None
    description: str = ""


class JobDefinition(_Definition):
    """A job of an experiment, which records metrics under its number. One without name and number is a new job each time."""

    kind: Literal["job"] = "job"
    id: EntryId | None = None
    name: Name | None = Field(None, description="Names the job among all: applied again, it is the same one.")
    experiment: Name
    description: str = ""
    status: Literal["queued", "started", "deferred", "finished", "failed", "reset"] = "queued"
    timeout: str = ""
    entrypoint: str = ""
    queue: str = ""
    tags: tuple[Name, ...] = ()


#: What is computed from events.
Computed = ModelDefinition | MetricDefinition | SegmentDefinition | BaselineDefinition | CodeMetricDefinition
#: What recorded metrics belong to.
Registered = PipelineDefinition | DeploymentDefinition | ExecutionDefinition | ExperimentDefinition | JobDefinition
COMPUTED: TypeAdapter[Computed] = TypeAdapter(Annotated[Computed, Field(discriminator="kind")])
Definition = Annotated[Computed | Registered, Field(discriminator="kind")]
DEFINITION: TypeAdapter[Computed | Registered] = TypeAdapter(Definition)


def definition_key(definition: Computed | Registered) -> str:
    """Give the key on the definitions topic: kind/model/name, of a model kind/name/version, of what is registered kind/name.

    `/` and `%` in names as in URLs. Of a job the name is its number; ValueError for a job that has none yet.
    """
    match definition:
        case ModelDefinition():
            return key_of("model", definition.name, definition.version)
        case MetricDefinition() | SegmentDefinition() | BaselineDefinition() | CodeMetricDefinition():
            return key_of(definition.kind, definition.model, definition.name)
        case JobDefinition():
            if definition.id is None:
                message = "a job without a number has no key"
                raise ValueError(message)
            return key_of(definition.kind, str(definition.id))
        case _:
            return key_of(definition.kind, definition.name)


def key_of(*parts: str) -> str:
    """Join the parts of a key: kind, model and name (a model's version), or kind and name of what is registered."""
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


def parse_registry_key(key: str) -> tuple[str, str]:
    """Split the key of what is registered into kind and name.

    Raises ValueError for anything that `key_of` does not give for two parts.
    """
    parts = tuple(part.replace("%2F", "/").replace("%25", "%") for part in key.split("/"))
    if len(parts) != 2 or key_of(*parts) != key or not all(parts):
        message = f"{key!r} is no key of what is registered: kind/name"
        raise ValueError(message)
    return parts


def parse_key(key: str) -> tuple[str, str, str]:
    """Split a key into kind, model and name.

    Raises ValueError for anything that `key_of` does not give.
    """
    parts = tuple(part.replace("%2F", "/").replace("%25", "%") for part in key.split("/"))
    if len(parts) != 3 or key_of(*parts) != key or not all(parts):
        message = f"{key!r} is no key of a definition: kind/model/name"
        raise ValueError(message)
    return parts


__all__ = [
    "CODE_BYTES_MAX", "COMPUTED", "DAY_MS", "DEFINITION", "ENTRY_ID_MAX", "HOUR_MS", "RESERVED_COLUMNS", "BaselineCounts", "BaselineDefinition", "Choices", "CodeMetricDefinition", "Column", "ColumnType",
    "Computed", "Definition", "DeploymentDefinition", "DurationMs", "ExecutionDefinition", "ExperimentDefinition", "JobDefinition",
    "MetricDefinition", "ModelDefinition", "Period", "PipelineDefinition", "PipelineInput", "Registered", "Role", "SegmentDefinition", "Task", "TaskParams",
    "Window", "Windows", "definition_key", "key_of", "parse_duration_ms", "parse_key", "parse_registry_key",
]  # fmt: skip
