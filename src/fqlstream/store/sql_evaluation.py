"""FQL over a table in memory, computed by ClickHouse inside this process: the engine's numbers from another hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from fqlstream.errors import UsageError
from fqlstream.events.definitions import ModelDefinition
from fqlstream.fql.compile_clickhouse import ROWS, SQL_SETTINGS, WINDOW_END, WINDOW_START, compile_clickhouse
from fqlstream.fql.evaluate import EVENT_AT, Evaluation, Question, fixed_periods, plan_evaluation, rfc3339
from fqlstream.settings import FqlSettings
from fqlstream.store.embedded.memory import MemoryTables

_TABLE: Final = "events"


def evaluate_in_clickhouse(
    table: pa.Table, model: ModelDefinition, question: Question, settings: FqlSettings | None = None
) -> list[Evaluation]:
    """Compute what `fql.evaluate.evaluate_table` computes. Values are always exact.

    Raises FqlError for a wrong expression, SqlFormError for one that SQL cannot say, UsageError for a baseline that moves
    with the window.
    """
    limits = FqlSettings() if settings is None else settings
    rows = {**question.baselines, **fixed_periods(table, question)}
    plan, name = plan_evaluation(model, question, rows, limits, question.rolling)
    moving = [item.baseline for item in plan.compared if item.baseline not in rows]
    if moving:
        raise UsageError(
            "USE038",
            f"baseline {moving[0]!r} is another period for each window, and a query has one for all",
            "the other engine computes it: `fqlstream fql eval --engine arrow`",
        )
    if plan.compared:  # periods that this expression does not read have kept its counts out of the plan
        plan, name = plan_evaluation(model, question, rows, limits)
    query = compile_clickhouse(plan, _TABLE, window=question.window, segments=[name])
    if question.window is not None:
        times = pa.array(question.times("a window"), pa.timestamp("ms", tz="UTC"))
        table = table.append_column(EVENT_AT, times)
    with MemoryTables() as tables:
        tables.add(_TABLE, table)
        found = tables.query_arrow(query.sql, SQL_SETTINGS).to_pylist()
    return [evaluation(row, query.metrics[0]) for row in found]


def evaluation(row: Mapping[str, Any], metric: str) -> Evaluation:
    """Give a row of a query as the answer to a question."""
    found = Evaluation(value=row[metric], rows=row[ROWS], exact=True, error_bound=None)
    if WINDOW_START in row:
        found["window_start"], found["window_end"] = (_rfc3339(row[name]) for name in (WINDOW_START, WINDOW_END))
    return found


def _rfc3339(moment: Any) -> str:
    return rfc3339(round(moment.timestamp() * 1000))
