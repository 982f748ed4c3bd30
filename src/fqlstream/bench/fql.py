"""`fqlstream bench fql`: a model's metrics over a table in memory, beside Polars, DuckDB and ClickHouse (chDB).

Each contender runs in a process of its own, on one thread, over columns that it has loaded in its own way before the clock
starts; the best of three runs counts, in processor time. Every number of every contender is compared with NumPy's.

Quantiles differ most. Polars, DuckDB's quantile_cont and ClickHouse's quantileExact keep every value and are exact; fqlstream
keeps a mergeable sketch of every value (KLL, rank error at most 1.33 % at 99 %); DuckDB's approx_quantile is a t-digest of
every value, and ClickHouse's quantile looks at a sample of 8,192. The latter two are contenders of their own, `..._approximate`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.workload import DEFINITIONS, Workload
from fqlstream.errors import FqlstreamError
from fqlstream.events.columns import coerce_table
from fqlstream.events.definitions import DEFINITION, MetricDefinition, ModelDefinition, SegmentDefinition
from fqlstream.fql.compile_arrow import LANES, compile_model
from fqlstream.fql.planner import plan_model
from fqlstream.settings import FqlSettings

#: Values by segment and metric, as NumPy and every contender give them.
Answers = dict[str, dict[str, float]]

RUNS: Final = 3
TIMEOUT_S: Final = 3_600
#: Sums differ in their last digits, approximate quantiles in rank; further off is wrong.
SUM_TOLERANCE: Final = 1e-9
RANK_TOLERANCE: Final = 0.03

_SQL_SEGMENTS: Final[Mapping[str, str]] = {
    "": "1 = 1",
    "seniors": "age >= 60",
    "france": "country = 'FR'",
    "slow": "latency_ms > 40",
    "likely": "score >= 0.5",
    "italy_or_spain": "country = 'IT' or country = 'ES'",
}
_TP: Final = "churned = 'yes' and score >= 0.5"
_FP: Final = "churned = 'no' and score >= 0.5"
_FN: Final = "churned = 'yes' and score < 0.5"


@dataclass(frozen=True, slots=True)
class Contender:
    """Who computes the numbers: a package that must be there, and how its run is prepared."""

    name: str
    package: str
    prepare: Callable[[pa.Table], Callable[[], Answers]]


def run(request: Request) -> Report:
    """Measure every contender that is installed."""
    workload = Workload(request.events_count)
    right = _oracle(workload)
    figures: dict[str, float] = {}
    checked = True
    for contender in CONTENDERS:
        figure = f"{contender.name}_rows_per_s_core"
        if request.figures and figure not in request.figures:
            continue
        if importlib.util.find_spec(contender.package) is None:
            request.say(f"{contender.name} is not installed: left out (pip install 'fqlstream[bench]')")
            continue
        request.say(f"{contender.name}: {request.events_count:,} rows")
        cpu_s, answers = _measured(contender, request.events_count)
        figures[figure] = request.events_count / cpu_s
        wrong = _differences(workload, right, answers)
        for line in wrong[:5]:
            request.say(f"{contender.name}: {line}")
        checked &= not wrong
    return Report("fql", machine(), checked, figures)


def _measured(contender: Contender, rows: int) -> tuple[float, Answers]:
    one_thread = dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS"), "1"
    )
    command = [sys.executable, "-m", __name__, contender.name, str(rows)]
    ended = subprocess.run(  # noqa: S603  # this Python, this module and a contender of ours
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **one_thread}, check=False
    )
    if ended.returncode:
        raise FqlstreamError("BEN003", f"contender {contender.name} failed: {ended.stderr.strip()[-2000:]}")
    found = json.loads(ended.stdout.strip().splitlines()[-1])
    return found["cpu_s"], found["answers"]


def main(arguments: list[str]) -> None:
    """Be one contender: prepare, run, print the best time and the answers as JSON."""
    name, rows = arguments
    contender = next(item for item in CONTENDERS if item.name == name)
    pa.set_cpu_count(1)
    compute = contender.prepare(Workload(int(rows)).columns)
    best_s = math.inf
    answers: Answers = {}
    for _ in range(RUNS):
        started_s = time.process_time()
        answers = compute()
        best_s = min(best_s, time.process_time() - started_s)
    sys.stdout.write(json.dumps({"cpu_s": best_s, "answers": answers}) + "\n")


# ------------------------------------------------------------------------------------------------ contenders


def _fqlstream(table: pa.Table) -> Callable[[], Answers]:
    definitions = [DEFINITION.validate_python(item) for item in DEFINITIONS]
    model = next(item for item in definitions if isinstance(item, ModelDefinition))
    plan = plan_model(
        model,
        [item for item in definitions if isinstance(item, MetricDefinition)],
        [item for item in definitions if isinstance(item, SegmentDefinition)],
    )
    engine = compile_model(plan, FqlSettings())
    typed = coerce_table(table, model)
    codes = np.zeros(typed.num_rows, dtype=np.int64)

    def compute() -> Answers:
        partials = engine.partials_both(typed, codes, 1)
        answers: Answers = {}
        for result in engine.results({lane: partials[lane][0] for lane in LANES}):
            if result.value is not None:
                answers.setdefault(result.segment, {})[result.metric] = result.value
        return answers

    return compute


def _polars(table: pa.Table) -> Callable[[], Answers]:
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(table))
    column = pl.col
    actual, predicted = column("churned") == "yes", column("score") >= 0.5
    metrics = {
        "events": pl.len(),
        "mean_score": column("score").mean(),
        "latency_sum": column("latency_ms").sum(),
        "latency_least": column("latency_ms").min(),
        "latency_most": column("latency_ms").max(),
        "latency_p95": column("latency_ms").quantile(0.95),
        "score_median": column("score").quantile(0.5),
        "older": (column("age") >= 60).sum(),
        "tp": (actual & predicted).sum(),
        "fp": (~actual & predicted).sum(),
        "fn": (actual & ~predicted).sum(),
    }
    segments = {
        "": pl.lit(value=True),
        "seniors": column("age") >= 60,
        "france": column("country") == "FR",
        "slow": column("latency_ms") > 40,
        "likely": column("score") >= 0.5,
        "italy_or_spain": (column("country") == "IT") | (column("country") == "ES"),
    }

    def compute() -> Answers:
        return {
            name: _with_rates(
                (frame.lazy().filter(where) if name else frame.lazy()).select(**metrics).collect().row(0, named=True)
            )
            for name, where in segments.items()
        }

    return compute


def _duckdb(table: pa.Table, quantile: str = "quantile_cont({column}, {level})") -> Callable[[], Answers]:
    import duckdb

    connection = duckdb.connect(config={"threads": 1})
    connection.register("loaded", table)
    connection.execute("create table t as select * from loaded")
    text = _sql(lambda of, where: f"{of} filter (where {where})", quantile)
    return lambda: _answers_of(connection.execute(f"select {text} from t").fetchall()[0])  # noqa: S608 (our own text)


def _chdb(  # chDB reads `table` out of this frame
    table: pa.Table,  # noqa: ARG001  # by its name: the SQL reads it
    quantile: str = "quantileExact<{level}>({column})",
) -> Callable[[], Answers]:
    from chdb.session import Session

    session = Session()
    session.query(
        "create table t (age Int64, country String, latency_ms Float64, score Float64, churned String) engine = Memory"
    )
    session.query("insert into t select * from Python(table)")

    def conditional(of: str, where: str) -> str:
        name, _, arguments = of.partition("(")
        name, level = (name[: name.index("<")], name[name.index("<") + 1 : -1]) if "<" in name else (name, "")
        inner = arguments.removesuffix(")").removesuffix("*")
        return f"{name}If{f'({level})' if level else ''}({inner}{', ' if inner else ''}{where})"

    text = _sql(conditional, quantile)
    query = f"select {text} from t settings max_threads = 1"  # noqa: S608 (our own text)
    return lambda: _answers_of(json.loads(str(session.query(query, "JSONCompact")))["data"][0])


def _sql(conditional: Callable[[str, str], str], quantile: str) -> str:
    """Give one select list: every metric's parts over every segment, in the order that `_answers_of` reads."""
    parts = []
    for where in _SQL_SEGMENTS.values():
        plain = [
            "count(*)",
            "avg(score)",
            "sum(latency_ms)",
            "min(latency_ms)",
            "max(latency_ms)",
            quantile.format(column="latency_ms", level=0.95),
            quantile.format(column="score", level=0.5),
        ]
        parts += [conditional(of, f"({where})") for of in plain]
        parts += [conditional("count(*)", f"({where}) and {of}") for of in ("age >= 60", _TP, _FP, _FN)]
    return ", ".join(parts)


