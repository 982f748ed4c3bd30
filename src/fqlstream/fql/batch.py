"""One batch of the engine: which rows each pane and each segment lets in, in the forms that aggregates take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.exact import ExactNumber, Slices, weighted_totals
from fqlstream.aggregates.inputs import Argument, Doubles, selected
from fqlstream.aggregates.masks import Bits, Mask, count_common, pack, pack_mask, unpack

Codes = npt.NDArray[np.int64]

#: A batch out of time order is taken pane by pane with masks up to so many panes; beyond, it is put in order first.
MASKED_PANES_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class Pane:
    """Rows of one pane in a batch: a span of rows, all of them or those of a mask."""

    code: int
    start: int
    stop: int
    mask: Mask | None


def panes_of(codes: Codes) -> tuple[list[Pane], npt.NDArray[np.int64] | None]:
    """Give the panes present in a batch, and the order that its rows must be brought into (None: they stay)."""
    rows = len(codes)
    if rows == 0:
        return [], None
    if codes.min() == codes.max():
        return [Pane(int(codes[0]), 0, rows, None)], None
    order = None
    if (codes[1:] < codes[:-1]).any():
        present = np.unique(codes)
        if len(present) <= MASKED_PANES_MAX:
            return [Pane(int(code), 0, rows, codes == code) for code in present], None
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=codes[0] - 1))
    stops = np.append(starts[1:], rows)
    return [Pane(int(codes[a]), int(a), int(b), None) for a, b in zip(starts, stops, strict=True)], order


@dataclass(slots=True)
class Batch:
    """Segments of a batch as masks, in the forms that counting, adding and reducing take; each made on first use."""

    rows: int
    bits: Bits
    registers: Sequence[Any]
    _flags: list[Mask] = field(default_factory=list)
    _weights: list[Doubles] = field(default_factory=list)
    _arguments: dict[int, Argument] = field(default_factory=dict)
    _numbers: dict[tuple[int, int], list[Doubles]] = field(default_factory=dict)

    def argument(self, register: int) -> Argument:
        """Give a register as the aggregates take it; all that read it share what they make of it."""
        if register not in self._arguments:
            self._arguments[register] = Argument(self.registers[register])
        return self._arguments[register]

    def masks(self, pane: Pane) -> Mask:
        """Give the rows of a pane that each segment lets in: shape (segments, rows of the pane's span)."""
        if not self._flags:
            self._flags.append(unpack(self.bits, self.rows))
        of = self._flags[0][:, pane.start : pane.stop]
        return of if pane.mask is None else of & pane.mask

    def sums(self, pane: Pane, sums: Sequence[Slices]) -> list[list[ExactNumber]]:
        """Give per sum and segment the exact sum over a pane's rows."""
        if not sums:
            return []
        return weighted_totals(sums, self._weights_of(pane), pane.start, pane.stop)

    def numbers(self, pane: Pane, register: int) -> list[Doubles]:
        """Give per segment the numbers of a column that a pane's rows have; all aggregates over the column share them."""
        key = (pane.code, register)
        if key not in self._numbers:
            column = self.argument(register).numbers
            span = slice(pane.start, pane.stop)
            values, valid = column.values[span], None if column.valid is None else column.valid[span]
            self._numbers[key] = [
                values if is_all else selected(values, valid, mask)
                for mask, is_all in zip(self.masks(pane), self._let_in_all(pane, valid), strict=True)
            ]
        return self._numbers[key]

    def _let_in_all(self, pane: Pane, valid: Mask | None) -> list[bool]:
        if valid is not None or pane.mask is not None:
            return [False] * len(self.bits)
        counts = np.bitwise_count(self.bits).sum(axis=1, dtype=np.int64)
        return [count == self.rows for count in counts.tolist()]

    def _weights_of(self, pane: Pane) -> Doubles:
        if pane.mask is not None:
            return self.masks(pane).astype(np.float64)
        if not self._weights:
            whole = Pane(0, 0, self.rows, None)
            self._weights.append(self.masks(whole).astype(np.float64))
        return self._weights[0][:, pane.start : pane.stop]


class Counted:
    """Boolean columns of a batch, to be counted per pane and segment."""

    def __init__(self, batch: Batch, columns: Sequence[pa.BooleanArray]) -> None:
        self._batch = batch
        # aggregates share columns, such as where a value is not null
        distinct = {id(column): column for column in columns}
        place = {key: index for index, key in enumerate(distinct)}
        self._places = [place[id(column)] for column in columns]
        self._bits = pack(list(distinct.values()), batch.rows)
        self._flags: Mask | None = None

    def count(self, pane: Pane) -> list[list[int]]:
        """Give per segment the count of each column over a pane's rows."""
        batch = self._batch
        if pane.mask is not None:
            counts = count_common(batch.bits & pack_mask(pane.mask), self._bits)
        elif pane.stop - pane.start == batch.rows:
            counts = count_common(batch.bits, self._bits)
        else:
            if self._flags is None:
                self._flags = unpack(self._bits, batch.rows)
            counts = count_common(pack_mask(batch.masks(pane)), pack_mask(self._flags[:, pane.start : pane.stop]))
        return [[row[place] for place in self._places] for row in counts.tolist()]
