"""Which record may have ended a partition's owners: pure decisions over what flush rows say.

An owner that ends without a word cannot say what ended it. Its successor's claim counts it. When several in a row have ended
at one fence, a record after it is suspected, and its surroundings become smaller with every further death:

    deaths at one fence       the next fetch is applied alone: noted durably, applied, flushed, while the process does nothing else
    a death among those       the noted range is suspected, and applied in parts
    a death on one record     it is tried again, and set aside when that was its end so often that nothing else explains it

Nothing is counted of an owner that has left in order, so restarts and partitions without traffic are never suspects. A suspicion
that was wrong costs time and no record: whoever gets past the fence clears it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fqlstream.settings import StreamSettings
from fqlstream.stream.protocol import FlushRow, Suspicion

#: A suspected range is applied in so many parts: each costs a few inserts, about 50 ms; each narrowing costs a death.
_PARTS = 64


@dataclass(frozen=True, slots=True)
class Caution:
    """How to go on: records below `until` alone, no more than `span` offsets at once (None: one whole fetch, and no more).

    `is_aside`: the one record that is left is not applied at all.
    """

    until: int
    span: int | None = None
    is_aside: bool = False


def inherited(newest: FlushRow, owner: str) -> Suspicion:
    """Say what the next owner suspects, by its predecessor's last row. An owner that claims again has not died."""
    known = newest.suspicion
    if newest.owner == owner or known.has_left:
        return replace(known, trying=None, has_left=False)
    if known.trying is not None:
        deaths = known.deaths + 1 if known.trying == known.suspects else 1
        return Suspicion(deaths, suspects=known.trying)
    if known.suspects is not None:
        return known  # it ended, but not of these: they were not being applied
    return replace(known, deaths=known.deaths + 1)


def noted(base: FlushRow, fence: int, *, has_left: bool) -> Suspicion:
    """Say what is suspected after a flush up to a fence."""
    known = base.suspicion
    if fence <= base.fence:
        return replace(known, trying=None, has_left=has_left)
    suspects = known.suspects
    if suspects is not None:
        suspects = (max(suspects[0], fence + 1), suspects[1]) if suspects[1] > fence else None
    return Suspicion(0, suspects, has_left=has_left)


def caution(known: Suspicion, next_offset: int, log_end: int, settings: StreamSettings) -> Caution | None:
    """Say how a new owner has to go on; None: as usual."""
    if known.suspects is None:
        is_suspect = known.deaths >= settings.deaths_before_alone and next_offset < log_end
        return Caution(log_end) if is_suspect else None
    first, last = known.suspects
    is_aside = first == last and known.deaths >= settings.deaths_alone
    return Caution(last + 1, -(-(last - first + 1) // _PARTS), is_aside)
