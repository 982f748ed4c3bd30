"""Exact sums of doubles: numbers as m * 2^e with integers of any size, so that no order of merging changes a bit.

A batch is summed without rounding at machine speed: its values are cut into slices, each an integer multiple of one power
of two with few enough bits that a block of rows adds up exactly in float64. Slices then add in any order, by matrix
product if need be, and only the few totals become Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fqlstream.aggregates.inputs import largest

Doubles = npt.NDArray[np.float64]

#: Rows of one block, and bits of one slice: 15 + 37 < 53, so that a block's sum of a slice is exact in float64.
BLOCK_ROWS: Final = 2**15
SLICE_BITS: Final = 37
#: Ordinary data needs two slices; where eight do not suffice, numbers a hundred powers of ten apart, another way is taken.
SLICES_MAX: Final = 8
#: Up to so many multiplications OpenBLAS has a kernel for flat matrices that is three times as fast as its usual one.
_SMALL_PRODUCT: Final = 1_000_000
_PRODUCT_ROWS_MIN: Final = 256
#: Below this the constant that rounds to a slice is still finite.
_SLICED_BELOW: Final = 2.0**1000
_EXPONENT_MIN: Final = -1074


@dataclass(frozen=True, slots=True)
class ExactNumber:
    """m * 2^e. Canonical: m is odd, or both are 0; so equal numbers are equal values."""

    m: int = 0
    e: int = 0

    def __add__(self, other: ExactNumber) -> ExactNumber:
        low = min(self.e, other.e)
        return _canonical((self.m << (self.e - low)) + (other.m << (other.e - low)), low)

    def __sub__(self, other: ExactNumber) -> ExactNumber:
        low = min(self.e, other.e)
        return _canonical((self.m << (self.e - low)) - (other.m << (other.e - low)), low)

    def __float__(self) -> float:
        """Round to the nearest double, ties to even; an infinity where it is beyond all."""
        return self.over(1)

    def over(self, divisor: int) -> float:
        """Give the quotient by a positive integer, correctly rounded."""
        numerator, denominator = (self.m << self.e, divisor) if self.e > 0 else (self.m, divisor << -self.e)
        try:
            return numerator / denominator  # Python rounds the quotient of two integers correctly
        except OverflowError:
            return math.inf if self.m > 0 else -math.inf

    def as_ratio(self) -> tuple[int, int]:
        """Give numerator and denominator."""
        return (self.m << self.e, 1) if self.e > 0 else (self.m, 1 << -self.e)


ZERO: Final = ExactNumber()


def exact_total(parts: Iterable[tuple[int, int]]) -> ExactNumber:
    """Add numbers given as (m, e)."""
    total, low = 0, 0
    for m, e in parts:
        if not m:
            continue
        if not total:
            total, low = m, e
        elif e >= low:
            total += m << (e - low)
        else:
            total, low = (total << (low - e)) + m, e
    return _canonical(total, low)


def _canonical(m: int, e: int) -> ExactNumber:
    if not m:
        return ZERO
    zeros = (m & -m).bit_length() - 1
    return ExactNumber(m >> zeros, e + zeros)


def exact_number(value: float) -> ExactNumber:
    """Give a finite double exactly."""
    numerator, denominator = value.as_integer_ratio()
    return exact_total(((numerator, 1 - denominator.bit_length()),))


class Room:
    """Rows of one matrix for the slices of many sums over the same values, so that all are one matrix product."""

    def __init__(self, values: int, rows: int) -> None:
        self.columns = np.empty((rows, values))
        self.used = 0

    def row(self) -> Doubles:
        """Give the next row, to be filled."""
        if self.used == len(self.columns):
            self.columns = np.concatenate((self.columns, np.empty_like(self.columns)))
        self.used += 1
        filled: Doubles = self.columns[self.used - 1]
        return filled


@dataclass(frozen=True, slots=True)
class Slices:
    """A sum's values as a sum of rows of a room: row first + i holds integer multiples of 2^exponents[i].

    Each value is at most 2^SLICE_BITS such units.
    """

    room: Room
    first: int
    exponents: tuple[int, ...]

    @property
    def columns(self) -> Doubles:
        """The rows: shape (slices, values)."""
        return self.room.columns[self.first : self.first + len(self.exponents)]


def slice_exactly(
    numbers: Doubles, bits: int = SLICE_BITS, *, top: float | None = None, room: Room | None = None
) -> Slices | None:
    """Cut values into slices of so many bits; None where they are not finite, too large, or too widely spread.

    `top` is the largest size among them, where it is known; slices go into `room`, or one of their own.
    """
    room = Room(len(numbers), 2) if room is None else room
    top = largest(numbers) if top is None else top
    first, rest = room.used, numbers
    exponents: list[int] = []
    above = math.frexp(top)[1]  # |rest| < 2^above
    if not top < _SLICED_BELOW:
        return None
    while top > 0.0:
        if len(exponents) == SLICES_MAX:
            room.used = first
            return None
        exponent = max(above - bits, _EXPONENT_MIN)
        rounder = math.ldexp(1.5, exponent + 52)
        part = np.add(rest, rounder, out=room.row())
        part -= rounder  # rest, rounded to a multiple of 2^exponent
        exponents.append(exponent)
        rest = rest - part
        if not rest.any():
            break
        above = exponent  # what is left is at most half a step
    return Slices(room, first, tuple(exponents))


def weighted_totals(
    slices: Sequence[Slices], weights: Doubles, start: int = 0, stop: int | None = None
) -> list[list[ExactNumber]]:
    """Give the exact sums of values from `start` to `stop`: per sum, one for each row of weights (0 or 1).

    All slices are of one room; `weights` has shape (rows, values), the values those between `start` and `stop`.
    """
    if not slices:
        return []
    room = slices[0].room
    columns = room.columns[: room.used, start:stop]
    shift = np.zeros(room.used, dtype=np.int64)
    for item in slices:
        shift[item.first : item.first + len(item.exponents)] = np.negative(item.exponents)
    totals = np.zeros((len(weights), room.used), dtype=np.int64)
    at_once = min(BLOCK_ROWS, max(_PRODUCT_ROWS_MIN, _SMALL_PRODUCT // max(1, totals.size)))
    for at in range(0, columns.shape[1], at_once):
        block = weights[:, at : at + at_once] @ columns[:, at : at + at_once].T
        totals += np.ldexp(block, shift).astype(np.int64)
    return [
        [
            exact_total(zip(of, item.exponents, strict=True))
            for of in totals[:, item.first : item.first + len(item.exponents)].tolist()
        ]
        for item in slices
    ]


def exact_sum(numbers: Doubles) -> ExactNumber:
    """Add finite doubles."""
    slices = slice_exactly(numbers)
    if slices is None:
        return _sum_by_exponent(numbers)
    parts = []
    starts = np.arange(0, len(numbers), BLOCK_ROWS)
    for column, exponent in zip(slices.columns, slices.exponents, strict=True):
        totals = np.ldexp(np.add.reduceat(column, starts), -exponent)
        parts.append((sum(map(int, totals.tolist())), exponent))
    return exact_total(parts)


def _sum_by_exponent(numbers: Doubles) -> ExactNumber:
    """Add finite doubles of any spread: mantissas of one exponent are integers."""
    fractions, exponents = np.frexp(numbers)
    mantissas = np.ldexp(fractions, 53).astype(np.int64)
    order = np.argsort(exponents, kind="stable")
    mantissas, exponents = mantissas[order], exponents[order]
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))
    # halves of 32 bits leave room for two thousand million rows
    high = np.add.reduceat(mantissas >> 32, starts).tolist()
    low = np.add.reduceat(mantissas & 0xFFFFFFFF, starts).tolist()
    return exact_total(((h << 32) + lo, e - 53) for h, lo, e in zip(high, low, exponents[starts].tolist(), strict=True))


def group_sums(numbers: Doubles, groups: npt.NDArray[np.int64], count: int) -> list[ExactNumber]:
    """Add finite doubles by group: `groups` holds one number in [0, count) per value."""
    bits = max(52 - max(len(numbers), 1).bit_length(), 8)
    slices = slice_exactly(numbers, bits)
    if slices is None:
        order = np.argsort(groups, kind="stable")
        bounds = np.searchsorted(groups[order], np.arange(count + 1))
        ordered = numbers[order]
        return [exact_sum(ordered[a:b]) for a, b in pairwise(bounds)]
    totals = [
        np.ldexp(np.bincount(groups, weights=column, minlength=count), -exponent).astype(np.int64).tolist()
        for column, exponent in zip(slices.columns, slices.exponents, strict=True)
    ]
    return [exact_total(zip(parts, slices.exponents, strict=True)) for parts in zip(*totals, strict=True)] or [
        ZERO
    ] * count


#: Products of factors in between lose no bit at either end of the range of doubles.
_FACTOR_MIN: Final = 2.0**-480
_FACTOR_MAX: Final = 2.0**480
_SPLITTER: Final = 2.0**27 + 1.0


def exact_products(left: Doubles, right: Doubles) -> tuple[Doubles, Doubles] | None:
    """Give left * right as the sum of two doubles each, exactly (Dekker); None where a factor is too small or too large."""
    for factor in (left, right):
        size = np.abs(factor)
        if len(size) and (not size.max() <= _FACTOR_MAX or ((size < _FACTOR_MIN) & (size > 0.0)).any()):
            return None
    product = left * right
    left_high, left_low = _halves(left)
    right_high, right_low = _halves(right)
    error = left_high * right_high - product
    error += left_high * right_low
    error += left_low * right_high
    error += left_low * right_low
    return product, error


def _halves(numbers: Doubles) -> tuple[Doubles, Doubles]:
    """Split 53 bits into two halves (Veltkamp)."""
    scaled = numbers * _SPLITTER
    high = scaled - (scaled - numbers)
    return high, numbers - high


def exact_product_sum(left: Doubles, right: Doubles) -> ExactNumber:
    """Add the products of two arrays of finite doubles."""
    products = exact_products(left, right)
    if products is not None:
        return exact_sum(products[0]) + exact_sum(products[1])
    return exact_total(
        (a[0] * b[0], 2 - a[1].bit_length() - b[1].bit_length())
        for a, b in zip(
            map(float.as_integer_ratio, left.tolist()), map(float.as_integer_ratio, right.tolist()), strict=True
        )
    )


def encode_exact(number: ExactNumber) -> list[Any]:
    """Give [m, e]: m as big-endian two's complement, since msgpack's integers end at 64 bits."""
    return [number.m.to_bytes(number.m.bit_length() // 8 + 1, "big", signed=True), number.e]


def decode_exact(data: Sequence[Any]) -> ExactNumber:
    """Give the number of `encode_exact`."""
    m, e = data
    return ExactNumber(int.from_bytes(m, "big", signed=True), e)
