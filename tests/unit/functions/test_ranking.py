"""Ranking metrics end to end: grouped events and flat ones give one number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream import evaluate
from fqlstream.events.definitions import ModelDefinition


def ranking(kind: str, **params: Any) -> ModelDefinition:
    return ModelDefinition.model_validate(
        {
            "name": "m",
            "task": "ranking",
            "columns": [
                {"name": "query", "type": "int", "role": "metadata"},
                {"name": "score", "type": kind, "role": "output"},
                {"name": "grade", "type": kind, "role": "target"},
            ],
            "task_params": {"group_by": "query", "is_binary_ranking_model": True, **params},
        }
    )


ITEMS = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 1)), min_size=1, max_size=6, unique_by=lambda item: item[0]
)


@pytest.mark.parametrize("expression", ["map()", "ndcg_mean()", "query_count()", "query_count(target=grade)"])
@given(queries=st.lists(ITEMS, max_size=6), top_k=st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_grouped_and_flat_events_agree(expression: str, queries: list[list[tuple[int, int]]], top_k: int) -> None:
    grouped = {
        "query": list(range(len(queries))),
        "score": [[float(score) for score, _ in items] for items in queries],
        "grade": [[float(grade) for _, grade in items] for items in queries],
    }
    flat = {
        "query": [number for number, items in enumerate(queries) for _ in items],
        "score": [float(score) for items in queries for score, _ in items],
        "grade": [float(grade) for items in queries for _, grade in items],
    }
    one = evaluate(grouped, expression, model=ranking("vector", top_k=top_k))["value"]
    other = evaluate(flat, expression, model=ranking("float", top_k=top_k))["value"]
    assert one == (None if other is None else pytest.approx(other, rel=1e-12))


def test_lists_that_do_not_match_are_left_out() -> None:
    rows = {
        "query": [1, 2, 3, 4],
        "score": [[0.9, 0.1], [0.5], [], None],
        "grade": [[1.0, 0.0], [1.0, 0.0], [], [1.0]],
    }
    assert evaluate(rows, "map()", model=ranking("vector"))["value"] == 1.0
    assert evaluate(rows, "query_count()", model=ranking("vector"))["value"] == 4.0


def test_flat_items_without_score_or_grade_are_dropped() -> None:
    rows = {"query": [1, 1, 2, 3, None], "score": [0.9, None, 0.5, 0.4, 0.3], "grade": [1.0, 1.0, None, 0.0, 1.0]}
    model = ranking("float")
    assert evaluate(rows, "map()", model=model)["value"] == 0.5  # queries 1 and 3
    assert evaluate(rows, "query_count()", model=model)["value"] == 3.0
    assert evaluate(rows, "query_count(target=grade)", model=model)["value"] == 2.0


def test_classes_are_graded_by_their_order() -> None:
    model = ModelDefinition.model_validate(
        {
            "name": "m",
            "task": "ranking",
            "columns": [
                {"name": "query", "type": "string", "role": "metadata"},
                {"name": "score", "type": "float", "role": "output"},
                {"name": "grade", "type": "category", "role": "target", "categories": ["bad", "fair", "good"]},
            ],
            "task_params": {"group_by": "query", "target_class_order": ["bad", "fair", "good"]},
        }
    )
    rows = {"query": ["q"] * 3, "score": [0.3, 0.2, 0.1], "grade": ["good", "fair", "bad"]}
    assert evaluate(rows, "ndcg_mean()", model=model)["value"] == 1.0
    worst = evaluate({**rows, "score": [0.1, 0.2, 0.3]}, "ndcg_mean()", model=model)["value"]
    assert worst is not None
    assert worst < 0.7
