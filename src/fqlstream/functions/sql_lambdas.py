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


def _lets(*named: tuple[str, str], then: str) -> str:
    """Name values, each out of those before it, so that ClickHouse analyses one once however often it is spoken of."""
    text = then
    for name, value in reversed(named):
        text = f"arrayMap({name} -> {text}, [{value}])[1]"
    return text


# a number as Python writes it: ClickHouse changes to exponents elsewhere
_NUMBER_TEXT: Final = _lets(
    ("size", "toString(abs(assumeNotNull(x)))"),
    ("parts", "splitByChar('e', size)"),
    ("digits", "replaceRegexpOne(size, '^0\\\\.0*', '')"),
    then="concat(if(x < 0 or toString(x) = '-0', '-', ''), multiIf("
    "length(parts) > 1,"
    " concat(parts[1], if(startsWith(parts[2], '-'), 'e-', 'e+'), two_digits(replaceOne(parts[2], '-', ''))),"
    " abs(x) >= 1e16, concat(pointed(replaceRegexpOne(size, '0+$', '')), 'e+', toString(length(size) - 1)),"
    " abs(x) < 1e-4 and x != 0, concat(pointed(digits), 'e-', two_digits(toString(length(size) - 1 - length(digits)))),"
    " size))",
)
_DIGIT: Final = "toInt256('18446744073709551615')"  # the largest of 64 bits

_REMAINDER: Final = _lets(
    ("pair", "(abs(assumeNotNull(a)), abs(assumeNotNull(b)))"),
    ("sizes", "(size_of(pair.1), toUInt256(greatest(size_of(pair.2), 1)))"),
    ("places", "(toInt32(place_of(pair.1)), toInt32(place_of(pair.2)))"),
    then="if(pair.1 = trunc(pair.1) and pair.2 = trunc(pair.2) and pair.1 < 9007199254740992 and pair.2 < 9007199254740992,"
    " pair.1 - pair.2 * trunc(pair.1 / pair.2),"
    " toFloat64(whole_remainder(sizes.1, sizes.2, places.1 - places.2)) * exp2(least(places.1, places.2) - 1074))",
)
_CARRIED: Final = _lets(("w", "acc.1 + v"), then=f"(bitShiftRight(w, 64), arrayPushBack(acc.2, bitAnd(w, {_DIGIT})))")
_DIGITS: Final = _lets(
    ("c", "carried(total.1, total.2)"),
    then="if(c.1 < 0, (-1, carried(total.1, arrayMap(v -> -v, total.2)).2), (1, c.2))",
)
# 256 bits of it, down to the last byte, and whether anything is below them
_LEADING: Final = _lets(
    ("d", "digits_of(total)"),
    ("top", "toInt32(arrayLastIndex(v -> v != 0, d.2))"),
    ("first", "arrayMap(v -> toUInt256(v), arrayResize(arrayReverse(arraySlice(d.2, 1, top)), 4))"),
    (
        "w",
        "bitShiftLeft(first[1], 192) + bitShiftLeft(first[2], 128) + bitShiftLeft(first[3], 64) + first[4]",
    ),
    ("free", "toUInt16(256 - length(bin(w)))"),  # a shift by a signed number gives one
    then="(if(top = 0, 0, d.1), bitShiftLeft(w, free), 64 * (toInt32(arrayMin(total.1)) + top - 4) - free,"
    " arrayExists(v -> v != 0, arraySlice(d.2, 1, greatest(top - 4, 0))))",
)
# 256 bits by 128 leave 120 or more of the quotient; 64 of them, the last one set if anything is below it, round as all of it
_RATIO: Final = _lets(
    ("x", "leading(a)"),
    ("y", "leading(b)"),
    ("divisor", "greatest(bitShiftRight(y.2, 128), toUInt256(1))"),
    ("q", "intDiv(x.2, divisor)"),
    ("s", "toUInt16(greatest(toInt32(length(bin(q))) - 64, 0))"),
    ("u", "bitShiftRight(q, s)"),
    ("rest", "x.4 or y.4 or bitShiftLeft(divisor, 128) != y.2 or bitShiftLeft(u, s) * divisor != x.2"),
    ("v", "scaled(x.1 * toFloat64(bitOr(toUInt64(u), toUInt64(rest))), x.3 - y.3 - 128 + s)"),
    then="if(y.1 > 0 and isFinite(v), v, NULL)",
)
_MINUS_SQUARE: Final = _lets(
    ("d", "digits_of(total)"),
    ("places", "range(arrayMin(total.1), arrayMin(total.1) + length(d.2))"),
    then="(arrayFlatten(arrayMap(i -> arrayMap(j -> toUInt16(i + j), places), places)),"
    " arrayFlatten(arrayMap(v -> arrayMap(w -> -(v * w), d.2), d.2)))",
)
_R2: Final = _lets(
    ("square", "minus_square(y)"),
    ("spread", "exact_sum([weighted(yy, toInt64(n)), square])"),
    ("explained", "exact_sum([weighted(yf, 2 * toInt64(n)), weighted(ff, -toInt64(n)), square])"),
    then="if(n < 2, NULL, exact_ratio(explained, spread))",
)
_QUANTILE: Final = _lets(
    ("rising", "arraySort(numbers)"),
    ("h", "(toFloat64(length(rising)) - 1) * level"),
    ("below", "toUInt64(greatest(floor(h), 0))"),
    ("low", "rising[below + 1]"),
    ("high", "rising[least(below + 2, length(rising))]"),
    ("part", "h - below"),
    then="multiIf(empty(rising), NULL, not isFinite(high - low), low * (1 - part) + high * part,"
    " part >= 0.5, high - (high - low) * (1 - part), low + (high - low) * part) + 0.0",
)
_MIDRANKS: Final = _lets(
    ("rising", "numbers"), then="arrayMap((first, last) -> first + last, first_equal(rising), last_equal(rising))"
)
_AUROC: Final = _lets(
    ("rows", "arraySort(unordered)"),
    ("p", "toInt64(arraySum(row -> row.2, rows))"),
    ("ranks", "arraySum((row, rank) -> row.2 * rank, rows, twice_midranks(arrayMap(row -> row.1, rows)))"),
    # without one of the classes there are no pairs
    then="exact_ratio(whole_number(ranks - toInt256(p) * (p + 1)), whole_number(toInt256(p) * (length(rows) - p) * 2))",
)


