"""The finalise agent: publishes the values of the models whose partition of pane-updates this worker holds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from fqlstream.app.numbers import Numbers
from fqlstream.app.rounds import Rounds
from fqlstream.app.watchdog import Duties
from fqlstream.clock import Clock
from fqlstream.ops.numbers import PUBLISH_SECONDS, VALUES
from fqlstream.settings import Settings
from fqlstream.stream.engines import Engines
from fqlstream.stream.finalise import (
    FinalMemory,
    FinalStorePort,
    Flushed,
    ModelFinaliser,
    ValueLogPort,
    read_flushed,
)

log = logging.getLogger("fqlstream.finalise")

#: Without a notice a model is looked at so often: notices may be lost, and windows become final by time alone.
_LOOK_EVERY_S = 1.0
_PUBLISHING = "publishing"


class FinaliseAgent:
    """One worker's models. A notice only says that looking is worth while."""

    def __init__(
        self,
        source_topic: str,
        store: FinalStorePort,
        log_port: ValueLogPort,
        clock: Clock,
        settings: Settings,
        engines_of: Callable[[], Engines],
        partition_of: Callable[[str], Awaitable[int]],
        on_failure: Callable[[BaseException], None],
        duties: Duties | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        self.numbers = numbers or Numbers()
        self.duties = duties or Duties()
        self.source_topic = source_topic
        self.store = store
        self.log_port = log_port
        self.clock = clock
        self.settings = settings
        self.engines_of = engines_of
        self.partition_of = partition_of
        self.finalise_s = 0.0
        self.values_count = 0
        self._partitions: set[int] = set()
        self.memory = FinalMemory(settings.stream)
        self._finalisers: dict[str, ModelFinaliser] = {}
        self._noticed: set[str] = set()
        self._rounds = Rounds(_PUBLISHING, self.duties, on_failure)
        self._looked_at_s = -_LOOK_EVERY_S

    def take(self, partitions: Collection[int]) -> None:
        """Take over models: everything is read from ClickHouse on the first look."""
        self._partitions |= set(partitions)
        self._rounds.ask()

    def lose(self, partitions: Collection[int]) -> None:
        """Forget models."""
        self._partitions -= set(partitions)
        self._finalisers.clear()
        self.memory = FinalMemory(self.settings.stream)  # what is still ours is read again on the next look

    def published(self, model: str) -> Mapping[int, int]:
        """Say up to which flush of each partition this worker has published a model; nothing where it does not."""
        finaliser = self._finalisers.get(model)
        return {} if finaliser is None or finaliser.published is None else finaliser.published.vector

    @property
    def finalisers(self) -> Mapping[str, ModelFinaliser]:
        """Who publishes each model here."""
        return self._finalisers

    def notice(self, model: str) -> None:
        """Look at a model soon."""
        self._noticed.add(model)
        self._rounds.ask()

    async def run(self) -> None:
        """Publish for ever; ends the worker where that cannot go on."""
        await self._rounds.run(self._publish, _LOOK_EVERY_S)

    async def _publish(self) -> None:
        now_s = asyncio.get_running_loop().time()
        engines = self.engines_of()
        noticed, self._noticed = self._noticed, set()
        if now_s - self._looked_at_s >= _LOOK_EVERY_S:
            self._looked_at_s = now_s
            noticed |= engines.catalogue.models.keys()
            for model in self._finalisers.keys() - engines.catalogue.models.keys():
                del self._finalisers[model]  # deleted: nobody asks how far its values are
        partitions = {
            model: await self.partition_of(model) for model in sorted(noticed & engines.catalogue.models.keys())
        }
        mine = [model for model, partition in partitions.items() if partition in self._partitions]
        flushed = await read_flushed(self.store, self.source_topic, self.clock) if mine else None
        for model in mine:
            if partitions[model] in self._partitions:  # it may go while another model is published
                await self.refresh(model, engines, flushed)
            self.duties.moved(_PUBLISHING)
        # notices come with every flush of every partition: one look serves all of one rhythm
        await asyncio.sleep(self.settings.stream.flush_ms / 2000)

    async def refresh(self, model: str, engines: Engines, flushed: Flushed | None = None) -> None:
        """Publish what changed of one model, by flush rows that were read for all."""
        finaliser = self._finalisers.get(model)
        if finaliser is not None and finaliser.superseded:
            # by a worker that was given our partition, or that has not been told yet that it is ours again
            del self._finalisers[model]
            return
        if finaliser is None:
            finaliser = ModelFinaliser(
                model, self.source_topic, self.store, self.log_port, self.clock, self.settings.stream, self.memory
            )
            self._finalisers[model] = finaliser
        started_s = time.process_time()
        with self.numbers.timed(PUBLISH_SECONDS):
            async for values in finaliser.look(engines.catalogue, engines, flushed):
                self.values_count += len(values)
                self.numbers.add(VALUES, len(values))
        self.finalise_s += time.process_time() - started_s

    def stop(self) -> None:
        """End the loop."""
        self._rounds.end()
