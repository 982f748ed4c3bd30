"""What this worker knows of the definitions: read from their topic, tables made for them, refusals sent to the dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from fqlstream.app.retries import patiently
from fqlstream.events.catalogue import Catalogue
from fqlstream.ops.definition_log import DefinitionsReader
from fqlstream.ops.definition_mirror import prepare_store
from fqlstream.store.client import Store
from fqlstream.store.history import known_dead_letters
from fqlstream.stream.batches import DeadLetter
from fqlstream.stream.delivery import LogPort, StorePort
from fqlstream.stream.engines import changed_models

log = logging.getLogger("fqlstream.definitions")

#: One try to read to the end: a worker that stops waits no longer for the thread that tries.
_TRY_S = 5.0


class DefinitionsFollower:
    """Follows the definitions topic. `catalogue` changes only when the tables that it needs stand."""

    def __init__(self, reader: DefinitionsReader, store: Store, store_port: StorePort, log_port: LogPort) -> None:
        self._reader = reader
        self._store = store
        self._store_port = store_port
        self._log_port = log_port
        self._lock = asyncio.Lock()
        self._begun = self._ended = 0  # numbers of readings to the end
        self._tasks: set[asyncio.Task[None]] = set()
        self.catalogue = Catalogue()

    async def refresh(self) -> Catalogue:
        """Read to the end of the topic as it is now, however long Kafka is away.

        Who asks while others wait shares the next reading with them.
        """
        await self._to_its_end(self._refresh(self._begun))
        return self.catalogue

    async def poll(self) -> Catalogue:
        """Take in what has come since."""
        await self._to_its_end(self._poll())
        return self.catalogue

    async def _refresh(self, asked: int) -> None:
        async with self._lock:
            if self._ended <= asked:  # none that began since has ended
                self._begun += 1
                await self._adopt(await patiently("definitions", partial(self._reader.read_to_end, _TRY_S)))
                self._ended = self._begun

    async def _poll(self) -> None:
        async with self._lock:
            await self._adopt(await patiently("definitions", self._reader.poll))

    async def _to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Await work that goes on when the caller is cancelled: its thread could not be called back, and reads for the next."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits is told; whoever asks next meets it again

    async def _adopt(self, refused: Sequence[DeadLetter]) -> None:
        if refused:
            await self._refuse(refused)
        catalogue = self._reader.catalogue
        if changed_models(self.catalogue, catalogue):
            folded = self._reader.folded
            await patiently("tables of the models", lambda: prepare_store(self._store, folded, catalogue))
        self.catalogue = catalogue

    async def _refuse(self, refused: Sequence[DeadLetter]) -> None:
        """Send what cannot be adopted to the dead letters, once: every worker and every start reads the topic anew."""
        known = await patiently("known dead letters", lambda: known_dead_letters(self._store, refused[0].topic))
        new = [letter for letter in refused if (letter.partition, letter.offset) not in known]
        for letter in new:
            log.warning("%s %s refused: %s", letter.origin, letter.code, letter.reason)
        if new:
            await self._log_port.send_dead_letters(new)
            await self._store_port.write_dead_letters(new)
