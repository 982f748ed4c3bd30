"""What recorded metrics belong to: pipelines, deployments, executions, experiments, jobs; made, listed, deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.definitions import Result, verdict_of
from fqlstream.api.problems import refuse
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import OptionalNameQuery, Page, Paged, PageOf, refusals
from fqlstream.events.definitions import (
    DeploymentDefinition,
    ExecutionDefinition,
    ExperimentDefinition,
    JobDefinition,
    PipelineDefinition,
    Registered,
)
from fqlstream.events.documents import dump_definitions, read_documents
from fqlstream.events.registry import Entry, Registry
from fqlstream.ops.access import Caller, Permission

router = APIRouter(tags=["registry"])
Reader = Annotated[Caller, allow(Permission.READ_RECORDED)]
Manager = Annotated[Caller, allow(Permission.MANAGE)]

Kind = Literal["pipeline", "deployment", "execution", "experiment", "job"]
_MANY: Final[Mapping[Kind, str]] = {
    "pipeline": "pipelines",
    "deployment": "deployments",
    "execution": "executions",
    "experiment": "experiments",
    "job": "jobs",
}


class Registration(BaseModel):
    """Something that is registered. Experiments and jobs have a number, `id`."""

    kind: Kind
    id: Annotated[int | None, Field(description="Of an experiment or a job.")]
    name: str | None
    created_at: datetime
    changed_at: datetime
    definition: Annotated[dict[str, Any], Field(description="What `apply` takes.")]


@router.get("/pipelines")
async def list_pipelines(parts: Parts, _: Reader, page: Paged, name: OptionalNameQuery = None) -> PageOf[Registration]:
    """List pipelines by name."""
    return await _listed(parts, "pipeline", lambda registry: registry.pipelines, name, page)


@router.get("/deployments")
async def list_deployments(
    parts: Parts,
    _: Reader,
    page: Paged,
    name: OptionalNameQuery = None,
    pipeline: OptionalNameQuery = None,
) -> PageOf[Registration]:
    """List deployments by name: all, or those of a pipeline."""

    def among(registry: Registry) -> Iterable[str]:
        return registry.deployments if pipeline is None else registry.deployments_of.get(pipeline, ())

    return await _listed(parts, "deployment", among, name, page)


@router.get("/executions")
async def list_executions(
    parts: Parts,
    _: Reader,
    page: Paged,
    name: OptionalNameQuery = None,
    pipeline: OptionalNameQuery = None,
    deployment: OptionalNameQuery = None,
) -> PageOf[Registration]:
    """List executions by name: all, or those of a pipeline or a deployment."""
    if pipeline is not None and deployment is not None:
        raise refuse(
            422, "give pipeline or deployment: a deployment has one pipeline", fields={"query": ["one of them"]}
        )

    def among(registry: Registry) -> Iterable[str]:
        if pipeline is not None:
            return registry.executions_of.get(pipeline, ())
        return registry.executions if deployment is None else registry.executions_by.get(deployment, ())

    return await _listed(parts, "execution", among, name, page)


@router.get("/experiments")
async def list_experiments(
    parts: Parts, _: Reader, page: Paged, name: OptionalNameQuery = None
) -> PageOf[Registration]:
    """List experiments by number; `name` may be a number too."""
    return await _listed(parts, "experiment", lambda registry: registry.experiments, name, page)


@router.get("/jobs")
async def list_jobs(
    parts: Parts,
    _: Reader,
    page: Paged,
    name: OptionalNameQuery = None,
    experiment: OptionalNameQuery = None,
) -> PageOf[Registration]:
    """List jobs by number: all, or those of an experiment; `name` may be a number too."""

    def among(registry: Registry) -> Iterable[int]:
        return registry.jobs if experiment is None else registry.jobs_of.get(experiment, ())

    return await _listed(parts, "job", among, name, page)


@router.post("/pipelines")
async def register_pipeline(parts: Parts, _: Manager, body: PipelineDefinition) -> Result:
    """Register a pipeline, or change one."""
    return await _register(parts, body)


@router.post("/deployments")
async def register_deployment(parts: Parts, _: Manager, body: DeploymentDefinition) -> Result:
    """Register a deployment of a pipeline, or change one."""
    return await _register(parts, body)


@router.post("/executions")
async def register_execution(
    parts: Parts, _: Annotated[Caller, allow(Permission.RECORD)], body: ExecutionDefinition
) -> Result:
    """Register an execution of a pipeline: its name is the id under which it records metrics."""
    return await _register(parts, body)


@router.post("/experiments")
async def register_experiment(parts: Parts, _: Manager, body: ExperimentDefinition) -> Result:
    """Register an experiment, or change one; the answer has its number."""
    return await _register(parts, body)


@router.post("/jobs")
async def register_job(parts: Parts, _: Annotated[Caller, allow(Permission.RECORD)], body: JobDefinition) -> Result:
    """Register a job of an experiment, or change one; the answer has its number. One without name and number is new each time."""
    return await _register(parts, body)


@router.delete("/registry", responses=refusals(404, 409))
async def unregister(
    parts: Parts,
    _: Manager,
    kind: Kind,
    name: Annotated[
        str, Query(min_length=1, max_length=256, description="Its name; of an experiment or a job also its number.")
    ],
    *,
    force: Annotated[bool, Query(description="With all that belongs to it, and what that recorded.")] = False,
) -> list[Result]:
    """Delete what is registered; what an execution or a job recorded is forgotten."""
    deleted = await parts.definitions.change(lambda writer: writer.delete(kind, name, force=force))
    parts.recorder.expect(deleted.forgetting)
    return [Result(kind=key.partition("/")[0], name=name, id=key, result="deleted") for key in deleted.keys]


async def _register(parts: Dependencies, definition: Registered) -> Result:
    documents = read_documents(dump_definitions([definition]), "request")
    applied = await parts.definitions.change(lambda writer: writer.apply(documents))
    result = applied.results[0]
    return Result(kind=result.kind, name=result.name, id=result.id, result=verdict_of(result.result))


async def _listed(
    parts: Dependencies, kind: Kind, among: Callable[[Registry], Iterable[Any]], name: str | None, page: Page
) -> PageOf[Registration]:
    """Give a page of what is registered, in the order of names or numbers."""
    registry = (await parts.definitions.refresh()).registry
    mine = among(registry)
    if name is not None:
        # one is looked up: a list of a hundred thousand is not searched for it
        found = registry.find(kind, name)
        key = None if found is None else _key_of(found)
        keys = [key] if key is not None and key in mine else []
    else:
        keys = await parts.thread(sorted, mine)
    entries: Mapping[Any, Entry[Registered]] = getattr(registry, _MANY[kind])
    return PageOf(items=[_shown(entries[key]) for key in page.of(keys)], total_count=len(keys), offset=page.offset)


def _key_of(entry: Entry[Registered]) -> str | int | None:
    definition = entry.definition
    return definition.id if isinstance(definition, ExperimentDefinition | JobDefinition) else definition.name


def _shown(entry: Entry[Registered]) -> Registration:
    definition = entry.definition
    return Registration(
        kind=definition.kind,
        id=getattr(definition, "id", None),
        name=definition.name,
        created_at=_moment(entry.created_ms),
        changed_at=_moment(entry.changed_ms),
        definition=definition.model_dump(mode="json", by_alias=True),
    )


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
