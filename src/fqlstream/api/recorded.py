"""Metrics that people record: our own routes for numbers and lists of executions, and for steps of jobs.

A write is answered once Kafka has it; what is appended to a list, once it is decided that the list has room. A read sees every
write that this process has acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, TypeVar

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.problems import refuse
from fqlstream.api.registered import find_execution, find_job
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import Body, NameQuery, Page, Paged, PagedBy100, PageOf, number, refusals
from fqlstream.api.shapes import Number as NumberOut
from fqlstream.events.payloads import JOB_METRIC_NAME, JobMetric, ListMetric, PipelineMetric
from fqlstream.events.registry import Registry
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.outbox import Written
from fqlstream.store import recorded as stored

router = APIRouter(tags=["recorded metrics"], prefix="/recorded")
Recorder = Annotated[Caller, allow(Permission.RECORD)]
Reader = Annotated[Caller, allow(Permission.READ_RECORDED)]

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ExecutionText = Annotated[str, Field(min_length=1, max_length=256, description="The execution: its registered name.")]
MetricText = Annotated[str, Field(min_length=1, max_length=256)]
NumberIn = Annotated[
    Annotated[float, Field(strict=True)] | Literal["NaN", "Infinity", "-Infinity"],
    Field(description='A number; those that JSON lacks by their names: "NaN", "Infinity", "-Infinity".'),
]
At = Annotated[AwareDatetime | None, Field(description="When it was measured; when it came, otherwise.")]
OfNameQuery = Annotated[str | None, Query(min_length=1, max_length=256, description="Only metrics of this name.")]
OwnerQuery = Annotated[str | None, Query(min_length=1, max_length=256)]
JobQuery = Annotated[int, Query(ge=1, le=2**53 - 1, description="The job's number.")]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Whose metrics are asked for, and of which name; None: all."""

    name: str | None
    executions: tuple[str, ...] | None


async def _chosen(
    parts: Parts,
    name: OfNameQuery = None,
    execution: OwnerQuery = None,
    pipeline: OwnerQuery = None,
    deployment: OwnerQuery = None,
) -> _Chosen:
    if sum(each is not None for each in (execution, pipeline, deployment)) > 1:
        raise refuse(422, "give one of execution, pipeline, deployment", fields={"query": ["one of them"]})
    if execution is not None:
        return _Chosen(name, (execution,))
    if pipeline is None and deployment is None:
        return _Chosen(name, None)
    registry = (await parts.definitions.refresh()).registry
    if pipeline is not None:
        return _Chosen(name, tuple(registry.executions_of.get(pipeline, ())))
    return _Chosen(name, tuple(registry.executions_by.get(deployment or "", ())))


Chosen = Annotated[_Chosen, Depends(_chosen)]


class PipelineValueIn(Body):
    """One number of an execution; recorded again, it replaces the old one."""

    execution: ExecutionText
    name: MetricText
    value: NumberIn
    at: At = None


class ListValuesIn(Body):
    """Numbers that are appended to a list of an execution."""

    execution: ExecutionText
    name: MetricText
    values: Annotated[list[NumberIn], Field(min_length=1, max_length=1_000_000)]
    at: At = None


class JobValueIn(Body):
    """One number of a job at a step; the same step again replaces it."""

    job: Annotated[int, Field(strict=True, ge=1, le=2**53 - 1, description="The job's number.")]
    name: Annotated[str, Field(max_length=256, pattern=f"^{JOB_METRIC_NAME}$")]
    value: NumberIn
    step: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] = 0
    at: At = None


class Recorded(BaseModel):
    """Where the event stands in the topic metric-events: it is durable."""

    partition: int
    offset: int


class PipelineValue(BaseModel):
    """The number last recorded of an execution under a name. Without an execution that is registered there is no pipeline."""

    execution: str
    name: str
    value: NumberOut
    at: datetime
    pipeline: str | None
    deployment: str | None


class Summary(BaseModel):
    """A list in numbers: those of its values that are finite. Quantiles by rank; a sketch's, and those of the stored values."""

    count: int
    finite: int
    mean: float | None
    variance: float | None
    min: float | None
    max: float | None
    quantiles: dict[float, float]
    exact_quantiles: dict[float, float]


class List(BaseModel):
    """A list of an execution, without its values."""

    execution: str
    name: str
    count: int
    created_at: datetime
    updated_at: datetime
    pipeline: str | None
    deployment: str | None
    summary: Annotated[Summary | None, Field(description="None for a moment, until it is computed.")]


class JobValue(BaseModel):
    """One number of a job at a step."""

    job: str
    name: str
    step: int
    value: NumberOut
    at: datetime


@router.post("/pipeline-metrics", responses=refusals(404))
async def record_pipeline_metric(parts: Parts, _: Recorder, body: PipelineValueIn) -> Recorded:
    """Record a number of an execution. The answer means that it is durable."""
    await _require_execution(parts, body.execution)
    event = PipelineMetric(id=body.execution, name=body.name, value=_given(body.value), at=_text(body.at))
    return _place(await parts.recorder.record(event))


@router.post("/list-metrics", responses=refusals(404, 409))
async def record_list_metric(parts: Parts, _: Recorder, body: ListValuesIn) -> Recorded:
    """Append numbers to a list of an execution: all of them, or none where the list has no room (409)."""
    await _require_execution(parts, body.execution)
    values = [_given(value) for value in body.values]
    event = ListMetric(id=body.execution, name=body.name, values=values, at=_text(body.at))
    written = await parts.recorder.record(event)
    refusal = await parts.recorder.verdict(written)
    if refusal is not None:
        raise refuse(409, refusal.message, code=refusal.code, extra={"stored": refusal.stored})
    return _place(written)


