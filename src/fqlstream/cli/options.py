"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fqlstream.settings import Settings, StoreSettings, load

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Data directory of a running stack (`fqlstream up`); .fqlstream otherwise."
    ),
]
#: A question a person asked may take its time.
_TIMEOUT_S = 86_400.0
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


def settings_for(data: Path | None) -> Settings:
    """Read the settings, and fill in the addresses of the stack that runs in the data directory.

    With `data`, the stack's addresses win. Without, those that the settings name stand, and only missing ones are filled
    in. Raises UsageError where no stack runs and nothing is named.
    """
    from fqlstream.local.joining import is_locked, join

    settings = load()
    if data is not None:
        return join(data, settings)
    kafka, store = settings.kafka, settings.store
    named = bool(kafka.bootstrap), bool(store.url)
    if all(named) or (any(named) and not is_locked(settings.data)):
        return settings
    joined = join(settings.data, settings)
    return joined.model_copy(
        update={"kafka": kafka if kafka.bootstrap else joined.kafka, "store": store if store.url else joined.store}
    )


def patient(settings: StoreSettings) -> StoreSettings:
    """Give the settings of a store that is asked something by a person."""
    return settings.model_copy(update={"timeout_s": max(settings.timeout_s, _TIMEOUT_S)})
