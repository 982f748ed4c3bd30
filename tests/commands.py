"""How tests call commands."""

from __future__ import annotations

from collections.abc import Callable

import typer
from click.testing import Result
from typer.testing import CliRunner


def invoke(app: typer.Typer, *arguments: object, input_text: str | None = None) -> Result:
    """Call a command in this process; what it raises is raised here, but for its exit code."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input_text, catch_exceptions=False)


def command(function: Callable[..., None]) -> typer.Typer:
    """Make an application of one command."""
    app = typer.Typer()
    app.command()(function)
    return app
