"""How the group's partitions are shared out, and that new ones are: a topic that has grown has partitions that nobody reads.

Kafka leaves it to the group's leader to see that a topic has grown. But a static member that restarts gets its place back without
the group being shared out anew, and is not told that it leads: aiokafka asks by version 5 of JoinGroup, the answer that says so
is version 9. From then on nobody looks. So every member does:

* whoever shares the partitions out tells in every member's share how many partitions the topics had, and Kafka keeps that for
  members that restart;
* a member that sees more partitions than that for longer than a leader needs asks the group to share out anew. Kafka does so for
  a member whose subscription has changed; what changes is a number in its user data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import msgspec
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

LOG: Final = logging.getLogger("fqlstream.sharing")


@dataclass(slots=True)
class Sharing:
    """Round robin in the form that aiokafka asks for; lives in the consumer's thread. The two counts may be read from any.

    `patience_s`: how long a leader is given to see for itself what this member sees.
    """

    patience_s: float
    monotonic_s: Callable[[], float]
    #: Partitions by topic as the broker last told this member.
    seen: Mapping[str, int] = field(default_factory=dict)
    #: Partitions by topic that were shared out: the same for all members of a generation.
    shared: Mapping[str, int] = field(default_factory=dict)
    _is_joining: bool = True
    _outgrown_since_s: float | None = None
    _wait_s: float = field(init=False)
    _asked: int = 0

    name: ClassVar[str] = RoundRobinPartitionAssignor.name

    def __post_init__(self) -> None:
        self._wait_s = self.patience_s

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Give what this member tells of itself; it joins with that."""
        self._is_joining = True
        told = b"%d" % self._asked if self._asked else b""
        return ConsumerProtocolMemberMetadata(RoundRobinPartitionAssignor.version, list(topics), told)

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Share out what this member, the leader, knows of, and tell everybody how much that was."""
        shares = RoundRobinPartitionAssignor.assign(cluster, members)
        told = msgspec.json.encode(
            counts_in(cluster, {topic for one in members.values() for topic in one.subscription})
        )
        return {
            member: ConsumerProtocolMemberAssignment(share.version, share.assignment, told)
            for member, share in shares.items()
        }

    def on_assignment(self, share: ConsumerProtocolMemberAssignment) -> None:
        """Take note of what was shared out. A leader of an earlier release does not tell: then it is what is seen now."""
        told = _told_in(share.user_data)
        self.shared = self.seen if told is None else told
        self._is_joining, self._outgrown_since_s = False, None

    def look(self, cluster: Any, topics: Iterable[str]) -> bool:
        """Take note of what the broker says now; says whether the group is to be asked to share out anew.

        Each asking doubles the wait for the next one: one that did not help would otherwise stop everybody again and again.
        """
        self.seen = counts_in(cluster, topics)
        if self._is_joining:
            return False
        if all(count <= self.shared.get(topic, 0) for topic, count in self.seen.items()):
            self._outgrown_since_s, self._wait_s = None, self.patience_s
            return False
        now_s = self.monotonic_s()
        if self._outgrown_since_s is None:
            self._outgrown_since_s = now_s
        if now_s - self._outgrown_since_s < self._wait_s:
            return False
        LOG.info(
            "the group is asked to share out anew: it has %s, and there are %s", dict(self.shared), dict(self.seen)
        )
        self._is_joining = True  # once everybody has written what they have, which takes a while
        self._wait_s *= 2
        self._asked += 1
        return True


def counts_in(cluster: Any, topics: Iterable[str]) -> dict[str, int]:
    """Count the partitions of topics by aiokafka's view of the cluster; topics that it knows nothing of are left out."""
    found = {topic: cluster.partitions_for_topic(topic) for topic in topics}
    return {topic: len(partitions) for topic, partitions in found.items() if partitions}


def _told_in(user_data: bytes) -> dict[str, int] | None:
    try:
        return msgspec.json.decode(user_data, type=dict[str, int])
    except msgspec.DecodeError:  # nothing, or somebody else's
        return None