_PARTS: Final = (
    "events", "mean_score", "latency_sum", "latency_least", "latency_most", "latency_p95", "score_median", "older",
    "tp", "fp", "fn",
)  # fmt: skip


def _answers_of(row: Iterable[Any]) -> Answers:
    values = iter(row)
    return {name: _with_rates({part: next(values) for part in _PARTS}) for name in _SQL_SEGMENTS}


def _with_rates(parts: Mapping[str, Any]) -> dict[str, float]:
    """Put precision and cost in place of the counts that they are made of."""
    found = {name: float(value) for name, value in parts.items()}
    hits, alarms, misses = (found.pop(name) for name in ("tp", "fp", "fn"))
    return {**found, "precision": hits / (hits + alarms), "cost": 10 * alarms + 200 * misses}


CONTENDERS: Final = (
    Contender("fqlstream", "fqlstream", _fqlstream),
    Contender("polars", "polars", _polars),
    Contender("duckdb", "duckdb", _duckdb),
    Contender("chdb", "chdb", _chdb),
    Contender("duckdb_approximate", "duckdb", partial(_duckdb, quantile="approx_quantile({column}, {level})")),
    Contender("chdb_approximate", "chdb", partial(_chdb, quantile="quantile<{level}>({column})")),
)


# ------------------------------------------------------------------------------------------------ answers


