"""Row expressions over small columns, one kernel after the other: how the tests of functions compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from fqlstream.events.columns import RANGE_VIOLATIONS, TYPE_VIOLATIONS, coerce_values
from fqlstream.events.definitions import ModelDefinition
from fqlstream.fql.check import check
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.functions.expression import Apply, ColumnRef, Expression, Literal
from fqlstream.functions.fold import literal_scalar
from fqlstream.functions.index import KERNELS

TABLE = EXAMPLE_MODELS["table"]


def rows_of(text: str, columns: Mapping[str, Sequence[Any]], model: ModelDefinition = TABLE) -> list[Any]:
    """Give the value of a row expression for each row."""
    expression = check(text, model).require()
    arrays = {}
    for name, values in columns.items():
        column = model.column(name)
        assert column is not None
        arrays[name] = coerce_values(list(values), column)
    count = len(next(iter(columns.values()), ()))
    if isinstance(expression, Literal):
        return [expression.value] * count
    result = _value(expression, arrays)
    assert isinstance(result, pa.Array)
    assert len(result) == count
    return result.to_pylist()


def _value(node: Expression, arrays: Mapping[str, Any]) -> Any:
    match node:
        case ColumnRef(name=name):
            return arrays[name][0]
        case Literal():
            return literal_scalar(node)
        case Apply(op="type_violation" | "range_violation", args=(ColumnRef(name=name),)):
            marks = arrays[name][1 if node.op == TYPE_VIOLATIONS[1:-1] else 2]
            return KERNELS[node.op].arrow(pa.array(marks))
        case Apply(op=op, args=args):
            return KERNELS[op].arrow(*(_value(arg, arrays) for arg in args))
    raise AssertionError(node)


assert {TYPE_VIOLATIONS, RANGE_VIOLATIONS} == {"_type_violations", "_range_violations"}
