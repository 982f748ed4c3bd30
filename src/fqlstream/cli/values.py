"""`fqlstream values`: the published values of a metric."""

from __future__ import annotations

import csv as csv_module
import math
import sys
from typing import Annotated, Any

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_table
from fqlstream.client import QueryClient

#: What a person looks at; scripts get every column.
_SHOWN = ("window_start", "window_end", "value", "rows", "labelled_rows", "error_bound", "status")


def values(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="The metric.")],
    segment: Annotated[str, typer.Option("--segment", metavar="S", help="The segment; all rows otherwise.")] = "",
    window: Annotated[str, typer.Option("--window", metavar="SIZE", help="Size of the windows.")] = "1h",
    version: Annotated[
        str, typer.Option("--version", help="A version of the model; all of them together otherwise.")
    ] = "all",
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Windows that begin at or after this time (UTC).")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Windows that begin before this time.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Answer as CSV.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest value of every window, oldest first. Exit code 1 where there is none."""
    with QueryClient(settings=settings_for(data)) as client:
        frame = client.values(model, metric, segment, window, start, end, version=version)
    rows = [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
    if json:
        print_json(rows)
    elif csv:
        writer = csv_module.DictWriter(sys.stdout, list(frame.columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print_table(_SHOWN, ([_short(row[name]) for name in _SHOWN] for row in rows))
    if not rows:
        raise typer.Exit(1)


def _plain(value: Any) -> Any:
    """Give a value as JSON has it; times in RFC 3339."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value != value:
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.item() if hasattr(value, "item") else value


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value.replace(".000Z", "Z") if isinstance(value, str) else value
