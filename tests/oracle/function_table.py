"""Every function and operator beside an oracle that we did not write, over random tables: who, how often, how far apart.

`python -m tests.oracle.function_table` prints the table; test_function_table.py holds it to its tolerances.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import re2
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn import metrics as sk
from tests.unit.functions.rows import rows_of

from fqlstream import evaluate
from fqlstream.functions.example_models import EXAMPLE_MODELS

CASES = 120
HOUR_MS = 3_600_000
Columns = dict[str, list[Any]]
Draw = Callable[[np.random.Generator], Columns]


@dataclass(frozen=True)
class Row:
    """One function: its call, the tables it is tried on, and who else says what comes out.

    `per_row`: the call gives a value per row, and so does the oracle. `baseline`: the oracle is given the rows of the baseline too.
    """

    name: str
    oracle_name: str
    call: str
    draw: Draw
    oracle: Callable[..., Any]
    model: str = "table"
    per_row: bool = False
    baseline: bool = False
    tolerance: float = 1e-12


@dataclass(frozen=True)
class Outcome:
    """How a function did: tables tried, of those how many had a value, and the largest relative deviation."""

    cases: int
    values: int
    deviation: float


# ---- tables ----------------------------------------------------------------------------------------------------------

SIZES = (0, 1, 2, 3, 7, 40, 300)
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 0.1, 3.7, 1e300, -1e300, 1e-300, 1e16, 2.0**53, 700.0, math.nan]
TEXTS = ["", "a", "ab", "abcde", "é", "e\u0301x", "😀😀", "a\nb", "it's", "A", "bcd", "Ünïcode"]


def size_of(rng: np.random.Generator) -> int:
    return int(rng.choice(SIZES))


def with_nulls(rng: np.random.Generator, values: Sequence[Any], share: float = 0.15) -> list[Any]:
    return [None if rng.random() < share else value for value in values]


def awkward(rng: np.random.Generator) -> Columns:
    """Numbers of all sizes, ties, NaN; Booleans; texts."""
    count = size_of(rng)
    normal = rng.normal(0, 10 ** float(rng.integers(-3, 6)), (2, count))
    picked = rng.choice(len(NUMBERS), (2, count))
    use = rng.random((2, count)) < 0.4
    x, y = (
        [NUMBERS[p] if special else float(n) for n, p, special in zip(*side, strict=True)]
        for side in zip(normal, picked, use, strict=True)
    )
    return {
        "x": with_nulls(rng, x),
        "y": with_nulls(rng, y),
        "a": with_nulls(rng, (rng.random(count) < 0.5).tolist()),
        "b": with_nulls(rng, (rng.random(count) < 0.5).tolist()),
        "s": with_nulls(rng, [TEXTS[place] for place in rng.choice(len(TEXTS), count)]),
    }


def moderate(rng: np.random.Generator) -> Columns:
    """Numbers that do not overflow when they are added up."""
    drawn = awkward(rng)
    for name in ("x", "y"):
        drawn[name] = [None if v is None else v if abs(v) < 1e20 or v != v else 1e6 for v in drawn[name]]
    return drawn


def scored(rng: np.random.Generator) -> Columns:
    """Scores with ties, and classes that may be one only, unknown, or not there yet."""
    count = size_of(rng)
    score = np.where(rng.random(count) < 0.3, rng.choice([0.0, 0.29, 0.3, 0.5, 1.0], count), rng.random(count))
    classes = ["no", "yes"] if rng.random() < 0.9 else ["yes"]
    truth = [str(value) for value in rng.choice(classes, count)]
    truth = ["maybe" if rng.random() < 0.03 else value for value in truth]
    return {"score": with_nulls(rng, score.tolist()), "churned": with_nulls(rng, truth)}


def animals(rng: np.random.Generator) -> Columns:
    count = size_of(rng)
    outputs = rng.dirichlet([1, 1, 1], count)
    drawn = {name: with_nulls(rng, outputs[:, place].tolist(), 0.05) for place, name in enumerate(_OUTPUTS)}
    return {**drawn, "animal": with_nulls(rng, [str(v) for v in rng.choice(_ANIMALS, count)])}


def prices(rng: np.random.Generator) -> Columns:
    count = size_of(rng)
    price = np.where(rng.random(count) < 0.1, 0.0, rng.normal(50, 20, count))
    return {
        "price": with_nulls(rng, price.tolist()),
        "estimate": with_nulls(rng, (price + rng.normal(0, 5, count)).tolist()),
    }


def searches(rng: np.random.Generator) -> Columns:
    """Queries of one to twelve items, no two scores alike."""
    query: list[Any] = []
    for number in range(int(rng.choice([0, 1, 3, 20]))):
        query += [f"q{number}"] * int(rng.integers(1, 13))
    count = len(query)
    score = (rng.permutation(count) / max(1, count)).tolist()
    return {"query": query, "score": score, "clicked": [int(v) for v in rng.random(count) < 0.4]}


def spans(rng: np.random.Generator) -> Columns:
    return {"tokens": with_nulls(rng, rng.normal(100, 30, size_of(rng)).tolist())}


_OUTPUTS = ("p_cat", "p_dog", "p_fox")
_ANIMALS = ("cat", "dog", "fox")


# ---- oracles ---------------------------------------------------------------------------------------------------------


def numbers(values: Sequence[Any]) -> np.ndarray:
    """The numbers that are there."""
    kept = [value for value in values if value is not None and math.isfinite(value)]
    return np.array(kept, dtype=float)


def each(function: Callable[..., Any], *names: str) -> Callable[[Columns], list[Any]]:
    """A NumPy function of one row's values: null where one is null, or the result is no finite number."""

    def run(columns: Columns) -> list[Any]:
        out = []
        for row in zip(*(columns[name] for name in names), strict=True):
            if any(value is None or value != value for value in row):
                out.append(None)
                continue
            with np.errstate(all="ignore"):
                value = function(*row)
            out.append(None if isinstance(value, float) and not math.isfinite(value) else value)
        return out

    return run


