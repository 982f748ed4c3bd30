"""What every mergeable state promises. An aggregator knows how to aggregate and holds no data; states are frozen values.

Laws, run over the whole catalogue: merge has `init()` as identity on both sides, is associative and commutative; updating
with a split batch and merging equals updating with the whole; `retract` undoes `update`; `decode(encode(s)) == s`; `read`
does not change the state and repeats itself.

Rows with a null argument do not count, nor does a number that is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.exact import ExactNumber, Room, Slices
from fqlstream.aggregates.inputs import Argument

S = TypeVar("S")

#: What a state of an aggregator that does not grow takes at most, about: an exact sum with its count, measured. An array's own
#: head is a little more than half of it.
SMALL_STATE_BYTES: Final = 200
ARRAY_HEAD_BYTES: Final = 112
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reading:
    """A number read from a state. `value` None is null; `error_bound` None where `exact`.

    `low` and `high` enclose the true value where that is known of a value that is not exact: expressions over it get their
    own bound from there.
    """

    value: float | None
    exact: bool = True
    error_bound: float | None = None
    low: float | None = None
    high: float | None = None


class Aggregator(Protocol[S]):
    """One kind of state."""

    @property
    def kind(self) -> str:
        """Name in the plan."""
        ...

    @property
    def state_version(self) -> int:
        """Version of the encoding; older ones are decoded, newer ones refused."""
        ...

    @property
    def retractable(self) -> bool:
        """Whether `retract` exists at all; a state may still refuse (see `retract`)."""
        ...

    def init(self) -> S:
        """Give the state of no rows."""
        ...

    def update(self, state: S, args: tuple[pa.Array, ...]) -> S:
        """Give the state after a batch: one array per argument, all of one length. Null rules are the aggregator's."""
        ...

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[S]:
        """Give one state per mask, of the rows that it lets in; shape of masks: (states, rows)."""
        ...

    def merge(self, left: S, right: S) -> S:
        """Give the state of both sets of rows."""
        ...

    def retract(self, state: S, gone: S) -> S | None:
        """Give the state without the rows of `gone`; None where this state can no longer say (it became a sketch)."""
        ...

    def read(self, state: S, name: str, params: Mapping[str, float]) -> Reading:
        """Read a number."""
        ...

    def encode(self, state: S) -> Any:
        """Give plain msgpack data: numbers, bytes, lists."""
        ...

    def decode(self, data: Any) -> S:
        """Give the state back."""
        ...


@dataclass(frozen=True, slots=True)
class Addends:
    """A batch as columns that only need adding up, whichever rows are let in.

    `counts` are Booleans to be counted (null is false). `sums` are exact sums, each as slices with one entry per row, 0
    where a row does not count.
    """

    counts: tuple[pa.BooleanArray, ...]
    sums: tuple[Slices, ...] = ()


@runtime_checkable
class Additive(Protocol):
    """An aggregator whose states are sums: many of them, over many segments, are one matrix product."""

    def addends(self, args: tuple[Argument, ...], room: Room) -> Addends | None:
        """Give the columns to add, slices in the given room; None where these values need `reduce`."""
        ...

    def from_totals(self, counts: Sequence[int], sums: Sequence[ExactNumber]) -> Any:
        """Give the state of what was counted and added."""
        ...


@runtime_checkable
class MergesMany(Protocol):
    """An aggregator that merges many states faster than one after the other: a window is a merge of all its panes."""

    def merge_many(self, states: Sequence[Any]) -> Any:
        """Give the state of all sets of rows; there are at least two."""
        ...


@runtime_checkable
class Grows(Protocol):
    """An aggregator whose states take more memory the more they have seen; those of all others take a few hundred bytes."""

    def bytes_of(self, state: Any) -> int:
        """Say about how many bytes of memory a state takes."""
        ...


@runtime_checkable
class OfNumbers(Protocol):
    """An aggregator of one Number whose state follows from the numbers alone: they are selected once for all such."""

    def of_numbers(self, numbers: npt.NDArray[np.float64]) -> Any:
        """Give the state of finite numbers, in the order of their rows."""
        ...
