"""The routes that the Dioptra client calls, in its forms: logins by cookie, metrics of jobs and experiments.

`index` is an offset everywhere, and whoever follows `next` sees every row once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.types import Scope as AsgiScope

from fqlstream.api.auth import allow, clear_session, set_session
from fqlstream.api.dioptra_reading import echoed, read_credentials, read_metric
from fqlstream.api.dioptra_search import SearchError, matches, parse_search
from fqlstream.api.problems import Problem, Told, refuse
from fqlstream.api.registered import find_job, registry_of
from fqlstream.api.services import Parts
from fqlstream.api.wires import Wire
from fqlstream.events.definitions import JobDefinition
from fqlstream.events.payloads import JobMetric
from fqlstream.events.registry import Entry, Registry
from fqlstream.ops.access import Caller, Permission
from fqlstream.store import recorded
from fqlstream.store.recorded import JobValue

_ROOT: Final = "/api/v1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE_LENGTH: Final = 10
_PAGE_LENGTH_MAX: Final = 1_000
_INT64_MAX: Final = 2**63 - 1
#: Orders of jobs that are remembered while the registry stays the same: a client asks for one page after the other.
_ORDERS_MAX: Final = 64

Recording = Annotated[Caller, allow(Permission.RECORD)]
Reading = Annotated[Caller, allow(Permission.READ_RECORDED)]
Number = Annotated[int, Path(alias="id", ge=0, le=_INT64_MAX)]
Index = Annotated[int, Query(ge=0, le=_INT64_MAX, description="An offset.")]
PageLength = Annotated[int, Query(alias="pageLength", ge=1, le=_PAGE_LENGTH_MAX)]


class DioptraProblem(BaseModel):
    """Why a request was refused. A wrong field has `errors` alone, a missing login `message` alone."""

    errors: dict[str, list[str]] | None = None
    error: str | None = None
    message: str | None = None
    detail: dict[str, Any] | None = None
    originating_path: str | None = None


class Login(BaseModel):
    """A user and the password."""

    username: str
    password: str


class Status(BaseModel):
    """What became of a login."""

    username: str
    status: str


class Metric(BaseModel):
    """A metric; a value that JSON lacks is `nan`, `inf` or `-inf`."""

    name: str
    value: float | str


class MetricStep(Metric):
    """A metric at one step."""

    step: int
    timestamp: str


class JobMetrics(BaseModel):
    """A job's metrics at their highest steps."""

    id: int
    metrics: list[Metric]


class _Envelope(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    index: int
    is_complete: bool
    total_num_results: int
    first: str
    next: str | None = None
    prev: str | None = None


class MetricSteps(_Envelope):
    """A page of the steps of a metric."""

    data: list[MetricStep]


class ExperimentMetrics(_Envelope):
    """A page of the jobs of an experiment."""

    data: list[JobMetrics]


class GivenMetric(BaseModel):
    """A metric of a job."""

    name: Annotated[str, Field(pattern="^([A-Za-z]|[A-Za-z_][A-Za-z0-9_]+)$", max_length=256)]
    value: float | str
    step: Annotated[int, Field(ge=-(2**63), le=_INT64_MAX)] = 0
    timestamp: Annotated[str | None, Field(description="ISO 8601; UTC where it does not say; absent: now.")] = None


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "A field is wrong.", 401: "Not logged in.", 403: "The user may not do this.", 404: "There is no such job.",
        408: "The body did not come in time.", 413: "The body is too large.", 422: "The search cannot be read.",
        429: "Too many failed logins.", 503: "Kafka, ClickHouse or a worker does not answer in time.",
    }  # fmt: skip
    return {status: {"description": words[status], "model": DioptraProblem} for status in statuses}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


router = APIRouter(prefix=_ROOT, tags=["dioptra"], responses=_refusals(400, 401, 403, 404, 408, 413, 503))


# ---------------------------------------------------------------------------------------------------------------- logins


@router.post("/auth/login", responses=_refusals(429), openapi_extra=_body(Login))
async def login(request: Request, response: Response, parts: Parts) -> Status:
    """Log a user in; the session is a cookie."""
    username, password = read_credentials(await request.body())
    caller, cookie = await parts.gate.log_in(username, password)
    set_session(response, request, cookie, parts)
    return Status(username=caller.name, status="Login successful")


