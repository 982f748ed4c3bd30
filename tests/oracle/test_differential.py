"""The strongest test: random expressions over random tables, the Arrow engine against ClickHouse's SQL in chDB.

Every declared function and operator is in at least `COVERED` expressions of a run. Where an expression only holds what both
compute to the last bit (arithmetic, comparisons, texts, exact sums), the answers are equal; where it holds functions whose last
digits differ between libraries (logarithms, powers), they agree as closely as the expression lets such digits through: that is
measured, by computing it again with those functions a little off.

A run is repeated with FQLSTREAM_DIFFERENTIAL_SEED, and `pytest -m soak` takes FQLSTREAM_DIFFERENTIAL_SEEDS of them, from that
one on; a failure is shrunk and printed with its seed.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
from tests.oracle.random_fql import MODELS, PROFILES, SIZES, Expressions, Term, random_columns, specs_for
from tests.oracle.shrinking import shrunk

from fqlstream.errors import StoreError
from fqlstream.events.columns import coerce_values, violation_lists
from fqlstream.events.definitions import (
    BaselineDefinition,
    MetricDefinition,
    ModelDefinition,
    SegmentDefinition,
    Window,
)
from fqlstream.events.durations import window_origin_ms
from fqlstream.fql.compile_arrow import LANES, Result, compile_model
from fqlstream.fql.compile_clickhouse import SQL_SETTINGS, Source, compile_clickhouse
from fqlstream.fql.plan import MetricPlan, ModelPlan
from fqlstream.fql.planner import assemble, plan_model
from fqlstream.functions.building_blocks import number
from fqlstream.functions.expression import Aggregate, AggregateValue, Apply, Expression
from fqlstream.settings import FqlSettings
from fqlstream.store.embedded.memory import MemoryTables

SEED: Final = int(os.environ.get("FQLSTREAM_DIFFERENTIAL_SEED", "20261121"))
COVERED: Final = 100
#: Seeds of the long form, `pytest -m soak`.
SOAK_SEEDS: Final = int(os.environ.get("FQLSTREAM_DIFFERENTIAL_SEEDS", "20"))
METRICS_OF_A_BATCH: Final = 24
#: Nothing turns into a sketch: what sketches give is held to its bound elsewhere.
SETTINGS: Final = FqlSettings(
    quantile_values_max=10**6, score_values_max=10**6, ranking_items_max=10**6, cells_max=10**6, metrics_max=1_000
)
BASELINE: Final = "training"
BASELINES: Final = {BASELINE: BaselineDefinition(model="any", name=BASELINE, type="static")}
WINDOWS: Final = tuple(
    Window.model_validate(size) for size in ("1h", {"size": "1h", "every": "20m"}, {"size": "2h", "every": "1h"}, "7d")
)
TABLE: Final = "events"

#: Their last digits are a matter of the library, or of the order in which a mean is taken.
INEXACT_KERNELS: Final = frozenset(
    {"^", "exp", "log", "log2", "log10", "jsd_of_counts", "psi_of_counts", "average_precision", "normalised_gain"}
)
INEXACT_READS: Final = frozenset({"map", "ndcg"})
#: How far off they are computed again, and how much of the difference that makes is allowed.
NUDGE: Final = 2.0**-46
ALLOWED: Final = 4.0
TOLERANCE: Final = 1e-12


@dataclass(frozen=True)
class Case:
    """A question about a table; several share a query."""

    model: ModelDefinition
    columns: Mapping[str, Sequence[Any]]
    times: Sequence[int]
    counts: int  # seed of the baseline's counts
    metrics: tuple[Term, ...]
    segment: Term | None
    window: Window | None
    halves: bool = False  # whether SQL reads the rows out of two sources, as those of two versions


@dataclass(frozen=True)
class Mismatch:
    """What differs: of which metric and segment, where it is of one, and in which way."""

    kind: str
    text: str
    metric: int | None = None
    segment: str | None = None


@dataclass
class Tally:
    """What a run compared."""

    compared: int = 0
    bit_equal: int = 0
    unstable: int = 0
    worst: float = 0.0


# ------------------------------------------------------------------------------------------------ both answers

Answers = dict[tuple[int | None, str], dict[str, Any]]


def typed(case: Case) -> pa.Table:
    arrays: dict[str, Any] = {}
    type_bad, range_bad = {}, {}
    for column in case.model.columns:
        array, type_bad[column.name], range_bad[column.name] = coerce_values(list(case.columns[column.name]), column)
        arrays[column.name] = array
    arrays["_type_violations"] = violation_lists(len(case.times), type_bad)
    arrays["_range_violations"] = violation_lists(len(case.times), range_bad)
    return pa.table(arrays)


def planned(case: Case) -> ModelPlan:
    metrics = [
        MetricDefinition.model_construct(model="any", name=f"m{place}", definition=term.render())
        for place, term in enumerate(case.metrics)
    ]
    segments = [] if case.segment is None else [
        SegmentDefinition.model_construct(model="any", name="part", definition=case.segment.render())
    ]  # fmt: skip

    def histogram(_name: str, aggregate: Aggregate) -> Sequence[float]:
        edges = dict(aggregate.params)["edges"]
        assert isinstance(edges, tuple)
        rng = random.Random(f"{case.counts} {len(edges)}")
        return [float(rng.choice((0, 1, rng.randint(0, 50)))) for _ in range(len(edges) + 1)]

    return plan_model(case.model, metrics, segments, baselines=BASELINES, histograms=histogram, settings=SETTINGS)


def by_arrow(case: Case, plan: ModelPlan, table: pa.Table) -> Answers:
    """Compute by the engine, and every metric that is not exact three times more, a little off."""
    nudged = tuple(
        MetricPlan(f"{metric.name} {draw}", "", 1, nudge(metric.expression, draw))
        for metric in plan.metrics
        if is_inexact(metric.expression)
        for draw in range(3)
    )
    engine = compile_model(assemble(case.model, plan.metrics + nudged, plan.segments, SETTINGS), SETTINGS)
    starts, holding, codes = _windows(case)
    panes = max([0, *codes.tolist()]) + 1
    partials = engine.partials_both(table, codes, panes)
    windows = [
        {lane: engine.merge_all(lane, (partials[lane][pane] for pane in of)) for lane in LANES} for of in holding
    ]
    answers: Answers = {}
    for start, results in zip(starts, engine.results_many(windows), strict=True):
        for result in results:
            of = answers.setdefault((start, result.segment), {})
            of[result.metric] = _finite(result)
            of["rows"], of["labelled_rows"] = result.rows, result.labelled_rows
    return answers


def _windows(case: Case) -> tuple[Sequence[int | None], Sequence[Sequence[int]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Give the windows' starts in time order, the panes that each holds, and the pane of each row."""
    if case.window is None:
        return [None], [[0]], np.zeros(len(case.times), np.int64)
    size, every = case.window.size_ms, case.window.every_ms
    origin = window_origin_ms(size)
    assert size % every == 0
    numbers, codes = np.unique((np.array(case.times, np.int64) - origin) // every, return_inverse=True)
    holding: dict[int, list[int]] = {}
    for pane, number_ in enumerate(numbers.tolist()):
        for start in range(number_ - size // every + 1, number_ + 1):
            holding.setdefault(origin + start * every, []).append(pane)
    return sorted(holding), [holding[start] for start in sorted(holding)], codes.astype(np.int64)


def _finite(result: Result) -> float | None:
    assert result.exact
    return result.value


def by_clickhouse(tables: MemoryTables, case: Case, plan: ModelPlan) -> Answers:
    query = compile_clickhouse(plan, sources(case), window=case.window)
    answers: Answers = {}
    for row in tables.query_arrow(query.sql, SQL_SETTINGS).to_pylist():
        start = None
        if case.window is not None:
            start = round(row["window_start"].timestamp() * 1000)
            assert round(row["window_end"].timestamp() * 1000) == start + case.window.size_ms
        answers[start, row["segment"]] = row
    return answers


def sources(case: Case) -> Sequence[Source]:
    if not case.halves:
        return [Source(TABLE)]
    return [Source(f"(SELECT * FROM {TABLE} WHERE toUnixTimestamp64Milli(event_at) % 2 = {half})") for half in (0, 1)]


def is_inexact(expression: Expression) -> bool:
    match expression:
        case Apply(op=op, args=args):
            return op in INEXACT_KERNELS or any(map(is_inexact, args))
        case AggregateValue(aggregate=aggregate):
            return expression.read in INEXACT_READS or any(map(is_inexact, aggregate.args))
        case _:
            return False


def nudge(expression: Expression, draw: int) -> Expression:
    """Give an expression with every inexact value in it a little off, each in a direction of its own."""
    match expression:
        case Apply(op=op, args=args, dtype=dtype):
            applied = Apply(op, tuple(nudge(arg, draw) for arg in args), dtype)
            return _off(applied, expression, draw) if op in INEXACT_KERNELS else applied
        case AggregateValue(aggregate=aggregate):
            args = tuple(nudge(arg, draw) for arg in aggregate.args)
            value = replace(expression, aggregate=replace(aggregate, args=args))
            return _off(value, expression, draw) if expression.read in INEXACT_READS else value
        case _:
            return expression


def _off(new: Expression, of: Expression, draw: int) -> Expression:
    sign = 1 if random.Random(f"{draw} {of!r}").random() < 0.5 else -1
    return Apply("*", (new, number(1.0 + sign * NUDGE)), new.dtype)


# ------------------------------------------------------------------------------------------------ comparison


def differences(tables: MemoryTables, case: Case, tally: Tally | None = None) -> Iterator[Mismatch]:
    """Compute a case both ways and give what differs."""
    table = typed(case)
    plan = planned(case)
    times = pa.array(case.times, pa.timestamp("ms", tz="UTC"))
    tables.drop(TABLE)
    tables.add(TABLE, table.append_column("event_at", times))
    left = by_arrow(case, plan, table)
    try:
        right = by_clickhouse(tables, case, plan)
    except StoreError as error:
        yield Mismatch("refused", error.message)
        return
    if left.keys() != right.keys():
        only = [sorted(map(str, a.keys() - b.keys())) for a, b in ((left, right), (right, left))]
        yield Mismatch("windows", f"windows and segments of arrow alone: {only[0]}, of clickhouse alone: {only[1]}")
        return
    for key in left:
        for name in ("rows", "labelled_rows"):
            if left[key][name] != right[key][name]:
                text = f"{name} of window {key[0]}: arrow {left[key][name]}, clickhouse {right[key][name]}"
                yield Mismatch("rows", text, None, key[1])
        for place, metric in enumerate(plan.metrics):
            a, b = left[key][metric.name], right[key][metric.name]
            off = [left[key].get(f"{metric.name} {draw}", a) for draw in range(3)]
            if not _agree(a, b, off, tally or Tally()):
                yield Mismatch("value", f"window {key[0]}: arrow {a!r}, clickhouse {b!r}", place, key[1])


def _agree(a: float | None, b: float | None, off: Sequence[float | None], tally: Tally) -> bool:
    tally.compared += 1
    if a == b:
        tally.bit_equal += 1
        return True
    if any((value is None) != (a is None) for value in off):
        tally.unstable += 1
        return True
    if a is None or b is None:
        return False
    sensitivity = max(abs(value - a) for value in off if value is not None)
    if sensitivity > 1e-6 * abs(a):
        tally.unstable += 1
        return True
    if sensitivity == 0.0:
        return False
    tally.worst = max(tally.worst, abs(a - b) / max(abs(a), 1e-300)) if sensitivity <= 1e-12 * abs(a) else tally.worst
    return abs(a - b) <= TOLERANCE * abs(a) + ALLOWED * sensitivity


@pytest.mark.timeout(1_200)  # a minute of one processor, which others may want as well
def test_expressions_agree_in_both_engines(capsys: pytest.CaptureFixture[str]) -> None:
    compare(SEED, capsys)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("seed", range(SEED, SEED + SOAK_SEEDS))
def test_expressions_of_many_seeds_agree(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    compare(seed, capsys)


def compare(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one seed's cases and print what they covered."""
    rng = random.Random(seed)
    coverage: Counter[str] = Counter()
    tally = Tally()
    started = time.perf_counter()
    deepest: Counter[int] = Counter()
    with MemoryTables() as tables:
        for number_, case in enumerate(cases(rng, coverage)):
            deepest.update(min(term.depth(), 9) for term in case.metrics)
            found = next(differences(tables, case, tally), None)
            if found is not None:
                pytest.fail(f"seed {seed}, {explained(tables, case, found, number_)}", pytrace=False)
    with capsys.disabled():
        seconds = time.perf_counter() - started
        print(f"\nseed {seed}: {report(coverage, deepest, tally, seconds)}")  # noqa: T201  # what a run covered
    assert min(deepest) >= 3
    assert min(coverage.values()) >= COVERED
    assert tally.bit_equal > 0.95 * tally.compared
    assert tally.unstable < 0.05 * tally.compared


def cases(rng: random.Random, coverage: Counter[str]) -> Iterator[Case]:
    """Make cases until every function was in enough expressions, those first that were in the fewest."""
    makers = [(model, Expressions(rng, model, [BASELINE], coverage)) for model in MODELS]
    wanted = {spec.name for model in MODELS for spec in specs_for(model.task)}
    tables = itertools.cycle(itertools.product(SIZES, PROFILES))
    while min(coverage[name] for name in wanted) < COVERED:
        rarest = min(wanted, key=lambda name: (coverage[name], name))
        able = [(model, maker) for model, maker in makers if any(spec.name == rarest for spec in maker.specs)]
        model, maker = rng.choice(able)
        metrics = []
        for _ in range(METRICS_OF_A_BATCH):
            spec = min(maker.specs, key=lambda spec: (coverage[spec.name], rng.random()))
            metrics.append(maker.metric(spec))
            coverage.update(metrics[-1].functions().keys())
        size, profile = next(tables)
        yield Case(
            model,
            random_columns(rng, model, profile, size),
            [1_795_255_200_000 + rng.randint(-2, 2) * 3_600_000 + rng.randint(0, 3_600_000) for _ in range(size)],
            rng.randint(0, 10**9),
            tuple(metrics),
            maker.segment() if rng.random() < 0.5 else None,
            rng.choice(WINDOWS) if rng.random() < 0.3 else None,
            rng.random() < 0.2,
        )


def report(coverage: Counter[str], deepest: Counter[int], tally: Tally, seconds: float) -> str:
    lines = [f"{name}: {count}" for name, count in sorted(coverage.items(), key=lambda item: item[1])]
    depths = ", ".join(f"{depth}: {count}" for depth, count in sorted(deepest.items()))
    return (
        f"{sum(deepest.values())} expressions (by depth: {depths}), {tally.compared} comparisons in {seconds:.0f} s:"
        f" {tally.bit_equal} equal to the last bit, worst other deviation of a well-conditioned one {tally.worst:.1e},"
        f" {tally.unstable} too sensitive to compare\nexpressions with each function: {', '.join(lines)}"
    )


# ------------------------------------------------------------------------------------------------ failures


def explained(tables: MemoryTables, case: Case, found: Mismatch, number_: int) -> str:
    """Shrink a failure and write it down."""

    def fails(candidate: Case) -> bool:
        try:
            now = next(differences(tables, candidate), None)
        except Exception:  # another failure is not this one
            return False
        return now is not None and now.kind == found.kind

    wanted = range(len(case.metrics)) if found.metric is None else (found.metric,)
    alone = [replace(case, metrics=(case.metrics[place],)) for place in wanted]
    alone += [replace(single, segment=None) for single in alone if found.segment == ""]
    single = next((single for single in reversed(alone) if fails(single)), None)
    if single is None:
        return f"case {number_}: {found.text}, and not with one metric alone; run it again with this seed"
    small = shrunk(single, fails)
    now = next(differences(tables, small), found)
    return (
        f"case {number_}: {small.model.name}, {len(small.times)} rows\n  {small.metrics[0].render()}\n"
        f"  segment {small.segment.render() if small.segment else '(all rows)'}, window {small.window}\n"
        f"  {now.text}\n  {dict(small.columns)!r}, times {list(small.times)}\n"
        f"{compile_clickhouse(planned(small), sources(small), window=small.window).sql}"
    )
