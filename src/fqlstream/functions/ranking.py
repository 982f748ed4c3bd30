"""Metrics of ranking models: section 6.7. Events may be grouped (a query each, its items in vectors) or flat (an item each)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fqlstream.aggregates.rankings import Counts, Doubles, average_precisions, normalised_gains, ranked
from fqlstream.events.columns import scalar_text
from fqlstream.events.definitions import Column, ColumnType, Role, Task
from fqlstream.functions.aggregates import average_of, count_present, row_total
from fqlstream.functions.arrays import FLOAT64, Datum
from fqlstream.functions.building_blocks import apply_boolean, apply_number, number
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.spec import (
    ANY,
    Call,
    CallError,
    Example,
    FunctionSpec,
    Kernel,
    LevelRule,
    Nulls,
    Parameter,
    Passing,
    Takes,
)
from fqlstream.functions.targets import reference, target_column

_NUMBERS: Final = (ColumnType.INT, ColumnType.FLOAT)

_TARGET: Final = Parameter(
    "target", ANY, "A column in place of the model's target.", Passing.KEYWORD, Takes.COLUMN, required=False
)


def _of_lists(measure: Callable[[Counts, Doubles, int], Doubles]) -> Callable[..., pa.Array]:
    """Make a kernel of a measure of ranked lists: scores, relevance, k. Null for lists that are empty or do not match."""

    def run(scores: Datum, relevance: Datum, top_k: Datum) -> pa.Array:
        sizes, others = (pc.list_value_length(lists) for lists in (scores, relevance))
        usable = pc.fill_null(pc.and_(pc.equal(sizes, others), pc.greater(sizes, 0)), False)
        kept, truths = scores.filter(usable), relevance.filter(usable)
        lengths = np.asarray(pc.list_value_length(kept).to_numpy()).astype(np.int64)
        order = ranked(lengths, *(np.asarray(lists.flatten().to_numpy()) for lists in (kept, truths)))
        values = np.zeros(len(scores))
        flags = np.asarray(usable.to_numpy(zero_copy_only=False))
        values[flags] = measure(lengths, order, int(top_k.as_py()))
        return pa.array(values, FLOAT64, mask=~flags)

    return run


def sql_average_precision(ranked_relevance: str, top_k: str) -> str:
    """Write the average precision of relevance in ranked order, an array without NULL."""
    hits = f"arrayMap(r -> r > 0, {ranked_relevance})"
    gained = f"arraySum((hit, found, place) -> if(hit and place <= {top_k}, found / place, 0), {hits}, arrayCumSum({hits}), arrayEnumerate({hits}))"
    return f"{gained} / greatest(least(arraySum({hits}), toUInt64({top_k})), 1)"


def sql_normalised_gain(ranked_relevance: str, top_k: str) -> str:
    """Write the normalised discounted cumulative gain of relevance in ranked order, an array without NULL."""
    # a grade below 0 gains nothing; by a power of two, so exactly, lest the largest and the smallest overflow a sum or quotient
    highest = f"greatest(arrayMax({ranked_relevance}), 0.0)"
    gains = f"arrayMap(r -> greatest(r, 0.0) * exp2(1022 - exponent_of({highest})), {ranked_relevance})"

    def gain(of: str) -> str:
        return f"arraySum((g, place) -> if(place <= {top_k}, g * (1 / log2(place + 1)), 0), {of}, arrayEnumerate({of}))"

    ratio = f"if({gain('best')} > 0, {gain('gains')} / {gain('best')}, 0)"
    return f"arrayMap((gains, best) -> {ratio}, [{gains}], [arrayReverseSort({gains})])[1]"


def _sql_of_lists(measure: Callable[[str, str], str]) -> Callable[..., str]:
    def sql(scores: str, relevance: str, top_k: str) -> str:
        # in ClickHouse a vector is never NULL: an empty one stands for it
        usable = f"notEmpty({scores}) and length({scores}) = length({relevance})"
        items = f"arrayMap(place -> ({scores}[place], place, {relevance}[place]), arrayEnumerate({scores}))"
        ranked_relevance = f"arrayMap(item -> item.3, arraySort(item -> (-item.1, item.2), {items}))"
        return f"if({usable}, arrayMap(ranking -> {measure('ranking', top_k)}, [{ranked_relevance}])[1], NULL)"

    return sql


RANKING_KERNELS: Final[tuple[Kernel, ...]] = (
    # (score list, relevance list, k)
    Kernel(
        "average_precision", _of_lists(average_precisions), _sql_of_lists(sql_average_precision), undefined_is_null=True
    ),
    Kernel("normalised_gain", _of_lists(normalised_gains), _sql_of_lists(sql_normalised_gain), undefined_is_null=True),
)


def _query(call: Call) -> Column:
    name = call.model.task_params.group_by
    column = None if name is None else call.model.column(name)
    if column is None:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs to know which column names the query",
            "add to the model: task_params: {group_by: column}",
        )
    return column


def _score(call: Call) -> Column:
    outputs = call.model.role(Role.OUTPUT)
    if len(outputs) != 1:
        count = len(outputs) or "none"
        raise CallError(
            "FQL061", f"{call.spec.name}() needs exactly one output column; model {call.model.name} has {count}"
        )
    return outputs[0]


def _as_text(column: Column) -> Expression:
    value = reference(column)
    return (
        value
        if value.dtype is DType.STRING
        else Apply("number_to_string" if value.dtype is DType.NUMBER else "to_string", (value,), DType.STRING)
    )


def _relevance(call: Call, column: Column) -> Expression:
    """Give the grade of an item: a number as it is, a class by its place in target_class_order, least relevant first."""
    value = reference(column)
    if column.type in _NUMBERS:
        return value
    if column.type is ColumnType.BOOL:
        return apply_number("to_number", value)
    order = call.model.task_params.target_class_order
    if column.type not in {ColumnType.STRING, ColumnType.CATEGORY} or order is None:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs to know how relevant the values of {column.name} are",
            "add to the model: task_params: {target_class_order: [least relevant, ..., most relevant]}",
        )
    return apply_number("class_index", value, *(Literal(scalar_text(item), DType.STRING) for item in order))


def _mean(call: Call, kernel: str, read: str) -> Expression:
    target, output = target_column(call), _score(call)
    query, top_k = _query(call), call.chosen.ranking_top_k
    grouped = [column.type is ColumnType.VECTOR for column in (target, output)]
    if all(grouped):
        return average_of(apply_number(kernel, reference(output), reference(target), number(top_k)))
    if any(grouped) or output.type not in _NUMBERS:
        raise CallError(
            "FQL061",
            f"{call.spec.name}() needs output and target alike: both vectors (a query in each event) or both values (an item)",
        )
    items = Aggregate("queries", (_as_text(query), reference(output), _relevance(call, target)))
    return AggregateValue(items, read, (("top_k", float(top_k)),))


def _lower_map(call: Call) -> Expression:
    if not call.model.task_params.is_binary_ranking_model and target_column(call).type is not ColumnType.BOOL:
        raise CallError(
            "FQL061",
            f"map() is for binary relevance; model {call.model.name} does not say that its is",
            "add to the model: task_params: {is_binary_ranking_model: true}, or use ndcg_mean()",
        )
    return _mean(call, "average_precision", "map")


def _lower_ndcg(call: Call) -> Expression:
    return _mean(call, "normalised_gain", "ndcg")


def _lower_query_count(call: Call) -> Expression:
    query = _query(call)
    named = call.column("target")
    if any(
        column.type is ColumnType.VECTOR for column in (*call.model.role(Role.OUTPUT), *call.model.role(Role.TARGET))
    ):
        return row_total() if named is None else count_present(named)
    present = _where_present(_as_text(query), named)
    return AggregateValue(Aggregate("queries", (present, number(0), number(0))), "count")


def _where_present(query: Expression, target: ColumnRef | None) -> Expression:
    if target is None:
        return query
    nothing = Literal(None, DType.STRING)
    return Apply("if", (apply_boolean("is_null", target), nothing, query), DType.STRING)


def _metric(
    name: str, lower: Callable[[Call], Expression], summary: str, result: float, columns: dict[str, Any], source: str
) -> FunctionSpec:
    return FunctionSpec(
        name=name,
        params=(_TARGET,),
        level=LevelRule.AGGREGATE,
        result=DType.NUMBER,
        summary=summary,
        nulls=Nulls.SKIPPED,
        examples=(Example(f"{name}()", result, columns, "ranking"),),
        source=source,
        tasks=(Task.RANKING,),
        lower=lower,
        error_bound="exact; of flat events up to a cap of items, then an estimate from a sample of whole queries",
    )


_ITEMS: Final = {
    "query": ("q1", "q1", "q1", "q2", "q2"),
    "score": (0.9, 0.8, 0.7, 0.6, 0.5),
    "clicked": (1.0, 0.0, 1.0, 0.0, 1.0),
}

RANKING: Final[tuple[FunctionSpec, ...]] = (
    _metric(
        "map",
        _lower_map,
        "Mean over queries of the average precision of the top k items (task_params.top_k, else 50)."
        " Binary relevance; a query without a relevant item counts as 0, one without a labelled item not at all.",
        (5 / 6 + 1 / 2) / 2,
        _ITEMS,
        "documented in words; division by min(k, relevant items) chosen here",
    ),
    _metric(
        "ndcg_mean",
        _lower_ndcg,
        "Mean over queries of the normalised discounted cumulative gain of the top k items (task_params.top_k, else 50)."
        " Linear gain; a query without a relevant item counts as 0, one without a labelled item not at all.",
        ((1 + 1 / 2) / (1 + 1 / np.log2(3)) + 1 / np.log2(3)) / 2,
        _ITEMS,
        "documented in words; linear gain chosen here, as in scikit-learn",
    ),
    _metric(
        "query_count",
        _lower_query_count,
        "Number of queries: of grouped events their number, of flat events the distinct values of task_params.group_by."
        " With target=, only queries where that is not null. 0 for no rows.",
        2.0,
        _ITEMS,
        "documented; what target= does chosen here",
    ),
)
