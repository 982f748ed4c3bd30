"""FQL over data in memory, with the same engine that streams: for notebooks, tests and `fqlstream fql eval`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NotRequired, TypedDict, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.histograms import HistogramState
from fqlstream.errors import UsageError
from fqlstream.events.columns import (
    RANGE_VIOLATIONS,
    TYPE_VIOLATIONS,
    Mask,
    arrow_type,
    coerce_array,
    coerce_values,
    violation_lists,
)
from fqlstream.events.definitions import (
    BaselineDefinition,
    Column,
    ColumnType,
    MetricDefinition,
    ModelDefinition,
    SegmentDefinition,
    Window,
)
from fqlstream.events.documents import load_definitions
from fqlstream.events.durations import window_origin_ms
from fqlstream.fql.check import check
from fqlstream.fql.compile_arrow import LANES, Cells, Engine, Result, compile_model
from fqlstream.fql.plan import Compared, Lane, MetricPlan, ModelPlan, SegmentPlan
from fqlstream.fql.planner import assemble, plan_model
from fqlstream.functions.expression import Aggregate, AggregateValue
from fqlstream.settings import FqlSettings

EVENT_AT: Final = "event_at"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NONE: Final[Mapping[str, BaselineDefinition]] = MappingProxyType({})
_TIME = Column(name=EVENT_AT, type=ColumnType.TIMESTAMP)


class Evaluation(TypedDict):
    """One value. `rows` are those of the window and segment; `error_bound` is of the rank for a quantile, None where exact."""

    value: float | None
    rows: int
    exact: bool
    error_bound: float | None
    window_start: NotRequired[str]
    window_end: NotRequired[str]


Frame = Any  # pandas, Arrow, anything with __arrow_c_stream__, a mapping of columns, or a sequence of rows
Model = ModelDefinition | Mapping[str, Any] | str | Path | None


@overload
def evaluate(
    frame: Frame,
    expression: str,
    *,
    model: Model = None,
    segment: str | None = None,
    window: None = None,
    event_at: str | None = None,
    baselines: Mapping[str, Frame | BaselineDefinition] | None = None,
    settings: FqlSettings | None = None,
) -> Evaluation: ...


@overload
def evaluate(
    frame: Frame,
    expression: str,
    *,
    model: Model = None,
    segment: str | None = None,
    window: str | Mapping[str, str] | Window,
    event_at: str | None = None,
    baselines: Mapping[str, Frame | BaselineDefinition] | None = None,
    settings: FqlSettings | None = None,
) -> list[Evaluation]: ...


def evaluate(
    frame: Frame,
    expression: str,
    *,
    model: Model = None,
    segment: str | None = None,
    window: str | Mapping[str, str] | Window | None = None,
    event_at: str | None = None,
    baselines: Mapping[str, Frame | BaselineDefinition] | None = None,
    settings: FqlSettings | None = None,
) -> Evaluation | list[Evaluation]:
    """Compute a metric over a DataFrame, an Arrow table, a dict of columns or a list of rows.

    `model` is a definition, its fields as a dict, or a YAML file; without one, columns are taken as they are and functions
    that need a task are refused. `segment` is a Boolean row expression. With a `window` ("1h", or {"size": "1h", "every":
    "5m"}) the result is a list in time order, one item per window that holds a row; times come from the column `event_at`
    (by default the one of that name, else a DataFrame's time index). `baselines` are the frames that `jsd` and `psi` compare
    with, by name, or definitions of periods of the frame itself: a stored time, or the period before each window; a segment
    filters them too. Raises FqlError for a wrong expression.
    """
    columns = _columns_of(frame)
    definition = _model_of(model, columns, event_at)
    table = _typed(columns, definition)
    periods = {name: rows for name, rows in (baselines or {}).items() if isinstance(rows, BaselineDefinition)}
    times = None if window is None and not periods else _times_of(frame, columns, event_at)
    question = Question(
        expression,
        segment,
        None if window is None else window_of(window),
        times,
        {
            name: _typed(_columns_of(rows), definition)
            for name, rows in (baselines or {}).items()
            if name not in periods
        },
        periods,
    )
    found = evaluate_table(table, definition, question, settings)
    return found[0] if window is None else found


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a table: a metric, over which of its rows, in which windows, compared with what.

    `event_at_ms` has one Unix time in milliseconds per row; a window and baselines that are `periods` of the table need it.
    A baseline is either rows of its own or one of the `periods`.
    """

    expression: str
    segment: str | None = None
    window: Window | None = None
    event_at_ms: npt.NDArray[np.int64] | None = None
    baselines: Mapping[str, pa.Table] = field(default_factory=dict)
    periods: Mapping[str, BaselineDefinition] = field(default_factory=dict)

    def times(self, what: str) -> npt.NDArray[np.int64]:
        """Give the time of every row. Raises UsageError where none are known; `what` needs them."""
        if self.event_at_ms is None:
            raise UsageError(
                "USE031", f"{what} needs the time of every row", "name the column that holds it: event_at=..."
            )
        return self.event_at_ms

    @property
    def rolling(self) -> dict[str, BaselineDefinition]:
        """The periods that move with the window."""
        return {name: period for name, period in self.periods.items() if period.range_ms is None}


def evaluate_table(
    table: pa.Table, model: ModelDefinition, question: Question, settings: FqlSettings | None = None
) -> list[Evaluation]:
    """Compute a metric over a table of typed columns, as `events.columns.coerce_table` gives them.

    Gives one value, or one of each window that holds a row, in time order. Raises FqlError for a wrong expression.
    """
    limits = FqlSettings() if settings is None else settings
    rows = {**question.baselines, **fixed_periods(table, question)}
    plan, name = plan_evaluation(model, question, rows, limits, question.rolling)
    engine = compile_model(plan, limits)
    past = _Past(plan.compared, _counted(plan, rows, limits), question.rolling)
    if question.window is not None:
        return _windowed(engine, table, question.window, question.times("a window"), name, past)
    if past.periods:
        raise UsageError(
            "USE037",
            f"baseline {past.periods[0].name!r} is the period before each window, and there are no windows",
            "give a window: window=..., or --window",
        )
    cells = engine.partials_both(table, np.zeros(table.num_rows, dtype=np.int64), 1)
    return [_evaluation(engine.results({lane: cells[lane][0] for lane in LANES}, past.fixed), name)]


def fixed_periods(table: pa.Table, question: Question) -> dict[str, pa.Table]:
    """Give the rows of baselines that are a stored time."""
    found = {}
    for name, period in question.periods.items():
        if period.range_ms is not None:
            start_ms, end_ms = period.range_ms
            times = question.times(f"baseline {name!r}")
            found[name] = table.filter(pa.array((times >= start_ms) & (times < end_ms)))
    return found


_SEGMENT: Final = "segment"


def plan_evaluation(
    model: ModelDefinition,
    question: Question,
    baselines: Mapping[str, pa.Table],
    settings: FqlSettings,
    rolling: Mapping[str, BaselineDefinition] = _NONE,
) -> tuple[ModelPlan, str]:
    """Plan a question's metric over all rows and, where there is one, a segment; give that segment's name in the plan, too.

    The counts of `baselines` become part of the plan; with `rolling` ones, all stay in it as `compared`. Raises FqlError for
    a wrong expression.
    """
    metric = MetricDefinition.model_construct(model=model.name, name="metric", definition=question.expression)
    segments = _segments(model, question.segment)
    named = {name: BaselineDefinition(model=model.name, name=name, type="static", file=name) for name in baselines}
    named |= rolling
    rows = plan_model(model, [], segments, settings=settings).segments[-1]

    def histogram(name: str, aggregate: Aggregate) -> Sequence[float] | None:
        return _counts_of(baselines[name], model, aggregate, rows, settings) if name in baselines else None

    plan = plan_model(
        model,
        [metric],
        segments,
        baselines=named,
        histograms=histogram,
        streamed=bool(rolling),
        settings=settings,
    )
    return plan, "" if question.segment is None else _SEGMENT


def _segments(model: ModelDefinition, text: str | None) -> list[SegmentDefinition]:
    if text is None:
        return []
    return [SegmentDefinition.model_construct(model=model.name, name=_SEGMENT, definition=text)]


def count_left_out(
    table: pa.Table,
    model: ModelDefinition,
    question: Question,
    *,
    baselines: Mapping[str, BaselineDefinition] = _NONE,
    settings: FqlSettings | None = None,
) -> list[str]:
    """Say which rows the functions of a metric leave out, and how many: one sentence each, none for none.

    Raises FqlError for a wrong expression.
    """
    limits = FqlSettings() if settings is None else settings
    result = check(question.expression, model, "metric", baselines=baselines, settings=limits)
    result.require()
    if not result.left_out:
        return []
    rows = plan_model(model, [], _segments(model, question.segment), settings=limits).segments[-1]
    metrics = tuple(MetricPlan(str(place), "", 1, item.count) for place, item in enumerate(result.left_out))
    counts = _over_all(compile_model(assemble(model, metrics, (rows,), limits), limits), table)
    return [
        f"{item.function}() leaves out {count.value:.0f} of {count.rows} rows: {item.what}"
        for item, count in zip(result.left_out, counts, strict=True)
        if count.value
    ]


def _over_all(engine: Engine, table: pa.Table) -> list[Result]:
    """Read every metric over all rows of a table."""
    cells = engine.partials_both(table, np.zeros(table.num_rows, dtype=np.int64), 1)
    return engine.results({lane: cells[lane][0] for lane in LANES})


def _counts_of(
    table: pa.Table, model: ModelDefinition, aggregate: Aggregate, rows: SegmentPlan, settings: FqlSettings
) -> Sequence[float]:
    """Count a baseline's rows, those of the segment, in the bins of a histogram."""
    edges = dict(aggregate.params)["edges"]
    bins = len(edges) + 1 if isinstance(edges, tuple) else 0
    values = [AggregateValue(aggregate, "bin", (("index", float(place)),)) for place in range(bins)]
    metrics = tuple(MetricPlan(str(place), "", 1, value) for place, value in enumerate(values))
    engine = compile_model(assemble(model, metrics, (rows,), settings), settings)
    return [result.value or 0.0 for result in _over_all(engine, table)]


def _counted(plan: ModelPlan, rows: Mapping[str, pa.Table], settings: FqlSettings) -> dict[Compared, HistogramState]:
    """Count the rows of baselines that stayed in the plan."""
    of_segment = {segment.expression: segment for segment in plan.segments}
    return {
        item: HistogramState(
            tuple(
                int(count)
                for count in _counts_of(
                    rows[item.baseline], plan.model, item.production, of_segment[item.segment], settings
                )
            )
        )
        for item in plan.compared
        if item.baseline in rows
    }


@dataclass(frozen=True, slots=True)
class _Past:
    """What each window is compared with: for each of the plan's `compared`, counts, or a period that moves with the window."""

    compared: tuple[Compared, ...]
    counted: Mapping[Compared, HistogramState]
    rolling: Mapping[str, BaselineDefinition]

    @property
    def periods(self) -> list[BaselineDefinition]:
        """The periods that move with the window."""
        return [self.rolling[item.baseline] for item in self.compared if item not in self.counted]

    @property
    def fixed(self) -> Cells:
        """The states of baselines where none moves."""
        return tuple(self.counted[item] for item in self.compared)


def _evaluation(results: Iterable[Result], segment: str) -> Evaluation:
    result = next(result for result in results if result.segment == segment)
    return Evaluation(value=result.value, rows=result.rows, exact=result.exact, error_bound=result.error_bound)


# ------------------------------------------------------------------------------------------------ windows


def window_of(window: str | Mapping[str, str] | Window) -> Window:
    """Read a window's size and step. Raises UsageError for anything else."""
    if isinstance(window, Window):
        return window
    try:
        return Window.model_validate(window)
    except ValueError as error:
        raise UsageError(
            "USE032", f"window {window!r}: {error}", 'write "1h", or {"size": "1h", "every": "5m"}'
        ) from None


def _windowed(
    engine: Engine, table: pa.Table, window: Window, times: npt.NDArray[np.int64], segment: str, past: _Past
) -> list[Evaluation]:
    if len(times) != table.num_rows:
        raise UsageError("USE031", f"{len(times)} times for {table.num_rows} rows", "give one time for every row")
    if not len(times):
        return []
    size, every = window.size_ms, window.every_ms
    moved = [ms for period in past.periods for ms in (period.window_ms or 0, period.offset_ms or 0)]
    pane = math.gcd(size, every, *moved)
    origin = window_origin_ms(size)
    numbers, codes = np.unique((times - origin) // pane, return_inverse=True)
    partials = engine.partials_both(table, codes.astype(np.int64), len(numbers))
    # a window is named by its start in steps of `every`; it holds size/pane panes
    holding: dict[int, list[int]] = {}
    for place, number in enumerate(numbers.tolist()):
        last = number * pane // every
        first = -((size - pane - number * pane) // every)
        for start in range(first, last + 1):
            holding.setdefault(start, []).append(place)
    starts = sorted(holding)
    merged = [_merged(engine, partials, holding[start]) for start in starts]
    ends = [origin + start * every + size for start in starts]
    beside = _beside(engine, past, partials, ends, lambda ms: int(np.searchsorted(numbers, (ms - origin) // pane)))
    values = []
    for start, results in zip(starts, engine.results_many(merged, beside), strict=True):
        start_ms = origin + start * every
        value = _evaluation(results, segment)
        value["window_start"], value["window_end"] = rfc3339(start_ms), rfc3339(start_ms + size)
        values.append(value)
    return values


def _beside(
    engine: Engine,
    past: _Past,
    partials: Mapping[Lane, Sequence[Cells]],
    ends_ms: Sequence[int],
    place_of: Callable[[int], int],
) -> list[Cells]:
    """Give the states beside each window; those of periods out of running totals over the panes, which lie in time order."""
    cells = {(cell.aggregate, cell.segment): cell for cell in engine.plan.cells}
    place = {cell.key: at for lane in LANES for at, cell in enumerate(engine.plan.lane_cells(lane))}
    columns: list[list[object]] = []
    for item in past.compared:
        if item in past.counted:
            columns.append([past.counted[item]] * len(ends_ms))
            continue
        cell = cells[item.production, item.segment]
        counts = np.array([pane[place[cell.key]].counts for pane in partials[cell.lane]], np.int64)
        totals = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), counts.cumsum(axis=0)])
        reaches = [past.rolling[item.baseline].range_before(end_ms) or (0, 0) for end_ms in ends_ms]
        first, last = (np.array([place_of(reach[side]) for reach in reaches]) for side in (0, 1))
        columns.append([HistogramState(tuple(row)) for row in (totals[last] - totals[first]).tolist()])
    return list(zip(*columns, strict=True)) if columns else [()] * len(ends_ms)


def _merged(engine: Engine, partials: Mapping[Lane, Sequence[Cells]], places: Sequence[int]) -> dict[Lane, Cells]:
    return {lane: engine.merge_all(lane, (partials[lane][place] for place in places)) for lane in LANES}


def rfc3339(ms: int) -> str:
    """Write Unix milliseconds as a time in UTC."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds" if ms % 1000 else "seconds").replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------ data in


Columns = dict[str, Any]  # Arrow arrays, or Python values where Arrow has no type for them


def _columns_of(frame: Frame) -> Columns:
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if isinstance(frame, pa.Table):
        return {name: frame.column(name) for name in frame.column_names}
    if _is_pandas(frame):
        return {str(name): _of_series(series) for name, series in frame.items()}
    if isinstance(frame, Mapping):
        return {str(name): _of_values(values) for name, values in frame.items()}
    if hasattr(frame, "__arrow_c_stream__"):
        return _columns_of(pa.table(frame))
    if isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame):
        names = dict.fromkeys(name for row in frame for name in row)
        return {str(name): _of_values([row.get(name) for row in frame]) for name in names}
    raise UsageError(
        "USE033",
        f"cannot read columns out of {type(frame).__name__}",
        "give a pandas DataFrame, an Arrow table, a dict of columns, or a list of dicts",
    )


def _is_pandas(frame: Frame) -> bool:
    return (
        type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "items") and hasattr(frame, "columns")
    )


def _of_series(series: Any) -> Any:
    try:
        return pa.Array.from_pandas(series)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return series.tolist()  # values of several types


def _of_values(values: Any) -> Any:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UsageError(
            "USE033", f"a column must be a list or an array, not {type(values).__name__}", "write {'x': [1.0, 2.0]}"
        )
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return pa.array(values, from_pandas=True)
    if hasattr(values, "tolist"):
        return values.tolist()
    return list(values)


def _typed(columns: Columns, model: ModelDefinition) -> pa.Table:
    """Give the model's columns by the rules of `events.columns`; one that the data lacks is null throughout."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise UsageError(
            "USE034",
            f"columns differ in length: {', '.join(map(str, sorted(lengths)))} values",
            "give every row a value, None where it has none",
        )
    rows = lengths.pop() if lengths else 0
    arrays: dict[str, pa.Array] = {}
    type_bad: dict[str, Mask] = {}
    range_bad: dict[str, Mask] = {}
    for column in model.columns:
        values = columns.get(column.name)
        if values is None:
            arrays[column.name] = pa.nulls(rows, arrow_type(column))
            continue
        coerce = coerce_values if isinstance(values, list) else coerce_array
        arrays[column.name], type_bad[column.name], range_bad[column.name] = coerce(values, column)
    arrays[TYPE_VIOLATIONS] = violation_lists(rows, type_bad)
    arrays[RANGE_VIOLATIONS] = violation_lists(rows, range_bad)
    return pa.table(arrays)


def _times_of(frame: Frame, columns: Columns, event_at: str | None) -> npt.NDArray[np.int64]:
    name = EVENT_AT if event_at is None else event_at
    values = columns.get(name)
    if values is None and event_at is None and _is_pandas(frame) and frame.index.dtype.kind == "M":
        values = _of_series(frame.index.to_series())
    if values is None:
        raise UsageError(
            "USE031", f"a window needs the time of every row; there is no column {name!r}", "name it: event_at=..."
        )
    coerce = coerce_values if isinstance(values, list) else coerce_array
    times, bad, _ = coerce(values, _TIME)
    if times.null_count:
        first = int(np.flatnonzero(np.asarray(times.is_null().to_numpy(zero_copy_only=False)))[0])
        what = "no time" if bad[first] else "null"
        raise UsageError(
            "USE035",
            f"{times.null_count} rows have no usable time in {name!r}, the first is row {first} ({what})",
            "times are RFC 3339 texts with an offset, Unix milliseconds, or timestamps",
        )
    return np.asarray(times.cast(pa.int64()).to_numpy())


# ------------------------------------------------------------------------------------------------ model


def _model_of(model: Model, columns: Columns, event_at: str | None) -> ModelDefinition:
    if isinstance(model, ModelDefinition):
        return model
    if isinstance(model, Mapping):
        return ModelDefinition.model_validate({"name": "model", **model})
    if model is None:
        taken = EVENT_AT if event_at is None else event_at
        return ModelDefinition(
            name="model",
            columns=tuple(Column(name=name, type=_type_of(of)) for name, of in columns.items() if name != taken),
        )
    found = [item for item in load_definitions(Path(model)) if isinstance(item, ModelDefinition)]
    if len(found) != 1:
        raise UsageError(
            "USE036",
            f"{model} holds {len(found)} models; evaluate needs exactly one",
            "keep each model in a file of its own, or give the definition itself",
        )
    return found[0]


def _type_of(values: Any) -> ColumnType:
    """Give the type of a column that no model describes."""
    if isinstance(values, list):
        try:
            values = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return ColumnType.CATEGORY  # of any scalars, as text
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for is_of, column_type in _TYPES:
        if is_of(kind):
            return column_type
    return ColumnType.STRING


_TYPES: Final = (
    (pa.types.is_boolean, ColumnType.BOOL),
    (pa.types.is_integer, ColumnType.INT),
    (pa.types.is_floating, ColumnType.FLOAT),
    (pa.types.is_decimal, ColumnType.FLOAT),
    (pa.types.is_temporal, ColumnType.TIMESTAMP),
    (pa.types.is_list, ColumnType.VECTOR),
    (pa.types.is_large_list, ColumnType.VECTOR),
    (pa.types.is_fixed_size_list, ColumnType.VECTOR),
)
