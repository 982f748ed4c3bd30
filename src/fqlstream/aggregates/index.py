"""All kinds of aggregates, in one visible table. Nothing else lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from fqlstream.aggregates.counts import Count
from fqlstream.aggregates.extremes import Extreme
from fqlstream.aggregates.gini import Gini
from fqlstream.aggregates.histograms import Histogram
from fqlstream.aggregates.moments import Moments
from fqlstream.aggregates.protocol import Aggregator
from fqlstream.aggregates.quantiles import Quantile
from fqlstream.aggregates.rankings import Queries
from fqlstream.aggregates.score_pairs import ScorePairs
from fqlstream.aggregates.sketches import SketchKind, sketch_kind
from fqlstream.aggregates.sums import Sum
from fqlstream.settings import FqlSettings

Params = Mapping[str, float | str | tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class AggregatorKind:
    """One kind: how it is made, what its states are read as, and how large a state gets at most, encoded."""

    kind: str
    make: Callable[[Params, FqlSettings], Aggregator[Any]]
    arguments: int
    reads: tuple[str, ...]
    state_bytes_max: Callable[[Params, FqlSettings], int]
    summary: str


def _quantile(params: Params, settings: FqlSettings) -> Quantile:
    del params
    return Quantile(settings.quantile_values_max, _sketch(settings))


def _sketch(settings: FqlSettings) -> SketchKind:
    kind = sketch_kind(settings.quantile_sketch)
    return replace(kind, size=settings.quantile_kll_k) if kind.name == "kll" else kind


def _edges(params: Params) -> tuple[float, ...]:
    edges = params["edges"]
    if not isinstance(edges, tuple):
        raise TypeError(type(edges))
    return edges


#: A sum's integer: the widest spread of doubles is 2,098 bits, and counting rows adds at most 64.
_EXACT_BYTES: Final = 2_162 // 8 + 8

_KINDS: Final[tuple[AggregatorKind, ...]] = (
    AggregatorKind(
        "count_true",
        lambda _p, _s: Count("count_true"),
        1,
        ("value",),
        lambda _p, _s: 10,
        "rows where a Boolean is true",
    ),
    AggregatorKind(
        "count", lambda _p, _s: Count("count"), 1, ("value",), lambda _p, _s: 10, "rows that are not null; '' is null"
    ),
    AggregatorKind(
        "sum",
        lambda _p, _s: Sum(),
        1,
        ("sum", "average", "count"),
        lambda _p, _s: 12 + _EXACT_BYTES,
        "exact sum and count; about 30 bytes for ordinary data",
    ),
    AggregatorKind("min", lambda _p, _s: Extreme("min"), 1, ("value",), lambda _p, _s: 11, "smallest number"),
    AggregatorKind("max", lambda _p, _s: Extreme("max"), 1, ("value",), lambda _p, _s: 11, "largest number"),
    AggregatorKind(
        "quantile",
        _quantile,
        1,
        ("quantile",),
        lambda _p, s: 16 + max(18 * s.quantile_values_max, _sketch(s).size * _sketch(s).bytes_per_size),
        "distinct values with counts up to a cap, then a KLL sketch of about 4.5 KB",
    ),
    AggregatorKind(
        "histogram",
        lambda p, _s: Histogram(_edges(p)),
        1,
        ("bin", "total"),
        lambda p, _s: 6 + 9 * (len(_edges(p)) + 1),
        "counts between fixed edges",
    ),
    AggregatorKind(
        "score_pairs",
        lambda _p, s: ScorePairs(s.score_values_max),
        2,
        ("auroc", "calibrated_threshold", "f1_threshold"),
        lambda _p, s: 16 + 27 * s.score_values_max,
        "positive and negative rows per distinct score up to a cap, then per bin",
    ),
    AggregatorKind(
        "gini",
        lambda _p, s: Gini(s.score_values_max),
        2,
        ("gini",),
        lambda _p, s: 32 + (20 + _EXACT_BYTES) * s.score_values_max,
        "rows and exact sum of actual values per distinct prediction up to a cap, then per bin",
    ),
    AggregatorKind(
        "queries",
        lambda _p, s: Queries(s.ranking_items_max),
        3,
        ("map", "ndcg", "count"),
        lambda _p, s: 16 + 36 * s.ranking_items_max,
        "items of ranking queries up to a cap, then those of a sample of whole queries",
    ),
    AggregatorKind(
        "moments", lambda _p, _s: Moments(), 2, ("r2",), lambda _p, _s: 12 + 8 * _EXACT_BYTES, "exact sums behind r2"
    ),
)


def _indexed(kinds: tuple[AggregatorKind, ...]) -> Mapping[str, AggregatorKind]:
    result = {row.kind: row for row in kinds}
    if len(result) != len(kinds):
        message = "an aggregate kind is declared twice"
        raise ValueError(message)
    return MappingProxyType(result)


AGGREGATORS: Final = _indexed(_KINDS)


def make_aggregator(kind: str, params: Params, settings: FqlSettings) -> Aggregator[Any]:
    """Give the aggregator of a kind; params are part of its states' identity."""
    return AGGREGATORS[kind].make(params, settings)
