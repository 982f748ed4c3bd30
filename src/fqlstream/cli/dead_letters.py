"""`fqlstream dead-letters`: what was refused, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_table, print_text
from fqlstream.ops.dead_letters import list_dead_letters

app = typer.Typer(no_args_is_help=True, help="What was refused, and why.")


@app.callback()
def _group() -> None:
    """Show what was refused, and why."""


@app.command("list")
def list_letters(
    code: Annotated[str | None, typer.Option("--code", help="Only those refused for this reason.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="The newest so many.")] = 100,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List the newest dead letters with their origin; oldest first."""
    rows = list_dead_letters(settings_for(data).kafka, limit=limit, code=code)
    if json:
        print_json([asdict(row) for row in rows])
    elif not rows:
        print_text("no dead letters" + (f" of code {code}" if code else ""))
    else:
        print_table(
            ("seen at", "code", "origin", "row", "bytes", "reason"),
            ((r.seen_at, r.code, f"{r.topic}[{r.partition}]@{r.offset}", r.row, r.bytes, r.reason) for r in rows),
        )
