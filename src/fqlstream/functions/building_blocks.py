"""Kernels that no one writes but lowerings use: classes, decisions, bins. Strict: any null argument gives null."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.functions.arrays import (
    FLOAT64,
    UTF8,
    Datum,
    as_numbers,
    as_texts,
    doubles,
    numbers_from,
    numeric,
    one_type,
    row_count,
    validity,
)
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.spec import Kernel, Nulls


def _class_index(value: Datum, *classes: pa.Scalar) -> pa.Array:
    kind = value.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        # the look-up compares bits, and would tell -0.0 from 0.0
        value, kind = pc.add(as_numbers(value), 0.0), FLOAT64
    elif not pa.types.is_boolean(kind):
        value, kind = as_texts(value), UTF8
    return pc.index_in(value, value_set=pa.array([item.as_py() for item in classes], kind)).cast(FLOAT64)


def _argmax(*outputs: Datum) -> pa.Array:
    best = np.argmax(_columns(outputs), axis=1).astype(np.float64)
    return numbers_from(best, validity(outputs))


def _pick(index: Datum, *outputs: Datum) -> pa.Array:
    matrix = _columns(outputs)
    place = np.clip(np.nan_to_num(doubles(index)), 0, len(outputs) - 1).astype(np.int64)
    return numbers_from(matrix[np.arange(len(matrix)), place], validity((index, *outputs)))


def _columns(outputs: tuple[Datum, ...]) -> np.ndarray:
    return np.column_stack([doubles(output) for output in outputs])


def _strict_if(condition: Datum, value: Datum, otherwise: Datum) -> pa.Array:
    # not FQL's `if`: a null condition gives null
    value, otherwise = one_type(value, otherwise)
    return pc.if_else(condition, value, otherwise)


def _bin_index(value: Datum, *edges: pa.Scalar) -> pa.Array:
    bounds = np.array([edge.as_py() for edge in edges], dtype=np.float64)
    # by comparison with the edges themselves: multiplying and truncating misplaces values such as 0.29
    place = np.searchsorted(bounds, doubles(value), side="right") - 1
    return numbers_from(np.clip(place, 0, len(bounds) - 2).astype(np.float64), validity((value,)))


def _violation(marks: Datum) -> pa.Array:
    return marks if isinstance(marks, pa.Array) else pa.array([marks.as_py()] * row_count((marks,)), pa.bool_())


def _sql_class_index(value: str, *classes: str) -> str:
    cases = ", ".join(f"{value} = {item}, {index}.0" for index, item in enumerate(classes))
    return f"multiIf(isNull({value}), NULL, {cases}, NULL)"


def _sql_argmax(*outputs: str) -> str:
    missing = " or ".join(f"isNull({output})" for output in outputs)
    known = ", ".join(f"assumeNotNull({output})" for output in outputs)
    return f"if({missing}, NULL, toFloat64(indexOf([{known}], arrayMax([{known}])) - 1))"


def _sql_pick(index: str, *outputs: str) -> str:
    missing = " or ".join(f"isNull({item})" for item in (index, *outputs))
    known = ", ".join(f"assumeNotNull({output})" for output in outputs)
    return f"if({missing}, NULL, [{known}][toUInt32(assumeNotNull({index})) + 1])"


def _sql_bin_index(value: str, *edges: str) -> str:
    cases = [f"{value} < {edge}, {index}.0" for index, edge in enumerate(edges[1:-1])]
    return f"multiIf({', '.join([f'isNull({value}), NULL', *cases, f'{len(edges) - 2}.0'])})"


def _sql_clip(value: str, low: str, high: str) -> str:
    # least and greatest leave NULL out
    return f"if(isNull({value}), NULL, least(greatest({value}, {low}), {high}))"


BLOCKS: Final[tuple[Kernel, ...]] = (
    Kernel("class_index", _class_index, _sql_class_index),  # (value, literal...): place of the value among the classes
    Kernel("argmax", _argmax, _sql_argmax),  # (output...): place of the highest, the first of equals
    Kernel("pick", _pick, _sql_pick),  # (index, output...): the output at that place
    Kernel("both", pc.and_, lambda a, b: f"if(isNull({a}) or isNull({b}), NULL, ({a}) and ({b}))"),
    Kernel("strict_if", _strict_if, lambda c, a, b: f"if(isNull({c}), NULL, if({c}, {a}, {b}))", nulls=Nulls.OWN),
    Kernel("bin_index", _bin_index, _sql_bin_index),  # (value, literal edge...): which bin, values outside in the end bins
    Kernel("clip", numeric(np.clip), _sql_clip),
    Kernel("to_number", lambda flag: pc.cast(flag, FLOAT64), lambda flag: f"toFloat64({flag})"),
    Kernel("type_violation", _violation, lambda column: f"has(_type_violations, {column})", reads_violations=True),
    Kernel("range_violation", _violation, lambda column: f"has(_range_violations, {column})", reads_violations=True),
)  # fmt: skip


def number(value: float) -> Literal:
    """Give a Number constant."""
    return Literal(float(value), DType.NUMBER)


NOTHING: Final = Literal(None, DType.NUMBER)


def apply_number(op: str, *args: Expression) -> Apply:
    """Apply a kernel that gives a Number."""
    return Apply(op, args, DType.NUMBER)


def apply_boolean(op: str, *args: Expression) -> Apply:
    """Apply a kernel that gives a Boolean."""
    return Apply(op, args, DType.BOOLEAN)


def either(first: Expression, *others: Expression) -> Expression:
    """Join Booleans by `or`."""
    result = first
    for other in others:
        result = apply_boolean("or", result, other)
    return result


def class_is(index: Expression, place: int) -> Apply:
    """Compare a class index."""
    return apply_boolean("==", index, number(place))


def violation(kind: str, column: ColumnRef) -> Apply:
    """Tell where a column has a type or range violation."""
    return apply_boolean(f"{kind}_violation", column)
