"""`fqlstream schema`: ClickHouse's tables."""

from __future__ import annotations

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_text
from fqlstream.store import migrations
from fqlstream.store.client import Store

app = typer.Typer(no_args_is_help=True, help="ClickHouse's tables and views.")


@app.command()
def apply(data: DataOption = None, json: JsonOption = False) -> None:
    """Apply the schema files that have not been applied, in their order. Doing it again changes nothing."""
    with Store.connect(settings_for(data).store) as store:
        applied = migrations.apply(store)
    if json:
        print_json({"applied": applied})
        return
    for name in applied:
        print_text(f"applied {name}")
    if not applied:
        print_text(f"nothing to apply: {store.name} is current")


@app.command()
def status(data: DataOption = None, json: JsonOption = False) -> None:
    """Say which schema files have not been applied. Exit code 1 where there are some."""
    with Store.connect(settings_for(data).store) as store:
        waiting = migrations.pending(store)
    if json:
        print_json({"pending": waiting})
    elif waiting:
        for name in waiting:
            print_text(f"pending {name}")
    else:
        print_text(f"{store.name} is current")
    raise typer.Exit(1 if waiting else 0)
