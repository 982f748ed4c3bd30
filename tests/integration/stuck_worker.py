"""The command line with a weakness: a worker that gets stuck, in the way that STUCK names, once it has met a certain record."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import Any
from unittest import mock

from fqlstream.app.aggregate import AggregateAgent
from fqlstream.cli.main import run
from fqlstream.stream.batches import Fetch
from fqlstream.stream.finalise import ModelFinaliser

MARK = "sticky-record"
KIND = os.environ.get("STUCK", "")
met = asyncio.Event()
apply, refresh = AggregateAgent.apply, ModelFinaliser.refresh


async def apply_or_stick(self: AggregateAgent, fetch: Fetch) -> None:
    """Apply as a worker does, until the mark."""
    if any(value is not None and MARK.encode() in value for value in fetch.values):
        met.set()
        if KIND == "deadlock":
            await asyncio.Event().wait()
        if KIND == "blocked":
            time.sleep(1_000)  # noqa: ASYNC251  # that is the point
        if KIND == "locked":
            re.match("(a+)+$", 60 * "a" + "b")  # for years, without giving any other thread a turn
    await apply(self, fetch)


async def refresh_or_stick(self: ModelFinaliser, *arguments: Any) -> Any:
    """Publish as a worker does, until the mark."""
    if met.is_set() and KIND == "publishing":
        await asyncio.Event().wait()
    return await refresh(self, *arguments)


if __name__ == "__main__":
    with (
        mock.patch.object(AggregateAgent, "apply", apply_or_stick),
        mock.patch.object(ModelFinaliser, "refresh", refresh_or_stick),
    ):
        run()
