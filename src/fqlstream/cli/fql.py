"""`fqlstream fql`: check, explain and evaluate expressions; list the functions."""

from __future__ import annotations

import io
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.options import JsonOption
from fqlstream.cli.output import print_json, print_note, print_table, print_text
from fqlstream.errors import DefinitionError, UsageError, render
from fqlstream.events.definitions import (
    BaselineDefinition,
    MetricDefinition,
    ModelDefinition,
    SegmentDefinition,
)
from fqlstream.events.documents import load_definitions
from fqlstream.fql.check import CheckResult, check
from fqlstream.functions.spec import LevelRule
from fqlstream.settings import load

app = typer.Typer(no_args_is_help=True, help="Check and evaluate FQL; list its functions.")

#: An expression may begin with a minus sign.
_TEXT_MAY_BE_ANYTHING = {"ignore_unknown_options": True}

ModelOption = Annotated[
    Path,
    typer.Option(
        "--model", metavar="FILE", help="YAML file with the model; it may hold metrics, segments and baselines too."
    ),
]


class Use(StrEnum):
    """What an expression is to be used for."""

    METRIC = "metric"
    SEGMENT = "segment"
    EXPRESSION = "expression"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Everything that a model file defines."""

    model: ModelDefinition
    metrics: tuple[MetricDefinition, ...]
    segments: tuple[SegmentDefinition, ...]
    baselines: dict[str, BaselineDefinition]


def read_model_file(path: Path) -> ModelFile:
    """Read a definition file that holds one model; of several versions, the last one.

    Raises DefinitionError for what is wrong with the file, UsageError where it holds no model or several.
    """
    definitions = load_definitions(path)
    models = [item for item in definitions if isinstance(item, ModelDefinition)]
    names = list(dict.fromkeys(item.name for item in models))
    if len(names) != 1:
        found = f"the models {', '.join(names)}" if names else "no model"
        raise UsageError("CLI010", f"{path} holds {found}; one is needed", "a model starts with `kind: model`")
    name = names[0]
    return ModelFile(
        model=models[-1],
        metrics=tuple(item for item in definitions if isinstance(item, MetricDefinition) and item.model == name),
        segments=tuple(item for item in definitions if isinstance(item, SegmentDefinition) and item.model == name),
        baselines={
            item.name: item for item in definitions if isinstance(item, BaselineDefinition) and item.model == name
        },
    )


@app.command("check", context_settings=_TEXT_MAY_BE_ANYTHING)
def check_command(
    model: ModelOption,
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", help="The expression; - reads one a line from standard input.")
    ],
    kind: Annotated[Use, typer.Option("--kind", help="What it is to be used for.")] = Use.EXPRESSION,
    json: JsonOption = False,
) -> None:
    """Check an expression against a model. Exit code 1 where it is refused."""
    file = read_model_file(model)
    settings = load().fql

    def checked(text: str) -> CheckResult:
        return check(text, file.model, kind.value, baselines=file.baselines, settings=settings)

    if expression == "-":
        results = (checked(line) for line in _lines())
        raise typer.Exit(0 if _print_each(results) else 1)
    result = checked(expression)
    if json:
        print_json(result.as_dict())
    else:
        print_text(_check_text(result))
    raise typer.Exit(0 if result.ok else 1)


def _lines() -> Iterable[str]:
    # bytes that are no UTF-8 become half surrogates, which the lexer reports with their place
    text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="surrogateescape", newline="\n")
    return (line.rstrip("\r\n") for line in text)


def _print_each(results: Iterable[CheckResult]) -> bool:
    all_fine = True
    for result in results:
        print_json(result.as_dict())
        all_fine &= result.ok
    return all_fine


def _check_text(result: CheckResult) -> str:
    findings = [render(result.text, item) for item in (*result.errors, *result.warnings)]
    if result.ok and result.dtype is not None and result.level is not None:
        findings.append(f"ok: {result.dtype.value}, {_LEVELS[result.level.value]}")
    return "\n".join(findings)


_LEVELS = {"const": "a constant", "row": "a value per row", "agg": "an aggregate"}


class EngineName(StrEnum):
    """What computes."""

    ARROW = "arrow"
    CLICKHOUSE = "clickhouse"


@app.command("eval", context_settings=_TEXT_MAY_BE_ANYTHING)
def eval_command(
    model: ModelOption,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help=".jsonl (events or flat rows), .csv or .parquet.")
    ],
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="A metric.")],
    segment: Annotated[
        str | None, typer.Option("--segment", metavar="EXPR", help="Only rows where this is true.")
    ] = None,
    window: Annotated[
        str | None, typer.Option("--window", metavar="SIZE", help="One value for each window of this size, such as 1h.")
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", metavar="STEP", help="Let the window hop, such as 5m.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="NAME=FILE", help="Rows for jsd and psi to compare with; may be repeated."),
    ] = None,
    event_at: Annotated[
        str, typer.Option("--event-at", metavar="COLUMN", help="Column of times, in flat rows.")
    ] = "event_at",
    engine: Annotated[EngineName, typer.Option("--engine", help="What computes.")] = EngineName.ARROW,
    json: JsonOption = False,
) -> None:
    """Compute a metric over a data file, as streaming would."""
    from fqlstream.fql.evaluate import Question, count_left_out, evaluate_table, window_of
    from fqlstream.ops.data_files import read_data
    from fqlstream.store.sql_evaluation import evaluate_in_clickhouse

    file = read_model_file(model)
    settings = load().fql
    paths = {**_baseline_files(file, model.parent), **_named_files(baseline or [])}
    known = {**file.baselines, **{name: _static(file.model, name) for name in paths}}
    for text, use in ((expression, Use.METRIC), (segment, Use.SEGMENT)):
        if text is not None:
            result = check(text, file.model, use.value, baselines=known, settings=settings)
            result.require()
            for warning in result.warnings:
                print_note(render(text, warning))
    if every is not None and window is None:
        raise UsageError("CLI013", "--every needs a --window to let hop", "give both: --window 1h --every 5m")
    read = read_data(data, file.model, event_at=event_at)
    for note in read.notes:
        print_note(f"note: {note}")
    size = None if window is None else window_of(window if every is None else {"size": window, "every": every})
    rows = {name: read_data(path, file.model).table for name, path in paths.items() if _is_named(name, expression)}
    question = Question(expression, segment, size, read.event_at_ms, rows, _periods(file, rows))
    evaluate = evaluate_in_clickhouse if engine is EngineName.CLICKHOUSE else evaluate_table
    found = evaluate(read.table, file.model, question, settings)
    for note in count_left_out(read.table, file.model, question, baselines=known, settings=settings):
        print_note(f"note: {note}")
    if json:
        print_json(found[0] if size is None else found)
    elif size is not None:
        columns = ("window_start", "window_end", "value", "rows", "exact", "error_bound")
        print_table(columns, ([row.get(name) for name in columns] for row in found))
    else:
        (value,) = found
        print_text(value_text(value["value"], value["rows"], value["error_bound"], exact=value["exact"]))


def _named_files(given: Iterable[str]) -> dict[str, Path]:
    paths = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not name or not equals or not path:
            raise UsageError(
                "CLI014", f"--baseline {text}: this is no NAME=FILE", "write --baseline training=training.parquet"
            )
        paths[name] = Path(path)
    return paths


def _baseline_files(file: ModelFile, folder: Path) -> dict[str, Path]:
    """Give the files of static baselines; they are named relative to the file that names them."""
    return {item.name: folder / item.file for item in file.baselines.values() if item.file is not None}


def _periods(file: ModelFile, read: Container[str]) -> dict[str, BaselineDefinition]:
    """Give the baselines that are a period of the data itself; a file that was named for one stands in its place."""
    return {item.name: item for item in file.baselines.values() if item.file is None and item.name not in read}


def _static(model: ModelDefinition, name: str) -> BaselineDefinition:
    return BaselineDefinition(model=model.name, name=name, type="static")


def _is_named(name: str, expression: str) -> bool:
    """Whether an expression may speak of a baseline: files that it does not name are not read."""
    return name.replace("'", "''") in expression


def value_text(value: float | None, rows: int, bound: float | None, *, exact: bool) -> str:
    """Write an answer on one line."""
    shown = "null" if value is None else repr(value)
    if exact:
        return f"{shown}  (exact, over {rows} rows)"
    return f"{shown}  (error bound {'unknown' if bound is None else f'{bound:g}'}, over {rows} rows)"


@app.command("explain", context_settings=_TEXT_MAY_BE_ANYTHING)
def explain_command(
    model: ModelOption,
    expression: Annotated[
        str | None, typer.Argument(metavar="[EXPR]", help="A metric; all metrics of the file where it is left out.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show how metrics are computed: what is shared, what a state costs, what is exact, the SQL. Over the segments of the file."""
    from fqlstream.fql.explain import explain
    from fqlstream.fql.planner import plan_model
    from fqlstream.store.naming import event_view, identifier

    file = read_model_file(model)
    settings = load().fql
    metrics = file.metrics
    if expression is not None:
        if not expression:
            raise UsageError("CLI011", "the expression is empty", "give one, for example traffic()")
        metrics = (MetricDefinition(model=file.model.name, name="metric", definition=expression),)
    if not metrics:
        raise DefinitionError("DEF042", f"{model} defines no metric to explain", "give an expression")
    plan = plan_model(file.model, metrics, file.segments, baselines=file.baselines, streamed=True, settings=settings)
    explanation = explain(plan, settings, source=identifier(event_view(file.model.name)))
    if json:
        print_json(explanation.as_dict())
    else:
        print_text(explanation.as_text())


