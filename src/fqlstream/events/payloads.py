"""What travels on the topics, as pydantic models: the source of `schemas/*.json`, and of nothing on the hot path.

The decoder reads events by the same rules faster; tests hold the two to agree.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

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


class PipelineMetric(_Payload):
    """One number of an execution; recorded again, it replaces the old one. Topic metric-events, key id."""

    type: Literal["pipeline_metric"]
    id: Annotated[StrictStr, Field(min_length=1, description="The execution.")]
    name: Annotated[StrictStr, Field(min_length=1)]
    value: Number
    at: EventTime = None


class ListMetric(_Payload):
    """Numbers that are appended to a list of an execution. Topic metric-events, key id."""

    type: Literal["list_metric"]
    id: Annotated[StrictStr, Field(min_length=1, description="The execution.")]
    name: Annotated[StrictStr, Field(min_length=1)]
    values: list[Number]
    at: EventTime = None


class JobMetric(_Payload):
    """One number of a job at a step; the same step again replaces it. Topic metric-events, key id."""

    type: Literal["job_metric"]
    id: Annotated[Annotated[StrictStr, Field(min_length=1)] | StrictInt, Field(description="The job.")]
    name: Annotated[str, Field(pattern=r"^([A-Za-z]|[A-Za-z_][A-Za-z0-9_]+)$")]
    value: Number
    step: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    at: EventTime = None


MetricEvent = Annotated[PipelineMetric | ListMetric | JobMetric, Field(discriminator="type")]
METRIC_EVENT: TypeAdapter[PipelineMetric | ListMetric | JobMetric] = TypeAdapter(MetricEvent)


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
