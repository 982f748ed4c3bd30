"""What a model's versions have in common: the same metric over the same segment, whatever each version reads it as.

Versions differ in thresholds, classes and types of columns, so one text may be several expressions, and its states stand in
cells of several names. Under `all`, each version's rows count as that version reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fqlstream.fql.plan import ModelPlan, walk
from fqlstream.functions.expression import Aggregate, Expression


def cells_in_common(to: ModelPlan, of: ModelPlan) -> Mapping[str, str]:
    """Say, by their keys, which cell of `of` holds for its version what a cell of `to` holds for its own.

    A cell is left out where the other plan has nothing like it, or has two where `to` has one.
    """
    mine, theirs = _Places(to), _Places(of)
    found: dict[str, str | None] = {}
    for (aggregate, segment), (other_aggregate, other_segment) in _pairs(to, of):
        key = mine.key(aggregate, segment)
        if key is not None:
            other = theirs.key(other_aggregate, other_segment)
            if found.setdefault(key, other) != other:
                found[key] = None
    return {key: other for key, other in found.items() if other is not None}


class _Places:
    """Cells of a plan by their place; each expression is compared once, not once per cell."""

    def __init__(self, plan: ModelPlan) -> None:
        self._aggregates: dict[int, int] = {}
        self._segments: dict[int, int] = {}
        self._numbers: dict[Aggregate | Expression, int] = {}
        self._kept: list[Aggregate | Expression] = []  # so that no id is used again
        self._keys = {
            (self._number(cell.aggregate, self._aggregates), self._number(cell.segment, self._segments)): cell.key
            for cell in plan.cells
        }

    def key(self, aggregate: Aggregate, segment: Expression) -> str | None:
        return self._keys.get((self._number(aggregate, self._aggregates), self._number(segment, self._segments)))

    def _number(self, node: Aggregate | Expression, by_id: dict[int, int]) -> int:
        number = by_id.get(id(node))
        if number is None:
            number = by_id[id(node)] = self._numbers.setdefault(node, len(self._numbers))
            self._kept.append(node)
        return number


def _pairs(to: ModelPlan, of: ModelPlan) -> Iterator[tuple[tuple[Aggregate, Expression], tuple[Aggregate, Expression]]]:
    """Give aggregates over segments that say the same in both plans."""
    others = {segment.name: segment.expression for segment in of.segments}
    segments = [(segment.expression, others[segment.name]) for segment in to.segments if segment.name in others]
    metrics = {metric.name: metric.expression for metric in of.metrics}
    aggregates = [(to.traffic.aggregate, of.traffic.aggregate), (to.labelled.aggregate, of.labelled.aggregate)]
    for metric in to.metrics:
        if metric.name in metrics:
            aggregates += _same_shape(metric.expression, metrics[metric.name])
    for mine, theirs in aggregates:
        for segment, other in segments:
            yield (mine, segment), (theirs, other)
    # histograms that are compared with baselines: in the order of metrics and segments, in both plans
    if len(to.compared) == len(of.compared):
        for a, b in zip(to.compared, of.compared, strict=True):
            if a.baseline == b.baseline and _alike(a.production, b.production):
                yield (a.production, a.segment), (b.production, b.segment)


def _same_shape(mine: Expression, theirs: Expression) -> list[tuple[Aggregate, Aggregate]]:
    """Pair the aggregates of two readings of one text; none where they are not alike."""
    a, b = _aggregates(mine), _aggregates(theirs)
    pairs = list(zip(a, b, strict=False))
    return pairs if len(a) == len(b) and all(_alike(*pair) for pair in pairs) else []


def _aggregates(expression: Expression) -> list[Aggregate]:
    return [node for node in walk(expression) if isinstance(node, Aggregate)]


def _alike(a: Aggregate, b: Aggregate) -> bool:
    """Whether states of both can be merged: same kind, same parameters."""
    return (a.kind, a.params, len(a.args)) == (b.kind, b.params, len(b.args))
