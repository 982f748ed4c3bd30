"""Drift of a column against a baseline: section 6.1. Both sides are counts in the same bins, which the model's schema fixes.

A call is lowered to two histograms: the production one, a state like any other, and the baseline's, which carries the
baseline's name and which the planner replaces by the counts that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, nextafter
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.events.columns import scalar_text
from fqlstream.events.definitions import Column, ColumnType
from fqlstream.functions.arrays import Datum, Doubles, doubles, numbers_from, row_count, validity
from fqlstream.functions.building_blocks import NOTHING, apply_boolean, apply_number, number
from fqlstream.functions.expression import Aggregate, AggregateValue, ColumnRef, DType, Expression, Literal
from fqlstream.functions.nearest import did_you_mean
from fqlstream.functions.spec import (
    ANY,
    ML_TASKS,
    STRING,
    Call,
    CallError,
    Example,
    FunctionSpec,
    Kernel,
    LevelRule,
    Nulls,
    Parameter,
    Passing,
    Takes,
)

BASELINE: Final = "baseline"


def baseline_of(aggregate: Aggregate) -> str | None:
    """Name the baseline whose rows an aggregate reads; None where it reads the model's own."""
    name = dict(aggregate.params).get(BASELINE)
    return None if name is None else str(name)


def own_rows(aggregate: Aggregate) -> Aggregate:
    """Give the same aggregate over the model's own rows."""
    params = tuple(item for item in aggregate.params if item[0] != BASELINE)
    return Aggregate(aggregate.kind, aggregate.args, params)


Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """What is counted, between which edges, and which of the histogram's bins are looked at."""

    value: Expression
    edges: tuple[float, ...]
    indices: range


def bins_of(column: Column, bins: int) -> Bins | None:
    """Give the bins of a column, None where its definition fixes none: `bins` is how many a range is cut into."""
    value = ColumnRef(column.name, column.type)
    match column.type:
        case ColumnType.INT | ColumnType.FLOAT:
            edges = _edges(column, bins)
            # below and above the range there are bins too: else the worst drift would not be seen
            return None if edges is None else Bins(value, edges, range(len(edges) + 1))
        case ColumnType.BOOL:
            return _of_places(apply_number("to_number", value), 2)
        case ColumnType.CATEGORY if column.categories:
            return _of_places(_category_place(value, column.categories), len(column.categories) + 1)
        case _:
            return None


def _edges(column: Column, bins: int) -> tuple[float, ...] | None:
    if column.bins is not None:
        return column.bins if len(column.bins) > 1 else None
    low, high = column.min, column.max
    if low is None or high is None or not isfinite(high - low):
        return None
    if low == high:
        return (low, nextafter(low, float("inf")))
    return (*(low + (high - low) * place / bins for place in range(bins)), high)


def _of_places(place: Expression, count: int) -> Bins:
    """Bins of the whole numbers from 0; the outer two of the histogram stay empty and are not looked at."""
    return Bins(place, tuple(edge - 0.5 for edge in range(count + 1)), range(1, count + 1))


def _category_place(value: ColumnRef, categories: Sequence[str | float | bool]) -> Expression:
    known = apply_number("class_index", value, *(Literal(scalar_text(item), DType.STRING) for item in categories))
    unseen = apply_number("if", apply_boolean("is_null", known), number(len(categories)), known)
    return apply_number("if", apply_boolean("is_null", value), NOTHING, unseen)


# ------------------------------------------------------------------------------------------------ kernels


def _sides(counts: tuple[Datum, ...]) -> tuple[Doubles, Doubles]:
    """Give production and baseline counts: shape (rows, bins)."""
    rows = row_count(counts)
    columns = [doubles(item) if isinstance(item, pa.Array) else np.full(rows, item.as_py()) for item in counts]
    matrix = np.column_stack(columns).reshape(rows, len(counts))
    half = len(counts) // 2
    return matrix[:, :half], matrix[:, half:]


def _shares(counts: Doubles) -> Shares:
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _entropy_to(shares: Shares, middle: Shares) -> Doubles:
    terms = np.where(shares > 0, shares * np.log2(shares / middle), 0.0)
    return np.asarray(terms.sum(axis=1))


def _jsd(*counts: Datum) -> pa.Array:
    with np.errstate(all="ignore"):
        production, baseline = map(_shares, _sides(counts))
        middle = (production + baseline) / 2
        divergence = (_entropy_to(production, middle) + _entropy_to(baseline, middle)) / 2
        # rounding may leave equal sides a hair below 0
        distance = np.sqrt(np.maximum(divergence, 0.0))
        # the terms of an empty side are left out one by one: its sum says that there is none
        distance = np.where(np.isnan(production.sum(axis=1) + baseline.sum(axis=1)), np.nan, distance)
    return numbers_from(distance, validity(counts))


