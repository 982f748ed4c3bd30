"""`fqlstream up` and `fqlstream worker`."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_text, progress
from fqlstream.cli.signals import Stopped, stop_signals
from fqlstream.local.joining import StackFile, stack_path
from fqlstream.ops.access import KEY_FILE
from fqlstream.settings import load


def up(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Where everything is kept; .fqlstream otherwise.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Faust workers; 1 otherwise.")] = None,
    kafka_home: Annotated[
        Path | None, typer.Option("--kafka-home", metavar="DIR", help="Run the broker of this unpacked Apache Kafka.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run broker, store, API and workers on this machine, in the foreground, until Ctrl-C or SIGTERM.

    What dies is started again. A directory that was used before goes on with its data and its ports.
    """
    from fqlstream.local.stack import running_stack

    settings = load()
    if kafka_home is not None:
        settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"home": kafka_home})})
    directory = data or settings.data
    count = settings.local.workers if workers is None else workers
    try:
        with (
            stop_signals(),
            progress() as said,
            running_stack(settings, directory, workers=count, progress=said) as stack,
        ):
            description = stack.describe()
            said.status("")
            _announce(directory, description, as_json=json)
            threading.Event().wait()
    except Stopped as stopped:
        raise typer.Exit(130 if stopped.number == signal.SIGINT else 0) from None


def _announce(data: Path, stack: StackFile, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(stack))
        return
    print_text(f"ready: {stack_path(data)} has addresses, keys and process ids")
    print_text(f"  ask:  fqlstream sql --data {data} 'SHOW TABLES'")
    print_text(f"        curl {stack.store_url} --data-binary 'SHOW TABLES'")
    print_text(
        f'        curl -H "Authorization: Bearer $(cat {data / KEY_FILE})" {stack.api_url}/api/fqlstream/v1/models'
    )
    print_note("Ctrl-C ends it; the data stays")


def worker(data: DataOption = None) -> None:
    """Run one Faust worker, until Ctrl-C or SIGTERM.

    Exit code 1: something failed that may go better the next time. 3: it was stuck; start it again at once. 4: starting it again
    meets the same until somebody does what its last message says.
    """
    from fqlstream.app.worker import main

    raise typer.Exit(main(settings_for(data)))
