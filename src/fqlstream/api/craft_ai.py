"""The routes that the Craft AI SDK calls, in its forms: pipeline metrics and list metrics of executions.

Its client raises on an empty 200, crashes on an error that is a JSON array, and asks for pages until it has as many rows as
`total_count` says, for ever if need be: a page beyond the end is therefore refused.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Scope as AsgiScope

from fqlstream.api.auth import allow
from fqlstream.api.problems import ApiError, Problem, Told, refuse
from fqlstream.api.registered import find_execution, find_pipeline, registry_of
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.wires import Wire
from fqlstream.events.documents import read_documents
from fqlstream.events.payloads import ListMetric, PipelineMetric
from fqlstream.events.registry import Registry
from fqlstream.ops.access import Caller, Permission
from fqlstream.store import recorded
from fqlstream.store.recorded import ListHead, Page

_PATHS: Final = (
    "/api/v1/metrics/",
    "/api/v1/pipelines/",
    "/api/v1/executions/",
    "/api/v1/users/me",
    "/api/v1/auth/refresh",
)
_CLIENT_HEADER: Final = b"craft-ai-client"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Values of an answer that is made whole; a longer one is sent while it is read.
_WHOLE_VALUES_MAX: Final = 100_000
#: Executions that are asked for by name; of more it is first looked up which have recorded anything.
_NAMED_EXECUTIONS_MAX: Final = 2_000
#: What the client asks for. A row of a list may be half a megabyte.
_ITEMS_PER_PAGE_MAX: Final = 5_000
_PAGE_MAX: Final = 2**31

Recording = Annotated[Caller, allow(Permission.RECORD)]
Reading = Annotated[Caller, allow(Permission.READ_RECORDED)]


class CraftProblem(BaseModel):
    """Why a request was refused, as the SDK reads it."""

    message: str
    name: str
    request_id: str
    additional_data: dict[str, Any]


class TokenRequest(BaseModel):
    """A key of ours."""

    refresh_token: str


class AccessToken(BaseModel):
    """A JSON Web Token with `iat` and `exp`."""

    access_token: str


class User(BaseModel):
    """Who the token belongs to."""

    id: str
    name: str
    email: str


class SingleValue(BaseModel):
    """A value of an execution."""

    value: float
    execution_id: Annotated[str, Field(min_length=1, max_length=256)]


class ListValues(BaseModel):
    """Values that are appended to a list of an execution."""

    values: list[float]
    execution_id: Annotated[str, Field(min_length=1, max_length=256)]


class MetricRow(BaseModel):
    """A pipeline metric."""

    name: str
    value: float | str
    created_at: str
    execution_id: str
    deployment_name: str | None
    pipeline_name: str


class ListMetricRow(BaseModel):
    """A list metric."""

    name: str
    values: list[float | str]
    created_at: str
    execution_id: str
    deployment_name: str | None
    pipeline_name: str


class MetricRows(BaseModel):
    """A page of pipeline metrics; `total_count` is of all pages."""

    metrics: list[MetricRow]
    total_count: int


class ListMetricRows(BaseModel):
    """A page of list metrics; `total_count` is of all pages."""

    metrics: list[ListMetricRow]
    total_count: int


class Run(BaseModel):
    """An execution that was registered."""

    execution_id: str


class _Token(msgspec.Struct):
    refresh_token: str


class _SingleValue(msgspec.Struct):
    value: float
    execution_id: str


class _ListValues(msgspec.Struct):
    values: list[float]
    execution_id: str


_TOKEN: Final = msgspec.json.Decoder(_Token)
_SINGLE_VALUE: Final = msgspec.json.Decoder(_SingleValue)
_LIST_VALUES: Final = msgspec.json.Decoder(_ListValues)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "The request is wrong; the message says what.", 401: "No token, or one that has expired.", 403: "The key may not do this.",
        404: "There is no such execution or pipeline.", 408: "The body did not come in time.", 409: "The list would become too long.",
        413: "The body is too large.", 429: "Too many attempts.", 503: "Kafka, ClickHouse or a worker does not answer in time.",
    }  # fmt: skip
    return {status: {"description": words[status], "model": CraftProblem} for status in statuses}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is read here, and faster than pydantic would."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


router = APIRouter(tags=["craft-ai"], responses=_refusals(400, 401, 403, 408, 413, 503))


# ---------------------------------------------------------------------------------------------------------------- access


@router.post("/api/v1/auth/refresh", responses=_refusals(429), openapi_extra=_body(TokenRequest))
async def refresh(request: Request, parts: Parts) -> AccessToken:
    """Give an access token for a key."""
    given = _decoded(_TOKEN, await request.body())
    token = await parts.gate.issue_token(given.refresh_token)
    return AccessToken(access_token=token.text)


@router.get("/api/v1/users/me")
async def who_am_i(caller: Reading) -> User:
    """Say whose token it is."""
    return User(id=caller.id, name=caller.name, email="")


# --------------------------------------------------------------------------------------------------------------- writing


@router.put(
    "/api/v1/metrics/single-value/{name:path}",
    status_code=204,
    responses=_refusals(404),
    openapi_extra=_body(SingleValue),
)
async def record_value(request: Request, parts: Parts, _: Recording, name: str) -> Response:
    """Record a value of an execution; one that was recorded before under the same name is replaced."""
    metric = _metric_name(request, name, parts.settings.record.name_characters_max)
    given = _decoded(_SINGLE_VALUE, await request.body())
    await _require_execution(parts, given.execution_id)
    await parts.recorder.record(PipelineMetric(id=given.execution_id, name=metric, value=given.value))
    return Response(status_code=204)


@router.post(
    "/api/v1/metrics/list-values/{name:path}",
    status_code=204,
    responses=_refusals(404, 409),
    openapi_extra=_body(ListValues),
)
async def record_list_values(request: Request, parts: Parts, _: Recording, name: str) -> Response:
    """Append values to a list of an execution. Values that would make it too long are refused, all of them."""
    metric = _metric_name(request, name, parts.settings.record.name_characters_max)
    given = _decoded(_LIST_VALUES, await request.body())
    await _require_execution(parts, given.execution_id)
    if given.values:
        written = await parts.recorder.record(ListMetric(id=given.execution_id, name=metric, values=given.values))
        refusal = await parts.recorder.verdict(written)
        if refusal is not None:
            data = {
                "stored": refusal.stored,
                "refused": len(given.values),
                "limit": parts.settings.record.list_values_max,
            }
            raise refuse(409, refusal.message, code=refusal.code, name="ListMetricLimitExceeded", extra=data)
    return Response(status_code=204)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Read a body. Raises ApiError 400 that says where it is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise refuse(400, f"the body is wrong: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(400, f"the body is no JSON: {error}") from None


def _metric_name(request: Request, name: str, characters_max: int) -> str:
    """Give the name of a metric. The client does not quote it: what HTTP takes for a query is the rest of it.

    Raises ApiError 400 for one that is no text, too short or too long.
    """
    if request.url.query:
        name = f"{name}?{unquote(request.url.query)}"
    if "\ufffd" in name:
        raise refuse(400, "the metric's name is not UTF-8")
    if not 1 <= len(name) <= characters_max:
        raise refuse(400, f"a metric's name has 1 to {characters_max} characters, not {len(name)}")
    return name


async def _require_execution(parts: Dependencies, execution_id: str) -> None:
    if await find_execution(parts, execution_id) is None:
        hint = "register it first: POST pipelines/{name}/run, `fqlstream apply`, or POST definitions"
        raise refuse(404, f"there is no execution {execution_id!r}", name="ExecutionNotFound", hint=hint)


# --------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a reader asks for; None: all."""

    name: str | None
    pipeline: str | None
    deployment: str | None
    execution: str | None
    offset: int
    limit: int
    page: int


