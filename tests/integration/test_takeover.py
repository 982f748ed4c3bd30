"""Who claims a partition at the same moment as others, on the real store: every epoch has one owner, and the highest one stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from fqlstream.app.store_port import StoreAdapter
from fqlstream.clock import SystemClock
from fqlstream.events.catalogue import Catalogue
from fqlstream.settings import FqlSettings, StreamSettings
from fqlstream.store.client import Store
from fqlstream.store.states import newest_flush
from fqlstream.stream.decode import decode
from fqlstream.stream.delivery import Owner, Ports, flush, take_over
from fqlstream.stream.engines import Engines

TOPIC = "inference-events"
CLAIMERS = 6
ROUNDS = 4


@dataclass
class Log:
    """A Kafka that holds a hundred records of the partition."""

    async def topic_id(self, _topic: str) -> str:
        return "the topic"

    async def offset_range(self, _topic: str, _partition: int) -> tuple[int, int]:
        return 0, 100

    async def send_notices(self, _rows: object) -> None:
        return

    def acknowledge(self, *_: object) -> None:
        return


def test_of_those_who_claim_at_once_each_has_an_epoch_of_its_own_and_the_highest_one_goes_on(store: Store) -> None:
    catalogue = Catalogue()
    engines = Engines(catalogue, FqlSettings())
    adapter = StoreAdapter(store, SystemClock(), lambda: catalogue)
    ports = Ports(adapter, Log(), SystemClock(), decode, StreamSettings())

    async def claim(name: str) -> Owner:
        return await take_over(TOPIC, 0, name, catalogue, engines, ports, asyncio.Lock())

    async def main() -> None:
        epochs: Counter[int] = Counter()
        for number in range(ROUNDS):
            owners = await asyncio.gather(*(claim(f"{number}-{each}") for each in range(CLAIMERS)))
            of_round = [owner.base.version.epoch for owner in owners]
            assert min(of_round) > max(epochs, default=0), "higher than everybody before"
            epochs.update(of_round)
            await asyncio.gather(*(flush([owner], ports) for owner in owners))
            standing = [owner for owner in owners if not owner.superseded]
            assert [owner.base.version.epoch for owner in standing] == [max(of_round)]
            row = newest_flush(store, TOPIC, 0)
            assert row is not None
            assert row.owner == standing[0].base.owner
        assert set(epochs.values()) == {1}, "no two have one epoch"

    asyncio.run(main())
