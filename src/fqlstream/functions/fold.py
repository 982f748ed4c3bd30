"""Constants computed once, by the same kernels that compute everything else."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from fqlstream.functions.expression import Apply, DType, Expression, Literal
from fqlstream.functions.index import KERNELS

ARROW_TYPE: Final = {DType.NUMBER: pa.float64(), DType.BOOLEAN: pa.bool_(), DType.STRING: pa.string()}


def literal_scalar(literal: Literal) -> pa.Scalar:
    """Give a literal as kernels take it."""
    return pa.scalar(literal.value, ARROW_TYPE[literal.dtype])


def fold(expression: Expression) -> Expression:
    """Give the value of a kernel over literals as a literal; everything else as it is."""
    if not isinstance(expression, Apply) or not expression.args:
        return expression
    literals = [arg for arg in expression.args if isinstance(arg, Literal)]
    if len(literals) < len(expression.args):
        return expression
    first, *others = map(literal_scalar, literals)
    # kernels take at least one array
    column = pa.array([first.as_py()], first.type)
    result = KERNELS[expression.op].arrow(column, *others)
    return Literal(result[0].as_py(), expression.dtype)