def _oracle(workload: Workload) -> Answers:
    """Give NumPy's numbers."""
    answers: Answers = {}
    for segment in _SQL_SEGMENTS:
        rows = workload.rows_of(segment)
        score, latency, age = (rows.column(name).to_numpy() for name in ("score", "latency_ms", "age"))
        actual = rows.column("churned").to_numpy(zero_copy_only=False) == "yes"
        predicted = score >= 0.5
        counts = (actual & predicted).sum(), (~actual & predicted).sum(), (actual & ~predicted).sum()
        answers[segment] = _with_rates(
            dict(
                zip(
                    _PARTS,
                    (
                        len(rows), score.mean(), math.fsum(latency), latency.min(), latency.max(),
                        np.quantile(latency, 0.95), np.quantile(score, 0.5), (age >= 60).sum(), *counts,
                    ),
                    strict=True,
                )
            )
        )  # fmt: skip
    return answers


def _differences(workload: Workload, right: Answers, found: Answers) -> list[str]:
    wrong = []
    for segment, metrics in right.items():
        for metric, expected in metrics.items():
            value = found.get(segment, {}).get(metric, math.nan)
            if metric in _QUANTILES:
                column, level = _QUANTILES[metric]
                numbers = workload.rows_of(segment).column(column).to_numpy()
                below, upto = (numbers < value).mean(), (numbers <= value).mean()
                right_here = below - RANK_TOLERANCE <= level <= upto + RANK_TOLERANCE
            else:
                right_here = math.isclose(value, expected, rel_tol=SUM_TOLERANCE)
            if not right_here:
                wrong.append(f"{metric} over {segment or 'all rows'} is {value}, should be {expected}")
    return wrong


_QUANTILES: Final = {"latency_p95": ("latency_ms", 0.95), "score_median": ("score", 0.5)}

if __name__ == "__main__":
    main(sys.argv[1:])
