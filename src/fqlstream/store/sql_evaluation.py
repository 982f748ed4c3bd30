"""FQL over a table in memory, computed by ClickHouse inside this process: the engine's numbers from another hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.errors import UsageError
from fqlstream.events.definitions import BaselineDefinition, ModelDefinition, Window
from fqlstream.fql.compile_clickhouse import ROWS, SQL_SETTINGS, WINDOW_END, WINDOW_START, compile_clickhouse
from fqlstream.fql.evaluate import EVENT_AT, Evaluation, fixed_periods, plan_evaluation, rfc3339, window_of
from fqlstream.settings import FqlSettings
from fqlstream.store.embedded.memory import MemoryTables

_TABLE: Final = "events"


def evaluate_in_clickhouse(
    table: pa.Table,
    model: ModelDefinition,
    expression: str,
    *,
    segment: str | None = None,
    window: str | Mapping[str, str] | Window | None = None,
    event_at_ms: npt.NDArray[np.int64] | None = None,
    baselines: Mapping[str, pa.Table] | None = None,
    periods: Mapping[str, BaselineDefinition] | None = None,
    settings: FqlSettings | None = None,
) -> Evaluation | list[Evaluation]:
    """Compute what `fql.evaluate.evaluate_table` computes, with the same arguments. Values are always exact.

    Raises FqlError for a wrong expression, SqlFormError for one that SQL cannot say, UsageError for a baseline that moves
    with the window.
    """
    limits = FqlSettings() if settings is None else settings
    rows = {**(baselines or {}), **fixed_periods(table, event_at_ms, periods or {})}
    plan, name = plan_evaluation(model, expression, segment, rows, limits, _rolling(periods or {}))
    moving = [item.baseline for item in plan.compared if item.baseline not in rows]
    if moving:
        raise UsageError(
            "USE038",
            f"baseline {moving[0]!r} is another period for each window, and a query has one for all",
            "the other engine computes it: `fqlstream fql eval --engine arrow`",
        )
    if plan.compared:  # periods that this expression does not read have kept its counts out of the plan
        plan, name = plan_evaluation(model, expression, segment, rows, limits)
    size = None if window is None else window_of(window)
    query = compile_clickhouse(plan, _TABLE, window=size, segments=[name])
    if size is not None:
        table = _with_times(table, event_at_ms)
    with MemoryTables() as tables:
        tables.add(_TABLE, table)
        found = tables.query_arrow(query.sql, SQL_SETTINGS).to_pylist()
    values = [evaluation(row, query.metrics[0]) for row in found]
    return values if size is not None else values[0]


def _rolling(periods: Mapping[str, BaselineDefinition]) -> dict[str, BaselineDefinition]:
    return {name: period for name, period in periods.items() if period.range_ms is None}


def evaluation(row: Mapping[str, Any], metric: str) -> Evaluation:
    """Give a row of a query as the answer to a question."""
    found = Evaluation(value=row[metric], rows=row[ROWS], exact=True, error_bound=None)
    if WINDOW_START in row:
        found["window_start"], found["window_end"] = (_rfc3339(row[name]) for name in (WINDOW_START, WINDOW_END))
    return found


def _rfc3339(moment: Any) -> str:
    return rfc3339(round(moment.timestamp() * 1000))


def _with_times(table: pa.Table, event_at_ms: npt.NDArray[np.int64] | None) -> pa.Table:
    if event_at_ms is None:
        raise UsageError(
            "USE031", "a window needs the time of every row", "name the column that holds it: event_at=..."
        )
    return table.append_column(EVENT_AT, pa.array(event_at_ms, pa.timestamp("ms", tz="UTC")))
