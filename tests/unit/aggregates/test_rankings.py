"""Ranking metrics against scikit-learn and against their definition written plainly."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from fqlstream.aggregates.rankings import Queries, QueriesState, average_precisions, normalised_gains, ranked

ITEMS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=1, max_size=12)
LISTS = st.lists(ITEMS, min_size=1, max_size=6)
TOP_K = st.integers(1, 14)


def _flat(lists: list[list[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(items) for items in lists])
    scores = np.array([float(score) for items in lists for score, _ in items])
    truths = np.array([float(truth) for items in lists for _, truth in items])
    return sizes, scores, truths


def _plain_map(items: list[tuple[int, int]], top_k: int) -> float:
    order = sorted(items, key=lambda item: -item[0])[:top_k]
    relevant = sum(truth for _, truth in items)
    if not relevant:
        return 0.0
    hits, total = 0, 0.0
    for place, (_, truth) in enumerate(order, 1):
        if truth:
            hits += 1
            total += hits / place
    return total / min(relevant, top_k)


def _plain_ndcg(items: list[tuple[int, int]], top_k: int) -> float:
    order = sorted(items, key=lambda item: -item[0])[:top_k]
    best = sorted((truth for _, truth in items), reverse=True)[:top_k]
    gained = sum(truth / math.log2(place + 1) for place, (_, truth) in enumerate(order, 1))
    possible = sum(truth / math.log2(place + 1) for place, truth in enumerate(best, 1))
    return gained / possible if possible else 0.0


@given(LISTS, TOP_K)
@settings(max_examples=150, deadline=None)
def test_lists_are_measured_by_their_definition(lists: list[list[tuple[int, int]]], top_k: int) -> None:
    sizes, scores, truths = _flat(lists)
    order = ranked(sizes, scores, truths)
    expected = [_plain_map(items, top_k) for items in lists]
    assert average_precisions(sizes, order, top_k) == pytest.approx(expected, rel=1e-12)
    expected = [_plain_ndcg(items, top_k) for items in lists]
    assert normalised_gains(sizes, order, top_k) == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 1)), min_size=2, max_size=12, unique_by=lambda item: item[0]
    ),
    TOP_K,
)
@settings(max_examples=100, deadline=None)
def test_lists_without_ties_are_measured_as_in_scikit_learn(items: list[tuple[int, int]], top_k: int) -> None:
    sizes, scores, truths = _flat([items])
    order = ranked(sizes, scores, truths)
    theirs = ndcg_score([truths], [scores], k=top_k, ignore_ties=True)
    assert normalised_gains(sizes, order, top_k) == pytest.approx([theirs], rel=1e-12)
    if truths.any():
        whole = average_precision_score(truths, scores)
        assert average_precisions(sizes, order, len(items)) == pytest.approx([whole], rel=1e-12)


def test_graded_relevance_as_in_scikit_learn() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        scores, grades = rng.permutation(9).astype(float), rng.integers(0, 5, 9).astype(float)
        order = ranked(np.array([9]), scores, grades)
        theirs = ndcg_score([grades], [scores], k=4, ignore_ties=True)
        assert normalised_gains(np.array([9]), order, 4) == pytest.approx([theirs], rel=1e-12)


def _state(queries: Queries, rows: list[tuple[str | None, float | None, float | None]]) -> QueriesState:
    ids = pa.array([row[0] for row in rows], pa.string())
    scores = pa.array([row[1] for row in rows], pa.float64())
    truths = pa.array([row[2] for row in rows], pa.float64())
    return queries.update(queries.init(), (ids, scores, truths))


def test_queries_are_read_as_means() -> None:
    queries = Queries(100)
    state = _state(
        queries,
        [
            ("b", 1.0, 0.0),
            ("a", 0.9, 1.0),
            ("a", 0.8, 0.0),
            ("a", 0.7, 1.0),
            ("b", 2.0, 0.0),
            ("c", 1.0, None),
            (None, 1.0, 1.0),
            ("", 1.0, 1.0),
        ],
    )
    reading = queries.read(state, "map", {"top_k": 50.0})
    assert reading.exact
    assert reading.value == pytest.approx((5 / 6 + 0) / 2)
    assert queries.read(state, "count", {}).value == 2.0
    assert queries.read(queries.init(), "map", {"top_k": 50.0}).value is None
    assert queries.read(queries.init(), "count", {}).value == 0.0


def test_of_equal_scores_the_less_relevant_stands_first() -> None:
    queries = Queries(100)
    for rows in ([("a", 1.0, 1.0), ("a", 1.0, 0.0)], [("a", 1.0, 0.0), ("a", 1.0, 1.0)]):
        assert queries.read(_state(queries, list(rows)), "map", {"top_k": 1.0}).value == 0.0
        assert queries.read(_state(queries, list(rows)), "map", {"top_k": 2.0}).value == 0.5


def test_beyond_the_cap_whole_queries_are_sampled() -> None:
    queries = Queries(400)
    rng = np.random.default_rng(3)
    rows = []
    for query in range(2_000):
        rows += [(f"q{query}", float(score), float(rng.integers(0, 2))) for score in range(5)]
    state = _state(queries, rows)
    assert state.level >= 1
    assert len(state.queries) <= 400
    assert set(np.unique(state.queries, return_counts=True)[1].tolist()) == {5}, "queries are kept whole"
    count = queries.read(state, "count", {})
    assert not count.exact
    assert count.value == pytest.approx(2_000, rel=0.4)
    whole = queries.read(_state(Queries(10**6), rows), "map", {"top_k": 50.0}).value
    assert queries.read(state, "map", {"top_k": 50.0}).value == pytest.approx(whole, abs=0.1)


def test_a_sample_does_not_depend_on_how_rows_are_cut() -> None:
    queries = Queries(50)
    rows = [(f"q{number % 97}", float(number % 7), float(number % 2)) for number in range(700)]
    whole = _state(queries, rows)
    for step in (1, 13, 350):
        parts = [_state(queries, rows[start : start + step]) for start in range(0, len(rows), step)]
        merged = queries.init()
        for part in parts[::-1]:
            merged = queries.merge(merged, part)
        assert merged == whole


def test_rows_that_were_never_in_cannot_be_taken_away() -> None:
    queries = Queries(50)
    state = _state(queries, [("a", 1.0, 1.0)])
    assert queries.retract(state, _state(queries, [("a", 1.0, 0.0)])) is None
    assert queries.retract(state, state) == queries.init()
