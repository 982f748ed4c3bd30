"""`fqlstream docs`: the generated files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.function_page import FUNCTIONS_PAGE, PAGE_NAME, is_current, write_page
from fqlstream.cli.options import JsonOption
from fqlstream.cli.output import print_json, print_text
from fqlstream.cli.readme_tables import PAGES, Tables, stale_tables, write_tables
from fqlstream.events.schemas import stale_schemas, write_schemas
from fqlstream.packaged import packaged

app = typer.Typer(
    no_args_is_help=True,
    help="What is generated from the code: the JSON Schemas of all payloads, tables of the README, the page of functions.",
)

SchemasOption = Annotated[
    Path | None, typer.Option("--schemas", metavar="DIR", help="Where the schemas are; those of fqlstream otherwise.")
]


@app.command()
def write(schemas: SchemasOption = None, json: JsonOption = False) -> None:
    """Generate the files again, and say which changed."""
    directory = schemas or packaged("schemas")
    written = write_schemas(directory)
    tables = [name for page, rows in _pages(schemas) for name in write_tables(page, rows)]
    if schemas is None and write_page(FUNCTIONS_PAGE):
        tables.append(PAGE_NAME)
    if json:
        print_json({"written": written + tables})
        return
    for name in written:
        print_text(f"wrote {name}" if (directory / name).exists() else f"deleted {name}")
    for name in tables:
        print_text(f"wrote {name}")
    if not written and not tables:
        print_text("everything was current")


@app.command()
def check(schemas: SchemasOption = None, json: JsonOption = False) -> None:
    """Say whether the files are current. Exit code 1 where one is not."""
    stale = stale_schemas(schemas or packaged("schemas"))
    stale += [name for page, rows in _pages(schemas) for name in stale_tables(page, rows)]
    if schemas is None and not is_current(FUNCTIONS_PAGE):
        stale.append(PAGE_NAME)
    if json:
        print_json({"stale": stale})
    else:
        for name in stale:
            print_text(f"{name} is stale: run `fqlstream docs write`")
        if not stale:
            print_text("everything is current")
    raise typer.Exit(1 if stale else 0)


def _pages(schemas: Path | None) -> list[tuple[Path, Tables]]:
    """Give the pages of a checkout; a wheel has none, and other schemas belong to no page of ours."""
    found = [(packaged(name), tables) for name, tables in PAGES.items()]
    return [(path, tables) for path, tables in found if schemas is None and path.exists()]
