"""Whether a worker that was just started shares the partitions.

A static member that has ended, however it ended, stands in its group until its session is over: a worker's place is taken
before the worker is. Its successor takes the place under a new member id, and only that tells the two apart.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from fqlstream.local.processes import ProcessError

_ASK_S: Final = 2.0
_POLL_S: Final = 0.05


class Membership:
    """The members of a group, and which of them have been seen before."""

    def __init__(self, admin: AdminClient, group: str) -> None:
        self._admin = admin
        self._group = group
        self._seen: set[str] = set()

    def look(self, timeout_s: float) -> None:
        """Take note of who is in the group before anybody is started.

        Raises ProcessError where the broker does not say for so long.
        """
        deadline = time.monotonic() + timeout_s
        while (group := self._describe()) is None:
            if time.monotonic() > deadline:
                raise ProcessError(
                    "LOC002",
                    f"the broker did not say within {timeout_s:.0f} s who is in the group {self._group}",
                    "look into the broker's log",
                )
            time.sleep(_POLL_S)
        self._seen.update(group.members.values())

    def has_joined(self, instance: str) -> bool:
        """Say whether this static member is in the group anew, and the group has shared its partitions out since."""
        group = self._describe()
        if group is None or not group.is_stable or group.members.get(instance, "") in {"", *self._seen}:
            return False
        self._seen.add(group.members[instance])  # when the worker is started again, this is its predecessor
        return True

    def _describe(self) -> _Group | None:
        """Ask for the group; None where there is no answer now."""
        try:
            future = self._admin.describe_consumer_groups([self._group], request_timeout=_ASK_S)[self._group]
            found = future.result(_ASK_S * 2)
        except TimeoutError:
            return None
        except KafkaException as error:
            return _Group() if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None
        members = {member.group_instance_id or member.member_id: member.member_id for member in found.members}
        return _Group(found.state is ConsumerGroupState.STABLE, members)


@dataclass(frozen=True, slots=True)
class _Group:
    """A group as the broker sees it: its members' ids by the name of their instance. One that nobody was in has none."""

    is_stable: bool = False
    members: Mapping[str, str] = field(default_factory=dict)
