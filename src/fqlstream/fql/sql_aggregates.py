"""Aggregates as ClickHouse computes them: one row for each kind of state, all exact.

Where the engine's states turn to sketches or bins to stay small, SQL keeps what it needs of all rows of a window (quantiles,
scores, predictions, ranked items): its memory grows with the window's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fqlstream.events.definitions import ColumnType
from fqlstream.fql.sql_text import number_literal
from fqlstream.functions.expression import Aggregate, Apply, ColumnRef, Expression, Literal
from fqlstream.functions.index import KERNELS
from fqlstream.functions.ranking import sql_average_precision, sql_normalised_gain

Params = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class State:
    """One aggregate function: its name, its arguments, and which rows count."""

    function: str
    arguments: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    def call(self, segment: str | None) -> str:
        """Write the call over the rows of a segment (None: all), given as a column that is never NULL."""
        conditions = [*([] if segment is None else [segment]), *self.where]
        if not conditions:
            return f"{self.function}({', '.join(self.arguments)})"
        return f"{self.function}If({', '.join((*self.arguments, ' and '.join(conditions)))})"


@dataclass(frozen=True, slots=True)
class LambdaCall:
    """A reading that one of the lambdas gives.

    ClickHouse analyses a lambda anew wherever it is called, so all calls of one are made together.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SqlAggregate:
    """How a kind is computed, out of its arguments' texts, and how it is read, out of its states' names.

    States are told apart by suffixes of their names. A reading is a nullable Float64.
    """

    suffixes: tuple[str, ...]
    states: Callable[[Aggregate, tuple[str, ...]], Mapping[str, State]]
    read: Callable[[str, Params, Mapping[str, str]], str | LambdaCall]


def sql_aggregate(aggregates: Sequence[Aggregate]) -> SqlAggregate:
    """Give the form of an aggregate as every version reads it; of sums of whole numbers a shorter one."""
    kind = aggregates[0].kind
    if kind != "sum":
        return SQL_AGGREGATES[kind]
    bits = [whole_bits(item.args[0]) for item in aggregates]
    sizes = [size for size in bits if size is not None]
    if len(sizes) < len(bits):
        return SQL_AGGREGATES[kind]
    return _SMALL_SUM if max(sizes) <= _SMALL_BITS else _WHOLE_SUM


#: 2^40 rows of so many bits add up to less than 2^53, below which doubles hold every whole number.
_SMALL_BITS: Final = 13
#: Doubles of so many bits are added and multiplied without rounding, as long as the result has no more.
_EXACT_BITS: Final = 53
#: Where nothing says how large a whole number may be; integers of 128 bits add 2^64 such rows.
_WHOLE_BITS: Final = 64
_WHOLE: Final = frozenset({"length", "class_index", "argmax", "bin_index"})


def whole_bits(expression: Expression) -> int | None:
    """Say how many bits hold the size of any value of an expression; None where one may not be a whole number."""
    match expression:
        case Literal(value=None):
            return 0
        case Literal(value=float() as number):
            return int(abs(number)).bit_length() if number.is_integer() and abs(number) < 2**_WHOLE_BITS else None
        case Apply(op="to_number"):
            return 1
        case ColumnRef(type=ColumnType.INT):
            return _WHOLE_BITS
        case Apply(op=op) if op in _WHOLE:
            return _WHOLE_BITS
        case Apply(op="if" | "strict_if", args=(_, value, otherwise)):
            sizes = whole_bits(value), whole_bits(otherwise)
            return None if sizes[0] is None or sizes[1] is None else max(sizes[0], sizes[1])
        case Apply(op="negate" | "abs", args=(value,)):
            return whole_bits(value)
        case Apply(op="+" | "-" | "*" as op, args=(left, right)):
            sizes = whole_bits(left), whole_bits(right)
            if sizes[0] is None or sizes[1] is None:
                return None
            bits = sizes[0] + sizes[1] if op == "*" else max(sizes[0], sizes[1]) + 1
            return bits if bits <= _EXACT_BITS else None
        case _:
            return None


