"""Looking up what metrics belong to: what is known costs no look at the topic, what is not known costs one."""

from __future__ import annotations

import asyncio
from typing import cast

from fqlstream.api.registered import find_execution, find_job, find_pipeline, registry_of
from fqlstream.api.services import Dependencies
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import ExecutionDefinition, ExperimentDefinition, JobDefinition, PipelineDefinition
from fqlstream.events.registry import EMPTY_REGISTRY, RegistryDraft


def filled() -> Catalogue:
    draft = RegistryDraft(EMPTY_REGISTRY)
    draft.put(PipelineDefinition(name="p"), 0, 0, 0)
    draft.put(ExecutionDefinition(name="e", pipeline="p"), 0, 0, 1)
    draft.put(ExperimentDefinition(name="x", id=1), 0, 0, 2)
    draft.put(JobDefinition(id=7, experiment="x"), 0, 0, 3)
    return Catalogue(registry=draft.finish())


class _Definitions:
    """Knows nothing until it looks."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.looks = 0

    async def refresh(self) -> Catalogue:
        self.looks += 1
        self.catalogue = filled()
        return self.catalogue


class _Parts:
    def __init__(self, catalogue: Catalogue) -> None:
        self.definitions = _Definitions(catalogue)


async def _look(parts: Dependencies) -> list[bool]:
    return [
        await find_execution(parts, "e") is not None,
        await find_pipeline(parts, "p") is not None,
        await find_job(parts, 7) is not None,
    ]


def test_what_is_known_is_not_looked_for() -> None:
    parts = _Parts(filled())
    assert asyncio.run(_look(cast("Dependencies", parts))) == [True] * 3
    assert parts.definitions.looks == 0
    assert 7 in registry_of(cast("Dependencies", parts)).jobs


def test_what_is_not_known_is_looked_for_once() -> None:
    parts = _Parts(Catalogue())
    assert asyncio.run(_look(cast("Dependencies", parts))) == [True] * 3
    assert parts.definitions.looks == 1
    assert asyncio.run(find_job(cast("Dependencies", parts), 8)) is None
    assert parts.definitions.looks == 2
