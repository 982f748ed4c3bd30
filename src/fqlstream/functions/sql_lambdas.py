"""Lambdas that SQL forms call, and that queries begin with: remainders, exact sums, quantiles and ranks, each written once.

A double is m * 2^(place - 1074) with whole m and place. `sumMap` adds it as a whole number into the band place / 64 of a map,
where no order of rows and no cancellation can lose a bit, and the total is rounded once when it is read. ClickHouse's own sums
of doubles round at every row: `sum` always, `sumKahan` where large values cancel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: Turns what is not finite into NULL.
FINITE: Final = "finite"

_DIGIT: Final = "toInt256('18446744073709551615')"  # the largest of 64 bits
_HIGHEST: Final = (
    "bitShiftLeft(toUInt256(d.2[top]), 191) + bitShiftLeft(toUInt256(d.2[greatest(top - 1, 0)]), 127)"
    " + bitShiftLeft(toUInt256(d.2[greatest(top - 2, 0)]), 63)"
)
_LENGTH: Final = "toInt32(length(bin(q.1)) - position(bin(q.1), '1') + 1)"
_KEPT: Final = "bitShiftRight(q.1, drop)"
_REST: Final = "bitAnd(q.1, bitShiftLeft(toUInt256(1), drop) - 1)"
_HALF: Final = "bitShiftLeft(toUInt256(1), drop - 1)"

#: Each after those that it calls.
_BODIES: Final[Mapping[str, str]] = {
    FINITE: "x -> if(isFinite(x), x, NULL)",
    "floor_div": "(a, b) -> intDiv(a, b) - (modulo(a, b) < 0)",
    "exponent_of": "x -> bitAnd(bitShiftRight(reinterpretAsUInt64(x), 52), 2047)",
    "place_of": "x -> greatest(exponent_of(x), 1) - 1",
    "size_of": "x -> bitAnd(reinterpretAsUInt64(x), 4503599627370495) + if(exponent_of(x) = 0, 0, 4503599627370496)",
    "mantissa_of": "x -> if(x < 0, -1, 1) * toInt256(size_of(x))",
    # (m * 2^up) mod n, the shift in pieces that 256 bits hold
    "whole_remainder": "(m, n, up) -> if(up >= 0, arrayFold("
    "(r, i) -> toUInt256(modulo(bitShiftLeft(r, least(greatest(up - 192 * i, 0), 192)), n)),"
    " range(toUInt32(greatest(intDiv(up, 192), 0) + 1)), toUInt256(m)),"
    " toUInt256(modulo(toUInt256(m), bitShiftLeft(n, least(greatest(-up, 0), 64)))))",
    "size_of_remainder": "(a, b) -> if(a = trunc(a) and b = trunc(b) and a < 9007199254740992 and b < 9007199254740992,"
    " a - b * trunc(a / b), toFloat64(whole_remainder(size_of(a), toUInt256(greatest(size_of(b), 1)),"
    " toInt32(place_of(a)) - toInt32(place_of(b)))) * exp2(toFloat64(least(place_of(a), place_of(b))) - 1074))",
    # as C's fmod: ClickHouse's own modulo of floats rounds the quotient first, and gives 0 for 1 % 0.1
    "remainder": "(a, b) -> multiIf(isNull(a) or isNull(b), NULL, b = 0, nan,"
    " if(a < 0, -1, 1) * size_of_remainder(abs(assumeNotNull(a)), abs(assumeNotNull(b))))",
    # what sumMap adds: the band, and the whole number in it
    "in_band": "(m, place) -> ([toUInt16(intDiv(place, 64))], [bitShiftLeft(m, toUInt8(modulo(place, 64)))])",
    "exact_term": "x -> in_band(mantissa_of(x), place_of(x))",
    "exact_product": "(x, y) -> in_band(mantissa_of(x) * mantissa_of(y), place_of(x) + place_of(y))",
    "exact_sum": "terms -> arrayReduce('sumMap', arrayMap(t -> t.1, terms), arrayMap(t -> t.2, terms))",
    # a total as (carry, digits of 64 bits), the lowest digit first, from the lowest band on
    "carried": "(bands, sums) -> arrayFold("
    f"(acc, v) -> (bitShiftRight(acc.1 + v, 64), arrayPushBack(acc.2, bitAnd(acc.1 + v, {_DIGIT}))),"
    " arrayMap(band -> sums[indexOf(bands, band)], range(arrayMin(bands), arrayMax(bands) + 5)),"
    " (toInt256(0), CAST([], 'Array(Int256)')))",
    # as (sign, digits of the size)
    "digits_of": "total -> arrayMap(c -> if(c.1 < 0, (-1, carried(total.1, arrayMap(v -> -v, total.2)).2), (1, c.2)),"
    " [carried(total.1, total.2)])[1]",
    # a total in units of 2^unit, divided by a whole number and rounded once: (m, e) is m * 2^e, e not below `lowest`
    "rounded": "(total, divisor, unit, lowest) -> arrayMap(d -> arrayMap(top -> arrayMap(q -> arrayMap(drop -> ("
    f"d.1 * toFloat64({_KEPT} + ({_REST} > {_HALF} or ({_REST} = {_HALF} and (q.2 or bitAnd({_KEPT}, 1) = 1)))),"
    f" q.3 + drop), [toUInt16(greatest({_LENGTH} - 53, lowest - q.3))])[1],"
    f" [(intDiv({_HIGHEST}, toUInt256(greatest(divisor, 1))),"
    f" modulo({_HIGHEST}, toUInt256(greatest(divisor, 1))) != 0 or arrayExists(v -> v != 0, arraySlice(d.2, 1, greatest(top - 3, 0))),"
    " 64 * (toInt32(arrayMin(total.1)) + top - 3) + unit - 63)])[1],"
    " [toInt32(arrayLastIndex(v -> v != 0, d.2))])[1], [digits_of(total)])[1]",
    "scaled": "r -> r.1 * exp2(r.2)",
    "exact_value": "(total, divisor) -> finite(scaled(rounded(total, divisor, -1074, -1074)))",
    # quotient of two rounded numbers, which may lie beyond all doubles
    "ratio": "(a, b) -> finite((a.1 / b.1) * exp2(a.2 - b.2))",
    "times": "(total, factor) -> arrayMap(d -> (arrayMap(place -> toUInt16(arrayMin(total.1) + place - 1), arrayEnumerate(d.2)),"
    " arrayMap(v -> d.1 * v * toInt256(factor), d.2)), [digits_of(total)])[1]",
    "minus_square": "total -> arrayMap(t -> (arrayFlatten(arrayMap(i -> arrayMap(j -> toUInt16(i + j), t.1), t.1)),"
    " arrayFlatten(arrayMap(v -> arrayMap(w -> -(v * w), t.2), t.2))), [times(total, 1)])[1]",
    # 1 - sum((y - f)^2) / sum((y - mean y)^2) out of n and the totals of y, y*y, y*f and f*f, in whole numbers to the end
    "r2_of": "(n, y, yy, yf, ff) -> arrayMap(r -> if(n < 2 or r.2.1 <= 0, NULL, ratio(r.1, r.2)), [("
    "rounded(exact_sum([times(yf, 2 * toInt64(n)), times(ff, -toInt64(n)), minus_square(y)]), 1, -2148, -10000),"
    " rounded(exact_sum([times(yy, n), minus_square(y)]), 1, -2148, -10000))])[1]",
    # as numpy.quantile's method "linear" interpolates
    "between": "(low, high, part) -> if(isFinite(high - low),"
    " if(part >= 0.5, high - (high - low) * (1 - part), low + (high - low) * part), low * (1 - part) + high * part) + 0.0",
    "linear_quantile": "(rising, level) -> if(empty(rising), NULL, arrayMap(h -> between("
    "rising[toUInt64(floor(h)) + 1], rising[least(toUInt64(floor(h)) + 2, length(rising))], h - floor(h)),"
    " [(toFloat64(length(rising)) - 1) * level])[1])",
    # of rising numbers: the first and the last place among equals
    "first_equal": "rising -> arrayFill((place, step) -> step != 0, arrayEnumerate(rising), arrayDifference(rising))",
    "last_equal": "rising -> arrayReverseFill((place, step) -> step != 0, arrayEnumerate(rising),"
    " arrayPushBack(arrayPopFront(arrayDifference(rising)), 1))",
    "twice_midranks": "rising -> arrayMap((first, last) -> first + last, first_equal(rising), last_equal(rising))",
    # of rising (score, is positive): the share of pairs in the right order, ties one half
    "auroc_of": "rows -> arrayMap(p -> if(p = 0 or p = length(rows), NULL, toFloat64(arraySum((row, rank) -> if(row.2, rank, 0),"
    " rows, twice_midranks(arrayMap(row -> row.1, rows))) - toInt128(p) * (p + 1)) / toFloat64(toInt128(p) * (length(rows) - p) * 2)),"
    " [toInt64(arrayCount(row -> row.2, rows))])[1]",
    # the score from which on hits * negatives - alarms * positives is highest; of equals the highest score
    # the score from which on hits * negatives - alarms * positives is highest; of equals the highest score
    "calibrated_threshold_of": "rows -> arrayMap(p -> if(p = 0 or p = length(rows), NULL, arrayReverseSort(arrayFilter(t -> t.3,"
    " arrayMap((row, place, first, found) -> (toInt128(p - (found - row.2)) * (length(rows) - p)"
    " - toInt128(length(rows) - p - (place - 1) + (found - row.2)) * p, row.1 + 0.0, place = first),"
    " rows, arrayEnumerate(rows), first_equal(arrayMap(row -> row.1, rows)), arrayCumSum(row -> row.2, rows))))[1].2),"
    " [toInt64(arrayCount(row -> row.2, rows))])[1]",
    # of rising (prediction, actual): twice the sum of actual times midrank over n times their sum, less (n + 1) / n
    "gini_of": "rows -> arrayMap(t -> if(t.2.1 <= 0 or arrayExists(row -> row.2 < 0, rows), NULL, ratio(t.1, t.2) / length(rows)), [("
    "rounded(exact_sum(arrayMap((row, rank) -> in_band(mantissa_of(row.2) * (toInt256(rank) - length(rows) - 1), place_of(row.2)),"
    " rows, twice_midranks(arrayMap(row -> row.1, rows)))), 1, -1074, -10000),"
    " rounded(exact_sum(arrayMap(row -> exact_term(row.2), rows)), 1, -1074, -10000))])[1]",
}

_NAME: Final = re.compile(r"\b(" + "|".join(sorted(_BODIES, key=len, reverse=True)) + r")\(")

LAMBDAS: Final[Mapping[str, str]] = MappingProxyType(_BODIES)


def lambdas_of(sql: str) -> list[str]:
    """Give the definitions of the lambdas that SQL calls, and of those that they call, in an order that ClickHouse can read."""
    wanted: set[str] = set()
    texts = [sql]
    while texts:
        called = set(_NAME.findall(texts.pop())) - wanted
        wanted |= called
        texts.extend(_BODIES[name] for name in called)
    return [f"{body} AS {name}" for name, body in _BODIES.items() if name in wanted]