@router.post("/auth/logout")
async def logout(response: Response, parts: Parts, caller: Reading, *, everywhere: bool = False) -> Status:
    """End the login, or all logins of the user."""
    await parts.gate.log_out(caller, everywhere=everywhere)
    clear_session(response)
    return Status(username=caller.name, status="Logout successful")


# --------------------------------------------------------------------------------------------------------------- metrics


@router.post("/jobs/{id}/metrics", responses=_refusals(404), openapi_extra=_body(GivenMetric))
async def append_metric(request: Request, parts: Parts, _: Recording, number: Number) -> Metric:
    """Record a metric of a job at a step; what was recorded there before is replaced."""
    given = read_metric(await request.body(), name_characters_max=parts.settings.record.name_characters_max)
    if await find_job(parts, number) is None:
        raise refuse(
            404,
            f"The requested job having (id={number}) does not exist.",
            name="EntityDoesNotExistError",
            extra={"entity_type": "job", "entity_attributes": {"id": number}},
        )
    at = None if given.at is None else given.at.isoformat()
    await parts.recorder.record(JobMetric(id=str(number), name=given.name, value=given.value, step=given.step, at=at))
    return Metric(name=given.name, value=echoed(given.value))


@router.get("/jobs/{id}/metrics")
async def job_metrics(parts: Parts, _: Reading, number: Number) -> list[Metric]:
    """Give each metric of a job at its highest step; nothing of an unknown job."""
    await parts.recorder.settled()
    if await find_job(parts, number) is None:
        return []
    found = await parts.shared(recorded.job_metrics_latest, parts.store, (str(number),))
    return [_metric(value) for value in found.get(str(number), ())]


@router.get("/jobs/{id}/metrics/{name}/snapshots", response_model_exclude_none=True)
async def metric_snapshots(
    parts: Parts,
    _: Reading,
    number: Number,
    name: str,
    index: Index = 0,
    page_length: PageLength = _PAGE_LENGTH,
) -> MetricSteps:
    """Give the steps of a metric, in their order; nothing of an unknown job."""
    await parts.recorder.settled()
    path = f"/jobs/{number}/metrics/{quote(name, safe='')}/snapshots"
    if await find_job(parts, number) is None:
        return MetricSteps(data=[], **_envelope(path, {}, index, page_length, 0, 0))
    page = await parts.shared(
        recorded.job_metric_steps, parts.store, str(number), name, offset=index, limit=page_length
    )
    steps = [
        MetricStep(name=row.name, value=echoed(row.value), step=row.step, timestamp=_moment(row.at_us))
        for row in page.rows
    ]
    return MetricSteps(data=steps, **_envelope(path, {}, index, page_length, len(steps), page.total_count))


@router.get("/experiments/{id}/metrics", responses=_refusals(422), response_model_exclude_none=True)
async def experiment_metrics(
    parts: Parts,
    _: Reading,
    number: Number,
    index: Index = 0,
    page_length: PageLength = _PAGE_LENGTH,
    sort_by: Annotated[str | None, Query(alias="sortBy")] = None,
    search: Annotated[str | None, Query()] = None,
    *,
    descending: Annotated[bool, Query()] = False,
) -> ExperimentMetrics:
    """Give the jobs of an experiment with their metrics at the highest steps; jobs without metrics too."""
    if sort_by is not None and sort_by not in _SORTED_BY:
        raise refuse(400, "sortBy", fields={"query.sortBy": [f"Must be one of: {', '.join(_SORTED_BY)}."]})
    await parts.recorder.settled()
    registry = registry_of(parts)
    if number not in registry.experiments:
        registry = (await parts.definitions.refresh()).registry
    jobs = await parts.thread(_ORDERS.of, registry, _Order(number, sort_by or "id", descending, search or ""))
    wanted = jobs[index : index + page_length]
    found = await parts.shared(recorded.job_metrics_latest, parts.store, tuple(str(job) for job in wanted))
    data = [JobMetrics(id=job, metrics=[_metric(value) for value in found.get(str(job), ())]) for job in wanted]
    asked = {"sortBy": sort_by, "descending": "True" if descending else None, "search": search}
    kept = {name: text for name, text in asked.items() if text is not None}
    path = f"/experiments/{number}/metrics"
    return ExperimentMetrics(data=data, **_envelope(path, kept, index, page_length, len(data), len(jobs)))


def _metric(value: JobValue) -> Metric:
    return Metric(name=value.name, value=echoed(value.value))