@app.command("functions")
def functions_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this function or operator, in full.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List all functions and operators."""
    from fqlstream.functions.index import FUNCTION_BY_NAME, FUNCTIONS, OPERATOR_BY_NAME
    from fqlstream.functions.nearest import did_you_mean
    from fqlstream.functions.operators import OPERATORS
    from fqlstream.functions.reference import spec_as_dict, spec_as_text

    wanted = (*OPERATORS, *FUNCTIONS)
    if name is not None:
        spec = FUNCTION_BY_NAME.get(name) or OPERATOR_BY_NAME.get(name)
        if spec is None:
            near = did_you_mean(name, FUNCTION_BY_NAME.keys())
            hint = f"did you mean {near}?" if near else "`fqlstream fql functions` lists all"
            raise UsageError("CLI012", f"there is no function {name!r}", hint)
        wanted = (spec,)
    if json:
        print_json([spec_as_dict(spec) for spec in wanted])
    elif name is not None:
        print_text(spec_as_text(wanted[0]))
    else:
        print_table(
            ("function", "gives", "level", "summary"),
            ((spec.signature, spec.gives, _LEVEL_RULES[spec.level], spec.summary) for spec in wanted),
        )


_LEVEL_RULES = {
    LevelRule.ARGUMENTS: "as its arguments",
    LevelRule.ROW: "row",
    LevelRule.AGGREGATE: "aggregate of rows",
    LevelRule.COMBINED: "of aggregates",
}