@router.post("/job-metrics", responses=refusals(404))
async def record_job_metric(parts: Parts, _: Recorder, body: JobValueIn) -> Recorded:
    """Record a number of a job at a step. The answer means that it is durable."""
    await _require_job(parts, body.job)
    event = JobMetric(id=body.job, name=body.name, value=_given(body.value), step=body.step, at=_text(body.at))
    return _place(await parts.recorder.record(event))


@router.get("/pipeline-metrics")
async def list_pipeline_metrics(parts: Parts, _: Reader, chosen: Chosen, page: Paged) -> PageOf[PipelineValue]:
    """List numbers by execution and name: all, or those of an execution, a pipeline or a deployment."""
    found = await _read(parts, stored.pipeline_metrics, chosen, page)
    registry = parts.definitions.catalogue.registry
    rows = [
        PipelineValue(
            execution=row.execution_id, name=row.name, value=number(row.value), at=_moment(row.at_us),
            **_owners(registry, row.execution_id),
        )
        for row in found.rows
    ]  # fmt: skip
    return PageOf(items=rows, total_count=found.total_count, offset=page.offset)


@router.get("/list-metrics")
async def list_list_metrics(parts: Parts, _: Reader, chosen: Chosen, page: PagedBy100) -> PageOf[List]:
    """List lists with their summaries, by execution and name; values are read one list at a time."""
    heads = await _read(parts, stored.list_metrics, chosen, page)
    found = await parts.shared(stored.list_summaries, parts.store, heads.rows)
    summaries = {(each.execution_id, each.name): each for each in found}
    registry = parts.definitions.catalogue.registry
    rows = [_list(head, summaries.get((head.execution_id, head.name)), registry) for head in heads.rows]
    return PageOf(items=rows, total_count=heads.total_count, offset=page.offset)


@router.get("/list-metrics/values", responses=refusals(404))
async def read_list(
    parts: Parts,
    _: Reader,
    execution: NameQuery,
    name: NameQuery,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1, description="Values that are left out first.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 50_000,
) -> PageOf[NumberOut]:
    """Give the values of a list in the order in which they were recorded."""
    await parts.recorder.settled()
    page = await parts.shared(stored.list_slice, parts.store, execution, name, offset=offset, limit=limit)
    if not page.total_count:
        raise refuse(404, f"execution {execution!r} has no list {name!r}")
    return PageOf(items=[number(value) for value in page.rows], total_count=page.total_count, offset=offset)


@router.get("/job-metrics", responses=refusals(404))
async def list_job_metrics(parts: Parts, _: Reader, job: JobQuery) -> list[JobValue]:
    """Give a job's metrics at their highest steps, by name."""
    await _require_job(parts, job)
    await parts.recorder.settled()
    found = await parts.shared(stored.job_metrics_latest, parts.store, (str(job),))
    return [_job_value(row) for row in found.get(str(job), [])]


@router.get("/job-metrics/steps", responses=refusals(404))
async def list_steps(parts: Parts, _: Reader, job: JobQuery, name: NameQuery, page: Paged) -> PageOf[JobValue]:
    """Give every step of a job's metric, in the order of the steps."""
    await _require_job(parts, job)
    await parts.recorder.settled()
    found = await parts.shared(
        stored.job_metric_steps, parts.store, str(job), name, offset=page.offset, limit=page.limit
    )
    return PageOf(items=[_job_value(row) for row in found.rows], total_count=found.total_count, offset=page.offset)


async def _read(
    parts: Dependencies, read: Callable[..., stored.Page[T]], chosen: _Chosen, page: Page
) -> stored.Page[T]:
    """Read a page of what was chosen, with everything in it that this process has acknowledged."""
    await parts.recorder.settled()
    return await parts.shared(
        read, parts.store, name=chosen.name, executions=chosen.executions, offset=page.offset, limit=page.limit
    )


async def _require_execution(parts: Dependencies, name: str) -> None:
    if await find_execution(parts, name) is None:
        raise refuse(404, f"there is no execution {name!r}", hint="register it first: POST executions")


async def _require_job(parts: Dependencies, job: int) -> None:
    if await find_job(parts, job) is None:
        raise refuse(404, f"there is no job {job}", hint="register it first: POST jobs")


def _owners(registry: Registry, execution: str) -> dict[str, str | None]:
    entry = registry.executions.get(execution)
    if entry is None:
        return {"pipeline": None, "deployment": None}
    return {"pipeline": entry.definition.pipeline, "deployment": entry.definition.deployment}


def _list(head: stored.ListHead, summary: stored.ListSummary | None, registry: Registry) -> List:
    return List(
        execution=head.execution_id,
        name=head.name,
        count=head.count,
        created_at=_moment(head.created_us),
        updated_at=_moment(head.updated_us),
        summary=None if summary is None else Summary.model_validate(summary, from_attributes=True),
        **_owners(registry, head.execution_id),
    )


def _job_value(row: stored.JobValue) -> JobValue:
    return JobValue(job=row.job_id, name=row.name, step=row.step, value=number(row.value), at=_moment(row.at_us))


def _given(value: float | str) -> float:
    return float(value)


def _text(at: datetime | None) -> str | None:
    """Write a time as events have it. Raises ApiError 422 for one that is in no year of UTC."""
    if at is None:
        return None
    try:
        return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise refuse(
            422, "body.at: a time of the years 1 to 9999, in UTC", fields={"body.at": ["no such year"]}
        ) from None


def _moment(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)


def _place(written: Written) -> Recorded:
    return Recorded(partition=written.partition, offset=written.offset)
