"""`fqlstream model`: definitions of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.output import print_text
from fqlstream.events.definitions import Task
from fqlstream.ops.inference import infer_model, inferred_yaml

app = typer.Typer(no_args_is_help=True, help="Definitions of models.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def infer(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl (events or flat rows), .csv or .parquet.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; that of the file otherwise.")] = None,
    task: Annotated[Task | None, typer.Option("--task", help="Its task; guessed otherwise.")] = None,
) -> None:
    """Write a model definition that the rows of a file fit; what is a guess says so.

    Types, ranges and categories are as seen in the file; roles and task are guessed from names. `apply` takes the result.
    """
    print_text(inferred_yaml(infer_model(file, name, task), file).rstrip("\n"))