def kleene(operator: str) -> Callable[[Columns], list[Any]]:
    def run(columns: Columns) -> list[Any]:
        a, b = (pd.array(columns[name], dtype="boolean") for name in ("a", "b"))
        found = {"and": lambda: a & b, "or": lambda: a | b, "not": lambda: ~b}[operator]()
        return [None if value is pd.NA else bool(value) for value in found]

    return run


def labelled(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Truth as 0 and 1, and score, of the rows that have both."""
    kept = [
        (y == "yes", s)
        for y, s in zip(columns["churned"], columns["score"], strict=True)
        if y in ("no", "yes") and s is not None
    ]
    return np.array([y for y, _ in kept], dtype=int), np.array([s for _, s in kept], dtype=float)


def of_labels(function: Callable[[np.ndarray, np.ndarray], Any]) -> Callable[[Columns], Any]:
    return lambda columns: function(*labelled(columns))


def confusion(actual: int, predicted: int) -> Callable[[Columns], float]:
    """One cell of scikit-learn's matrix; a sum over no rows at all is null."""

    def run(columns: Columns) -> float:
        truth, score = labelled(columns)
        matrix = sk.confusion_matrix(truth, score >= 0.5, labels=[0, 1]) if len(truth) else np.zeros((2, 2))
        return float(matrix[actual, predicted]) if columns["score"] else math.nan

    return run


def rate(function: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda truth, score: float(function(truth, score >= 0.5, zero_division=math.nan)) if len(truth) else math.nan


def both_classes(function: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda truth, score: function(truth, score) if len(set(truth.tolist())) == 2 else math.nan


def youden(truth: np.ndarray, score: np.ndarray) -> float:
    fpr, tpr, thresholds = sk.roc_curve(truth, score, drop_intermediate=False)
    gain = (tpr - fpr)[1:]
    return float(thresholds[1:][np.flatnonzero(np.isclose(gain, gain.max(), rtol=0, atol=1e-12))[0]])


def calibration_error(truth: np.ndarray, score: np.ndarray) -> float:
    if not len(truth):
        return math.nan
    place = np.clip(np.searchsorted([edge / 10 for edge in range(11)], score, side="right") - 1, 0, 9)
    gaps = pd.DataFrame({"place": place, "gap": score - truth}).groupby("place").gap.sum()
    return float(gaps.abs().sum() / len(truth))


def multiclass(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in zip(*(columns[name] for name in (*_OUTPUTS, "animal")), strict=True) if None not in row]
    return np.array([_ANIMALS.index(row[3]) for row in rows], dtype=int), np.array(
        [row[:3] for row in rows], dtype=float
    ).reshape(-1, 3)


def of_prices(function: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Columns], float]:
    def run(columns: Columns) -> float:
        rows = [row for row in zip(columns["price"], columns["estimate"], strict=True) if None not in row]
        truth, output = (np.array([row[side] for row in rows], dtype=float) for side in (0, 1))
        return float(function(truth, output)) if len(rows) else math.nan

    return run


def r2(truth: np.ndarray, output: np.ndarray) -> float:
    return float(sk.r2_score(truth, output)) if len(truth) > 1 and np.ptp(truth) > 0 else math.nan


def mape(truth: np.ndarray, output: np.ndarray) -> float:
    kept = truth != 0
    return float(sk.mean_absolute_percentage_error(truth[kept], output[kept])) if kept.any() else math.nan


def wmape(truth: np.ndarray, output: np.ndarray) -> float:
    weight = np.abs(truth).sum()
    return float(np.abs(truth - output).sum() / weight) if weight else math.nan


def per_query(function: Callable[[pd.DataFrame], float]) -> Callable[[Columns], float]:
    def run(columns: Columns) -> float:
        found = [function(rows) for _, rows in pd.DataFrame(columns).groupby("query")]
        return float(np.mean(found)) if found else math.nan

    return run


def average_precision(rows: pd.DataFrame) -> float:
    """AP@10 out of scikit-learn's, which has no k: over the first ten items, for as many hits as there could be."""
    first = rows.sort_values("score", ascending=False).head(10)
    hits, relevant = int(first.clicked.sum()), int(rows.clicked.sum())
    return float(sk.average_precision_score(first.clicked, first.score)) * hits / min(relevant, 10) if hits else 0.0


def gain(rows: pd.DataFrame) -> float:
    if len(rows) == 1:  # scikit-learn refuses queries of one item
        return float(rows.clicked.iloc[0])
    return float(sk.ndcg_score([rows.clicked], [rows.score], k=10, ignore_ties=True))


def gini(columns: Columns) -> float:
    rows = [(abs(a), p) for a, p in zip(columns["x"], columns["y"], strict=True) if a is not None and p is not None]
    rows = [row for row in rows if all(map(math.isfinite, row))]
    actual, predicted = (np.array([row[side] for row in rows], dtype=float) for side in (0, 1))
    total, count = math.fsum(actual), len(rows)
    if not count or total <= 0:
        return math.nan
    return 2 * math.fsum(actual * stats.rankdata(predicted)) / (count * total) - (count + 1) / count


def histogram(values: Sequence[Any]) -> np.ndarray:
    return np.histogram(numbers(values), [-np.inf, *np.linspace(0, 10, 11), np.inf])[0]


def jsd(columns: Columns, baseline: Columns) -> float:
    counts = histogram(baseline["x"]), histogram(columns["x"])
    return float(jensenshannon(*counts, base=2)) if all(side.sum() for side in counts) else math.nan


def psi(columns: Columns, baseline: Columns) -> float:
    expected, actual = histogram(baseline["x"]), histogram(columns["x"])
    if not expected.sum() or not actual.sum():
        return math.nan
    a, e = (side / side.sum() for side in (actual + 1, expected + 1))
    return float(stats.entropy(a, e) + stats.entropy(e, a))


def drifting(rng: np.random.Generator) -> Columns:
    return {"x": with_nulls(rng, rng.normal(rng.uniform(0, 10), 4, size_of(rng)).tolist())}


def violations(rng: np.random.Generator) -> Columns:
    choices = [1.0, 5.5, 10.0, 11.0, -0.5, "text", None, True]
    return {"x": [choices[place] for place in rng.choice(len(choices), size_of(rng))]}


def violated(what: str) -> Callable[[Columns], int]:
    """Counts by pandas: what is a number, and which of those are out of the range 0 to 10."""

    def run(columns: Columns) -> int:
        given = pd.Series(columns["x"], dtype=object)
        is_number = given.map(lambda value: isinstance(value, float))
        null, kind = given.isna(), ~given.isna() & ~is_number
        outside = pd.to_numeric(given.where(is_number), errors="coerce").between(0, 10).eq(False) & is_number
        return int({"null": null, "type": kind, "range": outside, "any": null | kind | outside}[what].sum())

    return run


def extreme(values: list[float], function: Callable[[list[float]], float]) -> float:
    return function(values) if values else math.nan


def greatest(function: Callable[..., Any]) -> Callable[[Columns], float]:
    def run(columns: Columns) -> float:
        found = [np.nansum(numbers(columns["x"])) if len(numbers(columns["x"])) else math.nan, float(len(columns["x"]))]
        return float(function(found))

    return run


def shown(value: float) -> str:
    """Shortest digits that read back as the same number: positional from 1e-4 on and below 1e16, as Python writes it."""
    if value == 0 or 1e-4 <= abs(value) < 1e16:
        return np.format_float_positional(value, trim="-")
    return np.format_float_scientific(value, trim="-", exp_digits=2)


# ---- the table -------------------------------------------------------------------------------------------------------


def row(name: str, oracle_name: str, call: str, function: Callable[..., Any], *names: str) -> Row:
    return Row(name, oracle_name, call, awkward, each(function, *names), per_row=True)


ROWS: tuple[Row, ...] = (
    row("^", "numpy.power", "x ^ y", lambda x, y: float(np.power(np.float64(x), y)), "x", "y"),
    row("negate", "numpy.negative", "-x", lambda x: float(np.negative(x)), "x"),
    row("*", "numpy.multiply", "x * y", lambda x, y: float(np.multiply(x, y)), "x", "y"),
    row("/", "numpy.divide", "x / y", lambda x, y: float(np.divide(np.float64(x), y)), "x", "y"),
    row("%", "numpy.fmod", "x % y", lambda x, y: float(np.fmod(x, np.float64(y))), "x", "y"),
    row("+", "numpy.add", "x + y", lambda x, y: float(np.add(x, y)), "x", "y"),
    row("-", "numpy.subtract", "x - y", lambda x, y: float(np.subtract(x, y)), "x", "y"),
    row("<", "numpy.less", "x < y", lambda x, y: bool(np.less(x, y)), "x", "y"),
    row("<=", "numpy.less_equal", "x <= y", lambda x, y: bool(np.less_equal(x, y)), "x", "y"),
    row(">", "numpy.greater", "x > y", lambda x, y: bool(np.greater(x, y)), "x", "y"),
    row(">=", "numpy.greater_equal", "x >= y", lambda x, y: bool(np.greater_equal(x, y)), "x", "y"),
    row("==", "numpy.equal", "x == y", lambda x, y: bool(np.equal(x, y)), "x", "y"),
    row("!=", "numpy.not_equal", "x != y", lambda x, y: bool(np.not_equal(x, y)), "x", "y"),
    Row("not", "pandas boolean ~", "not b", awkward, kleene("not"), per_row=True),
    Row("and", "pandas boolean &", "a and b", awkward, kleene("and"), per_row=True),
    Row("or", "pandas boolean |", "a or b", awkward, kleene("or"), per_row=True),
    Row("e", "numpy.e", "x * 0 + e()", moderate, each(lambda _: np.e, "x"), per_row=True),
    Row("pi", "numpy.pi", "x * 0 + pi()", moderate, each(lambda _: np.pi, "x"), per_row=True),
    Row(
        "if", "numpy.where", "if(b, 'yes', 'no')", awkward,
        lambda c: np.where(pd.array(c["b"], dtype="boolean").fillna(False), "yes", "no").tolist(), per_row=True,
    ),
    row("length", "numpy.strings.str_len", "length(s)", lambda s: float(np.strings.str_len(s)), "s"),
    row("to_string", "numpy.format_float_positional", "to_string(x)", shown, "x"),
    row("startswith", "numpy.strings.startswith", "startswith(s, 'a')", lambda s: bool(np.strings.startswith(s, "a")), "s"),
    Row(
        "substring", "pandas str.slice", "substring(s, 2, 3)", awkward,
        lambda c: [None if v is None else v for v in pd.Series(c["s"], dtype=object).str.slice(1, 4).where(
            pd.Series(c["s"], dtype=object).notna(), None)], per_row=True,
    ),
    row("match", "google-re2", "match(s, '^[a-c]+.?$')", lambda s: re2.search("^[a-c]+.?$", s) is not None, "s"),
    Row("is_null", "pandas.isna", "is_null(x)", awkward, lambda c: pd.isna(pd.Series(c["x"], dtype=float)).tolist(), per_row=True),
    Row("is_not_null", "pandas.notna", "is_not_null(x)", awkward, lambda c: pd.notna(pd.Series(c["x"], dtype=float)).tolist(), per_row=True),
    row("abs", "numpy.abs", "abs(x)", lambda x: float(np.abs(x)), "x"),
    row("exp", "numpy.exp", "exp(x)", lambda x: float(np.exp(x)), "x"),
    row("log", "numpy.log", "log(x)", lambda x: float(np.log(np.float64(x))), "x"),
    row("log2", "numpy.log2", "log2(x)", lambda x: float(np.log2(np.float64(x))), "x"),
    row("log10", "numpy.log10", "log10(x)", lambda x: float(np.log10(np.float64(x))), "x"),
    row("sqrt", "numpy.sqrt", "sqrt(x)", lambda x: float(np.sqrt(np.float64(x))), "x"),
    Row("sum", "math.fsum", "sum(x)", moderate, lambda c: math.fsum(numbers(c["x"])) if len(numbers(c["x"])) else math.nan),
    Row("average", "math.fsum / n", "average(x)", moderate, lambda c: math.fsum(numbers(c["x"])) / len(numbers(c["x"])) if len(numbers(c["x"])) else math.nan),
    Row("count", "pandas.Series.count", "count(x)", awkward, lambda c: int(pd.Series(c["x"], dtype=float).count())),
    Row("min", "numpy.min", "min(x)", awkward, lambda c: extreme(numbers(c["x"]).tolist(), np.min)),
    Row("max", "numpy.max", "max(x)", awkward, lambda c: extreme(numbers(c["x"]).tolist(), np.max)),
    Row("quantile", "numpy.quantile", "quantile(x, 0.3)", moderate, lambda c: extreme(numbers(c["x"]).tolist(), lambda v: float(np.quantile(v, 0.3)))),
    Row("greatest", "numpy.nanmax", "greatest(sum(x), traffic())", moderate, greatest(np.nanmax)),
    Row("least", "numpy.nanmin", "least(sum(x), traffic())", moderate, greatest(np.nanmin)),
    Row("traffic", "pandas len", "traffic()", awkward, lambda c: len(pd.DataFrame(c))),
    *(Row(f"{what}_violation_count", "pandas", f"{what}_violation_count(x)", violations, violated(what)) for what in ("null", "type", "range", "any")),
    *(Row(name, "sklearn.confusion_matrix", f"sum(if({name}(), 1, 0))", scored, confusion(*cell), model="binary")
      for name, cell in {"tp": (1, 1), "tn": (0, 0), "fp": (0, 1), "fn": (1, 0)}.items()),
    Row("precision", "sklearn.precision_score", "precision()", scored, of_labels(rate(sk.precision_score)), model="binary"),
    Row("recall", "sklearn.recall_score", "recall()", scored, of_labels(rate(sk.recall_score)), model="binary"),
    Row("f1_score", "sklearn.f1_score", "f1_score()", scored, of_labels(rate(sk.f1_score)), model="binary"),
    Row("fpr", "1 - sklearn.recall_score(pos_label=0)", "fpr()", scored,
        of_labels(lambda y, s: 1 - rate(lambda t, p, **o: sk.recall_score(t, p, pos_label=0, **o))(y, s)), model="binary"),
    Row("geometric_mean", "sqrt(sklearn precision * recall)", "geometric_mean()", scored,
        of_labels(lambda y, s: math.sqrt(rate(sk.precision_score)(y, s) * rate(sk.recall_score)(y, s))), model="binary"),
    Row("auroc", "sklearn.roc_auc_score", "auroc()", scored, of_labels(both_classes(sk.roc_auc_score)), model="binary"),
    Row("calibrated_threshold", "sklearn.roc_curve", "calibrated_threshold()", scored, of_labels(both_classes(youden)), model="binary"),
    Row("expected_calibration_error", "pandas groupby", "expected_calibration_error()", scored, of_labels(calibration_error), model="binary"),
    Row("log_loss", "sklearn.log_loss", "log_loss()", scored,
        of_labels(lambda y, s: float(sk.log_loss(y, s, labels=[0, 1])) if len(y) else math.nan), model="binary"),
    Row("accuracy", "sklearn.accuracy_score", "accuracy()", animals,
        lambda c: (lambda y, p: float(sk.accuracy_score(y, p.argmax(axis=1))) if len(y) else math.nan)(*multiclass(c)), model="multiclass"),
    Row("log_loss", "sklearn.log_loss, multiclass", "log_loss()", animals,
        lambda c: (lambda y, p: float(sk.log_loss(y, p, labels=[0, 1, 2])) if len(y) else math.nan)(*multiclass(c)), model="multiclass", tolerance=1e-9),
    Row("r2", "sklearn.r2_score", "r2()", prices, of_prices(r2), model="regression", tolerance=1e-9),
    Row("mse", "sklearn.mean_squared_error", "mse()", prices, of_prices(sk.mean_squared_error), model="regression"),
    Row("mae", "sklearn.mean_absolute_error", "mae()", prices, of_prices(sk.mean_absolute_error), model="regression"),
    Row("mape", "sklearn.mean_absolute_percentage_error", "mape()", prices, of_prices(mape), model="regression"),
    Row("wmape", "numpy", "wmape()", prices, of_prices(wmape), model="regression"),
    Row("map", "sklearn.average_precision_score", "map()", searches, per_query(average_precision), model="ranking"),
    Row("ndcg_mean", "sklearn.ndcg_score", "ndcg_mean()", searches, per_query(gain), model="ranking"),
    Row("query_count", "pandas nunique", "query_count()", searches, lambda c: int(pd.Series(c["query"], dtype=object).nunique()), model="ranking"),
    Row("gini", "scipy.stats.rankdata", "gini(actual=abs(x), predicted=y)", moderate, gini),
    Row("jsd", "scipy jensenshannon(base=2)", "jsd(x, 'training')", drifting, jsd, baseline=True),
    Row("psi", "scipy.stats.entropy", "psi(x, 'training')", drifting, psi, baseline=True),
    Row("attribute", "numpy", "attribute('tokens', type='system', scope='span')", spans,
        each(float, "tokens"), model="llm", per_row=True),
)  # fmt: skip


def tried(item: Row, cases: int = CASES) -> Outcome:
    """Compare one function with its oracle over random tables."""
    tables, baselines = [], []
    for seed in range(cases):
        rng = np.random.default_rng([seed, sum(item.name.encode())])
        tables.append(item.draw(rng))
        baselines.append({"training": item.draw(rng)} if item.baseline else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class, of too few rows: the oracle's own
        wanted = [item.oracle(columns, *baseline.values()) for columns, baseline in zip(tables, baselines, strict=True)]
    found = computed(item, tables, baselines)
    if not item.per_row:
        found, wanted = [[value] for value in found], [[value] for value in wanted]
    pairs = [list(zip(*sides, strict=True)) for sides in zip(found, wanted, strict=True)]
    return Outcome(
        cases,
        sum(any(value is not None for value, _ in of_table) for of_table in pairs),
        max(deviation(*pair) for of_table in pairs for pair in of_table),
    )


def computed(item: Row, tables: list[Columns], baselines: list[dict[str, Columns]]) -> list[Any]:
    """Give what we say of each table: all are computed at once, each a window of its own, but where it has a baseline."""
    model = EXAMPLE_MODELS[item.model]
    if item.baseline:
        return [
            evaluate(columns, item.call, model=model, baselines=dict(baseline))["value"]
            for columns, baseline in zip(tables, baselines, strict=True)
        ]
    sizes = [len(next(iter(columns.values()))) for columns in tables]
    joined: Columns = {name: [value for columns in tables for value in columns[name]] for name in tables[0]}
    if item.per_row:
        values = iter(rows_of(item.call, joined, model))
        return [[next(values) for _ in range(size)] for size in sizes]
    times = [HOUR_MS * place for place, size in enumerate(sizes) for _ in range(size)]
    windows = iter(evaluate({**joined, "event_at": times}, item.call, model=model, window="1h"))
    nothing = evaluate({name: [] for name in joined}, item.call, model=model)["value"]
    return [next(windows)["value"] if size else nothing for size in sizes]


def deviation(found: Any, wanted: Any) -> float:
    """How far apart two values are, relative to the wanted one where it is above 1; infinite for a null or a text that differs."""
    if isinstance(wanted, float) and math.isnan(wanted):
        wanted = None
    if found is None or wanted is None or isinstance(wanted, (str, bool)):
        return 0.0 if found == wanted else math.inf
    return abs(float(found) - float(wanted)) / max(1.0, abs(float(wanted)))


def main() -> None:
    """Print the table."""
    print(f"| function | oracle | tables | with a value | worst deviation |\n|{'---|' * 5}")  # noqa: T201  # a script
    for item in ROWS:
        outcome = tried(item)
        print(f"| {item.name} | {item.oracle_name} | {outcome.cases} | {outcome.values} | {outcome.deviation:.1e} |")  # noqa: T201  # a script


if __name__ == "__main__":
    main()
