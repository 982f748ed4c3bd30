"""`fqlstream code-metrics`: metrics in Python - the process that runs them, trying one, running one, what became of them."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Annotated, Final

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_table, print_text, progress
from fqlstream.clock import SystemClock
from fqlstream.errors import DefinitionError, UsageError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import CodeMetricDefinition
from fqlstream.ops.code_metric_status import statuses
from fqlstream.ops.code_metric_tasks import CodeMetricRequests, Dataset, Stage, TaskSender, training_baseline
from fqlstream.ops.definition_log import read_catalogue
from fqlstream.settings import Settings
from fqlstream.store.client import Store
from fqlstream.store.code_metric_rows import SUCCESS, TaskRow

app = typer.Typer(no_args_is_help=True, help="Metrics in Python: run them, try one, see what became of them.")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The code metric.")]
_LOOK_S: Final = 0.3


@app.callback()
def _group() -> None:
    """Run metrics in Python, try one, see what became of them."""


@app.command()
def serve(data: DataOption = None) -> None:
    """Run code metrics: what is due, and what is asked for, until Ctrl-C or SIGTERM. `fqlstream up` starts one of these."""
    from fqlstream.runner.process import serve as serve_runner

    serve_runner(settings_for(data))


@app.command()
def validate(
    model: ModelArgument,
    name: NameArgument,
    version: Annotated[
        str | None, typer.Option("--version", help="Rows of this model version; the newest otherwise.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Rows of the model's static baseline instead of its stored history.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Try a code metric on stored rows, all of them and each segment's, in a runner. Exit code 1 where it fails."""
    settings = settings_for(data)
    entry, metric = _find(read_catalogue(settings), model, name)
    stage: Stage = "training" if training else "serving"
    dataset = Dataset(stage, model, version or list(entry.versions)[-1])
    if dataset.version not in entry.versions:
        raise UsageError(
            "CMR012", f"model {model!r} has no version {version!r}", f"its versions: {', '.join(entry.versions)}"
        )
    if training and training_baseline(entry) is None:
        raise UsageError(
            "CMR013",
            f"model {model!r} has no static baseline with stored rows",
            "of a baseline's file only counts are kept",
        )
    _show(_asked(settings, metric, dataset.id), as_json=json)


@app.command()
def run(model: ModelArgument, name: NameArgument, data: DataOption = None, json: JsonOption = False) -> None:
    """Compute a code metric over the newest period that is over, now, and show it. Exit code 1 where it fails."""
    settings = settings_for(data)
    _, metric = _find(read_catalogue(settings), model, name)
    _show(_asked(settings, metric, ""), as_json=json)


@app.command("list")
def list_metrics(
    model: Annotated[str | None, typer.Option("--model", help="Only those of this model.")] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List code metrics with their last run and the value of all rows."""
    settings = settings_for(data)
    catalogue = read_catalogue(settings)
    found = [
        metric
        for entry in catalogue.models.values()
        for metric in entry.code_metrics.values()
        if model in (None, entry.name)
    ]
    with Store.connect(settings.store) as store:
        known = statuses(store, found)
    listed = [
        {**asdict(each), "period_end": each.period_end and each.period_end.isoformat(), "value": _number(each.value)}
        for each in known
    ]
    if json:
        print_json(listed)
    elif not listed:
        print_text("no code metrics")
    else:
        columns = ("model", "name", "state", "period_end", "value", "rows", "seconds", "error")
        print_table(columns, (tuple(row[column] for column in columns) for row in listed))


def _find(catalogue: Catalogue, model: str, name: str) -> tuple[ModelEntry, CodeMetricDefinition]:
    entry = catalogue.models.get(model)
    metric = entry.code_metrics.get(name) if entry is not None else None
    if entry is None or metric is None:
        raise DefinitionError(
            "DEF030", f"there is no code_metric {name!r} of model {model!r}", "see: fqlstream get code_metric"
        )
    return entry, metric


def _asked(settings: Settings, metric: CodeMetricDefinition, dataset_id: str) -> TaskRow:
    """Ask a runner, and wait for what becomes of it."""
    with Store.connect(settings.store) as store:
        requests = CodeMetricRequests(store, TaskSender(settings.kafka), settings.runner, SystemClock())
        with progress() as said:
            while not (task := requests.ask(metric, dataset_id)).is_final:
                said.status(f"{task.report.stage or 'waiting for a runner'}: {task.report.progress} %")
                time.sleep(_LOOK_S)
    return task


def _show(task: TaskRow, *, as_json: bool) -> None:
    report, is_success = task.report, task.state == SUCCESS
    if as_json:
        print_json({
            "status": task.state, "value": _number(task.value), "segments": {name: _number(value) for name, value in task.segments.items()}, "rows": report.rows, "engine": report.engine,
            "layers": list(report.layers), "seconds": dict(report.seconds), "peak_memory_bytes": report.peak_memory_bytes,
            "code": report.code or None, "error": report.error or None, "traceback": report.traceback or None, "hint": report.hint or None,
        })  # fmt: skip
    else:
        values = {"": task.value, **task.segments} if is_success else dict(task.segments)
        print_table(("segment", "value"), ((segment or "all rows", value) for segment, value in values.items()))
        print_note(
            f"{report.rows:,} rows, {sum(report.seconds.values()):.1f} s, {report.engine or 'no engine'};"
            f" layers: {', '.join(report.layers) or 'none'}"
        )
        if not is_success:
            print_note(f"{report.code} {report.error}")
            for text in (report.traceback.rstrip(), f"hint: {report.hint}" if report.hint else ""):
                if text:
                    print_note(text)
    if not is_success:
        raise typer.Exit(1)


def _number(value: float | None) -> float | str | None:
    """Give a number as JSON has it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