def _best_score(gain: str) -> str:
    """Give the score from which on a gain is highest, of equals the highest one; NULL where a class is missing."""
    return _lets(
        ("rows", "arraySort(unordered)"),
        ("p", "toInt64(arraySum(row -> row.2, rows))"),
        ("n", "toInt64(length(rows)) - p"),
        ("first", "first_equal(arrayMap(row -> row.1, rows))"),
        # positives before a place, and the rest of what is before it
        ("misses", "arrayMap((row, found) -> toInt64(found - row.2), rows, arrayCumSum(row -> row.2, rows))"),
        ("hits", "arrayMap(missed -> p - missed, misses)"),
        ("alarms", "arrayMap((place, missed) -> n - (toInt64(place) - 1 - missed), arrayEnumerate(rows), misses)"),
        ("gains", f"arrayMap((row, hit, alarm) -> ({gain}, row.1 + 0.0), rows, hits, alarms)"),
        ("candidates", "arrayFilter((gain, place, start) -> start = place, gains, arrayEnumerate(rows), first)"),
        then="if(p = 0 or n = 0, NULL, arrayReverseSort(candidates)[1].2)",
    )


_GINI: Final = _lets(
    ("rows", "arraySort(unordered)"),
    ("total", "exact_sum(arrayMap(row -> exact_term(row.2), rows))"),
    ("ranked", ("exact_sum(arrayMap((row, rank) -> weighted(exact_term(row.2), toInt64(rank) - toInt64(length(rows)) - 1),"
     " rows, twice_midranks(arrayMap(row -> row.1, rows))))")),
    then="if(arrayExists(row -> row.2 < 0, rows), NULL, exact_ratio(ranked, weighted(total, length(rows))))",
)  # fmt: skip
_JSD: Final = _lets(
    ("p", "arrayMap(n -> n / arraySum(a), a)"),
    ("q", "arrayMap(n -> n / arraySum(b), b)"),
    ("divergence", "(entropy_to(p, q) + entropy_to(q, p)) / 2"),
    # greatest leaves out NaN, which is what an empty side gives
    then="if(isNaN(divergence), NULL, sqrt(greatest(divergence, 0)))",
)
_PSI: Final = _lets(
    ("shares", "arrayMap(side -> arrayMap(n -> (n + add) / (arraySum(side) + add * length(side)), side), [a, b])"),
    then="if(arraySum(a) = 0 or arraySum(b) = 0, NULL, arraySum((p, q) -> (p - q) * log(p / q), shares[1], shares[2]))",
)

