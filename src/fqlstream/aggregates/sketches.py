"""Quantile sketches behind one interface, river's: `update`, `get`, `quantile`, `cdf`, `+`, `clone`; chosen by name.

KLL of Apache DataSketches is the default: it merges, and guarantees a rank error. river's own histogram can be chosen in
its place, raw or on asinh scale; it guarantees nothing. Only this module knows a sketch library; river is imported on use.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt
from datasketches import kll_doubles_sketch

from fqlstream.errors import SettingsError

if TYPE_CHECKING:
    from river.sketch import Histogram
    from river.stats import Quantile

Doubles = npt.NDArray[np.float64]


class Sketch(Protocol):
    """A summary of many numbers that answers quantiles. Grows by `update`; `+` gives a new one of both."""

    @property
    def n(self) -> int:
        """How many numbers it has seen."""
        ...

    @property
    def rank_error(self) -> float | None:
        """Normalised rank error at 99 % confidence; None where the method guarantees none."""
        ...

    @property
    def bytes_count(self) -> int:
        """About how many bytes of memory it takes."""
        ...

    def update(self, x: float) -> Self:
        """Take one finite number in."""
        ...

    def update_many(self, values: Doubles) -> Self:
        """Take finite numbers in."""
        ...

    def get(self) -> float | None:
        """Give the median; None of nothing."""
        ...

    def quantile(self, q: float) -> float | None:
        """Give the number at rank q in [0, 1]; None of nothing."""
        ...

    def cdf(self, x: float) -> float:
        """Give the share of numbers up to x; 0 of nothing."""
        ...

    def __add__(self, other: Self) -> Self:
        """Give the sketch of both; neither changes."""
        ...

    def to_data(self) -> Any:
        """Give plain msgpack data."""
        ...


class KllSketch:
    """Apache DataSketches KLL of doubles: mergeable, at k = 200 a rank error of at most 1.33 % at 99 % confidence."""

    __slots__ = ("_sketch",)

    def __init__(self, k: int = 200) -> None:
        self._sketch = kll_doubles_sketch(k)

    @property
    def k(self) -> int:
        """KLL's k, which its size and its error follow from."""
        return int(self._sketch.k)

    @property
    def n(self) -> int:
        """How many numbers it has seen."""
        return int(self._sketch.n)

    @property
    def rank_error(self) -> float:
        """Normalised rank error of a single quantile at 99 % confidence; it follows from k alone."""
        return float(self._sketch.normalized_rank_error(False))

    @property
    def bytes_count(self) -> int:
        """About how many bytes of memory it takes: room for k numbers, and half as much again as those it keeps."""
        return _KLL_HEAD_BYTES + 8 * (self.k + 3 * int(self._sketch.num_retained) // 2)

    def update(self, x: float) -> Self:
        """Take one finite number in."""
        self._sketch.update(x)
        return self

    def update_many(self, values: Doubles) -> Self:
        """Take finite numbers in. The guarantee knows no order, so they are sorted first, which is faster."""
        return self.update_rising(np.sort(values))

    def update_rising(self, rising: Doubles) -> Self:
        """Take finite numbers in that are in rising order."""
        if len(rising) >= _COMPACTED_FACTOR * self.k:
            data, taken = _compacted(rising, self.k)
            compacted = kll_doubles_sketch.deserialize(data)
            if self.n:
                self._sketch.merge(compacted)
            else:
                self._sketch = compacted
            rising = rising[taken:]
        if len(rising):
            self._sketch.update(rising)
        return self

    def get(self) -> float | None:
        """Give the median; None of nothing."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float | None:
        """Give the number at rank q in [0, 1]; None of nothing."""
        if self._sketch.is_empty():
            return None
        if q <= 0.0 or q >= 1.0:  # the extremes are known, though not among the numbers that were kept
            return float(self._sketch.get_min_value() if q <= 0.0 else self._sketch.get_max_value()) + 0.0
        return float(self._sketch.get_quantile(q, True)) + 0.0

    def cdf(self, x: float) -> float:
        """Give the share of numbers up to x; 0 of nothing."""
        return 0.0 if self._sketch.is_empty() else float(self._sketch.get_rank(x, True))

    def __add__(self, other: Self) -> Self:
        """Give the sketch of both; neither changes."""
        return self.joined((other,))

    def joined(self, others: Iterable[Self]) -> Self:
        """Give the sketch of this one and of the others; none changes."""
        copy = self.from_data(self.to_data())
        for other in others:
            copy._sketch.merge(other._sketch)
        return copy

    def __repr__(self) -> str:
        return f"KllSketch(k={self.k}) of {self.n:,} numbers"

    def __reduce__(self) -> tuple[Callable[[bytes], KllSketch], tuple[bytes]]:
        return KllSketch.from_data, (self.to_data(),)

    def clone(self, new_params: Mapping[str, Any] | None = None) -> Self:
        """Give an empty sketch of the same k, or of another: `{"k": 400}`."""
        return type(self)(**{"k": self.k, **(new_params or {})})

    def to_data(self) -> bytes:
        """Give DataSketches' own serialised form, which its C++, Java and Python libraries read."""
        return bytes(self._sketch.serialize())

    @classmethod
    def from_data(cls, data: bytes) -> Self:
        """Read the serialised form."""
        sketch = cls.__new__(cls)
        sketch._sketch = kll_doubles_sketch.deserialize(data)
        return sketch


#: The library's object and ours, without the numbers.
_KLL_HEAD_BYTES: Final = 300
#: A bin of river's histogram is a Python object with two or three floats.
_RIVER_BIN_BYTES: Final = 200
#: KLL's smallest level, part of its serialised form.
_KLL_M: Final = 8
#: From so many times k numbers on, a batch is compacted at once; below, taking them in singly costs as little.
_COMPACTED_FACTOR: Final = 8


def _level_of(count: int, k: int) -> int:
    """Give the lowest level at which so many numbers, each standing for 2^level, are at most 2k."""
    level = 0
    while count >> level > 2 * k:
        level += 1
    return level


def _compacted(rising: Doubles, k: int) -> tuple[bytes, int]:
    """Give the serialised sketch of the smallest numbers of a sorted batch, and how many these are: nearly all.

    A sketch halves a sorted level by keeping every second number, from the first or the second by chance. A batch that is
    sorted as a whole is halved `level` times at once: every 2^level-th number stays, from a start by chance. That errs by
    less than 2^level ranks, less than halving it piece by piece, and takes next to nothing.
    """
    level = _level_of(len(rising), k)
    kept = len(rising) >> level
    whole = kept << level
    # a chance that a replay repeats
    start = crc32(rising[:: 1 << level].tobytes()) & ((1 << level) - 1)
    first = _capacity(k, level + 1) - kept
    header = struct.pack("<BBBBHBBQHBB", 5, 1, 15, 0, k, _KLL_M, 0, whole, k, level + 1, 0)
    places = struct.pack(f"<{level + 1}I", *[first] * (level + 1))
    extremes = struct.pack("<dd", rising[0], rising[whole - 1])
    return header + places + extremes + rising[start : whole : 1 << level].tobytes(), whole


@lru_cache
def _capacity(k: int, levels: int) -> int:
    """Give how many numbers a sketch of so many levels has room for: two thirds of the level above, at least m."""
    sizes = ((((2 * k << depth) // 3**depth) + 1) >> 1 for depth in range(levels))
    return sum(max(_KLL_M, size) for size in sizes)


@dataclass(frozen=True, slots=True)
class Scale:
    """A rising function that numbers go through on their way into a histogram, and back."""

    name: str
    there: Callable[[float], float]
    back: Callable[[float], float]


#: The whole range of doubles is 1,420 wide on asinh scale: bins are relative for large numbers, absolute near 0.
SCALES: Final[Mapping[str, Scale]] = {
    "raw": Scale("raw", float, float),
    "asinh": Scale("asinh", math.asinh, lambda y: math.sinh(min(max(y, -710.0), 710.0))),
}


class RiverHistogram:
    """river's streaming histogram. Merges; guarantees no error, and is misled by sorted input and few distinct values."""

    __slots__ = ("_histogram", "_scale")

    def __init__(self, max_bins: int = 256, scale: str = "raw", histogram: Histogram | None = None) -> None:
        if histogram is None:
            from river.sketch import Histogram as MakeHistogram

            histogram = MakeHistogram(max_bins=max_bins)
        self._histogram = histogram
        self._scale = SCALES[scale]

    @property
    def n(self) -> int:
        """How many numbers it has seen."""
        return int(self._histogram.n)

    @property
    def rank_error(self) -> None:
        """None: the method guarantees nothing."""
        return

    @property
    def bytes_count(self) -> int:
        """About how many bytes of memory it takes."""
        return _RIVER_BIN_BYTES * (1 + len(self._histogram))

    def update(self, x: float) -> Self:
        """Take one finite number in."""
        self._histogram.update(self._scale.there(x))
        return self

    def update_many(self, values: Doubles) -> Self:
        """Take finite numbers in, one after the other, in the order given: a million a second at best."""
        for value in values.tolist():
            self._histogram.update(self._scale.there(value))
        return self

    def get(self) -> float | None:
        """Give the median; None of nothing."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float | None:
        """Give the number at rank q in [0, 1], numbers of a bin spread evenly over it; None of nothing."""
        bins = self._histogram.data
        if not bins:
            return None
        ends = list(accumulate(item.count for item in bins))
        wanted = q * ends[-1]
        place = next((i for i, end in enumerate(ends) if end >= wanted), len(bins) - 1)
        item = bins[place]
        part = (wanted - (ends[place] - item.count)) / item.count if item.count else 0.0
        return self._scale.back(item.left + (item.right - item.left) * min(max(part, 0.0), 1.0))

    def cdf(self, x: float) -> float:
        """Give the share of numbers up to x; 0 of nothing."""
        return float(self._histogram.cdf(self._scale.there(x)))

    def __add__(self, other: Self) -> Self:
        """Give the histogram of both; neither changes."""
        # never river's +=, which is a list's and only joins the bins
        return type(self)(scale=self._scale.name, histogram=self._histogram + other._histogram)

    def to_data(self) -> list[Any]:
        """Give [scale, max_bins, n, left edges, right edges, counts]."""
        bins = self._histogram.data
        return [
            self._scale.name,
            self._histogram.max_bins,
            self._histogram.n,
            [float(item.left) for item in bins],
            [float(item.right) for item in bins],
            [float(item.count) for item in bins],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Self:
        """Read plain data."""
        from river.sketch.histogram import Bin

        scale, max_bins, n, lefts, rights, counts = data
        made = cls(max_bins, scale)
        made._histogram.data = [Bin(*edges) for edges in zip(lefts, rights, counts, strict=True)]
        made._histogram.n = n
        return made


def running_quantile(level: float) -> Quantile:
    """Give river's own running quantile (P2) at a level between 0 and 1, both excluded, for what has one writer.

    It keeps five numbers and cannot merge: list metrics are summarised by it, windows are not.
    """
    from river.stats import Quantile as MakeQuantile

    return MakeQuantile(level)


@dataclass(frozen=True, slots=True)
class SketchKind:
    """One kind of sketch: its name in settings and in encoded states, how an empty one is made, how one is read back."""

    name: str
    make_sized: Callable[[int], Sketch]
    decode: Callable[[Any], Sketch]
    size: int  # KLL's k, a histogram's bins
    bytes_per_size: int
    summary: str

    def make(self) -> Sketch:
        """Give an empty one."""
        return self.make_sized(self.size)

    def sketch_of(self, values: Doubles, rising: Doubles) -> Sketch:
        """Give the sketch of finite numbers, given both as they came and in rising order: some are misled by order."""
        made = self.make()
        return made.update_rising(rising) if isinstance(made, KllSketch) else made.update_many(values)


def merged(sketches: Sequence[Sketch]) -> Sketch:
    """Give the sketch of all of one kind, of which there is one at least; none changes."""
    first, *others = sketches
    if isinstance(first, KllSketch):
        return first.joined(other for other in others if isinstance(other, KllSketch))
    return reduce(add, others, first)


_KINDS: Final = (
    SketchKind(
        "kll", KllSketch, KllSketch.from_data, 200, 40, "Apache DataSketches KLL: guaranteed rank error, merges"
    ),
    SketchKind(
        "river_histogram",
        lambda bins: RiverHistogram(bins, "raw"),
        RiverHistogram.from_data,
        256,
        28,
        "river's sketch.Histogram: no guarantee; for evenly spread numbers",
    ),
    SketchKind(
        "river_histogram_asinh",
        lambda bins: RiverHistogram(bins, "asinh"),
        RiverHistogram.from_data,
        256,
        28,
        "the same on asinh scale: no guarantee; for numbers of very different size",
    ),
)
SKETCHES: Final[Mapping[str, SketchKind]] = {kind.name: kind for kind in _KINDS}


def sketch_kind(name: str) -> SketchKind:
    """Give a kind by its name in settings."""
    if name not in SKETCHES:
        raise SettingsError(
            "SET002",
            f"setting FQLSTREAM_FQL__QUANTILE_SKETCH: there is no sketch {name!r}",
            f"choose {', '.join(SKETCHES)}",
        )
    return SKETCHES[name]
