"""What travels on the topics, as pydantic models: the source of `schemas/*.json`, and of nothing on the hot path.

The decoder reads events by the same rules faster; tests hold the two to agree.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, TypeAdapter

from fqlstream.events.definitions import Name

Id = Annotated[
    Annotated[StrictStr, Field(min_length=1)] | StrictInt,
    Field(description="Names the event alone within its model; an integer is taken as its decimal text."),
]
EventTime = Annotated[
    Annotated[StrictStr, Field(json_schema_extra={"format": "date-time"})]
    | Annotated[StrictFloat, Field(multiple_of=1)]
    | StrictInt
    | None,
    Field(description="RFC 3339 with an offset, or Unix milliseconds; null or absent: the record's timestamp."),
]
Number = Annotated[
    StrictInt | StrictFloat | Literal["NaN", "Infinity", "-Infinity"],
    Field(description="A number; those that JSON lacks by their names."),
]
Columns = Annotated[dict[str, Any], Field(description="The model's columns by name; what is missing or null is null.")]


class _Payload(BaseModel):
    # a producer may add keys of its own: they are read over
    model_config = ConfigDict(frozen=True, extra="ignore")


class InferenceEvent(_Payload):
    """One prediction. Topic inference-events, key event_id (ranking models: the group_by value), murmur2 partitioner."""

    type: Literal["inference"] | None = Field("inference", description="Absent: inference.")
    model: Name
    version: Name | None = Field(None, description="Absent: the model's newest version.")
    event_id: Id
    event_at: EventTime = None
    columns: Columns


class LabelEvent(_Payload):
    """The label of an event, sent when it is known; a later one replaces it. Topic and key as of the event."""

    type: Literal["label"]
    model: Name
    version: Name | None = Field(None, description="Absent: the model's newest version.")
    event_id: Id
    event_at: EventTime = None
    columns: Annotated[dict[str, Any], Field(description="Targets and metadata by name; other columns are left out.")]


class WatermarkEvent(_Payload):
    """A promise: nothing of the model older than event_at comes any more. Sent to every partition of inference-events."""

    type: Literal["watermark"]
    model: Name
    event_at: EventTime = None


MetricId = Annotated[
    Annotated[StrictStr, Field(min_length=1)] | StrictInt,
    Field(description="The execution or job; an integer is taken as its decimal text."),
]
MetricName = Annotated[StrictStr, Field(min_length=1)]
MetricTime = Annotated[EventTime, Field(description="As event_at, to the microsecond; absent: the record's timestamp.")]
#: Matched as a whole, letters of either case; a name is stored as it was given.
JOB_METRIC_NAME: Final = r"([A-Za-z]|[A-Za-z_][A-Za-z0-9_]+)"


class PipelineMetric(_Payload):
    """One number of an execution; recorded again, it replaces the old one. Topic metric-events, key id."""

    type: Literal["pipeline_metric"] = "pipeline_metric"
    id: MetricId
    name: MetricName
    value: Number
    at: MetricTime = None


class ListMetric(_Payload):
    """Numbers that are appended to a list of an execution. Topic metric-events, key id."""

    type: Literal["list_metric"] = "list_metric"
    id: MetricId
    name: MetricName
    values: list[Number]
    at: MetricTime = None


class JobMetric(_Payload):
    """One number of a job at a step; the same step again replaces it. Topic metric-events, key id."""

    type: Literal["job_metric"] = "job_metric"
    id: MetricId
    name: Annotated[StrictStr, Field(pattern=f"^{JOB_METRIC_NAME}$")]
    value: Number
    step: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] = 0
    at: MetricTime = None


class Forget(_Payload):
    """Everything that was recorded of an execution or job before this is gone. Topic metric-events, key id."""

    type: Literal["forget"] = "forget"
    kind: Annotated[Literal["execution", "job"], Field(description="What the id names.")]
    id: MetricId


MetricEvent = Annotated[PipelineMetric | ListMetric | JobMetric | Forget, Field(discriminator="type")]
METRIC_EVENT: TypeAdapter[PipelineMetric | ListMetric | JobMetric | Forget] = TypeAdapter(MetricEvent)


class RefusedRecord(_Payload):
    """A metric event that was not stored, and why: what its dead letter says too."""

    offset: Annotated[int, Field(ge=0)]
    code: str
    message: str
    stored: Annotated[
        int, Field(ge=0, description="Values that its list holds; 0 where the event was refused for its form.")
    ]


class RecordVerdict(_Payload):
    """What became of metric events. Topic record-verdicts, key partition. Only a hint: losing one loses nothing.

    Offsets `first` to `applied` are decided: what is not in `refused` was taken. Up to `flushed` everything is in ClickHouse.
    """

    partition: Annotated[int, Field(ge=0, description="Of the topic metric-events.")]
    first: Annotated[int, Field(ge=0)]
    applied: Annotated[int, Field(ge=-1)]
    refused: list[RefusedRecord] = Field(default_factory=list)
    flushed: Annotated[int, Field(ge=-1)]


class CodeMetricTask(_Payload):
    """A validation or a run that somebody asks for. Topic code-metric-tasks, key the metric's id.

    What it is about stands in ClickHouse under the same names, before the record is sent: a record that comes again asks for nothing new.
    """

    type: Literal["validate", "run"]
    metric_id: Annotated[str, Field(min_length=1, max_length=64)]
    dataset_id: Annotated[str, Field(max_length=2_048, description="Of a validation: of which rows.")] = ""
    code_hash: Annotated[str, Field(max_length=64, description="Of which text of the metric.")]
    attempt: Annotated[int, Field(ge=1, description="Counts what was asked of this text over these rows.")]


class PaneUpdate(_Payload):
    """A notice that panes changed. Topic pane-updates, key model. Only a hint: losing one loses nothing."""

    topic: str = Field(description="The source topic.")
    partition: Annotated[int, Field(ge=0)]
    epoch: Annotated[int, Field(ge=0, description="Counts the partition's owners.")]
    flush: Annotated[int, Field(ge=0, description="Counts that owner's flushes.")]
    model: Name
    panes: list[tuple[str, int]] = Field(description="Version and first millisecond of each pane.")


class MetricValuePayload(_Payload):
    """One value of one window. Topic metric-values, key [model, metric, segment]; the columns of `metric_values`."""

    model: Name
    version: str = Field(description="The model's version, or `all`.")
    metric: Name
    segment: str = Field(description="'' is all rows.")
    window_start: datetime
    window_end: datetime = Field(description="The first moment that is no longer in the window.")
    window_s: Annotated[int, Field(gt=0)]
    value: float | None
    rows: Annotated[int, Field(ge=0, description="Counted rows of the window and segment.")]
    labelled_rows: Annotated[int, Field(ge=0, description="Those whose target is not null.")]
    exact: bool
    error_bound: float | None = Field(
        description="Of a quantile a normalised rank error at 99 % confidence, else an absolute error; null where exact."
    )
    status: Literal["early", "final", "revised"]
    value_version: Annotated[int, Field(ge=0, description="Of two rows of one window the higher one counts.")]
    definition_revision: Annotated[int, Field(ge=0)]
    updated_at: datetime