def _filter(of: str) -> Any:
    return Query(alias=f"filters[{of}]", max_length=256)


def _wanted(
    name: Annotated[str | None, _filter("name")] = None,
    pipeline: Annotated[str | None, _filter("pipeline_name")] = None,
    deployment: Annotated[str | None, _filter("deployment_name")] = None,
    execution: Annotated[str | None, _filter("execution_id")] = None,
    items_per_page: Annotated[int, Query(ge=1, le=_ITEMS_PER_PAGE_MAX)] = _ITEMS_PER_PAGE_MAX,
    page: Annotated[int, Query(ge=1, le=_PAGE_MAX)] = 1,
) -> _Wanted:
    """Read filters. A name goes with one of the others; two of the others together are refused."""
    given = [text for text in (pipeline, deployment, execution) if text is not None]
    if len(given) > 1:
        raise refuse(400, "only one of pipeline_name, deployment_name and execution_id can be given, besides name")
    return _Wanted(name, pipeline, deployment, execution, (page - 1) * items_per_page, items_per_page, page)


Filters = Annotated[_Wanted, Depends(_wanted)]


@router.get("/api/v1/metrics/single-value", responses={200: {"model": MetricRows}})
async def list_values(parts: Parts, _: Reading, wanted: Filters) -> Response:
    """Give pipeline metrics, by execution and name."""
    await parts.recorder.settled()
    return Response(await parts.shared(_values_page, parts, wanted), media_type="application/json")


