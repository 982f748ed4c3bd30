"""Built-in metric functions against scikit-learn and NumPy, on rows with nulls, ties, one class, and none at all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn import metrics as sk

from fqlstream import evaluate
from fqlstream.events.definitions import Choices
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.settings import FqlSettings

SCORES = st.one_of(
    st.none(),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.5, 0.7, 1.0]),
    st.just(math.nan),
    st.just(math.inf),
)
CLASSES = st.sampled_from([None, "", "no", "yes", "yes", "no", "maybe"])
VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([0.0, 1.0, -1.0, 1e-9, math.nan]))

BinaryRows = list[tuple[float | None, str | None]]
Arrays = tuple[np.ndarray, np.ndarray]


def value(expression: str, columns: dict[str, list[Any]], model: str) -> float | None:
    return evaluate(columns, expression, model=EXAMPLE_MODELS[model])["value"]


def agree(found: float | None, expected: float, rel: float = 1e-12) -> bool:
    if math.isnan(expected):
        return found is None
    return found is not None and math.isclose(found, expected, rel_tol=rel, abs_tol=1e-12)


# ------------------------------------------------------------------------------------------------ binary


def _confusion(rate: Callable[..., float], **options: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    def oracle(truth: np.ndarray, score: np.ndarray) -> float:
        return float(rate(truth, score >= 0.5, **options)) if len(truth) else math.nan

    return oracle


def _fpr(truth: np.ndarray, score: np.ndarray) -> float:
    negatives = score[truth == 0]
    return float(np.mean(negatives >= 0.5)) if len(negatives) else math.nan


def _geometric_mean(truth: np.ndarray, score: np.ndarray) -> float:
    if not len(truth):
        return math.nan
    precision = sk.precision_score(truth, score >= 0.5, zero_division=math.nan)
    return math.sqrt(precision * sk.recall_score(truth, score >= 0.5, zero_division=math.nan))


def _auroc(truth: np.ndarray, score: np.ndarray) -> float:
    return float(sk.roc_auc_score(truth, score)) if len(set(truth.tolist())) == 2 else math.nan


def _calibrated_threshold(truth: np.ndarray, score: np.ndarray) -> float:
    if len(set(truth.tolist())) < 2:
        return math.nan
    fpr, tpr, thresholds = sk.roc_curve(truth, score, drop_intermediate=False)
    # the first point is no observed score; of equals the highest threshold comes first, but for the last bit of a difference
    best = np.flatnonzero(np.isclose((tpr - fpr)[1:], (tpr - fpr)[1:].max(), rtol=0, atol=1e-12))[0]
    return float(thresholds[1:][best])


def _log_loss(truth: np.ndarray, score: np.ndarray) -> float:
    return float(sk.log_loss(truth, score, labels=[0, 1])) if len(truth) else math.nan


def _calibration_error(truth: np.ndarray, score: np.ndarray) -> float:
    if not len(truth):
        return math.nan
    edges = [place / 10 for place in range(11)]
    place = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, 9)
    error = 0.0
    for number in range(10):
        inside = place == number
        if inside.any():
            error += inside.mean() * abs(score[inside].mean() - truth[inside].mean())
    return error


BINARY: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "precision()": _confusion(sk.precision_score, zero_division=math.nan),
    "recall()": _confusion(sk.recall_score, zero_division=math.nan),
    "f1_score()": _confusion(sk.f1_score, zero_division=math.nan),
    "accuracy()": _confusion(sk.accuracy_score),
    "fpr()": _fpr,
    "geometric_mean()": _geometric_mean,
    "auroc()": _auroc,
    "calibrated_threshold()": _calibrated_threshold,
    "log_loss()": _log_loss,
    "expected_calibration_error()": _calibration_error,
}


def _labelled(rows: BinaryRows) -> Arrays:
    kept = [
        (truth == "yes", score)
        for score, truth in rows
        if truth in {"no", "yes"} and score is not None and math.isfinite(score)
    ]
    return np.array([truth for truth, _ in kept], dtype=int), np.array([score for _, score in kept], dtype=float)


@pytest.mark.parametrize("expression", BINARY)
@given(rows=st.lists(st.tuples(SCORES, CLASSES), max_size=25))
@settings(max_examples=60, deadline=None)
@example(rows=[])
@example(rows=[(0.5, "yes")])
@example(rows=[(0.4, "yes"), (0.4, "no")])
@example(rows=[(0.0, "yes"), (1.0, "no"), (0.29, None), (None, "yes")])
def test_binary(expression: str, rows: BinaryRows) -> None:
    truth, score = _labelled(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = BINARY[expression](truth, score)
    columns = {"score": [row[0] for row in rows], "churned": [row[1] for row in rows]}
    assert agree(value(expression, columns, "binary"), expected), (value(expression, columns, "binary"), expected)


@given(rows=st.lists(st.tuples(SCORES, CLASSES), max_size=25), threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
@settings(max_examples=40, deadline=None)
def test_states_are_those_of_the_confusion_matrix(rows: BinaryRows, threshold: float) -> None:
    truth, score = _labelled(rows)
    columns = {"score": [row[0] for row in rows], "churned": [row[1] for row in rows]}
    counts = sk.confusion_matrix(truth, score >= 0.5, labels=[0, 1]).ravel() if len(truth) else [0, 0, 0, 0]
    for name, count in zip(("tn", "fp", "fn", "tp"), counts, strict=True):
        found = value(f"count(if({name}(), 1, null))", columns, "binary")
        assert found == count, name
    if len(truth):
        expected = sk.recall_score(truth, score >= threshold, zero_division=math.nan)
        assert agree(value(f"recall(threshold={threshold})", columns, "binary"), expected)


# ------------------------------------------------------------------------------------------------ multiclass

ANIMALS = ["cat", "dog", "fox"]
MULTICLASS_ROW = st.tuples(
    *[st.one_of(st.none(), st.integers(0, 4).map(lambda n: n / 4), st.floats(0, 1))] * 3,
    st.sampled_from([None, "cow", *ANIMALS]),
)


@given(rows=st.lists(MULTICLASS_ROW, max_size=20))
@settings(max_examples=60, deadline=None)
def test_multiclass(rows: list[tuple[Any, ...]]) -> None:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(("p_cat", "p_dog", "p_fox", "animal"))}
    kept = [row for row in rows if None not in row and row[3] in ANIMALS]
    truth = np.array([ANIMALS.index(row[3]) for row in kept], dtype=int)
    outputs = np.array([row[:3] for row in kept], dtype=float).reshape(-1, 3)
    predicted = outputs.argmax(axis=1)
    expected = float(np.mean(predicted == truth)) if len(kept) else math.nan
    assert agree(value("accuracy()", columns, "multiclass"), expected)
    if len(kept):
        epsilon = np.finfo(float).eps
        chosen = np.clip(outputs[np.arange(len(kept)), truth], epsilon, 1 - epsilon)
        assert agree(value("log_loss()", columns, "multiclass"), float(-np.log(chosen).mean()))
        hits = int(np.sum((predicted == 1) & (truth == 1)))
        assert value("sum(if(tp(class='dog'), 1, 0))", columns, "multiclass") == hits
        assert value("sum(if(fp(class='dog'), 1, 0))", columns, "multiclass") == int(
            np.sum((predicted == 1) & (truth != 1))
        )


def test_multiclass_log_loss_is_scikit_learns_on_rows_that_sum_to_1() -> None:
    rng = np.random.default_rng(2)
    outputs = rng.dirichlet([1, 1, 1], 200)
    truth = rng.integers(0, 3, 200)
    columns = {name: outputs[:, place].tolist() for place, name in enumerate(("p_cat", "p_dog", "p_fox"))}
    found = value("log_loss()", {**columns, "animal": [ANIMALS[place] for place in truth]}, "multiclass")
    assert agree(found, float(sk.log_loss(truth, outputs, labels=[0, 1, 2])))


# ------------------------------------------------------------------------------------------------ regression


def _mape(truth: np.ndarray, output: np.ndarray) -> float:
    truth, output = truth[truth != 0], output[truth != 0]
    if not len(truth):
        return math.nan
    with np.errstate(over="ignore"):
        shares = np.abs(truth - output) / np.abs(truth)
    # scikit-learn divides by 2.2e-16 where the truth is smaller
    if (np.abs(truth) > np.finfo(float).eps).all():
        assert math.isclose(sk.mean_absolute_percentage_error(truth, output), shares.mean(), rel_tol=1e-12)
    return float(shares[np.isfinite(shares)].mean()) if np.isfinite(shares).any() else math.nan


def _wmape(truth: np.ndarray, output: np.ndarray) -> float:
    weight = math.fsum(np.abs(truth))
    return math.fsum(np.abs(truth - output)) / weight if weight else math.nan


def _r2(truth: np.ndarray, output: np.ndarray) -> float:
    if len(truth) < 2 or not np.ptp(truth) > 0:
        return math.nan
    if np.sum((truth - truth.mean()) ** 2) < 1e-290:  # squares that small lose their digits: count in fractions
        ys, fs = [Fraction(y) for y in truth], [Fraction(f) for f in output]
        mean = sum(ys) / len(ys)
        left, spread = sum((y - f) ** 2 for y, f in zip(ys, fs, strict=True)), sum((y - mean) ** 2 for y in ys)
        try:
            return float(1 - left / spread)
        except OverflowError:
            return math.nan  # beyond what a float holds: FQL has no infinities, and says null
    return float(sk.r2_score(truth, output))


REGRESSION: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mse()": sk.mean_squared_error,
    "mae()": sk.mean_absolute_error,
    "mape()": _mape,
    "wmape()": _wmape,
    "r2()": _r2,
}


@pytest.mark.parametrize("expression", REGRESSION)
@given(rows=st.lists(st.tuples(VALUES, VALUES), max_size=25))
@settings(max_examples=60, deadline=None)
@example(rows=[])
@example(rows=[(1.0, 2.0)])
@example(rows=[(0.0, 2.0), (0.0, 0.0)])
@example(rows=[(3.0, 2.0), (3.0, 1.0)])
@example(rows=[(4.343103235849268e-25, 0.0)])
@example(rows=[(5e-324, 1.0), (1.0, 2.0)])
@example(rows=[(0.0, 0.0), (3.232260362368747e-219, 0.0)])
@example(rows=[(0.0, 1.0), (2.3239423309924166e-259, 0.0)])
def test_regression(expression: str, rows: list[tuple[float | None, float | None]]) -> None:
    kept = [(y, f) for y, f in rows if y is not None and f is not None and math.isfinite(y) and math.isfinite(f)]
    truth, output = (np.array([pair[side] for pair in kept], dtype=float) for side in (0, 1))
    expected = float(REGRESSION[expression](truth, output)) if len(kept) else math.nan
    found = value(expression, {"price": [y for y, _ in rows], "estimate": [f for _, f in rows]}, "regression")
    if expression == "r2()" and found is not None and not math.isnan(expected):
        # scikit-learn's own rounding grows where the truth hardly varies
        spread = float(np.sum(np.abs(truth)) ** 2 / max(np.sum((truth - truth.mean()) ** 2), 1e-300))
        assert math.isclose(found, expected, rel_tol=1e-9 + 1e-15 * spread, abs_tol=1e-9)
    else:
        assert agree(found, expected, rel=1e-11), (found, expected)


# ------------------------------------------------------------------------------------------------ gini


@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_gini(rows: list[tuple[int, int]]) -> None:
    actual, predicted = (np.array([row[side] for row in rows], dtype=float) for side in (0, 1))
    columns = {"x": actual.tolist(), "y": predicted.tolist()}
    found = value("gini(actual=x, predicted=y)", columns, "table")
    if actual.sum() == 0:
        assert found is None
        return
    n = len(rows)
    expected = 2 * float(actual @ rankdata(predicted)) / (n * actual.sum()) - (n + 1) / n
    assert agree(found, expected)
    if set(actual.tolist()) == {0.0, 1.0}:
        normalised = value("gini(actual=x, predicted=y) / gini(actual=x, predicted=x)", columns, "table")
        assert agree(normalised, 2 * float(sk.roc_auc_score(actual, predicted)) - 1)


def test_the_calibrated_threshold_follows_the_rule_of_the_settings_or_the_model() -> None:
    truth = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, *[0] * 100])  # few positives: the two rules differ
    score = np.linspace(0.9, 0.1, len(truth))
    model = EXAMPLE_MODELS["binary"]
    own = model.model_copy(update={"choices": Choices(calibrated_threshold_rule="f1")})
    by_setting = FqlSettings(calibrated_threshold_rule="f1")
    columns = {"score": score.tolist(), "churned": np.where(truth == 1, "yes", "no").tolist()}
    precision, recall, thresholds = sk.precision_recall_curve(truth, score)
    highest_f1 = thresholds[np.argmax(2 * precision[:-1] * recall[:-1] / (precision[:-1] + recall[:-1]))]

    assert evaluate(columns, "calibrated_threshold()", model=own)["value"] == highest_f1 == score[1]
    assert evaluate(columns, "calibrated_threshold()", model=model, settings=by_setting)["value"] == highest_f1
    youden = _calibrated_threshold(truth, score)
    assert evaluate(columns, "calibrated_threshold()", model=model)["value"] == youden == score[9]
