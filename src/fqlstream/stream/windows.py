"""Window arithmetic, all in Unix milliseconds, UTC, half-open.

Hours and days follow the clock; weeks start on Monday; everything else counts from the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fqlstream.events.definitions import DAY_MS, HOUR_MS, Window
from fqlstream.events.durations import window_origin_ms

WEEK_MS = 7 * DAY_MS
#: Panes are merged into hours and days by way of these: a changed minute costs ten merges of ten minutes, six of an hour, six
#: of a quarter of a day and four of a day, where without them it would be sixty and twenty-four.
_BLOCKS_MS = (HOUR_MS // 6, HOUR_MS, DAY_MS // 4, DAY_MS)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """One window of time."""

    start_ms: int
    end_ms: int


def spans_of(window: Window, pane_start_ms: int) -> Iterator[Span]:
    """Give every window that holds a pane: one if it tumbles, size/every if it hops."""
    origin = window_origin_ms(window.size_ms)
    last = (pane_start_ms - origin) // window.every_ms * window.every_ms + origin
    start = last
    while start > pane_start_ms - window.size_ms:
        yield Span(start, start + window.size_ms)
        start -= window.every_ms


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """An aligned stretch of panes that is merged once: a pane, ten minutes, an hour, six hours or a day."""

    size_ms: int
    start_ms: int


def block_sizes(pane_ms: int) -> tuple[int, ...]:
    """Give the sizes of blocks above panes, the largest first: each must be a multiple of the one below."""
    sizes = [pane_ms]
    for size in _BLOCKS_MS:
        if size > sizes[-1] and size % sizes[-1] == 0:
            sizes.append(size)
    return tuple(reversed(sizes))


def blocks_of(span: Span, pane_ms: int) -> Iterator[Block]:
    """Cover a window with the fewest blocks."""
    sizes = block_sizes(pane_ms)
    at = span.start_ms
    while at < span.end_ms:
        size = next((size for size in sizes if at % size == 0 and at + size <= span.end_ms), pane_ms)
        yield Block(size, at)
        at += size


def children_of(block: Block, pane_ms: int) -> Iterator[Block]:
    """Give the blocks one size below that make up a block."""
    sizes = block_sizes(pane_ms)
    below = sizes[sizes.index(block.size_ms) + 1]
    for start in range(block.start_ms, block.start_ms + block.size_ms, below):
        yield Block(below, start)


def parents_of(pane_start_ms: int, pane_ms: int) -> Iterator[Block]:
    """Give every block above a pane that holds it."""
    for size in block_sizes(pane_ms)[:-1]:
        yield Block(size, pane_start_ms // size * size)
