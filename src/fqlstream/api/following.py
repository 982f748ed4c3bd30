"""Definitions as an API process knows them: followed in the background, and read to their end where it matters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from fqlstream.api.sharing import Sharing
from fqlstream.clock import Clock
from fqlstream.errors import FqlstreamError
from fqlstream.events.catalogue import Catalogue
from fqlstream.ops.definition_log import DefinitionsReader, Folded
from fqlstream.ops.definitions import DefinitionsWriter
from fqlstream.ops.registry_mirror import RegistryMirror
from fqlstream.settings import Settings
from fqlstream.store.client import Store

T = TypeVar("T")

log = logging.getLogger("fqlstream.api.definitions")

#: Trouble is said so often.
_SAID_EVERY_S: Final = 30.0


class DefinitionsFollower:
    """Follows the topic of definitions. One thread reads; what it has read is an immutable value that any route may hold."""

    def __init__(
        self, settings: Settings, clock: Clock, *, reader: DefinitionsReader | None = None, store: Store | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._mirror = RegistryMirror()
        self._store = store
        self._reader = reader or DefinitionsReader(settings, on_records=None if store is None else self._mirror.hear)
        # the consumer belongs to one thread at a time
        self._thread = ThreadPoolExecutor(1, "definitions")
        self._looks = Sharing()
        self._tasks: list[asyncio.Task[None]] = []
        self.read_at_s = float("-inf")
        # it keeps its claim between calls: a run of a pipeline does not wait for a new one
        self._writer = DefinitionsWriter(settings, reader=self._reader, clock=clock)

    @property
    def catalogue(self) -> Catalogue:
        """What stands, as far as it was read."""
        return self._reader.catalogue

    @property
    def folded(self) -> Folded:
        """The records behind it."""
        return self._reader.folded

    async def start(self) -> None:
        """Read all that stands, then follow. Raises BrokerError where it cannot be read."""
        await self.refresh()
        self._tasks.append(asyncio.create_task(self._follow(), name="follow definitions"))
        if self._store is not None:
            self._tasks.append(asyncio.create_task(self._show(self._store), name="show the registry in ClickHouse"))

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._writer.close)
        await loop.run_in_executor(self._thread, self._reader.close)
        self._thread.shutdown()

    async def change(self, work: Callable[[DefinitionsWriter], T]) -> T:
        """Apply or delete definitions, one call of this process at a time; what is then known includes them.

        `work` is called in the thread that reads, and goes on when the caller is cancelled. Raises DefinitionError, BrokerError.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._writer)

    async def refresh(self) -> Catalogue:
        """Read to the end that the log has now, so that whatever was applied before this call is seen.

        Calls at the same time share one look: one that has begun may miss what this caller has just applied, so they share the next.
        Raises BrokerError.
        """
        return await self._looks.ask("the log's end", self._read_to_end)

    async def _read_to_end(self) -> Catalogue:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._reader.read_to_end)
        self.read_at_s = self._clock.monotonic_s()
        return self._reader.catalogue

    async def _follow(self) -> None:
        """Take in what comes, for ever; what is away is waited for."""
        loop = asyncio.get_running_loop()

        async def poll() -> None:
            await loop.run_in_executor(self._thread, self._reader.poll)
            self.read_at_s = self._clock.monotonic_s()

        await self._again_and_again(poll, "definitions cannot be followed")

    async def _show(self, store: Store) -> None:
        """Write what is registered to ClickHouse, for ever. In another thread than the one that reads: ClickHouse may be slow."""

        async def write() -> None:
            if self._mirror.waits:
                await asyncio.to_thread(self._mirror.write, store)

        await self._again_and_again(write, "ClickHouse does not show what is registered")

    async def _again_and_again(self, work: Callable[[], Awaitable[None]], trouble: str) -> None:
        said_s = float("-inf")
        while True:
            await asyncio.sleep(self._settings.api.follow_ms / 1000)
            try:
                await work()
            except Exception as error:  # what is tried again for ever must end by nothing that comes from outside
                if self._clock.monotonic_s() - said_s >= _SAID_EVERY_S:
                    said_s = self._clock.monotonic_s()
                    log.warning("%s: %s", trouble, error, exc_info=not isinstance(error, FqlstreamError))
