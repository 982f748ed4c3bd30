"""How far a metric may be off that combines readings which are not exact: interval arithmetic over its expression."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fqlstream.aggregates.protocol import Reading
from fqlstream.functions.expression import AggregateValue, Apply, Expression, Literal

#: Outward slack for the rounding of each step.
_ULPS: Final = 4 * 2.0**-53


@dataclass(frozen=True, slots=True)
class Interval:
    """The true value lies between both, bounds included; for a Boolean they are 0 and 1."""

    low: float
    high: float

    @property
    def is_point(self) -> bool:
        """Whether the value is known."""
        return self.low == self.high


def enclose(
    expression: Expression, value: float | None, readings: Mapping[AggregateValue, Reading]
) -> tuple[bool, float | None]:
    """Tell whether a metric's value is exact, and if not how far it may be off (None where that is unknown)."""
    if all(reading.exact for reading in readings.values()):
        return True, None
    if isinstance(expression, AggregateValue):
        return False, readings[expression].error_bound
    if value is None:
        return False, None
    interval = _interval(expression, readings)
    if interval is None or not interval.low <= value <= interval.high:
        return False, None
    bound = max(interval.high - value, value - interval.low)
    return False, bound if math.isfinite(bound) else None


def _interval(node: Expression, readings: Mapping[AggregateValue, Reading]) -> Interval | None:
    match node:
        case Literal(value=value):
            return None if value is None or isinstance(value, str) else Interval(float(value), float(value))
        case AggregateValue():
            return _of_reading(readings[node])
        case Apply(op=op, args=args):
            if op == "if":
                return _of_choice(args, readings)
            inputs = [_interval(arg, readings) for arg in args]
            rule = _RULES.get(op)
            if rule is None or any(item is None for item in inputs):
                return None
            return _widened(rule([item for item in inputs if item is not None]))
        case _:
            return None


def _of_reading(reading: Reading) -> Interval | None:
    if reading.value is None:
        return None
    if reading.exact:
        return Interval(reading.value, reading.value)
    if reading.low is None or reading.high is None:
        return None
    return Interval(reading.low, reading.high)


def _of_choice(args: Sequence[Expression], readings: Mapping[AggregateValue, Reading]) -> Interval | None:
    condition = _interval(args[0], readings)
    if condition is None:
        return None
    if condition.is_point:
        return _interval(args[1] if condition.low else args[2], readings)
    left, right = _interval(args[1], readings), _interval(args[2], readings)
    if left is None or right is None:
        return None
    return Interval(min(left.low, right.low), max(left.high, right.high))


def _widened(interval: Interval | None) -> Interval | None:
    if interval is None or math.isnan(interval.low) or math.isnan(interval.high):
        return None
    if interval.is_point:
        return interval
    slack = _ULPS * max(abs(interval.low), abs(interval.high))
    return Interval(interval.low - slack, interval.high + slack)


Rule = Callable[[Sequence[Interval]], Interval | None]


def _corners(function: Callable[[float, float], float]) -> Rule:
    def rule(inputs: Sequence[Interval]) -> Interval | None:
        a, b = inputs
        found = [function(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
        return Interval(min(found), max(found))

    return rule


def _divide(inputs: Sequence[Interval]) -> Interval | None:
    if inputs[1].low <= 0.0 <= inputs[1].high:
        return None
    return _corners(lambda x, y: x / y)(inputs)


def _negate(inputs: Sequence[Interval]) -> Interval:
    return Interval(-inputs[0].high, -inputs[0].low)


def _absolute(inputs: Sequence[Interval]) -> Interval:
    (x,) = inputs
    top = max(abs(x.low), abs(x.high))
    return Interval(0.0 if x.low <= 0.0 <= x.high else min(abs(x.low), abs(x.high)), top)


def _rising(function: Callable[[float], float], above: float = -math.inf) -> Rule:
    """Give the rule of a function that rises, and is defined above a number."""

    def rule(inputs: Sequence[Interval]) -> Interval | None:
        (x,) = inputs
        if x.low < above:
            return None
        try:
            return Interval(function(x.low), function(x.high))
        except (ValueError, OverflowError):
            return None

    return rule


def _power(inputs: Sequence[Interval]) -> Interval | None:
    base, exponent = inputs
    if not exponent.is_point or base.low < 0.0 or (base.low == 0.0 and exponent.low < 0.0):
        return None
    try:
        ends = (base.low**exponent.low, base.high**exponent.low)
    except OverflowError:
        return None
    return Interval(min(ends), max(ends))


def _compare(certain: Callable[[Interval, Interval], bool], impossible: Callable[[Interval, Interval], bool]) -> Rule:
    def rule(inputs: Sequence[Interval]) -> Interval:
        a, b = inputs
        if certain(a, b):
            return Interval(1.0, 1.0)
        return Interval(0.0, 0.0 if impossible(a, b) else 1.0)

    return rule


def _same(a: Interval, b: Interval) -> bool:
    return a.is_point and b.is_point and a.low == b.low


def _apart(a: Interval, b: Interval) -> bool:
    return a.high < b.low or b.high < a.low


_RULES: Final[Mapping[str, Rule]] = {
    "+": lambda inputs: Interval(inputs[0].low + inputs[1].low, inputs[0].high + inputs[1].high),
    "-": lambda inputs: Interval(inputs[0].low - inputs[1].high, inputs[0].high - inputs[1].low),
    "*": _corners(lambda x, y: x * y),
    "/": _divide,
    "^": _power,
    "negate": _negate,
    "abs": _absolute,
    "exp": _rising(math.exp),
    "log": _rising(math.log),
    "log2": _rising(math.log2),
    "log10": _rising(math.log10),
    "sqrt": _rising(math.sqrt, 0.0),
    "greatest": lambda inputs: Interval(max(i.low for i in inputs), max(i.high for i in inputs)),
    "least": lambda inputs: Interval(min(i.low for i in inputs), min(i.high for i in inputs)),
    "<": _compare(lambda a, b: a.high < b.low, lambda a, b: a.low >= b.high),
    "<=": _compare(lambda a, b: a.high <= b.low, lambda a, b: a.low > b.high),
    ">": _compare(lambda a, b: a.low > b.high, lambda a, b: a.high <= b.low),
    ">=": _compare(lambda a, b: a.low >= b.high, lambda a, b: a.high < b.low),
    "==": _compare(_same, _apart),
    "!=": _compare(_apart, _same),
    "to_number": lambda inputs: inputs[0],
    "not": lambda inputs: Interval(1.0 - inputs[0].high, 1.0 - inputs[0].low),
    "and": _corners(min),
    "or": _corners(max),
}
