"""`df.collect().columns.age`, as Aporia's example has it: rows stay a list of rows, and give their columns as arrays too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt


class MissingColumnError(AttributeError, KeyError):
    """Rows have no such column. Raised for `columns.x` and `columns["x"]` alike."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column

    def __str__(self) -> str:
        return f"there is no column {self.column!r}"


class Columns:
    """The columns of collected rows, by name: `columns.age` or `columns["first name"]`. In order when iterated: their names."""

    __slots__ = ("_names", "_rows")

    def __init__(self, rows: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
        self._rows = rows
        self._names = list(names)

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        return self[name]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._names:
            raise MissingColumnError(name)
        place = self._names.index(name)
        return as_array([row[place] for row in self._rows])

    def __iter__(self) -> Iterable[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


class CollectedRows(list[Any]):
    """What `collect()` gives: a list of rows that also has `columns`."""

    __slots__ = ("_names",)

    def __init__(self, rows: Iterable[Any], names: Sequence[str]) -> None:
        super().__init__(rows)
        self._names = names

    @property
    def columns(self) -> Columns:
        """The rows' columns as arrays; a null in a column of numbers is NaN."""
        return Columns(self, self._names)


def as_array(values: list[Any]) -> npt.NDArray[Any]:
    """Make an array of one column: numbers as numbers with NaN for null, anything else as objects."""
    if any(isinstance(value, Decimal) for value in values):
        values = [float(value) if isinstance(value, Decimal) else value for value in values]
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known) and len(known) == len(values):
        return np.array(values, dtype=bool)
    if known and all(isinstance(value, Real) and not isinstance(value, bool) for value in known):
        return np.array([np.nan if value is None else value for value in values])
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def give_columns(frame_class: Any) -> None:
    """Let a class of data frames collect into CollectedRows."""
    collect: Callable[..., list[Any]] = frame_class.collect

    def collect_with_columns(frame: Any, *arguments: Any, **options: Any) -> CollectedRows:
        return CollectedRows(collect(frame, *arguments, **options), frame.columns)

    frame_class.collect = collect_with_columns
