"""What the routes work with: the parts of a running API process, made once and closed in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from fqlstream.api.following import DefinitionsFollower
from fqlstream.api.gate import Gate
from fqlstream.api.sharing import Sharing
from fqlstream.clock import Clock
from fqlstream.ops.code_metric_tasks import CodeMetricRequests
from fqlstream.ops.recording import Recorder
from fqlstream.settings import Settings
from fqlstream.store.client import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Dependencies:
    """The parts of an API process. `threads` are where calls wait that block, `upload_threads` those of whole files."""

    settings: Settings
    clock: Clock
    store: Store
    gate: Gate
    definitions: DefinitionsFollower
    recorder: Recorder
    code_metrics: CodeMetricRequests
    threads: Executor
    upload_threads: Executor
    sharing: Sharing = field(default_factory=Sharing)

    async def thread(self, function: Callable[..., T], *args: object, **keywords: object) -> T:
        """Run a blocking call in a thread."""
        return await _call(self.threads, function, *args, **keywords)

    async def upload_thread(self, function: Callable[..., T], *args: object, **keywords: object) -> T:
        """Run a blocking call that works on a whole file in a thread: reads do not wait behind it."""
        return await _call(self.upload_threads, function, *args, **keywords)

    async def shared(self, function: Callable[..., T], *args: Hashable, **keywords: Hashable) -> T:
        """Run a blocking read in a thread, once for all who ask for the same meanwhile. Nobody may change what it gives."""
        key = function, args, tuple(sorted(keywords.items()))
        return await self.sharing.ask(key, lambda: self.thread(function, *args, **keywords))


async def _call(threads: Executor, function: Callable[..., T], *args: object, **keywords: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: function(*args, **keywords))


async def dependencies_of(request: Request) -> Dependencies:
    """Give the parts that the application of a request was made with. Async: FastAPI takes other functions to a thread, each time."""
    return cast("Dependencies", request.app.state.dependencies)


#: How a route asks for them: `async def route(parts: Parts)`.
Parts = Annotated[Dependencies, Depends(dependencies_of)]
