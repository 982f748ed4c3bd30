"""Everything that is defined, as one immutable value: what the definitions topic holds, folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fqlstream.events.definitions import (
    BaselineDefinition,
    CodeMetricDefinition,
    Computed,
    MetricDefinition,
    ModelDefinition,
    SegmentDefinition,
)
from fqlstream.events.registry import EMPTY_REGISTRY, Registry

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: all its versions (oldest first, the last is the newest), metrics, segments, baselines, code metrics by name."""

    name: str
    versions: Mapping[str, ModelDefinition] = field(default_factory=dict)
    metrics: Mapping[str, MetricDefinition] = field(default_factory=dict)
    segments: Mapping[str, SegmentDefinition] = field(default_factory=dict)
    baselines: Mapping[str, BaselineDefinition] = field(default_factory=dict)
    code_metrics: Mapping[str, CodeMetricDefinition] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)  # of metrics, by name

    @property
    def newest(self) -> ModelDefinition | None:
        """Give the version that an event without a version belongs to."""
        return list(self.versions.values())[-1] if self.versions else None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models by name, and what recorded metrics belong to; `position` says how far the definitions topic was read."""

    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    position: int = -1
    registry: Registry = EMPTY_REGISTRY

    def with_definition(self, definition: Computed, *, revision: int = 1, position: int | None = None) -> Catalogue:
        """Give a catalogue in which this definition stands, in place of an older one of the same name."""
        name = definition.name if isinstance(definition, ModelDefinition) else definition.model
        entry = self.models.get(name, ModelEntry(name))
        match definition:
            case ModelDefinition():
                # a changed version keeps its place: the newest is the one that was defined last for the first time
                entry = replace(entry, versions={**entry.versions, definition.version: definition})
            case MetricDefinition():
                entry = replace(
                    entry,
                    metrics={**entry.metrics, definition.name: definition},
                    revisions={**entry.revisions, definition.name: revision},
                )
            case SegmentDefinition():
                entry = replace(entry, segments={**entry.segments, definition.name: definition})
            case BaselineDefinition():
                entry = replace(entry, baselines={**entry.baselines, definition.name: definition})
            case CodeMetricDefinition():
                entry = replace(entry, code_metrics={**entry.code_metrics, definition.name: definition})
        return replace(
            self, models={**self.models, name: entry}, position=self.position if position is None else position
        )

    def without(self, kind: str, model: str, name: str, *, position: int | None = None) -> Catalogue:
        """Give a catalogue in which a definition is gone; a model goes when its last version does."""
        at = self.position if position is None else position
        entry = self.models.get(model)
        if entry is None:
            return replace(self, position=at)
        match kind:
            case "model":
                entry = replace(entry, versions=_minus(entry.versions, name))
            case "metric":
                entry = replace(entry, metrics=_minus(entry.metrics, name))
            case "segment":
                entry = replace(entry, segments=_minus(entry.segments, name))
            case "baseline":
                entry = replace(entry, baselines=_minus(entry.baselines, name))
            case "code_metric":
                entry = replace(entry, code_metrics=_minus(entry.code_metrics, name))
        models = {**self.models, model: entry}
        if not entry.versions and kind == "model":
            del models[model]
        return replace(self, models=models, position=at)


def _minus(items: Mapping[str, D], name: str) -> dict[str, D]:
    return {key: value for key, value in items.items() if key != name}