def _psi(increment: Datum, *counts: Datum) -> pa.Array:
    production, baseline = _sides(counts)
    empty = (production.sum(axis=1) == 0) | (baseline.sum(axis=1) == 0)
    with np.errstate(all="ignore"):
        actual, expected = (_shares(side + increment.as_py()) for side in (production, baseline))
        index = ((actual - expected) * np.log(actual / expected)).sum(axis=1)
    return numbers_from(np.where(empty, np.nan, index), validity(counts))


def _sql_arrays(counts: tuple[str, ...]) -> tuple[str, str]:
    half = len(counts) // 2
    known = [f"assumeNotNull({count})" for count in counts]
    return f"[{', '.join(known[:half])}]", f"[{', '.join(known[half:])}]"


def _sql_where_known(counts: tuple[str, ...], value: str) -> str:
    return f"if({' or '.join(f'isNull({count})' for count in counts)}, NULL, {value})"


def _sql_jsd(*counts: str) -> str:
    return _sql_where_known(counts, f"jsd_of({', '.join(_sql_arrays(counts))})")


def _sql_psi(increment: str, *counts: str) -> str:
    return _sql_where_known(counts, f"psi_of({increment}, {', '.join(_sql_arrays(counts))})")


DRIFT_KERNELS: Final[tuple[Kernel, ...]] = (
    Kernel("jsd_of_counts", _jsd, _sql_jsd, undefined_is_null=True),  # (production count..., baseline count...)
    Kernel("psi_of_counts", _psi, _sql_psi, undefined_is_null=True),  # (increment, production..., baseline...)
)


# ------------------------------------------------------------------------------------------------ functions


def _counts(call: Call) -> tuple[Expression, ...]:
    """Give production's counts, then the baseline's."""
    reference, name = call.required_column("column"), str(call.constant("baseline"))
    if name not in call.baselines:
        near = did_you_mean(name, list(call.baselines))
        known = ", ".join(f"'{item}'" for item in list(call.baselines)[:8])
        hint = f"did you mean '{near}'?" if near else f"its baselines: {known}" if known else "the model has none"
        raise CallError("FQL063", f"model {call.model.name} has no baseline {name!r}", hint, "baseline")
    column = call.model.column(reference.name)
    bins = None if column is None else bins_of(column, call.chosen.drift_bins)
    if bins is None:
        raise CallError(
            "FQL065",
            f"{call.spec.name}() needs bins, and column {reference.name} of type {reference.type.value} has none",
            _bins_hint(reference.type),
            "column",
        )
    edges = ("edges", bins.edges)
    production = Aggregate("histogram", (bins.value,), (edges,))
    baseline = Aggregate("histogram", (bins.value,), (edges, (BASELINE, name)))
    return tuple(
        AggregateValue(side, "bin", (("index", float(index)),))
        for side in (production, baseline)
        for index in bins.indices
    )


def _bins_hint(kind: ColumnType) -> str:
    match kind:
        case ColumnType.INT | ColumnType.FLOAT:
            return "give the column min and max, or bins"
        case ColumnType.CATEGORY:
            return "give the column its categories"
        case _:
            return "drift is of numbers, categories and Booleans"


def _lower_jsd(call: Call) -> Expression:
    return apply_number("jsd_of_counts", *_counts(call))


def _lower_psi(call: Call) -> Expression:
    return apply_number("psi_of_counts", number(call.chosen.psi_increment), *_counts(call))


_TRAINING: Final = {"b": (True, False)}


def _drift(name: str, lower: Callable[[Call], Expression], summary: str, result: float, source: str) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(
            Parameter("column", ANY, "A numeric, category or Boolean column.", Passing.EITHER, Takes.COLUMN),
            Parameter("baseline", STRING, "The name of a baseline of the model.", Passing.EITHER, Takes.CONSTANT),
        ),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=f"{summary} Bins are the column's own, or equal parts of min to max with one below and one above, or its"
        " categories with one for all others. Nulls are in no bin; null where one side is empty.",
        nulls=Nulls.SKIPPED,
        examples=(
            Example(f"{name}(b, 'training')", result, {"b": (True, True, True, False, None)}, baseline=_TRAINING),
        ),
        source=source,
        tasks=ML_TASKS,
        lower=lower,
    )


DRIFT: Final[tuple[FunctionSpec, ...]] = (
    _drift(
        "jsd",
        _lower_jsd,
        "Jensen-Shannon distance to a baseline, base 2, from 0 to 1.",
        0.22089576884901735,
        "documented; base 2 as its range says",
    ),
    _drift(
        "psi",
        _lower_psi,
        "Population stability index against a baseline, each bin of both sides counted one higher (a setting).",
        0.11552453009332421,
        "documented",
    ),
)
