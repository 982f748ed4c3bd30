"""The routes of code-based metrics in Aporia's form, as its documentation calls them: metrics in Python, tried and kept.

Its client tells success by status 200 alone, takes the dataset of the last version that is listed, and asks about a validation
again and again without a pause: an answer that says only that it goes on is held back for a moment.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.types import Scope as AsgiScope

from fqlstream.api.auth import allow
from fqlstream.api.problems import ApiError, Problem, Told, refuse
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import Number, aware, number
from fqlstream.api.wires import Wire
from fqlstream.errors import UsageError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import CodeMetricDefinition, Column, Period, definition_key, key_of
from fqlstream.events.documents import dump_definitions, read_documents
from fqlstream.ops import definition_effects
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.code_metric_definitions import find_code_metric
from fqlstream.ops.code_metric_tasks import Dataset, Stage, training_baseline
from fqlstream.store.code_metric_rows import FAILED, SUCCESS, TaskRow

_ROOT: Final = "/api/v1/{account}/{workspace}"
_METRICS: Final = f"{_ROOT}/metrics/code-based-metrics"
_OURS: Final = re.compile(r"/api/v1/[^/]+/[^/]+/(?:metrics/code-based-metrics|model-versions)(?:/|$)")
_LOOK_S: Final = 0.1

Reading = Annotated[Caller, allow(Permission.READ)]
#: Trying a metric runs code, so it takes the same permission as writing one.
Managing = Annotated[Caller, allow(Permission.MANAGE)]


class AporiaProblem(BaseModel):
    """Why a request was refused."""

    detail: dict[str, Any]


class NewMetric(BaseModel):
    """A metric: `code` defines calc_metric(df)."""

    model_id: Annotated[str, Field(min_length=1, max_length=256, description="The model's name.")]
    name: str
    code: str
    period: Period | None = None
    description: str = ""


class MetricChange(BaseModel):
    """What of a metric is to change."""

    name: str | None = None
    code: str | None = None
    period: Period | None = None
    description: str | None = None


class Metric(BaseModel):
    """A metric as it stands."""

    id: str
    name: str
    model_id: str
    code: str
    period: Period | None
    description: str
    created_at: str
    updated_at: str


class Question(BaseModel):
    """Which metric is to be tried on which rows."""

    metric_id: Annotated[str, Field(min_length=1, max_length=64)]
    dataset_id: Annotated[str, Field(min_length=1, max_length=2_048)]


class Validation(BaseModel):
    """How a try stands. A final state is given once; the next request begins a new try."""

    status: Literal["pending", "success", "failed"]
    progress: Annotated[int, Field(ge=0, le=100, description="Stages that are done, in percent of all.")]
    stage: Annotated[str, Field(description="The last one that is done.")]
    value: Annotated[Number | None, Field(description="Of all rows; null where there is no row or the run failed.")] = (
        None
    )
    segments: Annotated[dict[str, Number | None], Field(description="Of each segment's rows.")] = {}
    rows: int | None = None
    error: str | None = None
    traceback: str | None = None
    code: Annotated[str | None, Field(description="Of the error: it never changes its meaning.")] = None
    hint: str | None = None
    engine: str | None = None
    layers: Annotated[list[str], Field(description="Layers of the sandbox that were active.")] = []
    seconds: Annotated[dict[str, float], Field(description="How long each stage took.")] = {}


class SchemaColumn(BaseModel):
    """A column of a dataset."""

    name: str
    type: str
    role: str


class DatasetRow(BaseModel):
    """Rows that a metric can be tried on."""

    id: str
    stage: Stage
    columns: Annotated[list[SchemaColumn], Field(serialization_alias="schema")]


class ModelVersion(BaseModel):
    """A version of a model, with its rows: `training_dataset` where a static baseline of the model lies in stored history."""

    id: str
    name: str
    model_id: str
    is_active: Annotated[bool, Field(description="It is the one that events without a version belong to.")]
    serving_dataset: DatasetRow | None
    training_dataset: DatasetRow | None


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "The request is no JSON.", 401: "No key, or a wrong one.", 403: "The key may not do this.", 404: "There is no such thing.",
        408: "The body did not come in time.", 409: "A metric of this name does something else.", 413: "The body is too large.",
        422: "A field of the request is wrong.", 503: "Kafka or ClickHouse does not answer in time.",
    }  # fmt: skip
    return {status: {"description": words[status], "model": AporiaProblem} for status in statuses}


async def _require_installation(parts: Parts, account: str, workspace: str) -> None:
    """Refuse, by ApiError 404, an account or a workspace that is not this installation's."""
    api = parts.settings.api
    if (account, workspace) != (api.account, api.workspace):
        raise refuse(
            404,
            f"there is no workspace {account}/{workspace} here",
            hint="the names are those of FQLSTREAM_API__ACCOUNT and FQLSTREAM_API__WORKSPACE",
        )


