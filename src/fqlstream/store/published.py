"""Published values as readers page through them: the newest of every window, and the newest window of every metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fqlstream.store.client import Store, rows_of

_COLUMNS: Final = (
    "model", "version", "metric", "segment", "window_start", "window_end", "window_s", "value", "rows", "labelled_rows", "exact",
    "error_bound", "status", "value_version", "definition_revision", "updated_at",
)  # fmt: skip
#: Arrow has no enumerations: the status comes as text.
_SELECTED: Final = ", ".join("CAST(status, 'String') AS status" if name == "status" else name for name in _COLUMNS)


@dataclass(frozen=True, slots=True)
class Series:
    """Which windows are asked for. Times bound their starts, Unix ms, half-open; `version` `all` is all versions together."""

    model: str
    metric: str
    segment: str = ""
    window_s: int = 3600
    version: str = "all"
    start_ms: int | None = None
    end_ms: int | None = None


def read_series(store: Store, asked: Series, *, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Give the newest value of every window, oldest first, and how many windows there are; keys are columns of `metric_values`."""
    bound: dict[str, Any] = {
        "model": asked.model,
        "metric": asked.metric,
        "segment": asked.segment,
        "version": asked.version,
    }
    where = [f"{name} = {{{name}:String}}" for name in bound]
    where.append("window_s = {window_s:UInt32}")
    bound["window_s"] = asked.window_s
    for name, moment, sign in (("start", asked.start_ms, ">="), ("end", asked.end_ms, "<")):
        if moment is not None:
            where.append(f"window_start {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
            bound[name] = moment
    return _page(store, "metric_series", where, bound, "window_start, window_end", offset, limit)


def read_latest(
    store: Store, model: str | None, metric: str | None, *, offset: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    """Give the newest value of every metric, segment, version and window size, of all models or of one, and how many there are."""
    bound = {name: value for name, value in (("model", model), ("metric", metric)) if value is not None}
    where = [f"{name} = {{{name}:String}}" for name in bound]
    return _page(store, "metric_latest", where, bound, "model, metric, segment, version, window_s", offset, limit)


def _page(
    store: Store, view: str, where: list[str], bound: Mapping[str, Any], order: str, offset: int, limit: int
) -> tuple[list[dict[str, Any]], int]:
    conditions = f"WHERE {' AND '.join(where)}" if where else ""
    total = store.query_rows(f"SELECT count() FROM {view} {conditions}", bound)[0][0]
    table = store.query_arrow(
        f"SELECT {_SELECTED} FROM {view} {conditions} ORDER BY {order} LIMIT {{rows_limit:UInt64}} OFFSET {{rows_offset:UInt64}}",
        {**bound, "rows_limit": limit, "rows_offset": offset},
    )
    return rows_of(table), int(total)