#: Each after those that it calls.
LAMBDAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        FINITE: "x -> if(isFinite(x), x, NULL)",
        # of the digits of a number above 0: a point behind the first, where others follow
        "pointed": "digits -> concat(substring(digits, 1, 1), if(length(digits) > 1, '.', ''), substring(digits, 2))",
        "two_digits": "digits -> concat(if(length(digits) < 2, '0', ''), digits)",
        "number_text": f"x -> if(isNull(x), NULL, {_NUMBER_TEXT})",
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
        # as C's fmod: ClickHouse's own modulo of floats rounds the quotient first, and gives 0 for 1 % 0.1
        "remainder": f"(a, b) -> multiIf(isNull(a) or isNull(b), NULL, b = 0, nan, if(a < 0, -1, 1) * {_REMAINDER})",
        # what sumMap adds: the band, and the whole number in it
        "in_band": "(m, place) -> ([toUInt16(intDiv(place, 64))], [bitShiftLeft(m, toUInt8(modulo(place, 64)))])",
        "whole_number": "n -> in_band(toInt256(n), 1074)",
        "exact_term": "x -> in_band(mantissa_of(x), place_of(x))",
        "exact_product": "(x, y) -> in_band(mantissa_of(x) * mantissa_of(y), place_of(x) + place_of(y))",
        "exact_sum": "terms -> arrayReduce('sumMap', arrayMap(t -> t.1, terms), arrayMap(t -> t.2, terms))",
        "weighted": "(total, factor) -> (total.1, arrayMap(v -> v * toInt256(factor), total.2))",
        # a total as (carry, digits of 64 bits), the lowest digit first, from the lowest band on
        "carried": f"(bands, sums) -> arrayFold((acc, v) -> {_CARRIED},"
        " arrayMap(band -> sums[indexOf(bands, band)], range(arrayMin(bands), arrayMax(bands) + 5)),"
        " (toInt256(0), CAST([], 'Array(Int256)')))",
        # the same as (sign, digits of the size)
        "digits_of": f"total -> {_DIGITS}",
        # its sign, 256 bits w, the exponent e of w * 2^e, whether that is not all of it
        "leading": f"total -> {_LEADING}",
        "scaled": "(m, e) -> m * exp2(intDiv(e, 2)) * exp2(e - intDiv(e, 2))",
        # of two totals in one unit, rounded once; NULL where the second is not above 0, and beyond all doubles
        "exact_ratio": f"(a, b) -> {_RATIO}",
        "minus_square": f"total -> {_MINUS_SQUARE}",
        # 1 - sum((y - f)^2) / sum((y - mean y)^2) out of n and the totals of y, y*y, y*f and f*f, in whole numbers to the end
        "r2_of": f"(n, y, yy, yf, ff) -> {_R2}",
        # as numpy.quantile's method "linear" interpolates
        "linear_quantile": f"(numbers, level) -> {_QUANTILE}",
        # of rising numbers: the first and the last place among equals
        "first_equal": "rising -> arrayFill((place, step) -> step != 0, arrayEnumerate(rising), arrayDifference(rising))",
        "last_equal": "rising -> arrayReverseFill((place, step) -> step != 0, arrayEnumerate(rising),"
        " arraySlice(arrayPushBack(arrayDifference(rising), 1), 2))",
        "twice_midranks": f"numbers -> {_MIDRANKS}",
        # of (score, is positive): the share of pairs in the right order, ties one half
        "auroc_of": f"unordered -> {_AUROC}",
        # the score from which on TPR - FPR, or F1, is highest
        "calibrated_threshold_of": f"unordered -> {_best_score('toInt128(hit) * n - toInt128(alarm) * p')}",
        "f1_threshold_of": f"unordered -> {_best_score('2.0 * hit / (hit + alarm + p)')}",
        # of (prediction, actual): twice the sum of actual times midrank over n times their sum, less (n + 1) / n
        "gini_of": f"unordered -> {_GINI}",
        # of shares: how much they tell apart from the middle of both
        "entropy_to": "(p, q) -> arraySum((x, y) -> if(x = 0, 0, x * log2(2 * x / (x + y))), p, q)",
        # of counts in the same bins
        "jsd_of": f"(a, b) -> {_JSD}",
        "psi_of": f"(add, a, b) -> {_PSI}",
    }
)

_CALLED: Final = re.compile(r"\b(" + "|".join(LAMBDAS) + r")\(")


def lambdas_of(sql: str) -> list[str]:
    """Give the definitions of the lambdas that SQL calls, and of those that they call, in an order that ClickHouse can read."""
    wanted: set[str] = set()
    texts = [sql]
    while texts:
        called = set(_CALLED.findall(texts.pop())) - wanted
        wanted |= called
        texts.extend(LAMBDAS[name] for name in called)
    return [f"{body} AS {name}" for name, body in LAMBDAS.items() if name in wanted]
