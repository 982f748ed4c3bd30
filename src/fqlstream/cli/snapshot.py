"""`fqlstream snapshot`: any FQL over any stored range, now."""

from __future__ import annotations

from typing import Annotated

import typer

from fqlstream.cli.fql import Use, value_text
from fqlstream.cli.options import DataOption, JsonOption, patient, settings_for
from fqlstream.cli.output import print_json, print_note, print_text
from fqlstream.client.queries import unix_ms
from fqlstream.errors import DefinitionError, render
from fqlstream.fql.check import check
from fqlstream.ops.definition_log import read_catalogue
from fqlstream.store import snapshots
from fqlstream.store.client import Store


def snapshot(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="A metric.")],
    segment: Annotated[
        str | None, typer.Option("--segment", metavar="EXPR", help="Only rows where this is true.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Events at or after this time (UTC).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Events before this time.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="A version of the model; all of them together otherwise.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Compute a metric over stored events, whatever is published. ClickHouse computes it, exactly, from what is stored by now."""
    settings = settings_for(data)
    within = snapshots.Range(None if start is None else unix_ms(start), None if end is None else unix_ms(end))
    entry = read_catalogue(settings).models.get(model)
    if entry is None or entry.newest is None:
        raise DefinitionError("DEF030", f"there is no model {model!r}", "see: fqlstream get model")
    reading = entry.versions.get(version or "", entry.newest)
    for text, use in ((expression, Use.METRIC), (segment, Use.SEGMENT)):
        if text is not None:
            result = check(text, reading, use.value, baselines=entry.baselines, settings=settings.fql)
            result.require()
            for warning in result.warnings:
                print_note(render(text, warning))
    with Store.connect(patient(settings.store)) as store:
        found = snapshots.snapshot(
            store, entry, expression, segment=segment, within=within, version=version, settings=settings.fql
        )
    if json:
        print_json(found)
    else:
        print_text(value_text(found["value"], found["rows"], found["error_bound"], exact=found["exact"]))
