"""`fqlstream bench functions`: what each function costs, alone: rows per second of one core, and bytes of its states.

Every function and operator runs through its first declared example with columns, over random rows with nulls; one that gives
a value per row is added up. The rows are also computed in parts that are merged in another order: the answers must be
the same, to the last bit where they are exact, else within both their bounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fqlstream.bench import Report, Request, machine
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import Column, ColumnType, ModelDefinition
from fqlstream.fql.check import check
from fqlstream.fql.compile_arrow import LANES, Cells, Engine, Result, compile_model
from fqlstream.fql.evaluate import Question, plan_evaluation
from fqlstream.fql.plan import Lane
from fqlstream.functions.example_models import EXAMPLE_MODELS
from fqlstream.functions.expression import DType
from fqlstream.functions.index import FUNCTIONS
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.spec import Example, FunctionSpec, LevelRule
from fqlstream.settings import FqlSettings

_PARTS: Final = 16
_NULL_SHARE: Final = 0.05
_TEXTS: Final = tuple(f"{word} {number}" for word in ("abc", "Ünïcode", "", "no") for number in range(50))
#: Results of rows become numbers that can be added up.
_ADDED_UP: Final[Mapping[DType, str]] = {
    DType.NUMBER: "sum({})",
    DType.BOOLEAN: "sum(if({}, 1, 0))",
    DType.STRING: "sum(length({}))",
}


def run(request: Request) -> Report:
    """Measure every function and operator; `checked` says that merged parts equal the whole."""
    figures: dict[str, float] = {}
    checked = True
    tables = {name: _rows(model, request.events_count) for name, model in EXAMPLE_MODELS.items()}
    for spec in (*OPERATORS, *FUNCTIONS):
        names = (f"{spec.name}_rows_per_s_core", f"{spec.name}_state_bytes")
        if request.figures and not request.figures & set(names):
            continue
        example = _example(spec)
        model = EXAMPLE_MODELS[example.model]
        expression = _as_metric(example, model, spec)
        engine = _engine(expression, example, model, tables)
        table = tables[example.model]
        cpu_s, cells = _measured(engine, table)
        whole, merged = _value(engine, cells), _value(engine, _merged(engine, table))
        same = agree(whole, merged)
        checked &= same
        rate, size = len(table) / cpu_s, sum(len(engine.encode(lane, cells[lane])) for lane in LANES)
        figures.update(zip(names, (round(rate), size), strict=True))
        request.say(
            f"{spec.name}: {rate / 1e6:.1f} M rows/s, {size} bytes, {expression} = {whole.value!r}"
            + ("" if same else f", but merged from parts {merged.value!r}: WRONG")
        )
    return Report("functions", machine(), checked, figures)


def _example(spec: FunctionSpec) -> Example:
    return next((item for item in spec.examples if item.columns), spec.examples[0])


def _as_metric(example: Example, model: ModelDefinition, spec: FunctionSpec) -> str:
    if spec.level in (LevelRule.AGGREGATE, LevelRule.COMBINED):
        return example.call
    found = check(example.call, model)
    if found.dtype is None:
        raise AssertionError(f"the declared example {example.call} is refused")
    return _ADDED_UP[found.dtype].format(example.call)


def _engine(expression: str, example: Example, model: ModelDefinition, tables: Mapping[str, pa.Table]) -> Engine:
    settings = FqlSettings()
    baselines = {} if example.baseline is None else {"training": tables[example.model].slice(0, 1_000)}
    plan, _ = plan_evaluation(model, Question(expression), baselines, settings)
    return compile_model(plan, settings)


def _measured(engine: Engine, table: pa.Table) -> tuple[float, dict[Lane, Cells]]:
    """Give the best processor time of three runs, and what they computed."""
    codes = np.zeros(len(table), np.int64)
    best_s = math.inf
    for _ in range(3):
        started_s = time.process_time()
        partials = engine.partials_both(table, codes, 1)
        best_s = min(best_s, time.process_time() - started_s)
    return max(best_s, 1e-9), {lane: partials[lane][0] for lane in LANES}


def _merged(engine: Engine, table: pa.Table) -> dict[Lane, Cells]:
    """Compute parts, and merge the last one first."""
    codes = np.arange(len(table), dtype=np.int64) * _PARTS // len(table)
    partials = engine.partials_both(table, codes, _PARTS)
    return {lane: engine.merge_all(lane, list(reversed(partials[lane]))) for lane in LANES}


def _value(engine: Engine, cells: Mapping[Lane, Cells]) -> Result:
    return next(iter(engine.results(cells)))


def agree(a: Result, b: Result) -> bool:
    """Say whether two readings are one number, as far as they promise."""
    if a.value is None or b.value is None or (a.exact and b.exact):
        return a.value == b.value
    if a.error_bound is None or b.error_bound is None:
        return True  # nothing is promised
    # a quantile's bound is one of ranks: over the even numbers here, that of values too
    return abs(a.value - b.value) <= a.error_bound + b.error_bound


def _rows(model: ModelDefinition, rows_count: int) -> pa.Table:
    random = np.random.default_rng(20_261_121)
    columns = {column.name: _values(random, column, rows_count) for column in model.columns}
    return coerce_table(pa.table(columns), model)


def _values(random: np.random.Generator, column: Column, rows_count: int) -> pa.Array:
    values: Sequence[Any] | np.ndarray
    if column.categories:
        values = np.array(column.categories, dtype=object)[random.integers(0, len(column.categories), rows_count)]
    elif column.type is ColumnType.BOOL:
        values = random.random(rows_count) < 0.5
    elif column.type is ColumnType.INT:
        values = random.integers(0, 2, rows_count)
    elif column.type is ColumnType.FLOAT:
        values = random.random(rows_count)
    else:
        values = np.array(_TEXTS, dtype=object)[random.integers(0, len(_TEXTS), rows_count)]
    return pa.array(values, mask=random.random(rows_count) < _NULL_SHARE)