def _present(x: str) -> str:
    return f"isNotNull({x})"


def _known(x: str) -> str:
    return f"assumeNotNull({x})"


def _count_true(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    return {"": State("count", where=() if args[0] == "true" else (f"ifNull({args[0]}, false)",))}


def _count(aggregate: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    form = KERNELS["is_not_null"].clickhouse_for(aggregate.args[0].dtype)
    assert form is not None  # noqa: S101  # is_not_null has SQL for every type
    return {"": State("count", where=(form(args[0]),))}


def _read_count(_read: str, _params: Params, names: Mapping[str, str]) -> str:
    return f"toFloat64({names['']})"


def _exact_sum(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    present = (_present(args[0]),)
    return {
        "": State("sumMap", (f"exact_term({_known(args[0])})",), present),
        "n": State("count", where=present),
    }


def _read_exact_sum(read: str, _params: Params, names: Mapping[str, str]) -> str | LambdaCall:
    total, n = names[""], names["n"]
    return f"toFloat64({n})" if read == "count" else _quotient(read, total, n)


def _quotient(read: str, total: str, n: str) -> LambdaCall:
    """Divide a total by the count for an average, by 1 for a sum; by 0, which gives NULL, where there is nothing."""
    return LambdaCall("exact_ratio", (total, f"whole_number({n if read == 'average' else f'{n} > 0'})"))


def _whole_sum(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    present = (_present(args[0]),)
    return {"": State("sum", (f"toInt128({_known(args[0])})",), present), "n": State("count", where=present)}


def _read_whole_sum(read: str, _params: Params, names: Mapping[str, str]) -> str | LambdaCall:
    total, n = names[""], names["n"]
    return f"toFloat64({n})" if read == "count" else _quotient(read, f"whole_number({total})", n)


def _small_sum(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    present = (_present(args[0]),)
    return {"": State("sum", (f"toInt64({_known(args[0])})",), present), "n": State("count", where=present)}


def _read_small_sum(read: str, _params: Params, names: Mapping[str, str]) -> str:
    total, n = names[""], names["n"]
    match read:
        case "count":
            return f"toFloat64({n})"
        case "average":
            return f"if({n} = 0, NULL, toFloat64({total}) / {n})"
        case _:
            return f"if({n} = 0, NULL, toFloat64({total}))"


def _extreme(aggregate: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    return {"": State(aggregate.kind, (f"toNullable({args[0]})",))}


def _read_extreme(_read: str, _params: Params, names: Mapping[str, str]) -> str:
    return f"{names['']} + 0.0"  # -0.0 is 0.0


def _rising(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    return {"": State("groupArray", (_known(args[0]),), (_present(args[0]),))}


def _read_quantile(_read: str, params: Params, names: Mapping[str, str]) -> LambdaCall:
    return LambdaCall("linear_quantile", (names[""], number_literal(params["level"])))


def _predictions(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    actual, predicted = args
    row = f"({_known(predicted)}, {_known(actual)})"
    return {"": State("groupArray", (row,), (_present(predicted), _present(actual)))}


def _scores(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    score, positive = args
    row = f"({_known(score)}, toUInt8({_known(positive)}))"
    return {"": State("groupArray", (row,), (_present(score), _present(positive)))}


def _read_scores(read: str, _params: Params, names: Mapping[str, str]) -> LambdaCall:
    return LambdaCall(f"{read}_of", (names[""],))


def _read_gini(_read: str, _params: Params, names: Mapping[str, str]) -> LambdaCall:
    return LambdaCall("gini_of", (names[""],))


def _histogram(aggregate: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    edges = _edges(aggregate)
    last = number_literal(edges[-1])
    x = args[0]
    place = f"arrayCount(edge -> {x} >= edge, [{', '.join(map(number_literal, edges))}]) - ifNull({x} = {last}, false)"
    return {"": State("sumMap", (f"[toUInt16({place})]", "[toUInt64(1)]"), (_present(x),))}


def _edges(aggregate: Aggregate) -> tuple[float, ...]:
    edges = dict(aggregate.params)["edges"]
    if not isinstance(edges, tuple):
        raise TypeError(type(edges))
    return edges


def _read_histogram(read: str, params: Params, names: Mapping[str, str]) -> str:
    counts = names[""]
    if read == "total":
        return f"toFloat64(arraySum({counts}.2))"
    return f"toFloat64({counts}.2[indexOf({counts}.1, {int(params['index'])})])"


def _moments(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    y, f = map(_known, args)
    present = tuple(map(_present, args))
    products = {"yy": (y, y), "yf": (y, f), "ff": (f, f)}
    return {
        "n": State("count", where=present),
        "y": State("sumMap", (f"exact_term({y})",), present),
        **{name: State("sumMap", (f"exact_product({a}, {b})",), present) for name, (a, b) in products.items()},
    }


def _read_moments(_read: str, _params: Params, names: Mapping[str, str]) -> LambdaCall:
    return LambdaCall("r2_of", tuple(names[name] for name in ("n", "y", "yy", "yf", "ff")))


def _queries(_: Aggregate, args: tuple[str, ...]) -> dict[str, State]:
    query, score, relevance = args
    there = (f"ifNull({query}, '') != ''", _present(score), _present(relevance))
    text = f"CAST(ifNull({query}, ''), 'String')"
    items = f"map({text}, ({_known(score)} + 0.0, {_known(relevance)} + 0.0))"
    return {"": State("groupArrayMap", (items,), there), "n": State("uniqExact", (text,), there)}


def _read_queries(read: str, params: Params, names: Mapping[str, str]) -> str:
    if read == "count":
        return f"toFloat64({names['n']})"
    measure = {"map": sql_average_precision, "ndcg": sql_normalised_gain}[read]
    value = measure("ranking", number_literal(params["top_k"]))
    # items of one score stand with the less relevant first: in what order they came is not known
    ranked = "arrayMap(item -> item.2, arraySort(item -> (-item.1, item.2), items))"
    values = f"arrayMap(items -> arrayMap(ranking -> {value}, [{ranked}])[1], mapValues({names['']}))"
    return f"if({names['n']} = 0, NULL, finite(arrayAvg({values})))"


_ONE: Final = ("",)
_TOTAL: Final = ("", "n")
_WHOLE_SUM: Final = SqlAggregate(_TOTAL, _whole_sum, _read_whole_sum)
_SMALL_SUM: Final = SqlAggregate(_TOTAL, _small_sum, _read_small_sum)

SQL_AGGREGATES: Final[Mapping[str, SqlAggregate]] = MappingProxyType(
    {
        "count_true": SqlAggregate(_ONE, _count_true, _read_count),
        "count": SqlAggregate(_ONE, _count, _read_count),
        "sum": SqlAggregate(_TOTAL, _exact_sum, _read_exact_sum),
        "min": SqlAggregate(_ONE, _extreme, _read_extreme),
        "max": SqlAggregate(_ONE, _extreme, _read_extreme),
        "quantile": SqlAggregate(_ONE, _rising, _read_quantile),
        "histogram": SqlAggregate(_ONE, _histogram, _read_histogram),
        "score_pairs": SqlAggregate(_ONE, _scores, _read_scores),
        "gini": SqlAggregate(_ONE, _predictions, _read_gini),
        "queries": SqlAggregate(_TOTAL, _queries, _read_queries),
        "moments": SqlAggregate(("n", "y", "yy", "yf", "ff"), _moments, _read_moments),
    }
)

__all__ = ["SQL_AGGREGATES", "LambdaCall", "SqlAggregate", "State", "sql_aggregate", "whole_bits"]
