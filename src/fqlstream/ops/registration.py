"""What may be registered beside what stands already: numbers for experiments and jobs, and what refers to what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fqlstream.events.definitions import (
    DeploymentDefinition,
    ExecutionDefinition,
    ExperimentDefinition,
    JobDefinition,
    PipelineDefinition,
    Registered,
    definition_key,
)
from fqlstream.events.documents import Document
from fqlstream.events.registry import Entry, Registry, RegistryDraft


@dataclass(frozen=True, slots=True)
class Entrant:
    """What somebody wants to register, and where it was written."""

    document: Document
    definition: Registered

    @property
    def label(self) -> str:
        """Name it as people do: by its kind, and its name or number."""
        definition = self.definition
        name = definition.name if definition.name is not None else getattr(definition, "id", None)
        return definition.kind if name is None else f"{definition.kind} {name!r}"

    @property
    def key(self) -> str:
        """Its key on the topic; it must have its number."""
        return definition_key(self.definition)


def number(entrants: Sequence[Entrant], registry: Registry) -> tuple[tuple[Entrant, ...], tuple[str, ...]]:
    """Give experiments and jobs their numbers: those they have, or the next ones. Gives also what is wrong with given numbers."""
    numbering = _Numbering(registry)
    numbered: list[Entrant] = []
    for entrant in entrants:
        definition = entrant.definition
        if isinstance(definition, ExperimentDefinition | JobDefinition):
            definition = definition.model_copy(update={"id": numbering.number_of(entrant, definition)})
        numbered.append(Entrant(entrant.document, definition))
    return tuple(numbered), tuple(numbering.problems)


class _Numbering:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._given: dict[tuple[str, str], int] = {}  # by kind and name, in this set
        self._last = {"experiment": registry.experiment_id_last, "job": registry.job_id_last}
        self.problems: list[str] = []

    def number_of(self, entrant: Entrant, definition: ExperimentDefinition | JobDefinition) -> int:
        kind, name = definition.kind, definition.name
        mine = self._known(kind, name) if name is not None else None
        if definition.id is not None:
            self._check(entrant, definition.id, mine)
        given = definition.id or mine or self._last[kind] + 1
        self._last[kind] = max(self._last[kind], given)
        if name is not None:
            self._given[kind, name] = given
        return given

    def _known(self, kind: str, name: str) -> int | None:
        ids = self._registry.experiment_ids if kind == "experiment" else self._registry.job_ids
        return self._given.get((kind, name), ids.get(name))

    def _check(self, entrant: Entrant, wanted: int, mine: int | None) -> None:
        place, kind = entrant.document.place(["id"]), entrant.definition.kind
        if mine is not None and mine != wanted:
            self.problems.append(f"{place}: {entrant.label} has the number {mine}, not {wanted}")
        holder = self._registry.experiments.get(wanted) if kind == "experiment" else None
        if holder is not None and holder.definition.name != entrant.definition.name:
            self.problems.append(f"{place}: the number {wanted} is that of experiment {holder.definition.name!r}")


def after(entrants: Sequence[Entrant], registry: Registry) -> Registry:
    """Give the registry as it would stand with these entrants, which must have their numbers."""
    draft = RegistryDraft(registry)
    for entrant in entrants:
        draft.put(entrant.definition, 0, 0, -1)
    return draft.finish()


def find_problems(entrants: Sequence[Entrant], standing: Registry) -> Iterator[str]:
    """Find what keeps entrants from being registered; `standing` is the registry as it would be with them."""
    first: dict[str, Entrant] = {}
    for entrant in entrants:
        earlier = first.setdefault(entrant.key, entrant)
        if earlier is not entrant:
            yield f"{entrant.document.place(['name'])}: {entrant.label} is also defined at {earlier.document.place(['name'])}"
        yield from _dangling(entrant, standing)


def _dangling(entrant: Entrant, standing: Registry) -> Iterator[str]:
    """Name what it belongs to and is not there."""
    match entrant.definition:
        case DeploymentDefinition(pipeline=pipeline):
            yield from _missing(entrant, "pipeline", pipeline, standing)
        case ExecutionDefinition(pipeline=pipeline, deployment=deployment):
            yield from _missing(entrant, "pipeline", pipeline, standing)
            if deployment is not None:
                yield from _missing(entrant, "deployment", deployment, standing)
                found = standing.deployments.get(deployment)
                if found is not None and found.definition.pipeline != pipeline:
                    yield (
                        f"{entrant.document.place(['deployment'])}: {entrant.label}: deployment {deployment!r} is of pipeline "
                        f"{found.definition.pipeline!r}, not of {pipeline!r}"
                    )
        case JobDefinition(experiment=experiment):
            if experiment not in standing.experiment_ids:
                yield f"{entrant.document.place(['experiment'])}: {entrant.label}: there is no experiment {experiment!r}"
        case PipelineDefinition() | ExperimentDefinition():
            return


def _missing(entrant: Entrant, kind: str, name: str, standing: Registry) -> Iterator[str]:
    if standing.find(kind, name) is None:
        yield f"{entrant.document.place([kind])}: {entrant.label}: there is no {kind} {name!r}"


def members(registry: Registry, kind: str, name: str) -> tuple[tuple[str, str], ...]:
    """Give what goes with an entry when it is deleted, as kinds and names (of jobs numbers), members before what holds them."""
    match kind:
        case "pipeline":
            # an execution of a deployment is one of its pipeline too
            executions = tuple(("execution", item) for item in registry.executions_of.get(name, ()))
            return (*executions, *(("deployment", item) for item in registry.deployments_of.get(name, ())))
        case "deployment":
            return tuple(("execution", item) for item in registry.executions_by.get(name, ()))
        case "experiment":
            return tuple(("job", str(item)) for item in registry.jobs_of.get(name, ()))
        case _:
            return ()


def select(registry: Registry, kind: str, *, name: str | None = None, of: str | None = None) -> list[Entry[Registered]]:
    """Give entries of a kind in the order of their making: of one name or number, and of one pipeline, deployment or experiment."""
    if name is not None:
        entry = registry.find(kind, name)
        found = [] if entry is None else [entry]
        return [entry for entry in found if of is None or of in _owners(entry.definition)]
    if of is None:
        return sorted(registry.entries(kind), key=lambda entry: (entry.created_ms, entry.position))
    keys = {key for owner in ("pipeline", "deployment", "experiment") for key in members(registry, owner, of)}
    entries = [registry.find(*key) for key in keys if key[0] == kind]
    return sorted((e for e in entries if e is not None), key=lambda entry: (entry.created_ms, entry.position))


def _owners(definition: Registered) -> tuple[str | None, ...]:
    match definition:
        case DeploymentDefinition(pipeline=pipeline):
            return (pipeline,)
        case ExecutionDefinition(pipeline=pipeline, deployment=deployment):
            return (pipeline, deployment)
        case JobDefinition(experiment=experiment):
            return (experiment,)
        case _:
            return ()


def row(entry: Entry[Registered]) -> dict[str, Any]:
    """Give an entry as plain JSON: its definition, and when it was created and last changed (RFC 3339)."""
    times = {"created_at": entry.created_ms, "changed_at": entry.changed_ms}
    moments = {
        name: datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for name, ms in times.items()
    }
    return {**entry.definition.model_dump(mode="json"), **moments}
