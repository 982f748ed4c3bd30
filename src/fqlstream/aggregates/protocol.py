"""What every mergeable state promises. An aggregator knows how to aggregate and holds no data; states are frozen values.

Laws, run over the whole catalogue: merge has `init()` as identity on both sides, is associative and commutative; updating
with a split batch and merging equals updating with the whole; `retract` undoes `update`; `decode(encode(s)) == s`; `read`
does not change the state and repeats itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Reading:
    """A number read from a state. `value` None is null; `error_bound` None where `exact`."""

    value: float | None
    exact: bool = True
    error_bound: float | None = None


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
