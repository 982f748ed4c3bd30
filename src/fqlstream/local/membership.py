"""Whether a worker that was just started shares the partitions.

A static member that has ended, however it ended, stands in its group until its session is over: a worker's place is taken
before the worker is. Its successor takes the place under a new member id, and only that tells the two apart.

Asked by librdkafka's older call for groups: the one that names instances can end this process when the broker dies under it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from fqlstream.local.processes import ProcessError
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import KafkaSettings

_ASK_S: Final = 2.0
_POLL_S: Final = 0.05
_SUFFIX_CHARACTERS: Final = 37
#: The state of a group that has shared its partitions out.
_STABLE: Final = "Stable"


def membership_of(kafka: KafkaSettings, topic: str) -> Membership:
    """Give the membership of the workers' group, which has a partition 0 of this topic."""
    options = librdkafka_options(kafka)
    consumer = Consumer({**options, "group.id": kafka.group, "enable.auto.commit": False})
    return Membership(AdminClient(options), kafka.group, lambda: consumer.committed([TopicPartition(topic, 0)], _ASK_S))


class Membership:
    """The members of a group, and which of them have been seen before."""

    def __init__(self, admin: AdminClient, group: str, reach_coordinator: Callable[[], object]) -> None:
        self._admin = admin
        self._group = group
        self._reach_coordinator = reach_coordinator
        self._seen: set[str] = set()

    def look(self, timeout_s: float) -> None:
        """Take note of who is in the group before anybody is started.

        Raises ProcessError where the broker does not say for so long.
        """
        deadline = time.monotonic() + timeout_s
        while (group := self._loaded()) is None:
            if time.monotonic() > deadline:
                raise ProcessError(
                    "LOC002",
                    f"the broker did not say within {timeout_s:.0f} s who is in the group {self._group}",
                    "look into the broker's log",
                )
            time.sleep(_POLL_S)
        self._seen.update(group.members)

    def has_joined(self, instance: str) -> bool:
        """Say whether this static member is in the group anew, and the group has shared its partitions out since."""
        group = self._describe()
        if group is None or not group.is_stable:
            return False
        mine = {member for member in group.members if _instance_of(member) == instance} - self._seen
        self._seen |= mine  # when the worker is started again, this is its predecessor
        return bool(mine)

    def _loaded(self) -> _Group | None:
        """Ask for the group once its coordinator has read it: before, a broker that has just started has no groups at all."""
        try:
            self._reach_coordinator()
        except KafkaException:
            return None
        return self._describe()

    def _describe(self) -> _Group | None:
        """Ask for the group; None where there is no answer now."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # what is to replace it is what must not be called
                found = self._admin.list_groups(self._group, timeout=_ASK_S)
        except KafkaException:
            return None
        for group in found:
            if group.error is None:
                return _Group(group.state == _STABLE, frozenset(member.id for member in group.members))
        return None if found else _Group()


def _instance_of(member: str) -> str:
    """Give the name of a static member's instance: the broker adds a dash and 36 characters of its own."""
    return member[:-_SUFFIX_CHARACTERS]


@dataclass(frozen=True, slots=True)
class _Group:
    """A group as the broker sees it: the ids of its members. One that nobody was in has none."""

    is_stable: bool = False
    members: frozenset[str] = frozenset()
