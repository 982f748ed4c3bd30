"""What recorded metrics belong to, as routes ask for it: a look-up, and another look at the topic where there is nothing."""

from __future__ import annotations

from fqlstream.api.services import Dependencies
from fqlstream.events.definitions import ExecutionDefinition, JobDefinition, PipelineDefinition
from fqlstream.events.registry import Entry, Registry


async def find_execution(parts: Dependencies, name: str) -> Entry[ExecutionDefinition] | None:
    """Give an execution; None where there is none of that name, also after another look: it may have been registered just now."""
    found = registry_of(parts).executions.get(name)
    if found is None:
        found = (await parts.definitions.refresh()).registry.executions.get(name)
    return found


async def find_pipeline(parts: Dependencies, name: str) -> Entry[PipelineDefinition] | None:
    """Give a pipeline; as `find_execution`."""
    found = registry_of(parts).pipelines.get(name)
    if found is None:
        found = (await parts.definitions.refresh()).registry.pipelines.get(name)
    return found


async def find_job(parts: Dependencies, number: int) -> Entry[JobDefinition] | None:
    """Give a job by its number; as `find_execution`."""
    found = registry_of(parts).jobs.get(number)
    if found is None:
        found = (await parts.definitions.refresh()).registry.jobs.get(number)
    return found


def registry_of(parts: Dependencies) -> Registry:
    """Give what is registered, as far as it was read. It is a value: hold it for one whole answer."""
    return parts.definitions.catalogue.registry