def _moment(at_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat()


def _envelope(path: str, asked: Mapping[str, str], index: int, length: int, count: int, total: int) -> dict[str, Any]:
    """Say where a page is, and where those around it are, with what else was asked for."""

    def link(at: int) -> str:
        query = urlencode({"index": at, "pageLength": length, **asked}, quote_via=quote)
        return f"{_ROOT}{path}?{query}"

    is_complete = index + count >= total
    return {
        "index": index,
        "is_complete": is_complete,
        "total_num_results": total,
        "first": link(0),
        "next": None if is_complete else link(index + length),
        "prev": link(max(0, index - length)) if index > 0 else None,
    }


# ------------------------------------------------------------------------------------------------------- jobs, in an order


@dataclass(frozen=True, slots=True)
class _Order:
    """Which jobs of an experiment are wanted, and how they follow each other."""

    experiment: int
    sort_by: str
    descending: bool
    search: str


_Job = Entry[JobDefinition]
#: What jobs are sorted by; those that are equal follow each other by number.
_SORTED_BY: Final[Mapping[str, Callable[[_Job], Any]]] = {
    "id": lambda job: job.definition.id,
    "description": lambda job: job.definition.description,
    "createdOn": lambda job: job.created_ms,
    "lastModifiedOn": lambda job: job.changed_ms,
    "status": lambda job: job.definition.status,
    "experiment": lambda job: job.definition.experiment,
    "entrypoint": lambda job: job.definition.entrypoint,
    "queue": lambda job: job.definition.queue,
}
_SEARCHED: Final = ("description", "status", "timeout", "tag")


class _Orders:
    """Orders of jobs, kept as long as the registry has the same jobs. Used from several threads: a lost entry is only made again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Order, tuple[Any, Sequence[int]]] = OrderedDict()

    def of(self, registry: Registry, order: _Order) -> Sequence[int]:
        """Give numbers of jobs. Raises ApiError 422 for a search that cannot be read."""
        kept = self._kept.get(order)
        if kept is not None and kept[0] is registry.jobs:
            return kept[1]
        jobs = _ordered(registry, order)
        self._kept[order] = registry.jobs, jobs
        while len(self._kept) > _ORDERS_MAX:
            self._kept.popitem(last=False)
        return jobs


_ORDERS: Final = _Orders()


def _ordered(registry: Registry, order: _Order) -> Sequence[int]:
    try:
        terms = parse_search(order.search, _SEARCHED)
    except SearchError as error:
        raise refuse(
            422, f"the search cannot be read: {error}", name="SearchParseError", extra={"reason": str(error)}
        ) from None
    jobs = [job for job in registry.jobs_of_experiment(order.experiment) if not terms or matches(terms, _texts(job))]
    jobs.sort(key=lambda job: job.definition.id or 0)
    jobs.sort(key=_SORTED_BY[order.sort_by], reverse=order.descending)
    return [job.definition.id or 0 for job in jobs]


def _texts(job: _Job) -> Mapping[str, Sequence[str]]:
    definition = job.definition
    return {
        "description": (definition.description,), "status": (definition.status,), "timeout": (definition.timeout,), "tag": definition.tags,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- errors


def _render(problem: Problem, request: Request, _request_id: str) -> Told:
    """Write a problem as this client's users know it: wrong fields by name, a missing login by a message, all else by its error."""
    places = {name.partition(".")[0] for name in problem.fields}
    if "path" in places:  # no number: no route of that server has such a path
        return Told(404, _error(request, "NotFound", "Not Found - there is no such path", {}))
    if problem.fields and problem.status in (400, 422):
        fields = {name.removeprefix("query."): list(messages) for name, messages in problem.fields.items()}
        return Told(400, {"errors": fields})
    if problem.status == 401 and not request.url.path.endswith("/auth/login"):
        return Told(401, {"message": problem.message})
    detail = {"code": problem.code, **problem.extra} | ({"hint": problem.hint} if problem.hint else {})
    return Told(problem.status, _error(request, problem.name, problem.message, detail))


def _error(request: Request, name: str, message: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return {"error": name, "message": message, "detail": detail, "originating_path": path}


def _owns(scope: AsgiScope) -> bool:
    return str(scope["path"]).startswith(f"{_ROOT}/")


WIRE: Final = Wire("dioptra", router, _render, _owns, takes_the_rest=True)
