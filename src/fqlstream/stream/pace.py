"""How much to take at once: what is read and merged together must fit a bound of bytes, and nobody knows sizes before."""

from __future__ import annotations

from dataclasses import dataclass

#: The first step, and how much longer than the one before a step may be: sizes differ, and the first ones may be the small ones.
_FIRST = 16
_FASTER = 4


@dataclass(slots=True)
class Pace:
    """How many items to take next, learned from how large the last ones were: few, where they are large."""

    bytes_max: int
    items_max: int
    items: int = _FIRST

    def took(self, items: int, bytes_count: int) -> None:
        """Learn from items that were taken."""
        if items:
            fitting = self.bytes_max * items // max(1, bytes_count)
            self.items = max(1, min(fitting, _FASTER * max(self.items, items), self.items_max))
