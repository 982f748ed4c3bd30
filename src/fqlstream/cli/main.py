"""The command `fqlstream`. A command's module is imported when it is called: `--help` must not wait for pyarrow."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from fqlstream.cli.output import print_json, print_note, print_text
from fqlstream.errors import FqlstreamError


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command: name, where it is (`module:attribute`, a function or a Typer app), what it does, its heading in the help."""

    name: str
    target: str
    help: str
    panel: str
    takes_any_text: bool = False  # also one that begins with a minus sign


RUN, DEFINE, SEND, READ, OPERATE = "Run", "Define", "Send events", "Read values", "Operate"

COMMANDS: Final[tuple[CommandRow, ...]] = (
    CommandRow("demo", "fqlstream.cli.demo:demo", "Show everything on real events, from nothing.", RUN),
    CommandRow("up", "fqlstream.cli.stack:up", "Run broker, store, API and workers on this machine.", RUN),
    CommandRow("worker", "fqlstream.cli.stack:worker", "Run one Faust worker.", RUN),
    CommandRow("serve", "fqlstream.cli.serve:serve", "Serve the REST API.", RUN),
    CommandRow("apply", "fqlstream.cli.definitions:apply", "Define models, metrics and segments from files.", DEFINE),
    CommandRow("get", "fqlstream.cli.definitions:get", "Show what is defined.", DEFINE),
    CommandRow("delete", "fqlstream.cli.definitions:delete", "Take a definition back.", DEFINE),
    CommandRow("model", "fqlstream.cli.model:app", "Write a model definition from a data file.", DEFINE),
    CommandRow("fql", "fqlstream.cli.fql:app", "Check and evaluate FQL; list its functions.", DEFINE),
    CommandRow("publish", "fqlstream.cli.publish:publish", "Send a file of events.", SEND),
    CommandRow("values", "fqlstream.cli.values:values", "Show the values of a metric.", READ),
    CommandRow("snapshot", "fqlstream.cli.snapshot:snapshot", "Compute any metric over stored events, now.", READ, takes_any_text=True),
    CommandRow("sql", "fqlstream.cli.sql:sql", "Ask ClickHouse.", READ),
    CommandRow("keys", "fqlstream.cli.access:keys", "Make, list and revoke keys of the API.", OPERATE),
    CommandRow("users", "fqlstream.cli.access:users", "Add, list and remove users of the API.", OPERATE),
    CommandRow("lag", "fqlstream.cli.lag:lag", "Show how far consumer groups are behind, and judge it.", OPERATE),
    CommandRow("topics", "fqlstream.cli.topics:app", "Compare topics with their declarations; apply them.", OPERATE),
    CommandRow("schema", "fqlstream.cli.schema:app", "Apply ClickHouse's tables; write the schemas of payloads.", OPERATE),
    CommandRow("repair", "fqlstream.cli.repair:repair", "Compute stored history again.", OPERATE),
    CommandRow("delete-events", "fqlstream.cli.delete_events:delete_events", "Take events and their labels out of all that is kept.", OPERATE),
    CommandRow("dead-letters", "fqlstream.cli.dead_letters:app", "Show what was refused, and why; send it again.", OPERATE),
    CommandRow("code-metrics", "fqlstream.cli.code_metrics:app", "Run metrics written in Python; try one; see what became of them.", OPERATE),
    CommandRow("doctor", "fqlstream.cli.doctor:doctor", "Look at everything, and say what to do.", OPERATE),
    CommandRow("docs", "fqlstream.cli.docs:app", "Generate schemas and the README's tables; say whether they are current.", OPERATE),
    CommandRow("bench", "fqlstream.cli.bench:bench", "Measure speed.", OPERATE),
)  # fmt: skip

ABOUT: Final = "Windowed FQL metrics of machine-learning models, from Kafka to ClickHouse."


def run() -> None:
    """Run the command line, and end the process with its exit code: 0 fine, 1 found trouble, 2 usage, 130 Ctrl-C."""
    app = build_app(called_command(sys.argv[1:], os.environ))
    try:
        app()
    except FqlstreamError as error:
        sys.exit(report_error(error, as_json="--json" in sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def report_error(error: FqlstreamError, *, as_json: bool) -> int:
    """Tell of an error, to a person on standard error and to a script as JSON on standard output; give the exit code."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    print_note(str(error))
    return error.exit_code


def called_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Find the command that is called, or completed by a shell."""
    words = list(arguments)
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        if environment.get(name):
            words = environment[name].split()[1:]
    return next((word for word in words if not word.startswith("-")), None)


def build_app(called: str | None = None) -> typer.Typer:
    """Give the application: the called command is real, the others are only listed."""
    app = typer.Typer(
        help=ABOUT, no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )  # fmt: skip
    app.callback()(_options)
    for row in COMMANDS:
        if row.name == called:
            _add(app, row)
        else:
            app.command(row.name, help=row.help, rich_help_panel=row.panel)(_listed)
    return app


def _add(app: typer.Typer, row: CommandRow) -> None:
    module, _, attribute = row.target.partition(":")
    target: Any = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        app.add_typer(target, name=row.name, help=row.help, rich_help_panel=row.panel)
    else:
        context = {"ignore_unknown_options": True} if row.takes_any_text else None
        app.command(row.name, rich_help_panel=row.panel, context_settings=context)(target)


def _listed() -> None:
    """Stand in for a command that is not called."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_text(f"fqlstream {version('fqlstream')}")
        raise typer.Exit


def _options(
    version: Annotated[  # answered before the command runs
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
