"""What a list of numbers comes to while it grows: river's running moments, extremes and quantiles, for what has one writer.

The moments are five numbers and are encoded as such. river keeps a running quantile in native code and tells its markers only
as bytes of its own: so sketches are not encoded, but made again from the stored values, which a list has few of. Values are seen
one after the other, so a summary depends on the list alone, never on the portions it came in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.sketches import running_quantile

if TYPE_CHECKING:
    from river.stats import Max, Min, Quantile, Var

#: Ranks of the quantiles that are kept.
RANKS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_VERSION: Final = 1


class RunningSummary:
    """Of the values that are neither NaN nor infinite; `count` counts the others too."""

    __slots__ = ("_max", "_min", "_quantiles", "_var", "count")

    def __init__(self) -> None:
        from river.stats import Max as MakeMax
        from river.stats import Min as MakeMin
        from river.stats import Var as MakeVar

        self.count = 0
        self._var: Var = MakeVar()
        self._min: Min = MakeMin()
        self._max: Max = MakeMax()
        self._quantiles: Mapping[float, Quantile] = {rank: running_quantile(rank) for rank in RANKS}

    @property
    def finite(self) -> int:
        """Count the finite values."""
        return int(self._var.n)

    @property
    def mean(self) -> float | None:
        """The mean; None without values, and beyond what a float holds."""
        return _known(self._var.mean.get()) if self.finite else None

    @property
    def variance(self) -> float | None:
        """The sample variance; None below two values, and beyond what a float holds."""
        return _known(self._var.get()) if self.finite > 1 else None

    @property
    def min(self) -> float | None:
        """The least value."""
        return _known(self._min.get()) if self.finite else None

    @property
    def max(self) -> float | None:
        """The greatest value."""
        return _known(self._max.get()) if self.finite else None

    def quantiles(self) -> dict[float, float]:
        """Give the quantiles by rank, as far as there are any."""
        found = {rank: sketch.get() for rank, sketch in self._quantiles.items()} if self.finite else {}
        return {rank: value for rank, value in found.items() if value is not None and math.isfinite(value)}

    def learn(self, values: Sequence[float]) -> None:
        """Take in values, in their order."""
        self.count += len(values)
        finite = [value for value in values if math.isfinite(value)]
        for value in finite:
            self._var.update(value)
            self._min.update(value)
            self._max.update(value)
        self._learn_quantiles(finite)

    def _learn_quantiles(self, finite: Iterable[float]) -> None:
        for sketch in self._quantiles.values():
            update = sketch.update
            for value in finite:
                update(value)

    def encode(self) -> bytes:
        """Give the moments and extremes; the sketches are not in it."""
        numbers = (self.count, self.finite, self._var.mean.get(), self._var._S, self._min.get(), self._max.get())
        return msgspec.msgpack.encode((_VERSION, *numbers))

    @classmethod
    def decode(cls, data: bytes, values: Sequence[float]) -> RunningSummary:
        """Read a summary back; the sketches are made anew of the values that it had seen, in their order.

        Raises FqlstreamError STA001 for one of a newer release, STA002 for what is none.
        """
        count, finite, mean, squares, least, greatest = body(msgspec.msgpack.decode(data), "list metrics", _VERSION)
        made = cls()
        made.count = count
        made._var.mean.n, made._var.mean._mean, made._var._S = float(finite), mean, squares
        made._min.min, made._max.max = least, greatest
        made._learn_quantiles([value for value in values if math.isfinite(value)])
        return made


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