router = APIRouter(
    tags=["aporia"],
    responses=_refusals(400, 401, 403, 404, 408, 413, 422, 503),
    dependencies=[Depends(_require_installation)],
)


# --------------------------------------------------------------------------------------------------------------- metrics


@router.post(_METRICS, responses=_refusals(409))
async def create_metric(parts: Parts, _: Managing, body: NewMetric) -> Metric:
    """Define a metric. The same one again is the one that stands; another one of the same name is refused."""
    entry = await _model(parts, body.model_id)
    standing = entry.code_metrics.get(body.name)
    if standing is not None:
        if (standing.code, standing.period) != (body.code, body.period):
            raise refuse(
                409,
                f"model {body.model_id!r} has another metric {body.name!r}",
                hint=f"change it: PUT .../{standing.id}",
            )
        return _shown(parts, standing)
    return await _apply(
        parts, body.model_id, body.name, body.model_dump(exclude={"model_id", "name"}, exclude_none=True)
    )


@router.get(_METRICS)
async def list_metrics(
    parts: Parts, _: Reading, model_id: Annotated[str | None, Query(min_length=1, max_length=256)] = None
) -> list[Metric]:
    """Give all metrics, or a model's, by model and name."""
    catalogue = await parts.definitions.refresh()
    entries = (
        [catalogue.models[name] for name in sorted(catalogue.models)]
        if model_id is None
        else [await _model(parts, model_id)]
    )
    return [_shown(parts, entry.code_metrics[name]) for entry in entries for name in sorted(entry.code_metrics)]


@router.get(_METRICS + "/{metric_id}")
async def get_metric(parts: Parts, _: Reading, metric_id: str) -> Metric:
    """Give a metric."""
    return _shown(parts, await _metric(parts, metric_id))


@router.put(_METRICS + "/{metric_id}")
async def replace_metric(parts: Parts, _: Managing, metric_id: str, body: MetricChange) -> Metric:
    """Change a metric; what is left out stays."""
    return await _change(parts, metric_id, body)


@router.patch(_METRICS + "/{metric_id}")
async def change_metric(parts: Parts, _: Managing, metric_id: str, body: MetricChange) -> Metric:
    """Change a metric; what is left out stays."""
    return await _change(parts, metric_id, body)


@router.delete(_METRICS + "/{metric_id}")
async def delete_metric(parts: Parts, _: Managing, metric_id: str) -> Metric:
    """Take a metric back. Its stored values stay."""
    metric = await _metric(parts, metric_id)
    shown = _shown(parts, metric)
    deleted = await parts.definitions.change(lambda writer: writer.delete(metric.kind, metric.name, model=metric.model))
    await parts.thread(definition_effects.show_in_store, parts.store, deleted.catalogue, deleted.folded)
    return shown


async def _change(parts: Dependencies, metric_id: str, body: MetricChange) -> Metric:
    metric = await _metric(parts, metric_id)
    if body.name not in (None, metric.name):
        raise refuse(
            422,
            f"metric {metric.name!r} cannot be called anything else: its values are stored under its name",
            hint="create another one, and delete this one",
            fields={"body.name": ["cannot change"]},
        )
    given = body.model_dump(exclude={"name"}, exclude_unset=True)
    kept = {"id": metric.id, "code": metric.code, "period": metric.period, "description": metric.description}
    return await _apply(parts, metric.model, metric.name, {**kept, **given})


async def _apply(parts: Dependencies, model: str, name: str, given: dict[str, Any]) -> Metric:
    """Apply a metric, as `fqlstream apply` does. Raises ApiError 422 for one that makes no sense."""
    try:
        definition = CodeMetricDefinition.model_validate({"model": model, "name": name, **given})
    except ValueError as error:
        raise _wrong_fields(error) from None
    documents = read_documents(dump_definitions([definition]), "request")
    applied = await parts.definitions.change(lambda writer: writer.apply(documents))
    await parts.thread(definition_effects.show_in_store, parts.store, applied.catalogue, applied.folded)
    return _shown(parts, parts.definitions.catalogue.models[model].code_metrics[name])


def _wrong_fields(error: ValueError) -> ApiError:
    found: Any = getattr(error, "errors", list)()
    fields = {
        ".".join(["body", *map(str, each["loc"])]): [str(each["msg"]).removeprefix("Value error, ")] for each in found
    }
    message = "; ".join(f"{place}: {messages[0]}" for place, messages in fields.items())
    return refuse(422, message or str(error), fields=fields)


def _shown(parts: Dependencies, metric: CodeMetricDefinition) -> Metric:
    stored = parts.definitions.folded.stored[definition_key(metric)]
    return Metric(
        id=metric.id or "",
        name=metric.name,
        model_id=metric.model,
        code=metric.code or "",
        period=metric.period,
        description=metric.description,
        created_at=_time(stored.first_at_ms),
        updated_at=_time(stored.record.record_at_ms),
    )


def _time(at_ms: int) -> str:
    return aware(datetime.fromtimestamp(at_ms / 1000, UTC))


