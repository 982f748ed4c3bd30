"""Bounds of metrics that combine inexact readings: the true value always lies inside."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fqlstream.aggregates.protocol import Reading
from fqlstream.events.definitions import ColumnType
from fqlstream.fql.bounds import enclose
from fqlstream.fql.programs import ProgramBuilder
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, ColumnRef, DType, Expression, Literal


def leaf(name: str) -> AggregateValue:
    return AggregateValue(Aggregate("quantile", (ColumnRef(name, ColumnType.FLOAT),)), "quantile")


A, B = leaf("a"), leaf("b")


def number(value: float | None) -> Literal:
    return Literal(value, DType.NUMBER)


def apply(op: str, *args: Expression) -> Apply:
    return Apply(op, args, DType.NUMBER)


def value_at(expression: Expression, values: dict[AggregateValue, float]) -> float | None:
    """Compute an expression with the engine's own kernels."""
    builder = ProgramBuilder()
    root = builder.add(expression)
    result = builder.program([root]).run(1, lambda of: pa.array([values[of]]))[root][0].as_py()
    return None if result is None else float(result)


def between(low: float, high: float) -> Reading:
    return Reading((low + high) / 2, exact=False, error_bound=0.01, low=low, high=high)


EXACT = Reading(2.0)
FORMS = [
    apply("+", A, B),
    apply("-", A, B),
    apply("*", A, B),
    apply("/", A, B),
    apply("/", A, number(3)),
    apply("^", A, number(2)),
    apply("^", A, number(0.5)),
    apply("negate", A),
    apply("abs", A),
    apply("exp", A),
    apply("log", A),
    apply("log2", A),
    apply("log10", A),
    apply("sqrt", A),
    apply("greatest", A, B, number(1)),
    apply("least", A, B),
    apply("to_number", apply("<", A, B)),
    apply("to_number", apply("<=", A, number(1))),
    apply("to_number", apply(">", A, B)),
    apply("to_number", apply(">=", A, number(0))),
    apply("to_number", apply("==", A, B)),
    apply("to_number", apply("!=", A, B)),
    apply("to_number", apply("not", apply("<", A, B))),
    apply("to_number", apply("and", apply("<", A, B), apply(">", A, number(0)))),
    apply("to_number", apply("or", apply("<", A, B), apply(">", A, number(0)))),
    apply("if", apply("<", A, B), A, apply("*", B, number(2))),
    apply("*", apply("-", A, number(1)), apply("+", B, apply("sqrt", apply("abs", A)))),
]
ENDS = st.floats(-5, 5)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.op}-{len(repr(form))}")
@given(ends=st.tuples(ENDS, ENDS, ENDS, ENDS), at=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_true_value_is_inside(form: Apply, ends: tuple[float, ...], at: tuple[float, float]) -> None:
    spans = {A: sorted(ends[:2]), B: sorted(ends[2:])}
    readings = {name: between(low, high) for name, (low, high) in spans.items()}
    truth = {
        name: min(max(low + (high - low) * part, low), high)
        for (name, (low, high)), part in zip(spans.items(), at, strict=True)
    }
    value = value_at(form, {name: reading.value for name, reading in readings.items()})
    true_value = value_at(form, truth)
    exact, bound = enclose(form, value, readings)
    assert not exact
    if bound is not None:
        assert value is not None
        assert true_value is not None, "a bound was given for what may be null"
        assert abs(true_value - value) <= bound


def test_a_direct_reading_keeps_its_own_bound() -> None:
    assert enclose(A, 1.5, {A: between(1.0, 2.0)}) == (False, 0.01)


def test_exact_readings_make_an_exact_metric() -> None:
    assert enclose(apply("/", A, B), 1.0, {A: EXACT, B: EXACT}) == (True, None)


def test_bounds_are_as_narrow_as_they_should() -> None:
    exact, bound = enclose(apply("+", A, B), 3.5, {A: between(1.0, 2.0), B: EXACT})
    assert not exact
    assert bound == pytest.approx(0.5)
    assert enclose(apply("to_number", apply("<", A, number(9))), 1.0, {A: between(1.0, 2.0)}) == (False, 0.0)


@pytest.mark.parametrize(
    ("form", "reading"),
    [
        (apply("/", number(1), A), between(-1.0, 1.0)),
        (apply("sqrt", A), between(-1.0, 1.0)),
        (apply("log", A), between(0.0, 1.0)),
        (apply("%", A, number(2)), between(1.0, 3.0)),
        (apply("+", A, number(None)), between(1.0, 3.0)),
        (apply("+", A, number(1)), Reading(1.0, exact=False)),
    ],
)
def test_no_bound_is_given_where_none_is_known(form: Apply, reading: Reading) -> None:
    assert enclose(form, 0.5, {A: reading}) == (False, None)
    assert enclose(form, None, {A: reading}) == (False, None)


@given(ENDS)
def test_a_point_stays_a_point(at: float) -> None:
    assume(math.isfinite(at))
    exact, bound = enclose(apply("+", A, number(1)), at + 1, {A: between(at, at)})
    assert (exact, bound) == (False, 0.0)
