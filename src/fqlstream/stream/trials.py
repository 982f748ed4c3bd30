"""Records that may kill the process, applied alone; the one that does, set aside. See `stream.suspects` for who is suspected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fqlstream.events.refusals import KILLER
from fqlstream.stream.arrow_events import content_types
from fqlstream.stream.batches import DeadLetter, Fetch
from fqlstream.stream.delivery import Owner, flush
from fqlstream.stream.protocol import Suspicion, Version


def next_part(owner: Owner, fetch: Fetch) -> Fetch | None:
    """Give the records of a fetch that are to be applied alone next; None: the rest of it is applied as usual."""
    caution = owner.caution
    start = int(np.searchsorted(fetch.offsets, owner.state.next_offset))
    if caution is None or start == len(fetch):
        return None
    first = int(fetch.offsets[start])
    if first >= caution.until:
        owner.caution = None
        return None
    upto = caution.until if caution.span is None else min(caution.until, first + caution.span)
    return fetch.part(start, int(np.searchsorted(fetch.offsets, upto)))


async def try_alone(owner: Owner, part: Fetch, *, caught_up: bool) -> None:
    """Note some records durably, apply them and flush. Nothing else of the process may apply or write meanwhile.

    A death in between is then theirs. The owner may be `superseded` afterwards, as after any flush.
    """
    await flush([owner], owner.ports, labels=True)
    if owner.superseded:
        return
    if owner.caution is not None and owner.caution.is_aside and await _acquit(owner, part):
        return
    await _note(owner, int(part.offsets[0]), int(part.offsets[-1]))
    if owner.caution is not None and owner.caution.is_aside:
        await _set_aside(owner, part)
    else:
        async with owner.lock:
            await owner.apply(part, caught_up=caught_up, is_known=True)
    await flush([owner], owner.ports, labels=True)
    if owner.caution is not None and owner.caution.span is None:
        owner.caution = None  # the place where they ended is passed, and nobody was seen to end beyond it


async def _note(owner: Owner, first: int, last: int) -> None:
    """Say durably what is about to be applied."""
    before = owner.base
    version = Version(before.version.epoch, before.version.flush + 1)
    suspicion = replace(before.suspicion, trying=(first, last), has_left=False)
    row = replace(before, version=version, suspicion=suspicion, written_at_ms=owner.ports.clock.now_ms())
    await owner.ports.store.write_flushes([row])
    owner.base = row


async def _acquit(owner: Owner, part: Fetch) -> bool:
    """Drop the suspicion where one that was taken for dead has got past the record: it had only lost the partition.

    Each owner that counts as dead had an epoch, the last ones before ours: whoever got past the record before them says nothing
    about what they died of, else a record that anybody ever survived could never be set aside.
    """
    base = owner.base
    first_dead = max(0, base.version.epoch - base.suspicion.deaths)
    if not await owner.ports.store.was_survived(base.topic, base.partition, int(part.offsets[0]), first_dead):
        return False
    owner.caution = None
    owner.base = replace(base, suspicion=Suspicion())
    return True


async def _set_aside(owner: Owner, part: Fetch) -> None:
    """Refuse a record that ends whoever applies it, and take back what its victims may have written of it.

    One that only slept, and wakes after this, may still write the record's history row; its states lose.
    """
    offset = int(part.offsets[0])
    deaths = owner.base.suspicion.deaths
    reason = f"{deaths} workers in a row ended while they applied this record alone"
    async with owner.lock:
        await owner.ports.store.forget_record(owner.partition, offset)
        owner.state.next_offset = part.next_offset
        await owner.rebuild(await owner.ports.store.panes_beyond(owner.partition, offset - 1))
        owner.dead_letters.append(DeadLetter.of(part, 0, KILLER.code, reason, content_types(part).get(0)))
