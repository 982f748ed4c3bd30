"""Typed expressions: what the checker hands to the compilers. Frozen, hashable, compared by value.

Row-level nodes are evaluated once per batch over arrays; an `AggregateValue` is read from a state. Equal nodes
are the same work: the plan keeps each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fqlstream.events.definitions import ColumnType


class DType(StrEnum):
    """FQL's three types, and the two column types that only counts may read."""

    NUMBER = "Number"
    BOOLEAN = "Boolean"
    STRING = "String"
    TIMESTAMP = "Timestamp"
    VECTOR = "Vector"


class Level(StrEnum):
    """Whether an expression has a value per row, per set of rows, or always the same."""

    CONST = "const"
    ROW = "row"
    AGG = "agg"


DTYPE_OF_COLUMN: dict[ColumnType, DType] = {
    ColumnType.INT: DType.NUMBER,
    ColumnType.FLOAT: DType.NUMBER,
    ColumnType.BOOL: DType.BOOLEAN,
    ColumnType.STRING: DType.STRING,
    ColumnType.CATEGORY: DType.STRING,
    ColumnType.TIMESTAMP: DType.TIMESTAMP,
    ColumnType.VECTOR: DType.VECTOR,
}


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """A column of the model."""

    name: str
    type: ColumnType

    @property
    def dtype(self) -> DType:
        """FQL's type of the column."""
        return DTYPE_OF_COLUMN[self.type]


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; `value` None is null of the type."""

    value: float | bool | str | None
    dtype: DType


@dataclass(frozen=True, slots=True)
class Apply:
    """A kernel (operator or row-level function) applied to arguments of one level; `op` names its declared row."""

    op: str
    args: tuple[Expression, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One mergeable state over rows: `kind` names an aggregator, `params` are part of the state's identity."""

    kind: str
    args: tuple[Expression, ...]
    params: tuple[tuple[str, float | str | tuple[float, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class AggregateValue:
    """A number read from a state, e.g. `average` of kind `sum`, or a quantile at a level (a read parameter, not the state's)."""

    aggregate: Aggregate
    read: str
    params: tuple[tuple[str, float], ...] = ()

    @property
    def dtype(self) -> DType:
        """States give numbers."""
        return DType.NUMBER


Expression = ColumnRef | Literal | Apply | AggregateValue
