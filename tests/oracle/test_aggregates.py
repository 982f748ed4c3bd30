"""Readings of every aggregate against libraries that we did not write, on data with nulls, ties and extremes."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream.aggregates.index import make_aggregator
from fqlstream.aggregates.protocol import Reading
from fqlstream.settings import FqlSettings

EXACT = FqlSettings(quantile_values_max=100_000, score_values_max=100_000)
COARSE = FqlSettings(quantile_values_max=16, score_values_max=16)

FLOATS = st.one_of(
    st.none(),
    st.floats(),
    st.floats(-1, 1),
    st.integers(-5, 5).map(float),
    st.sampled_from([0.1, 1e308, -1e308, 5e-324, 1e-160, 1e160, 2.0**53 + 2]),
)
SEEDS = range(6)


def read(
    kind: str, name: str, *columns: Any, settings: FqlSettings = EXACT, params: Any = None, **more: float
) -> Reading:
    aggregator = make_aggregator(kind, params or {}, settings)
    args = tuple(column if isinstance(column, pa.Array) else pa.array(column) for column in columns)
    return aggregator.read(aggregator.update(aggregator.init(), args), name, more)


def numbers(values: list[float | None]) -> pa.Array:
    return pa.array(values, pa.float64())


def finite(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def rounded(value: Fraction) -> float | None:
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return None


@given(st.lists(FLOATS, max_size=60))
def test_sum_is_math_fsum(values: list[float | None]) -> None:
    kept = finite(values)
    try:
        expected = math.fsum(kept) if kept else None
    except OverflowError:  # of the total, or of fsum's own way to it
        expected = rounded(sum(map(Fraction, kept), Fraction(0)))
    assert read("sum", "sum", numbers(values)).value == expected


@given(st.lists(FLOATS, max_size=60))
def test_average_is_the_correctly_rounded_mean(values: list[float | None]) -> None:
    kept = finite(values)
    expected = rounded(sum(map(Fraction, kept), Fraction(0)) / len(kept)) if kept else None
    assert read("sum", "average", numbers(values)).value == expected


@given(st.lists(FLOATS, max_size=60))
def test_count_min_max_agree_with_pandas(values: list[float | None]) -> None:
    series = pd.Series(values, dtype="float64").replace([math.inf, -math.inf], math.nan)
    column = numbers(values)
    assert read("count", "value", column).value == series.count()
    assert read("sum", "count", column).value == series.count()
    for kind in ("min", "max"):
        expected = getattr(series, kind)()
        assert read(kind, "value", column).value == (None if math.isnan(expected) else expected)


@given(st.lists(FLOATS, max_size=60), st.floats(0, 1))
def test_quantile_is_numpys(values: list[float | None], level: float) -> None:
    kept = finite(values)
    reading = read("quantile", "quantile", numbers(values), level=level)
    assert reading.exact
    if not kept:
        assert reading.value is None
        return
    with np.errstate(all="ignore"):
        expected = float(np.quantile(kept, level))
    if math.isfinite(expected) and max(kept) - min(kept) < 1e308:
        assert reading.value == expected
    else:  # numpy overflows between neighbours further apart than the largest double
        assert min(kept) <= reading.value <= max(kept)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", ["normal", "lognormal", "few", "sorted"])
def test_sketched_quantile_is_within_its_rank_error(seed: int, shape: str) -> None:
    random = np.random.default_rng(seed)
    values = {
        "normal": random.standard_normal(20_000),
        "lognormal": random.lognormal(0, 3, 20_000),
        "few": random.integers(0, 40, 20_000).astype(float),
        "sorted": np.sort(random.random(20_000)),
    }[shape]
    aggregator = make_aggregator("quantile", {}, COARSE)
    state = aggregator.init()
    for part in np.array_split(values, 5):
        state = aggregator.merge(state, aggregator.update(aggregator.init(), (pa.array(part),)))
    for level in (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0):
        reading = aggregator.read(state, "quantile", {"level": level})
        assert not reading.exact
        assert reading.value is not None
        assert reading.error_bound == pytest.approx(0.0133, abs=1e-4)
        below, upto = (values < reading.value).mean(), (values <= reading.value).mean()
        # 1 % of readings may be further off; twice as far is out of the question
        assert below - 2 * reading.error_bound <= level <= upto + 2 * reading.error_bound
        assert reading.low <= reading.value <= reading.high


@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=40))
@settings(max_examples=200)
def test_r2_is_exact_and_scikit_learns(rows: list[tuple[float | None, float | None]]) -> None:
    reading = read(
        "moments", "r2", *(numbers(list(column)) for column in (zip(*rows, strict=True) if rows else ([], [])))
    )
    kept = [(y, f) for y, f in rows if len(finite([y, f])) == 2]
    truth = [Fraction(y) for y, _ in kept]
    spread = sum(((y - sum(truth) / len(truth)) ** 2 for y in truth), Fraction(0))
    if len(kept) < 2 or spread == 0:
        assert reading.value is None
        return
    errors = sum(((Fraction(y) - Fraction(f)) ** 2 for y, f in kept), Fraction(0))
    assert reading.value == rounded(1 - errors / spread)
    if all(abs(value) < 1e100 for row in kept for value in row) and spread > 1e-100:
        library = sklearn.metrics.r2_score(*zip(*kept, strict=True))
        assert reading.value == pytest.approx(library, rel=1e-6, abs=1e-6) or abs(library) > 1e6


SCORES = st.one_of(st.none(), st.floats(0, 1), st.integers(0, 5).map(lambda n: n / 5))
LABELS = st.one_of(st.none(), st.booleans())


def labelled(rows: list[tuple[float | None, bool | None]]) -> tuple[list[float], list[bool]]:
    kept = [(score, label) for score, label in rows if score is not None and label is not None]
    return [score for score, _ in kept], [label for _, label in kept]


def f1_at_thresholds(
    labels: list[bool] | np.ndarray, scores: list[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give the observed scores in rising order, and F1 from each on."""
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(labels, scores)
    both = precision + recall
    return thresholds, np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)[:-1]


