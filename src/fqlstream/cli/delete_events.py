"""`fqlstream delete-events`: take events and their labels out of everything that is kept."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, JsonOption, patient, settings_for
from fqlstream.cli.output import print_json, print_note
from fqlstream.cli.repair import bar
from fqlstream.client.queries import unix_ms
from fqlstream.errors import DefinitionError, UsageError
from fqlstream.ops import deleting as ops
from fqlstream.ops.definition_log import read_catalogue
from fqlstream.ops.repairing import END_OF_TIME_MS
from fqlstream.store import deletions
from fqlstream.store.client import Store


def delete_events(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    ids: Annotated[
        Path | None, typer.Option("--ids", metavar="FILE", help="A file of event_ids, one a line; - is standard input.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="All stored events from this time on (UTC), and their labels."),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before this time.")] = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until the rows are gone and the values published, or only ask."),
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal: it cannot be undone.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Delete events and their labels from history, in every version and partition, and publish the values that change.

    Records of these ids that come later are dropped. What Kafka holds stays until its retention ends: the command says when.
    Exit code 1 where nothing has moved for a while: no worker runs; the request stays.
    """
    if (ids is None) == (start is None and end is None):
        raise UsageError(
            "DEL003", "which events?", "name a file with --ids, or a range of event time with --from and --to"
        )
    settings = settings_for(data)
    entry = read_catalogue(settings).models.get(model)
    if entry is None:
        raise DefinitionError("DEF030", f"there is no model {model!r}", "see: fqlstream get model")
    if ids is not None:
        listed = ops.read_ids(sys.stdin) if str(ids) == "-" else ops.read_ids_file(ids)
    if sys.stdin.isatty() and not yes:
        what = f"{len(listed):,} ids" if ids is not None else f"from {start or 'the beginning'} to {end or 'now'}"
        typer.confirm(f"Delete events of model {model} ({what}) for good?", abort=True, err=True)
    with Store.connect(patient(settings.store)) as store:
        if ids is None:
            start_ms = 0 if start is None else unix_ms(start)
            end_ms = END_OF_TIME_MS if end is None else unix_ms(end)
            chosen = deletions.ids_of_range(store, model, start_ms, end_ms)
        else:
            chosen = iter(listed)
        deletion = ops.ask(settings, store, entry, chosen)
        if wait:
            with bar("deleting") as progress:
                ops.await_done(store, deletion, progress, stall_s=settings.stream.repair_stall_ms / 1000)
        rest = ops.elsewhere(settings.kafka, store, model, deletion)
    matches = deletion.matches
    if json:
        print_json({
            "model": model, "ids": deletion.ids, "ids_found": matches.ids, "events": matches.events, "labels": matches.labels,
            "partitions": len(deletion.requests), "done": wait, **asdict(rest),
        })  # fmt: skip
        return
    done = "deleted" if wait else "asked to delete"
    print_note(
        f"{done} {matches.events:,} events and {matches.labels:,} labels of {matches.ids:,} ids of model {model}"
    )
    if matches.ids < deletion.ids:
        print_note(
            f"of {deletion.ids - matches.ids:,} of the {deletion.ids:,} ids nothing was stored: are they written as sent?"
        )
    for line in _rest(rest):
        print_note(line)


def _rest(rest: ops.Elsewhere) -> list[str]:
    """Say what is out of reach."""
    lines = (
        [f"Kafka's topic inference-events may hold their bytes {_until(rest.source_until)}"]
        if rest.kafka_answered
        else [
            "Kafka does not answer: its topics may hold their bytes until their retention ends; run this again to learn when"
        ]
    )
    if rest.dead_letters:
        lines.append(
            f"{rest.dead_letters:,} dead letters name these ids; Kafka holds them {_until(rest.dead_letters_until)}"
        )
    if rest.files_until:
        lines.append(f"ClickHouse removes the files that it has written anew {_until(rest.files_until)}, about")
    return lines


def _until(moment: str | None) -> str:
    return "for ever: its retention has no end" if moment is None else f"until {moment}"
