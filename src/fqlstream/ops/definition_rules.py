"""What may be defined beside what stands already: changes of live models, names, expressions, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fqlstream.errors import Diagnostic, render
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import (
    BaselineDefinition,
    CodeMetricDefinition,
    Column,
    Computed,
    MetricDefinition,
    ModelDefinition,
    Role,
    SegmentDefinition,
    definition_key,
)
from fqlstream.events.documents import Document
from fqlstream.events.durations import format_duration
from fqlstream.ops import baselines, code_metric_definitions
from fqlstream.ops.definition_log import over_limit
from fqlstream.ops.expressions import check_expression
from fqlstream.settings import FqlSettings

Path = Sequence[str | int]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A definition that somebody wants to stand, and where it was written."""

    document: Document
    definition: Computed

    @property
    def key(self) -> str:
        """Its key on the topic."""
        return definition_key(self.definition)

    @property
    def model(self) -> str:
        """The model it is or belongs to."""
        return self.definition.name if isinstance(self.definition, ModelDefinition) else self.definition.model


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem or warning of a set of proposals, ready to be shown."""

    text: str
    is_warning: bool = False


def find_problems(
    proposals: Sequence[Proposal],
    before: Mapping[str, ModelEntry],
    after: Mapping[str, ModelEntry],
    limits: FqlSettings,
) -> Iterator[Finding]:
    """Find everything that keeps proposals from being published: `before` stands, `after` would stand with them."""
    yield from _defined_twice(proposals)
    proposed = {proposal.key: proposal for proposal in proposals}
    for proposal in proposals:
        definition = proposal.definition
        if isinstance(definition, ModelDefinition):
            old = before[proposal.model].versions.get(definition.version) if proposal.model in before else None
            yield from _forbidden_changes(proposal, old)
        elif not after[proposal.model].versions:
            known = ", ".join(sorted(name for name, entry in after.items() if entry.versions)) or "none"
            yield Finding(
                f"{proposal.document.place(['model'])}: model {proposal.model!r} is not defined (defined: {known})"
            )
        elif isinstance(definition, BaselineDefinition):
            for field, what in baselines.problems(definition, after[proposal.model]):
                yield Finding(f"{proposal.document.place([field])}: baseline {definition.name!r}: {what}")
        elif isinstance(definition, CodeMetricDefinition):
            for field, what in code_metric_definitions.problems(definition, after):
                yield Finding(f"{proposal.document.place([field])}: code metric {definition.name!r}: {what}")
    for name in dict.fromkeys(proposal.model for proposal in proposals):
        yield from _expressions(after[name], proposed, limits)


def _defined_twice(proposals: Sequence[Proposal]) -> Iterator[Finding]:
    first: dict[str, Proposal] = {}
    for proposal in proposals:
        earlier = first.setdefault(proposal.key, proposal)
        if earlier is not proposal:
            kind, name = proposal.definition.kind, proposal.definition.name
            where = earlier.document.place(["name"])
            yield Finding(f"{proposal.document.place(['name'])}: {kind} {name!r} is also defined at {where}")


def _forbidden_changes(proposal: Proposal, old: ModelDefinition | None) -> Iterator[Finding]:
    """Name what a version that has rows cannot change: states and history would no longer mean one thing."""
    new = proposal.definition
    if old is None or not isinstance(new, ModelDefinition):
        return
    hint = f"make it a new version (this is {new.version!r} of {new.name!r})"
    columns = {column.name: (index, column) for index, column in enumerate(new.columns)}
    for column in old.columns:
        index, changed = columns.get(column.name, (None, None))
        path: Path = ["columns"] if index is None else ["columns", index, "type"]
        what = _column_change(column, changed)
        if what is not None:
            yield Finding(f"{proposal.document.place(path)}: column {column.name!r} {what}; {hint}")
    if old.windows.pane_ms != new.windows.pane_ms:
        panes = f"from {format_duration(old.windows.pane_ms)} to {format_duration(new.windows.pane_ms)}"
        yield Finding(f"{proposal.document.place(['windows', 'pane'])}: the pane changes {panes}; {hint}")


def _column_change(old: Column, new: Column | None) -> str | None:
    if new is None:
        return "is gone"
    if old.type is not new.type:
        return f"changes its type from {old.type} to {new.type}"
    if (old.role is Role.TARGET) != (new.role is Role.TARGET):
        return f"changes its role from {old.role} to {new.role}, so that labels would be read elsewhere"
    if old.n_dimensions != new.n_dimensions:
        return f"changes its dimensions from {old.n_dimensions} to {new.n_dimensions}"
    return None


def _expressions(entry: ModelEntry, proposed: Mapping[str, Proposal], limits: FqlSettings) -> Iterator[Finding]:
    """Check every metric and segment that would stand, those that stand already included: a new version concerns them too."""
    clean = True
    expressions: tuple[MetricDefinition | SegmentDefinition, ...] = (*entry.metrics.values(), *entry.segments.values())
    for definition in expressions:
        seen: set[Diagnostic] = set()
        proposal = proposed.get(definition_key(definition))
        for model in entry.versions.values():
            version = proposed.get(definition_key(model))
            if proposal is None and version is None:
                continue
            for found in check_expression(definition, entry, model, limits):
                if found in seen or (found.severity == "warning" and proposal is None):
                    continue
                seen.add(found)
                clean = clean and found.severity == "warning"
                yield _finding(definition, model, found, proposal, version)
    over = over_limit(entry, limits) if clean and entry.versions else None
    if over is not None:
        yield Finding(over)


def _finding(
    definition: MetricDefinition | SegmentDefinition,
    model: ModelDefinition,
    found: Diagnostic,
    proposal: Proposal | None,
    version: Proposal | None,
) -> Finding:
    what = f"{definition.kind} {definition.name!r}"
    shown = "\n".join(f"  {line}" for line in render(definition.definition, found).splitlines())
    if proposal is not None:
        place = f"{proposal.document.place(['definition'])}: {what}"
    else:
        where = version.document.place() if version is not None else ""
        place = f"{where}: {what}, which stands already"
    return Finding(f"{place}, under model version {model.version!r}:\n{shown}", found.severity == "warning")