def _values_page(parts: Dependencies, wanted: _Wanted) -> bytes:
    registry = registry_of(parts)
    executions = _executions(parts, registry, wanted, recorded.executions_with_pipeline_metrics)
    page = recorded.pipeline_metrics(
        parts.store, name=wanted.name, executions=executions, offset=wanted.offset, limit=wanted.limit
    )
    _require_rows(page, wanted)
    rows = [
        {"name": row.name, "value": _json_number(row.value), **_of(registry, row.execution_id, row.at_us)}
        for row in page.rows
    ]
    return msgspec.json.encode({"metrics": rows, "total_count": _exact_count(page, wanted)})


@router.get("/api/v1/metrics/list-values", responses={200: {"model": ListMetricRows}})
async def list_lists(parts: Parts, _: Reading, wanted: Filters) -> Response:
    """Give list metrics with their values, by execution and name."""
    await parts.recorder.settled()
    registry, page = await parts.shared(_lists_page, parts, wanted)
    pieces = _list_pieces(parts, registry, page, _exact_count(page, wanted))
    if sum(head.count for head in page.rows) <= _WHOLE_VALUES_MAX:
        return Response(await parts.thread(lambda: b"".join(pieces)), media_type="application/json")
    return StreamingResponse(pieces, media_type="application/json")


def _lists_page(parts: Dependencies, wanted: _Wanted) -> tuple[Registry, Page[ListHead]]:
    """Give a page of lists, and what was registered when it was read."""
    registry = registry_of(parts)
    executions = _executions(parts, registry, wanted, recorded.executions_with_list_metrics)
    page = recorded.list_metrics(
        parts.store, name=wanted.name, executions=executions, offset=wanted.offset, limit=wanted.limit
    )
    _require_rows(page, wanted)
    return registry, page


def _list_pieces(parts: Dependencies, registry: Registry, page: Page[ListHead], total_count: int) -> Iterator[bytes]:
    """Write a page of lists, a list at a time: all of them may be gigabytes."""
    yield b'{"metrics":['
    for index, (head, values) in enumerate(recorded.list_values(parts.store, page.rows)):
        plain = [_json_number(value) for value in values.tolist()]
        row = {"name": head.name, "values": plain, **_of(registry, head.execution_id, head.created_us)}
        yield (b"," if index else b"") + msgspec.json.encode(row)
    yield b'],"total_count":%d}' % total_count


def _executions(parts: Dependencies, registry: Registry, wanted: _Wanted, recorded_by: Any) -> Sequence[str] | None:
    """Give the executions whose metrics are wanted; None for all that have any. Only registered ones are given."""
    if wanted.execution is not None:
        return [wanted.execution] if wanted.execution in registry.executions else []
    among: Any = registry.executions
    if wanted.pipeline is not None:
        among = registry.executions_of.get(wanted.pipeline, ())
    elif wanted.deployment is not None:
        among = registry.executions_by.get(wanted.deployment, ())
    if among is not registry.executions and len(among) <= _NAMED_EXECUTIONS_MAX:
        return list(among)
    present = recorded_by(parts.store, wanted.name)
    found = [execution for execution in present if execution in among]
    return None if len(found) == len(present) else found


def _require_rows(page: Page[Any], wanted: _Wanted) -> None:
    """Refuse a page beyond the end: a client that counts rows would go on asking."""
    if wanted.page > 1 and not page.rows:
        raise refuse(
            400,
            f"page {wanted.page} is beyond the end: there are {page.total_count} metrics now, {wanted.limit} on a page",
            hint="metrics were deleted while they were listed: begin again",
        )