@given(st.lists(st.tuples(SCORES, LABELS), max_size=60))
def test_the_threshold_of_the_highest_f1_is_scikit_learns(rows: list[tuple[float | None, bool | None]]) -> None:
    columns = numbers([score for score, _ in rows]), pa.array([label for _, label in rows], pa.bool_())
    scores, labels = labelled(rows)
    threshold = read("score_pairs", "f1_threshold", *columns)
    if len(set(labels)) < 2:
        assert threshold.value is None
        return
    thresholds, gain = f1_at_thresholds(labels, scores)
    assert threshold.value == thresholds[np.flatnonzero(np.isclose(gain, gain.max(), rtol=1e-13, atol=0))[-1]]
    assert threshold.exact


@pytest.mark.parametrize("seed", SEEDS)
def test_the_binned_threshold_of_the_highest_f1_holds_its_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.random(3_000) < 0.3
    scores = np.where(labels, random.beta(4, 2, 3_000), random.beta(2, 4, 3_000))
    threshold = read("score_pairs", "f1_threshold", pa.array(scores), pa.array(labels), settings=COARSE)
    thresholds, gain = f1_at_thresholds(labels, scores)
    assert not threshold.exact
    assert threshold.error_bound < 1
    assert abs(threshold.value - thresholds[np.argmax(gain)]) <= threshold.error_bound + 1e-15


@given(st.lists(st.tuples(SCORES, LABELS), max_size=60))
def test_auroc_and_threshold_are_scikit_learns(rows: list[tuple[float | None, bool | None]]) -> None:
    columns = numbers([score for score, _ in rows]), pa.array([label for _, label in rows], pa.bool_())
    scores, labels = labelled(rows)
    auroc, threshold = (read("score_pairs", name, *columns) for name in ("auroc", "calibrated_threshold"))
    if len(set(labels)) < 2:
        assert auroc.value is None
        assert threshold.value is None
        return
    assert auroc.value == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    false_rate, true_rate, thresholds = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    gain = (true_rate - false_rate)[1:]  # the first threshold is above all scores
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    assert threshold.value in thresholds[1:][best]
    assert auroc.exact
    assert threshold.exact


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", ["uniform", "beta", "extreme", "out of range"])
def test_binned_auroc_and_threshold_hold_their_bounds(seed: int, shape: str) -> None:
    random = np.random.default_rng(seed)
    labels = random.random(3_000) < 0.3
    scores = {
        "uniform": random.random(3_000),
        "beta": np.where(labels, random.beta(4, 2, 3_000), random.beta(2, 4, 3_000)),
        "extreme": np.where(labels, 1 - random.random(3_000) ** 9 * 1e-6, random.random(3_000) ** 9),
        "out of range": random.standard_normal(3_000) + labels,
    }[shape]
    auroc, threshold = (
        read("score_pairs", name, pa.array(scores), pa.array(labels), settings=COARSE)
        for name in ("auroc", "calibrated_threshold")
    )
    exact = sklearn.metrics.roc_auc_score(labels, scores)
    assert not auroc.exact
    assert abs(auroc.value - exact) <= auroc.error_bound < 0.5
    false_rate, true_rate, thresholds = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    best = thresholds[1:][np.argmax((true_rate - false_rate)[1:])]
    assert not threshold.exact
    if threshold.error_bound is not None:
        assert abs(threshold.value - best) <= threshold.error_bound + 1e-15
    else:
        assert shape == "out of range"


