"""A memory of what can be had again, bounded by the weight of what it holds: what is cheap to have again goes first.

GreedyDual-Size (Cao and Irani, 1997): an entry's worth is its cost for its weight, added to the worth of what was let go of
last when the entry was used. So what was not used for long grows worthless, however dear it is; where all cost alike for
their weight, the least recently used goes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Notes of entries that were used or are gone since: so many times the entries, and the heap is made anew.
_STALE_FACTOR = 4


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    weight: int
    cost_each: float  # for a unit of weight
    note: tuple[float, int] = (0.0, 0)  # worth, and when it was used


class Forgetting(Generic[K, V]):
    """Values by key, each with a weight and a cost; `trim` lets go until `weight_max` and `entries_max` hold."""

    def __init__(self, weight_max: int, entries_max: int | None = None) -> None:
        self.weight_max = weight_max
        self.entries_max = entries_max
        self.weight = 0
        self._held: dict[K, _Entry[V]] = {}
        self._heap: list[tuple[tuple[float, int], K]] = []
        self._floor = 0.0
        self._uses = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def get(self, key: K) -> V | None:
        """Give a value, which is worth as much again as when it came; None where there is none."""
        found = self._held.get(key)
        if found is None:
            return None
        self._use(key, found)
        return found.value

    def put(self, key: K, value: V, weight: int, cost: float | None = None) -> None:
        """Keep a value, in place of one of the same key; its cost is its weight, unless given."""
        self.pop(key)
        cost_each = 1.0 if cost is None else cost / max(1, weight)
        self._held[key] = entry = _Entry(value, weight, cost_each)
        self.weight += weight
        self._use(key, entry)

    def pop(self, key: K) -> None:
        """Forget a value, if it is there."""
        found = self._held.pop(key, None)
        if found is not None:
            self.weight -= found.weight

    def forget(self, which: Callable[[K], bool]) -> None:
        """Forget the values of some keys."""
        for key in [key for key in self._held if which(key)]:
            self.pop(key)

    def trim(self) -> None:
        """Let go of what is worth least until the bounds hold."""
        while self._held and self._is_over():
            note, key = heappop(self._heap)
            entry = self._held.get(key)
            if entry is not None and entry.note == note:
                self._floor = note[0]
                self.pop(key)

    def _use(self, key: K, entry: _Entry[Any]) -> None:
        self._uses += 1
        entry.note = (self._floor + entry.cost_each, self._uses)
        heappush(self._heap, (entry.note, key))
        if len(self._heap) > _STALE_FACTOR * len(self._held) + 16:
            self._heap = [(held.note, of) for of, held in self._held.items()]
            heapify(self._heap)

    def _is_over(self) -> bool:
        return self.weight > self.weight_max or (self.entries_max is not None and len(self._held) > self.entries_max)