def _exact_count(page: Page[Any], wanted: _Wanted) -> int:
    """Give how many there are. The rows, which were read later than the count, know it where they are the last ones."""
    seen = wanted.offset + len(page.rows)
    return seen if len(page.rows) < wanted.limit else max(seen, page.total_count)


def _of(registry: Registry, execution_id: str, at_us: int) -> dict[str, Any]:
    """Give what a row says beside its name and value."""
    entry = registry.executions.get(execution_id)
    return {
        "created_at": (_EPOCH + timedelta(microseconds=at_us))
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "execution_id": execution_id,
        "deployment_name": entry.definition.deployment if entry else None,
        "pipeline_name": entry.definition.pipeline if entry else None,
    }


def _json_number(value: float) -> float | str:
    """Give a number; those that JSON lacks, which only producers straight to the topic record, by their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# ------------------------------------------------------------------------------------------------------------- pipelines


@router.get("/api/v1/pipelines/{name}", responses=_refusals(404))
async def show_pipeline(parts: Parts, _: Reading, name: str) -> dict[str, Any]:
    """Describe a pipeline: the client asks for its inputs before it runs it."""
    entry = await find_pipeline(parts, name)
    if entry is None:
        raise _no_pipeline(name)
    inputs = [{"name": item.name, "data_type": item.data_type} for item in entry.definition.inputs]
    return {
        "pipeline_name": entry.definition.name,
        "description": entry.definition.description,
        "created_at": datetime.fromtimestamp(entry.created_ms / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "parameters": {"inputs": inputs, "outputs": []},
    }


@router.post("/api/v1/pipelines/{name}/run", responses=_refusals(404))
async def run_pipeline(request: Request, parts: Parts, _: Recording, name: str) -> Run:
    """Register an execution of a pipeline. Nothing is run here: whoever runs it records under the id that this gives."""
    if await find_pipeline(parts, name) is None:
        raise _no_pipeline(name)
    await _check_inputs(request)
    execution_id = uuid.uuid4().hex
    text = json.dumps({"kind": "execution", "name": execution_id, "pipeline": name})
    documents = read_documents(text, "run")
    await parts.definitions.change(lambda writer: writer.apply(documents))
    return Run(execution_id=execution_id)


@router.get("/api/v1/executions/{execution_id}/outputs", responses=_refusals(404))
async def show_outputs(parts: Parts, _: Reading, execution_id: str) -> dict[str, Any]:
    """Give the outputs of an execution, for which the client waits after a run: there are none here."""
    await _require_execution(parts, execution_id)
    return {"execution_id": execution_id, "outputs": []}


def _no_pipeline(name: str) -> ApiError:
    return refuse(404, f"there is no pipeline {name!r}", name="PipelineNotFound", hint="define it: fqlstream apply")


async def _check_inputs(request: Request) -> None:
    """Read the form of a run, and refuse what is none. Its inputs are not kept."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        await request.body()
        return
    async with request.form() as form:
        given = form.get("json_inputs")
    if not isinstance(given, str):
        return
    try:
        inputs = msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise refuse(400, f"json_inputs is no JSON: {error}") from None
    if not isinstance(inputs, dict):
        raise refuse(400, "json_inputs is no JSON object")


# ---------------------------------------------------------------------------------------------------------------- errors


def _render(problem: Problem, _request: Request, request_id: str) -> Told:
    """Write a problem as the SDK reads it. A wrong parameter is 400 here."""
    data: dict[str, Any] = {"code": problem.code, **problem.extra}
    if problem.hint is not None:
        data["hint"] = problem.hint
    if problem.fields:
        data["fields"] = {name: list(messages) for name, messages in problem.fields.items()}
    status = 400 if problem.status == 422 else problem.status
    body = {"message": problem.message, "name": problem.name, "request_id": request_id, "additional_data": data}
    return Told(status, body)


def _owns(scope: AsgiScope) -> bool:
    path = str(scope["path"])
    is_client = any(name == _CLIENT_HEADER for name, _ in scope["headers"])
    return path.startswith(_PATHS) or (is_client and path.startswith("/api/v1/"))


WIRE: Final = Wire("craft-ai", router, _render, _owns)
