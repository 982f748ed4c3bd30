"""The command line with a weakness: a worker that gets stuck, in the way that STUCK names, once it has met a certain record."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

from fqlstream.app.aggregate import AggregateAgent
from fqlstream.cli.main import run
from fqlstream.stream.batches import Fetch
from fqlstream.stream.finalise import ModelFinaliser

MARK = "sticky-record"
KIND = os.environ.get("STUCK", "")
met = asyncio.Event()
apply, look = AggregateAgent.apply, ModelFinaliser.look


async def apply_or_stick(self: AggregateAgent, fetch: Fetch) -> None:
    """Apply as a worker does, until the mark."""
    if any(value is not None and MARK.encode() in value for value in fetch.values):
        met.set()
        if KIND == "deadlock":
            await asyncio.Event().wait()
        if KIND == "blocked":
            threading.Event().wait()  # the whole loop, for ever
        if KIND == "locked":
            re.match("(a+)+$", 60 * "a" + "b")  # for years, without giving any other thread a turn
    await apply(self, fetch)


async def look_or_stick(self: ModelFinaliser, *arguments: Any) -> AsyncIterator[Any]:
    """Publish as a worker does, until the mark."""
    if met.is_set() and KIND == "publishing":
        await asyncio.Event().wait()
    async for values in look(self, *arguments):
        yield values


if __name__ == "__main__":
    with (
        mock.patch.object(AggregateAgent, "apply", apply_or_stick),
        mock.patch.object(ModelFinaliser, "look", look_or_stick),
    ):
        run()
