"""`fqlstream bench`: measure speed on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from fqlstream.cli.options import JsonOption
from fqlstream.cli.output import print_json, print_note, print_table


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Which benchmark: pipeline, chaos, recovery, scaling, api, code_metrics, protocol, fql, functions or stages.",
        ),
    ],
    events: Annotated[
        int,
        typer.Option(
            "--events", min=1_000, help="How many events or rows; of recovery: states; of api: a request each 200."
        ),
    ] = 1_000_000,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="FIGURE", help="Only this figure; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of chaos.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="What chaos is drawn from.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Run a benchmark; chaos spreads its events over its rounds. Exit code 1 if an answer was wrong: its figures are then worth nothing."""
    from fqlstream.bench import Request, run_bench

    report = run_bench(name, Request(events, frozenset(only or ()), print_note, rounds, seed))
    if as_json:
        print_json(report.as_dict())
    else:
        print_note(report.machine)
        print_table(("figure", "value"), [(figure, f"{value:,.0f}") for figure, value in report.figures.items()])
        if not report.checked:
            print_note("an answer was wrong: the figures are worth nothing")
    if not report.checked:
        raise typer.Exit(1)
