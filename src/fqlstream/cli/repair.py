"""`fqlstream repair`: compute stored history again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note
from fqlstream.client.queries import unix_ms
from fqlstream.errors import DefinitionError
from fqlstream.ops import repairing as ops
from fqlstream.ops.definition_log import read_catalogue
from fqlstream.store.client import Store


def repair(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="From this time on (UTC); from the beginning otherwise."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Before this time; up to now otherwise.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the values are published, or only ask for them.")
    ] = True,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Rebuild the states of a model from its stored events, and publish the values that change.

    Exit code 1 where nothing has moved for a while: no worker runs.
    """
    settings = settings_for(data)
    start_ms = 0 if start is None else unix_ms(start)
    end_ms = ops.END_OF_TIME_MS if end is None else unix_ms(end)
    entry = read_catalogue(settings).models.get(model)
    if entry is None:
        raise DefinitionError("DEF030", f"there is no model {model!r}", "see: fqlstream get model")
    with Store.connect(settings.store) as store:
        asked = ops.ask(store, entry, start_ms, end_ms, "fqlstream repair")
        if wait:
            with bar("rebuilding") as progress:
                ops.await_done(store, asked, progress, stall_s=settings.stream.repair_stall_ms / 1000)
    if json:
        print_json({"model": model, "panes": asked.panes, "done": wait})
    else:
        print_note(f"{'rebuilt' if wait else 'asked for'} {asked.panes:,} panes of model {model}")


@contextmanager
def bar(what: str) -> Iterator[ops.ProgressBar]:
    """Show how far it is, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield progress
