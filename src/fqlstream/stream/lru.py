"""A memory of what can be had again: bounded by the weight of what it holds, the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Values by key, each with a weight; `trim` lets go until `weight_max` and `entries_max` hold."""

    def __init__(self, weight_max: int, entries_max: int | None = None) -> None:
        self.weight_max = weight_max
        self.entries_max = entries_max
        self.weight = 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def get(self, key: K) -> V | None:
        """Give a value, which becomes the most recently used; None where there is none."""
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value, in place of one of the same key."""
        self.pop(key)
        self._held[key] = (value, weight)
        self.weight += weight

    def pop(self, key: K) -> None:
        """Forget a value, if it is there."""
        found = self._held.pop(key, None)
        if found is not None:
            self.weight -= found[1]

    def forget(self, which: Callable[[K], bool]) -> None:
        """Forget the values of some keys."""
        for key in [key for key in self._held if which(key)]:
            self.pop(key)

    def trim(self) -> None:
        """Let go of the least recently used until the bounds hold."""
        while self._held and self._is_over():
            _, (_, weight) = self._held.popitem(last=False)
            self.weight -= weight

    def _is_over(self) -> bool:
        return self.weight > self.weight_max or (self.entries_max is not None and len(self._held) > self.entries_max)
