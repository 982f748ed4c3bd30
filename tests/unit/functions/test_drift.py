"""Drift against SciPy, and the bins against NumPy's histogram."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fqlstream import evaluate
from fqlstream.events.definitions import Choices, Column, ModelDefinition
from fqlstream.functions.drift import bins_of
from fqlstream.functions.index import KERNELS

COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12)


def run(name: str, pairs: list[tuple[int, int]], *first: pa.Scalar) -> float | None:
    production = [pa.array([float(p)]) for p, _ in pairs]
    baseline = [pa.scalar(float(q)) for _, q in pairs]
    found: list[float | None] = KERNELS[name].arrow(*first, *production, *baseline).to_pylist()
    return found[0]


@given(COUNTS)
@settings(max_examples=150, deadline=None)
@example([(1, 0), (0, 1)])
@example([(3, 3), (5, 5)])
@example([(0, 3), (0, 1)])
@example([(3, 0), (1, 0)])
def test_jsd_is_scipys_distance_to_base_2(pairs: list[tuple[int, int]]) -> None:
    p, q = ([pair[side] for pair in pairs] for side in (0, 1))
    found = run("jsd_of_counts", pairs)
    if not sum(p) or not sum(q):
        assert found is None
    else:
        theirs = float(np.nan_to_num(jensenshannon(p, q, base=2)))
        # near 0 the root of a rounding error is all there is
        assert found == pytest.approx(theirs, rel=1e-9, abs=1e-7)


@given(COUNTS, st.sampled_from([1.0, 0.5, 2.0]))
@settings(max_examples=100, deadline=None)
def test_psi_is_its_formula(pairs: list[tuple[int, int]], increment: float) -> None:
    p, q = (np.array([pair[side] for pair in pairs], dtype=float) for side in (0, 1))
    found = run("psi_of_counts", pairs, pa.scalar(increment))
    if not p.sum() or not q.sum():
        assert found is None
        return
    a, b = ((side + increment) / (side + increment).sum() for side in (p, q))
    assert found == pytest.approx(float(((a - b) * np.log(a / b)).sum()), rel=1e-9, abs=1e-15)


def test_psi_keeps_the_increment_that_the_documentation_gives() -> None:
    assert run("psi_of_counts", [(1, 100), (9, 900)], pa.scalar(1.0)) == pytest.approx(0.038, abs=5e-4)


def test_many_windows_at_once_and_nulls() -> None:
    columns = [
        pa.array([1.0, 0.0, None]),
        pa.array([3.0, 0.0, 1.0]),
        pa.array([2.0, 2.0, 2.0]),
        pa.array([2.0, 2.0, 2.0]),
    ]
    found = KERNELS["jsd_of_counts"].arrow(*columns).to_pylist()
    assert found[0] == pytest.approx(jensenshannon([1, 3], [2, 2], base=2))
    assert found[1:] == [None, None]


def column(kind: str, **more: Any) -> Column:
    return Column.model_validate({"name": "x", "type": kind, **more})


@pytest.mark.parametrize(
    ("of", "edges"),
    [
        (column("float", min=0, max=10), tuple(float(edge) for edge in range(11))),
        (column("int", min=-1, max=1, bins=[0, 1, 5]), (0.0, 1.0, 5.0)),
        (column("float", min=3, max=3), (3.0, math.nextafter(3.0, math.inf))),
        (column("float", min=0), None),
        (column("float", bins=[1]), None),
        (column("float"), None),
        (column("float", min=-1.7e308, max=1.7e308), None),
        (column("category"), None),
        (column("string"), None),
        (column("timestamp"), None),
        (column("vector"), None),
    ],
)
def test_edges_are_those_of_the_schema(of: Column, edges: tuple[float, ...] | None) -> None:
    bins = bins_of(of, 10)
    assert (None if bins is None else bins.edges) == edges
    if bins is not None:
        assert len(bins.indices) == len(bins.edges) + 1


def test_edges_end_where_the_range_ends() -> None:
    bins = bins_of(column("float", min=0.1, max=0.7), 7)
    assert bins is not None
    assert (bins.edges[0], bins.edges[-1], len(bins.edges)) == (0.1, 0.7, 8)
    assert all(a < b for a, b in zip(bins.edges, bins.edges[1:], strict=False))


def test_categories_and_booleans_have_a_bin_each() -> None:
    of_category = bins_of(column("category", categories=["a", "b", "c"]), 10)
    of_boolean = bins_of(column("bool"), 10)
    assert of_category is not None
    assert of_boolean is not None
    assert len(of_category.indices) == 4  # one for what is none of them
    assert len(of_boolean.indices) == 2


MODEL = ModelDefinition.model_validate(
    {
        "name": "m",
        "columns": [
            {"name": "x", "type": "float", "min": 0, "max": 10},
            {"name": "c", "type": "category", "categories": ["a", "b"]},
            {"name": "n", "type": "category", "categories": [1, 2]},
            {"name": "b", "type": "bool"},
        ],
    }
)


def test_a_frame_against_another_as_numpy_and_scipy_have_it() -> None:
    rng = np.random.default_rng(5)
    rows = {"x": [*rng.normal(5, 3, 400), None, math.nan], "c": [*rng.choice(["a", "b", "z"], 401), ""]}
    training = {"x": rng.normal(6, 3, 300), "c": rng.choice(["a", "b"], 300)}
    edges = [-np.inf, *range(10), np.nextafter(10.0, np.inf), np.inf]
    p, q = (np.histogram(np.array(side["x"][:400], dtype=float), edges)[0] for side in (rows, training))
    found = evaluate(rows, "jsd(x, 'training')", model=MODEL, baselines={"training": training})
    assert found["exact"]
    assert found["value"] == pytest.approx(jensenshannon(p, q, base=2), rel=1e-12)
    p, q = ([list(side["c"]).count(name) for name in ("a", "b", "z")] for side in (rows, training))
    value = evaluate(rows, "jsd(c, 'training')", model=MODEL, baselines={"training": training})["value"]
    assert value == pytest.approx(jensenshannon(p, q, base=2), rel=1e-12)


def test_a_segment_filters_both_sides() -> None:
    rows, training = {"x": [1.0, 9.0], "b": [True, False]}, {"x": [1.0, 5.0], "b": [True, False]}
    whole = evaluate(rows, "jsd(x, 't')", model=MODEL, baselines={"t": training})["value"]
    part = evaluate(rows, "jsd(x, 't')", model=MODEL, segment="b", baselines={"t": training})["value"]
    assert part == 0.0
    assert whole is not None
    assert whole > 0.5


def test_categories_may_be_numbers() -> None:
    value = evaluate({"n": [1, 1, 2, 2]}, "jsd(n, 't')", model=MODEL, baselines={"t": {"n": [1, 2]}})["value"]
    assert value == 0.0


def test_bins_and_increment_are_choices() -> None:
    rows, training = {"x": [1.0, 2.0, 3.0]}, {"x": [3.0, 4.0]}
    coarse = MODEL.model_copy(update={"choices": Choices(drift_bins=1, psi_increment=0.5)})
    assert evaluate(rows, "jsd(x, 't')", model=coarse, baselines={"t": training})["value"] == 0.0
    by_default = evaluate(rows, "psi(x, 't')", model=MODEL, baselines={"t": training})["value"]
    assert by_default != evaluate(rows, "psi(x, 't')", model=coarse, baselines={"t": training})["value"]
