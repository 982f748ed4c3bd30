"""Lambdas in ClickHouse itself (chDB), against exact fractions and Python's own numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

import pytest
from chdb.session import Session

from fqlstream.functions.sql_lambdas import LAMBDAS, lambdas_of

WILD = (0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 1e16, 1e300, -1e300, 1e-300, 5e-324, -5e-324, 2.0**53 + 2, 1.5e308, -1.5e308)


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[Session]:
    with Session() as session:
        yield session


def asked(session: Session, expression: str) -> float | None:
    query = f"WITH {', '.join(lambdas_of(expression))} SELECT {expression}"
    text = session.query(query, "TSV").bytes().decode().strip()
    return None if text == "\\N" else float(text)


def written(number: float) -> str:
    return f"toFloat64('{number!r}')"


def total(numbers: Sequence[float]) -> str:
    terms = ", ".join(f"exact_term({written(number)})" for number in numbers)
    return f"exact_sum([{terms}])"


def quotient(top: Fraction, below: Fraction) -> float | None:
    """Divide as exact integers, rounded once; null where that is beyond all doubles."""
    if below <= 0:
        return None
    ratio = top / below
    try:
        return ratio.numerator / ratio.denominator
    except OverflowError:
        return None


def numbers(rng: random.Random) -> list[float]:
    """Give a few numbers: of one size, or of every size there is."""
    count = rng.randint(1, 6)
    if rng.random() < 0.5:
        return [rng.uniform(-1, 1) for _ in range(count)]
    return [rng.choice((rng.choice(WILD), rng.gauss(0, 1) * 10.0 ** rng.randint(-300, 300))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(12))
def test_totals_and_their_ratios_are_rounded_once(clickhouse: Session, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(5):
        left, right, divisor = numbers(rng), numbers(rng), rng.choice((1, 2, 3, 7, 1000, 2**40 + 1, 0))
        a, b = (sum(map(Fraction, of), Fraction()) for of in (left, right))
        found = asked(clickhouse, f"exact_ratio({total(left)}, whole_number({divisor}))")
        assert found == quotient(a, Fraction(divisor)), (left, divisor)
        assert asked(clickhouse, f"exact_ratio({total(left)}, {total(right)})") == quotient(a, b), (left, right)


def test_ties_go_to_even_and_what_lies_far_below_decides_them(clickhouse: Session) -> None:
    even, odd = 2.0**53, 2.0**53 + 2
    for numbers_, wanted in (
        ([even, 1.0], even),
        ([odd, 1.0], odd + 2),
        ([even, 1.0, 5e-324], even + 2),
        ([even, 1.0, -5e-324], even),
        ([-even, -1.0, -1e-200], -even - 2),
        ([1e300, 1.0, -1e300], 1.0),
        ([0.1, -0.1], 0.0),
    ):
        assert asked(clickhouse, f"exact_ratio({total(numbers_)}, whole_number(1))") == wanted, numbers_


def test_an_order_of_rows_changes_no_total(clickhouse: Session) -> None:
    rng = random.Random(5)
    values = [rng.gauss(0, 1) * 10.0 ** rng.randint(-30, 30) for _ in range(50)]
    wanted = math.fsum(values)
    for _ in range(3):
        rng.shuffle(values)
        assert asked(clickhouse, f"exact_ratio({total(values)}, whole_number(1))") == wanted


@pytest.mark.parametrize("rule", ["calibrated_threshold_of", "f1_threshold_of"])
def test_thresholds_are_the_best_ones(clickhouse: Session, rule: str) -> None:
    rng = random.Random(3)
    for _ in range(12):
        rows = [(round(rng.random(), 1), rng.randint(0, 1)) for _ in range(rng.randint(1, 12))]
        positives = sum(positive for _, positive in rows)
        negatives = len(rows) - positives

        def gain(
            threshold: float, rows: list[tuple[float, int]] = rows, p: int = positives, n: int = negatives
        ) -> float:
            hits = sum(positive for score, positive in rows if score >= threshold)
            alarms = sum(not positive for score, positive in rows if score >= threshold)
            return hits * n - alarms * p if rule.startswith("calibrated") else 2 * hits / (hits + alarms + p)

        best = max(((gain(score), score) for score, _ in rows), default=(0, 0))[1] if positives and negatives else None
        listed = ", ".join(f"({written(score)}, toUInt8({positive}))" for score, positive in rows)
        assert asked(clickhouse, f"{rule}([{listed}])") == best, rows


def test_only_what_is_called_is_defined_each_after_what_it_calls() -> None:
    assert lambdas_of("count(x)") == []
    names = [text.rsplit(" AS ", 1)[1] for text in lambdas_of("auroc_of(a1) + floor_div(3, 2)")]
    assert names == [name for name in LAMBDAS if name in names]
    assert {"auroc_of", "twice_midranks", "first_equal", "exact_ratio", "leading", "floor_div"} <= set(names)
    assert "r2_of" not in names
    for place, name in enumerate(LAMBDAS):
        later = list(LAMBDAS)[place + 1 :]
        assert not any(f"{other}(" in LAMBDAS[name].replace(f"_{other}(", "") for other in later), name
