"""What is known of partitions and groups at one moment: plain values between asking, judging and showing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Log:
    """A partition's log: its first offset, its end (the next offset), and up to where a read_committed reader gets it now.

    `problem`: why nothing is known of it; then the offsets mean nothing.
    """

    start: int = 0
    end: int = 0
    stable_end: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """Who holds a partition, as the broker knows it."""

    id: str
    client_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Group:
    """A group: its state in Kafka's words, what it committed, and which member holds which partition.

    `is_rebalancing`: partitions are being shared out, so that nobody holds any; `member_count` tells whether somebody will.
    """

    name: str
    state: str
    member_count: int
    committed: Mapping[Place, int]
    held: Mapping[Place, Member]

    @property
    def is_rebalancing(self) -> bool:
        """Say whether partitions are being shared out at this moment."""
        return self.member_count > 0 and self.state != "Stable"


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of a partition that a group has not read: half-open, as far as a read_committed reader gets now."""

    place: Place
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Unread:
    """What is in a span. `is_left`: whether any record is; `first_ms`: the first one's timestamp (Unix ms).

    `rows`: of all its records, those that do not say how many rows they hold being one. None each: not known, `problem` says why.
    """

    is_left: bool | None
    first_ms: int | None = None
    rows: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """Everything that was asked for at once. `at_ms`: when the ends of the logs were known, Unix ms, by this machine's clock.

    `left_out`: in words, what may be missing among the groups.
    """

    at_ms: int
    cluster: str
    groups: tuple[Group, ...]
    logs: Mapping[Place, Log]
    unread: Mapping[Span, Unread]
    took_s: float
    left_out: tuple[str, ...] = ()
