"""What recorded metrics belong to, as one immutable value: pipelines, deployments, executions; experiments and their jobs.

There may be a hundred thousand executions: the maps share what did not change with those before them (hash array mapped tries),
so that one more costs its own place, whoever still reads the registry as it was is not disturbed, and every question that a
request asks is a look-up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from immutables import Map, MapMutation

from fqlstream.events.definitions import (
    DeploymentDefinition,
    ExecutionDefinition,
    ExperimentDefinition,
    JobDefinition,
    PipelineDefinition,
    Registered,
)

D_co = TypeVar("D_co", bound=Registered, covariant=True)
K = TypeVar("K", str, int)

#: Not a definition: the highest number that jobs or experiments ever had, kept when the one that has it goes.
SEQUENCE: Final = "sequence"


@dataclass(frozen=True, slots=True)
class Entry(Generic[D_co]):
    """What is registered, and when (Unix ms). `position` is the offset of its record on the topic."""

    definition: D_co
    created_ms: int
    changed_ms: int
    position: int


Names = Map[str, None]
Numbers = Map[int, None]
_NO_NUMBERS: Final[Numbers] = Map()


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything that is registered. Experiments and jobs go by their numbers; `*_of` say what belongs to what."""

    pipelines: Map[str, Entry[PipelineDefinition]] = field(default_factory=Map)
    deployments: Map[str, Entry[DeploymentDefinition]] = field(default_factory=Map)
    executions: Map[str, Entry[ExecutionDefinition]] = field(default_factory=Map)
    experiments: Map[int, Entry[ExperimentDefinition]] = field(default_factory=Map)
    jobs: Map[int, Entry[JobDefinition]] = field(default_factory=Map)
    experiment_ids: Map[str, int] = field(default_factory=Map)
    job_ids: Map[str, int] = field(default_factory=Map)
    deployments_of: Map[str, Names] = field(default_factory=Map)  # by pipeline
    executions_of: Map[str, Names] = field(default_factory=Map)  # by pipeline
    executions_by: Map[str, Names] = field(default_factory=Map)  # by deployment
    jobs_of: Map[str, Numbers] = field(default_factory=Map)  # by the name of the experiment
    experiment_id_last: int = 0
    job_id_last: int = 0

    def standing(self, definition: Registered) -> Entry[Registered] | None:
        """Give the entry whose place a definition would take."""
        found: Entry[Registered] | None
        match definition:
            case PipelineDefinition(name=name):
                found = self.pipelines.get(name)
            case DeploymentDefinition(name=name):
                found = self.deployments.get(name)
            case ExecutionDefinition(name=name):
                found = self.executions.get(name)
            case ExperimentDefinition(name=name):
                found = self.experiments.get(self.experiment_ids.get(name, 0))
            case JobDefinition(id=number):
                found = self.jobs.get(number or 0)
        return found

    def find(self, kind: str, name: str) -> Entry[Registered] | None:
        """Give an entry by its kind and name; a job or an experiment also by its number as text."""
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 20 else 0
        found: Entry[Registered] | None
        match kind:
            case "pipeline":
                found = self.pipelines.get(name)
            case "deployment":
                found = self.deployments.get(name)
            case "execution":
                found = self.executions.get(name)
            case "experiment":
                found = self.experiments.get(self.experiment_ids.get(name, number))
            case _:
                found = self.jobs.get(self.job_ids.get(name, number))
        return found

    def entries(self, kind: str) -> Iterator[Entry[Registered]]:
        """Give all entries of a kind, in no order."""
        match kind:
            case "pipeline":
                yield from self.pipelines.values()
            case "deployment":
                yield from self.deployments.values()
            case "execution":
                yield from self.executions.values()
            case "experiment":
                yield from self.experiments.values()
            case _:
                yield from self.jobs.values()

    def jobs_of_experiment(self, experiment: int) -> Iterator[Entry[JobDefinition]]:
        """Give the jobs of an experiment by its number, in no order; none for an unknown one."""
        entry = self.experiments.get(experiment)
        if entry is not None:
            yield from (self.jobs[number] for number in self.jobs_of.get(entry.definition.name, _NO_NUMBERS))


EMPTY_REGISTRY: Final = Registry()


