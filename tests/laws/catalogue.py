"""Every kind of aggregate with small limits, so that short batches cross them, and arguments to try it with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from fqlstream.aggregates.index import AGGREGATORS, make_aggregator
from fqlstream.aggregates.protocol import Aggregator, Reading
from fqlstream.settings import FqlSettings

SMALL = FqlSettings(quantile_values_max=8, score_values_max=8, ranking_items_max=8)

NUMBERS = st.one_of(
    st.none(),
    st.floats(width=64),
    st.floats(-1, 1),
    st.integers(-3, 3).map(float),
    st.sampled_from([0.0, -0.0, 0.1, 1e308, -1e308, 5e-324, 2.0**53, 2.0**53 + 2, math.inf, -math.inf, math.nan]),
)
SCORES = st.one_of(st.none(), st.floats(0, 1), st.integers(0, 4).map(lambda n: n / 4))
FLAGS = st.one_of(st.none(), st.booleans())
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "é", "c", "d", "e", "f"]))

Batch = tuple[pa.Array, ...]


@dataclass(frozen=True)
class Subject:
    """An aggregator, the arguments it takes, and how its states are read."""

    name: str
    aggregator: Aggregator[Any]
    columns: tuple[tuple[st.SearchStrategy[Any], pa.DataType], ...]
    reads: tuple[tuple[str, dict[str, float]], ...]
    same: Callable[[Any, Any], bool] = lambda a, b: a == b
    undone: Callable[[Any, Any], bool] | None = None  # what a retracted state must be; `same` by default

    def batches(self, rows_max: int = 12) -> st.SearchStrategy[Batch]:
        """Batches of up to so many rows."""
        row = st.tuples(*(values for values, _ in self.columns))
        return st.lists(row, max_size=rows_max).map(self.batch)

    def batch(self, rows: list[tuple[Any, ...]]) -> Batch:
        return tuple(pa.array([row[i] for row in rows], kind) for i, (_, kind) in enumerate(self.columns))

    def state(self, batch: Batch) -> Any:
        return self.aggregator.update(self.aggregator.init(), batch)

    def readings(self, state: Any) -> list[Reading]:
        return [self.aggregator.read(state, name, params) for name, params in self.reads]


FLOAT = (NUMBERS, pa.float64())
LEVELS = tuple(("quantile", {"level": level}) for level in (0.0, 0.1, 0.5, 0.9, 1.0))
EDGES = (-1.0, 0.0, 0.1, 0.29, 1.0)


def same_numbers(a: Any, b: Any) -> bool:
    """States of a sketch of fewer numbers than it keeps answer alike, however they came about."""
    if type(a) is not type(b) or not hasattr(a, "sketch"):
        return bool(a == b)
    levels = np.linspace(0, 1, 21)
    return a.sketch.n == b.sketch.n and all(a.sketch.quantile(q) == b.sketch.quantile(q) for q in levels)


def same_at_one_level(a: Any, b: Any) -> bool:
    """States that only differ in how far they joined neighbours: bins do not come apart again when rows go."""
    aggregator = make_aggregator("gini" if hasattr(a, "sums") else "score_pairs", {}, SMALL)
    level = replace(aggregator.init(), level=max(a.level, b.level))
    return bool(aggregator.merge(a, level) == aggregator.merge(b, level))


def same_in_one_sample(a: Any, b: Any) -> bool:
    """States that only differ in how far they were sampled: a sample does not grow again when rows go."""
    aggregator = make_aggregator("queries", {}, SMALL)
    level = replace(aggregator.init(), level=max(a.level, b.level))
    return bool(aggregator.merge(a, level) == aggregator.merge(b, level))


def _subject(kind: str, columns: Any, reads: Any, name: str | None = None, **more: Any) -> Subject:
    params = more.pop("params", {})
    settings = more.pop("settings", SMALL)
    return Subject(name or kind, make_aggregator(kind, params, settings), columns, reads, **more)


VALUE = (("value", {}),)
SUBJECTS = (
    _subject("count_true", ((FLAGS, pa.bool_()),), VALUE),
    _subject("count", ((TEXTS, pa.string()),), VALUE, "count of texts"),
    _subject("count", (FLOAT,), VALUE, "count of numbers"),
    _subject("sum", (FLOAT,), (("sum", {}), ("average", {}), ("count", {}))),
    _subject("min", (FLOAT,), VALUE),
    _subject("max", (FLOAT,), VALUE),
    _subject("quantile", (FLOAT,), LEVELS, same=same_numbers),
    _subject("histogram", (FLOAT,), (("total", {}), ("bin", {"index": 2.0})), params={"edges": EDGES}),
    _subject(
        "score_pairs",
        ((SCORES, pa.float64()), (FLAGS, pa.bool_())),
        (("auroc", {}), ("calibrated_threshold", {}), ("f1_threshold", {})),
        undone=same_at_one_level,
    ),
    _subject(
        "score_pairs",
        (FLOAT, (FLAGS, pa.bool_())),
        (("auroc", {}), ("calibrated_threshold", {}), ("f1_threshold", {})),
        "score_pairs of any numbers",
        undone=same_at_one_level,
    ),
    _subject("gini", (FLOAT, FLOAT), (("gini", {}),), undone=same_at_one_level),
    _subject(
        "queries",
        ((TEXTS, pa.string()), (SCORES, pa.float64()), FLOAT),
        (("map", {"top_k": 2.0}), ("ndcg", {"top_k": 2.0}), ("count", {})),
        undone=same_in_one_sample,
    ),
    _subject("moments", (FLOAT, FLOAT), (("r2", {}),)),
)


def kinds_without_a_subject() -> set[str]:
    return set(AGGREGATORS) - {subject.aggregator.kind for subject in SUBJECTS}


def with_aggregator(subject: Subject, aggregator: Any) -> Subject:
    return replace(subject, aggregator=aggregator)
