"""One engine per model version, made from a catalogue on first use and kept while the definitions stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.fql.compile_arrow import Engine, compile_model
from fqlstream.fql.plan import ModelPlan
from fqlstream.fql.planner import Skipped, plan_model
from fqlstream.settings import FqlSettings
from fqlstream.stream.baselines import uncounted


class Engines:
    """Engines of one catalogue. Calling it gives the engine of a model version."""

    def __init__(self, catalogue: Catalogue, settings: FqlSettings, before: Engines | None = None) -> None:
        self.catalogue = catalogue
        self.settings = settings
        self._made: dict[tuple[str, str], Engine] = {}
        #: metrics and segments that do not fit a version, with the reason
        self.skipped: dict[tuple[str, str], tuple[Skipped, ...]] = {}
        if before is not None:
            same = [name for name in catalogue.models if name not in changed_models(before.catalogue, catalogue)]
            self._made = {key: engine for key, engine in before._made.items() if key[0] in same}

    def __call__(self, model: str, version: str) -> Engine:
        """Give the engine of a model version; KeyError where the catalogue lacks it."""
        engine = self._made.get((model, version))
        if engine is None:
            engine = self._make(self.catalogue.models[model], version)
            self._made[model, version] = engine
        return engine

    def _make(self, entry: ModelEntry, version: str) -> Engine:
        plan, skipped = self._planned(entry, version, frozenset())
        if lacking := uncounted(plan, entry.baselines):
            plan, others = self._planned(entry, version, frozenset(item.name for item in lacking))
            skipped = (*others, *lacking)
        if skipped:
            self.skipped[entry.name, version] = skipped
        return compile_model(plan, self.settings)

    def _planned(
        self, entry: ModelEntry, version: str, without: frozenset[str]
    ) -> tuple[ModelPlan, tuple[Skipped, ...]]:
        return plan_model(
            entry.versions[version],
            [metric for metric in entry.metrics.values() if metric.name not in without],
            entry.segments.values(),
            revisions=entry.revisions,
            baselines=entry.baselines,
            streamed=True,
            settings=self.settings,
            skip_invalid=True,
        )


def changed_models(before: Catalogue, after: Catalogue) -> frozenset[str]:
    """Name the models whose definitions differ."""
    names = before.models.keys() | after.models.keys()
    return frozenset(name for name in names if before.models.get(name) != after.models.get(name))


def plan_digest(plans: Iterable[ModelPlan]) -> str:
    """Name what the panes of a model's versions are computed under: two digests are equal where no state would differ."""
    digest = hashlib.blake2b(digest_size=8)
    for plan in plans:
        digest.update("|".join([plan.model.version, *sorted(cell.key for cell in plan.cells)]).encode())
    return digest.hexdigest()


def definitions_digest(entry: ModelEntry) -> str:
    """Name what a model's values are published under: two digests are equal where no value would differ."""
    digest = hashlib.blake2b(digest_size=8)
    for group in (entry.versions, entry.metrics, entry.segments, entry.baselines):
        for definition in group.values():
            digest.update(definition.model_dump_json().encode())
    digest.update(repr(sorted(entry.revisions.items())).encode())
    return digest.hexdigest()
