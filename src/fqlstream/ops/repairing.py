"""Stored history computed again: what was asked for is rebuilt by the owners of the partitions, and published like any change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import StoreError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.store import repairs, states
from fqlstream.store.client import Store

#: The source topic of models' events.
SOURCE: Final = "inference-events"
#: The end of ClickHouse's times, year 2299: later than any event.
END_OF_TIME_MS: Final = 10_413_791_999_000
_LOOK_S: Final = 0.25

#: Told how many panes of how many are done.
ProgressBar = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """Panes of a model that its owners were asked to rebuild, at one moment."""

    model: str
    panes: int
    partitions: frozenset[int]
    requested_at_ms: int


def ask(
    store: Store, entry: ModelEntry, start_ms: int, end_ms: int, reason: str, *, clock: Clock | None = None
) -> Asked:
    """Ask for every pane that holds an event of a half-open time range (Unix ms), under every version of a model."""
    needs = [need for model in entry.versions.values() for need in repairs.stored_panes(store, model, start_ms, end_ms)]
    now_ms = (clock or SystemClock()).now_ms()
    if needs:
        repairs.request(store, needs, reason, requested_at_ms=now_ms)
    return Asked(entry.name, len(needs), frozenset(need.partition for need in needs), now_ms)


def await_done(store: Store, asked: Asked, progress: ProgressBar, *, stall_s: float) -> None:
    """Wait until the panes are rebuilt and what follows from them is published.

    Raises StoreError REP001 where nothing has moved for `stall_s` seconds: the requests stay, and are carried out later.
    """
    if not asked.panes:
        return
    moved_at_s, left = time.monotonic(), asked.panes + 1
    while left:
        now_left = repairs.count_waiting(store, asked.model, asked.requested_at_ms)
        if now_left < left:
            moved_at_s, left = time.monotonic(), now_left
        progress(asked.panes - left, asked.panes)
        if left:
            pause(moved_at_s, stall_s, f"{left} of {asked.panes} panes are not rebuilt yet")
    await_published(store, asked.model, asked.partitions, stall_s=stall_s)


def await_published(store: Store, model: str, partitions: frozenset[int], *, stall_s: float) -> None:
    """Wait until what is durable of these partitions now is in the model's published values.

    Raises StoreError REP001 where it is not within `stall_s` seconds.
    """
    wanted = {
        row.partition: row.version.number for row in states.newest_flushes(store, SOURCE) if row.partition in partitions
    }
    moved_at_s = time.monotonic()
    while not _published(store, model, wanted):
        pause(moved_at_s, stall_s, "the panes are rebuilt, but their values are not published yet")


def _published(store: Store, model: str, wanted: dict[int, int]) -> bool:
    found = states.read_published(store, model)
    return found is not None and all(found.vector.get(p, -1) >= number for p, number in wanted.items())


def pause(moved_at_s: float, stall_s: float, what: str) -> None:
    """Wait a moment for workers. Raises StoreError REP001 where nothing has moved for `stall_s` seconds."""
    if time.monotonic() - moved_at_s > stall_s:
        hint = "is a worker running? The requests stay, and the next one carries them out"
        raise StoreError("REP001", f"{what}, and nothing has moved for {stall_s:.0f} s", hint)
    time.sleep(_LOOK_S)