async def _model(parts: Dependencies, name: str) -> ModelEntry:
    entry = parts.definitions.catalogue.models.get(name) or (await parts.definitions.refresh()).models.get(name)
    if entry is None:
        raise refuse(404, f"there is no model {name!r}", hint="a model's id is its name: fqlstream get model")
    return entry


async def _metric(parts: Dependencies, metric_id: str) -> CodeMetricDefinition:
    """Give a metric as it stands now: another API process may have changed it. Raises ApiError 404 where there is none."""
    metric = find_code_metric((await parts.definitions.refresh()).models, metric_id)
    if metric is None:
        raise refuse(404, f"there is no code-based metric {metric_id!r}")
    return metric


# ------------------------------------------------------------------------------------------------------------- validating


@router.post(_METRICS + "/validate")
async def validate_metric(parts: Parts, _: Managing, body: Question) -> Validation:
    """Try a metric on a dataset: the first request begins, the same one again tells how it stands, and at last the value or the error."""
    metric = await _metric(parts, body.metric_id)
    await _require_dataset(parts, metric, body.dataset_id)
    began_s, wait_s = parts.clock.monotonic_s(), parts.settings.runner.poll_wait_ms / 1000
    task = await parts.thread(parts.code_metrics.ask, metric, body.dataset_id)
    while not task.is_final and parts.clock.monotonic_s() - began_s < wait_s:
        await asyncio.sleep(_LOOK_S)
        task = await parts.thread(parts.code_metrics.look, task)
    if task.is_final and not task.is_delivered:
        task = await parts.thread(parts.code_metrics.deliver, task)
    return _told(task)


async def _require_dataset(parts: Dependencies, metric: CodeMetricDefinition, dataset_id: str) -> None:
    try:
        dataset = Dataset.parse(dataset_id)
    except UsageError as error:
        raise refuse(404, error.message, code=error.code, hint=error.hint) from None
    entry = await _model(parts, metric.model)
    if dataset.model != metric.model:
        raise refuse(422, f"dataset {dataset_id!r} is of model {dataset.model!r}, and the metric of {metric.model!r}")
    if dataset.version not in entry.versions or (dataset.stage == "training" and training_baseline(entry) is None):
        raise refuse(404, f"there is no dataset {dataset_id!r}", hint="take one from model-versions")


def _told(task: TaskRow) -> Validation:
    report = task.report
    if not task.is_final:
        return Validation(status="pending", progress=report.progress, stage=report.stage)
    told = Validation(
        status="success" if task.state == SUCCESS else "failed",
        progress=100,
        stage=report.stage,
        segments={name: _number(value) for name, value in task.segments.items()},
        value=_number(task.value),
        rows=report.rows,
        engine=report.engine,
        layers=list(report.layers),
        seconds=dict(report.seconds),
    )
    if task.state == FAILED:
        told.code, told.error, told.traceback, told.hint = (
            report.code,
            report.error,
            report.traceback,
            report.hint or None,
        )
    return told


def _number(value: float | None) -> Number | None:
    return None if value is None else number(value)


# --------------------------------------------------------------------------------------------------------------- versions


@router.get(f"{_ROOT}/model-versions")
async def list_versions(
    parts: Parts,
    _: Reading,
    model_id: Annotated[str, Query(min_length=1, max_length=256, description="The model's name.")],
) -> list[ModelVersion]:
    """Give the versions of a model, the oldest first, each with the rows that metrics can be tried on."""
    await parts.definitions.refresh()
    entry = await _model(parts, model_id)
    has_training = training_baseline(entry) is not None
    return [
        ModelVersion(
            id=key_of(entry.name, version),
            name=version,
            model_id=entry.name,
            is_active=model is entry.newest,
            serving_dataset=_dataset("serving", entry.name, version, model.columns),
            training_dataset=_dataset("training", entry.name, version, model.columns) if has_training else None,
        )
        for version, model in entry.versions.items()
    ]


def _dataset(stage: Stage, model: str, version: str, columns: tuple[Column, ...]) -> DatasetRow:
    schema = [SchemaColumn(name=column.name, type=column.type, role=column.role) for column in columns]
    return DatasetRow(id=Dataset(stage, model, version).id, stage=stage, columns=schema)


# ---------------------------------------------------------------------------------------------------------------- errors


def _render(problem: Problem, _request: Request, request_id: str) -> Told:
    detail: dict[str, Any] = {
        "message": problem.message,
        "code": problem.code,
        "request_id": request_id,
        **problem.extra,
    }
    if problem.hint is not None:
        detail["hint"] = problem.hint
    if problem.fields:
        detail["fields"] = {name: list(messages) for name, messages in problem.fields.items()}
    return Told(problem.status, {"detail": detail})


def _owns(scope: AsgiScope) -> bool:
    return _OURS.match(str(scope["path"])) is not None


WIRE: Final = Wire("aporia", router, _render, _owns)
