"""`fqlstream publish`: send a file of events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, settings_for
from fqlstream.cli.output import print_note
from fqlstream.client import Producer
from fqlstream.ops import publishing as ops
from fqlstream.ops.definition_log import read_catalogue


def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl (events or flat rows), .csv or .parquet.")],
    model: Annotated[str, typer.Option("--model", metavar="M", help="The model that the events are of.")],
    version: Annotated[str | None, typer.Option("--version", help="Its version; the newest otherwise.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="The file holds labels.")] = False,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Rows per second; as fast as it goes otherwise.")
    ] = None,
    arrow: Annotated[
        bool | None, typer.Option("--arrow/--json", help="Send Arrow batches, or one JSON event per row.")
    ] = None,
    event_id_column: Annotated[str, typer.Option("--event-id-column", metavar="C", help="Column of ids.")] = "event_id",
    event_at_column: Annotated[
        str, typer.Option("--event-at-column", metavar="C", help="Column of times; without one, events happen now.")
    ] = "event_at",
    finish: Annotated[
        bool, typer.Option("--finish", help="Promise that nothing older comes: windows may become final.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Send a file of events or labels, and wait until all of it arrived.

    Exit code 1 where the brokers did not take everything.
    """
    settings = settings_for(data)
    plan = ops.PublishPlan(
        path=file,
        model=ops.find_model(read_catalogue(settings), model, version),
        version=version,
        labels=labels,
        form=None if arrow is None else ops.Form.ARROW if arrow else ops.Form.JSON,
        event_id=event_id_column,
        event_at=event_at_column,
        rate=rate,
    )
    started_s = time.monotonic()
    with Producer(settings=settings) as producer, _bar() as progress:
        report = ops.publish(producer, plan, progress)
        if finish:
            producer.finish(model)
        producer.flush()
    seconds = time.monotonic() - started_s
    for note in report.notes:
        print_note(note)
    what = "labels" if labels else "events"
    print_note(f"sent {report.rows:,} {what} of model {model} as {report.form.value} in {seconds:.1f} s")


@contextmanager
def _bar() -> Iterator[ops.Progress]:
    """Show how far it is, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=None)

        def progress(sent: int, total: int) -> None:
            bar.update(task, completed=sent, total=total)

        yield progress
