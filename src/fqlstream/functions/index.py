"""All declared functions, in one visible list. Nothing else lists functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from fqlstream.functions.aggregates import AGGREGATES
from fqlstream.functions.attributes import ATTRIBUTES
from fqlstream.functions.building_blocks import BLOCKS
from fqlstream.functions.confusion import CONFUSION
from fqlstream.functions.drift import DRIFT, DRIFT_KERNELS
from fqlstream.functions.integrity import INTEGRITY
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.ranking import RANKING, RANKING_KERNELS
from fqlstream.functions.regression import REGRESSION
from fqlstream.functions.row_functions import NUMBER_TO_STRING, ROW_FUNCTIONS
from fqlstream.functions.scores import RANKS, SCORES
from fqlstream.functions.spec import FunctionSpec, Kernel

T = TypeVar("T", FunctionSpec, Kernel)

#: Families, in the order in which people read of them.
FAMILIES: Final[tuple[tuple[str, tuple[FunctionSpec, ...]], ...]] = (
    ("Functions of a row", ROW_FUNCTIONS),
    ("Aggregates", AGGREGATES),
    ("Drift", DRIFT),
    ("Data integrity and traffic", INTEGRITY),
    ("Decisions and their counts", CONFUSION),
    ("Quality of scores", SCORES),
    ("Ranks of a prediction against an outcome", RANKS),
    ("Regression", REGRESSION),
    ("Ranking", RANKING),
    ("Agents", ATTRIBUTES),
)
FUNCTIONS: Final[tuple[FunctionSpec, ...]] = tuple(spec for _, family in FAMILIES for spec in family)


def indexed(items: Iterable[T]) -> Mapping[str, T]:
    """Give rows by name, read-only.

    Raises ValueError where a name stands twice.
    """
    result: dict[str, T] = {}
    for item in items:
        if item.name in result:
            message = f"{item.name!r} is declared twice"
            raise ValueError(message)
        result[item.name] = item
    return MappingProxyType(result)


OPERATOR_BY_NAME: Final = indexed(OPERATORS)
FUNCTION_BY_NAME: Final = indexed(FUNCTIONS)
#: Everything an `Apply` node can name.
KERNELS: Final = indexed(
    [
        *(spec.kernel for spec in (*OPERATORS, *FUNCTIONS) if spec.kernel is not None),
        NUMBER_TO_STRING,
        *BLOCKS,
        *DRIFT_KERNELS,
        *RANKING_KERNELS,
    ]
)