def gini(actual: np.ndarray, predicted: np.ndarray) -> float:
    """The formula of the definition, on SciPy's midranks."""
    ranks = scipy.stats.rankdata(predicted)
    n, total = len(actual), actual.sum()
    return float(2 * (actual * ranks).sum() / (n * total) - (n + 1) / n)


# the formula in float64 loses what is smaller
AMOUNTS = st.floats(0, 1e6).map(lambda amount: amount if amount > 1e-200 else 0.0)


@given(st.lists(st.tuples(AMOUNTS, st.one_of(st.floats(-1e6, 1e6), st.integers(0, 3).map(float))), max_size=50))
def test_gini_is_the_rank_formula(rows: list[tuple[float, float]]) -> None:
    actual, predicted = np.array([a for a, _ in rows]), np.array([p for _, p in rows])
    reading = read("gini", "gini", numbers(actual.tolist()), numbers(predicted.tolist()))
    if actual.sum() <= 0:
        assert reading.value is None
        return
    assert reading.value == pytest.approx(gini(actual, predicted), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_gini_of_labels_is_twice_auroc_less_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, scores = random.random(500) < 0.4, np.round(random.random(500), 2)
    own, ideal = (read("gini", "gini", labels.astype(float), of.astype(float)).value for of in (scores, labels))
    assert own / ideal == pytest.approx(2 * sklearn.metrics.roc_auc_score(labels, scores) - 1, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_binned_gini_holds_its_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    predicted = random.standard_normal(2_000) * 10.0 ** random.integers(-3, 4, 2_000)
    actual = random.gamma(1, 5, 2_000)
    reading = read("gini", "gini", pa.array(actual), pa.array(predicted), settings=COARSE)
    assert not reading.exact
    assert abs(reading.value - gini(actual, predicted)) <= reading.error_bound < 1


@pytest.mark.parametrize(
    ("actual", "predicted"), [([], []), ([0.0, 0.0], [1.0, 2.0]), ([-1.0, 5.0], [1.0, 2.0]), ([None, 1.0], [1.0, None])]
)
def test_gini_is_null_where_it_is_not_defined(actual: list[Any], predicted: list[Any]) -> None:
    assert read("gini", "gini", numbers(actual), numbers(predicted)).value is None


@given(st.lists(FLOATS, max_size=60), st.lists(st.floats(-10, 10), min_size=2, max_size=80, unique=True))
def test_histogram_is_numpys(values: list[float | None], edges: list[float]) -> None:
    edges = sorted(edges)
    kept = np.array(finite(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inside, _ = np.histogram(kept, edges)
    expected = [(kept < edges[0]).sum(), *inside, (kept > edges[-1]).sum()]
    aggregator = make_aggregator("histogram", {"edges": tuple(edges)}, EXACT)
    state = aggregator.update(aggregator.init(), (numbers(values),))
    assert [aggregator.read(state, "bin", {"index": float(i)}).value for i in range(len(edges) + 1)] == expected
    assert aggregator.read(state, "total", {}).value == len(kept)


def test_bins_are_cut_at_the_edges_themselves() -> None:
    # multiplying and truncating puts 0.29 * 100 into bin 28
    edges = tuple(i / 100 for i in range(101))
    aggregator = make_aggregator("histogram", {"edges": edges}, EXACT)
    state = aggregator.update(aggregator.init(), (pa.array([0.29, 0.57, 0.58, 1.0]),))
    assert [i for i, n in enumerate(state.counts) if n] == [30, 58, 59, 100]
