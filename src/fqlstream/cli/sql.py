"""`fqlstream sql`: ask ClickHouse."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, patient, settings_for
from fqlstream.store.client import Store


def sql(
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One statement; - reads it from standard input.")],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="F", help="Any format of ClickHouse; a table on a terminal, tab-separated otherwise."
        ),
    ] = None,
    data: DataOption = None,
) -> None:
    """Run one statement and write its result as it comes. A FORMAT clause in the statement goes before --format."""
    text = sys.stdin.read() if statement == "-" else statement
    chosen = format_name or ("PrettyCompactMonoBlock" if sys.stdout.isatty() else "TabSeparated")
    settings = settings_for(data).store
    with Store.connect(patient(settings)) as store:
        try:
            for piece in store.stream_bytes(text, chosen):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # whoever read us has seen enough; the interpreter must not complain when it flushes at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