class RegistryDraft:
    """A registry while records are added to it. `finish` gives the value; the one it began with stays as it was."""

    def __init__(self, registry: Registry) -> None:
        self._pipelines = registry.pipelines.mutate()
        self._deployments = registry.deployments.mutate()
        self._executions = registry.executions.mutate()
        self._experiments = registry.experiments.mutate()
        self._jobs = registry.jobs.mutate()
        self._experiment_ids = registry.experiment_ids.mutate()
        self._job_ids = registry.job_ids.mutate()
        self._deployments_of: _Links[str] = _Links(registry.deployments_of)
        self._executions_of: _Links[str] = _Links(registry.executions_of)
        self._executions_by: _Links[str] = _Links(registry.executions_by)
        self._jobs_of: _Links[int] = _Links(registry.jobs_of)
        self._experiment_id_last = registry.experiment_id_last
        self._job_id_last = registry.job_id_last

    def put(self, definition: Registered, created_ms: int, changed_ms: int, position: int) -> None:
        """Let a definition stand, in place of an older one of its name or number.

        Raises ValueError for an experiment or a job without a number.
        """
        match definition:
            case PipelineDefinition():
                self._pipelines[definition.name] = Entry(definition, created_ms, changed_ms, position)
            case DeploymentDefinition():
                self.remove("deployment", definition.name)
                self._deployments[definition.name] = Entry(definition, created_ms, changed_ms, position)
                self._deployments_of.add(definition.pipeline, definition.name)
            case ExecutionDefinition():
                self.remove("execution", definition.name)
                self._executions[definition.name] = Entry(definition, created_ms, changed_ms, position)
                self._executions_of.add(definition.pipeline, definition.name)
                if definition.deployment is not None:
                    self._executions_by.add(definition.deployment, definition.name)
            case ExperimentDefinition():
                number = _numbered(definition.id, definition.kind)
                self.remove("experiment", definition.name)
                self._experiments[number] = Entry(definition, created_ms, changed_ms, position)
                self._experiment_ids[definition.name] = number
                self._experiment_id_last = max(self._experiment_id_last, number)
            case JobDefinition():
                number = _numbered(definition.id, definition.kind)
                self.remove("job", str(number))
                self._jobs[number] = Entry(definition, created_ms, changed_ms, position)
                self._job_id_last = max(self._job_id_last, number)
                self._jobs_of.add(definition.experiment, number)
                if definition.name is not None:
                    self._job_ids[definition.name] = number

    def remove(self, kind: str, name: str) -> None:
        """Let an entry go, if it is there; a job by its number, an experiment by its name."""
        match kind:
            case "pipeline":
                self._pipelines.pop(name, None)
            case "deployment":
                if (deployment := self._deployments.pop(name, None)) is not None:
                    self._deployments_of.discard(deployment.definition.pipeline, name)
            case "execution":
                self._remove_execution(name)
            case "experiment":
                if (number := self._experiment_ids.pop(name, None)) is not None:
                    self._experiments.pop(number, None)
            case _:
                self._remove_job(name)

    def _remove_execution(self, name: str) -> None:
        if (execution := self._executions.pop(name, None)) is not None:
            self._executions_of.discard(execution.definition.pipeline, name)
            if execution.definition.deployment is not None:
                self._executions_by.discard(execution.definition.deployment, name)

    def _remove_job(self, name: str) -> None:
        number = int(name)
        if (job := self._jobs.pop(number, None)) is not None:
            self._jobs_of.discard(job.definition.experiment, number)
            if job.definition.name is not None and self._job_ids.get(job.definition.name) == number:
                self._job_ids.pop(job.definition.name)

    def count_from(self, kind: str, last: int) -> None:
        """Note the highest number that jobs or experiments ever had."""
        if kind == "job":
            self._job_id_last = max(self._job_id_last, last)
        else:
            self._experiment_id_last = max(self._experiment_id_last, last)

    def finish(self) -> Registry:
        """Give the registry as it is now."""
        return Registry(
            self._pipelines.finish(),
            self._deployments.finish(),
            self._executions.finish(),
            self._experiments.finish(),
            self._jobs.finish(),
            self._experiment_ids.finish(),
            self._job_ids.finish(),
            self._deployments_of.finish(),
            self._executions_of.finish(),
            self._executions_by.finish(),
            self._jobs_of.finish(),
            self._experiment_id_last,
            self._job_id_last,
        )


def _numbered(number: int | None, kind: str) -> int:
    if number is None:
        message = f"the {kind} has no id: `fqlstream apply` gives it one"
        raise ValueError(message)
    return number


class _Links(Generic[K]):
    """What belongs to what, while it changes: members of one owner that come together are added in one go."""

    def __init__(self, links: Map[str, Map[K, None]]) -> None:
        self._links: Map[str, Map[K, None]] = links
        self._open: dict[str, MapMutation[K, None]] = {}

    def add(self, owner: str, member: K) -> None:
        self._members(owner)[member] = None

    def discard(self, owner: str, member: K) -> None:
        self._members(owner).pop(member, None)

    def _members(self, owner: str) -> MapMutation[K, None]:
        if (members := self._open.get(owner)) is None:
            known: Map[K, None] = self._links.get(owner, Map())
            members = self._open[owner] = known.mutate()
        return members

    def finish(self) -> Map[str, Map[K, None]]:
        changed = self._links.mutate()
        for owner, changing in self._open.items():
            if members := changing.finish():
                changed[owner] = members
            else:
                changed.pop(owner, None)
        self._open = {}
        links: Map[str, Map[K, None]] = changed.finish()
        self._links = links
        return links
