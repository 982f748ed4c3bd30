"""Who notices that a topic has grown, and when the group is asked to share its partitions out anew."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from fqlstream.app.sharing import Sharing, counts_in

TOPICS = ("a", "b")
PATIENCE_S = 10.0


@dataclass
class Cluster:
    """Topics and how many partitions they have, as aiokafka tells."""

    counts: Mapping[str, int]

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.counts[topic])) if topic in self.counts else None


@dataclass
class Member:
    """A member's sharing, and the time that it reads."""

    now_s: float = 100.0
    sharing: Sharing = field(init=False)

    def __post_init__(self) -> None:
        self.sharing = Sharing(PATIENCE_S, lambda: self.now_s)

    def looks(self, after_s: float = 0.0, **counts: int) -> bool:
        self.now_s += after_s
        return self.sharing.look(Cluster(counts), TOPICS)

    def joins_with(self) -> bytes:
        data: bytes = self.sharing.metadata(TOPICS).user_data
        return data


def shared_out(**counts: int) -> ConsumerProtocolMemberAssignment:
    """Give the share of a member, as it goes over the wire and is kept by the broker."""
    leader = Sharing(PATIENCE_S, lambda: 0.0)
    made = leader.assign(Cluster(counts), {"m": leader.metadata(TOPICS)})["m"]
    return ConsumerProtocolMemberAssignment.decode(made.encode())


def test_partitions_are_shared_out_by_round_robin_and_everybody_is_told_how_many_there_were() -> None:
    leader, cluster = Sharing(PATIENCE_S, lambda: 0.0), Cluster({"a": 3, "b": 2})
    members = {name: leader.metadata(TOPICS) for name in ("m", "n")}
    plain = RoundRobinPartitionAssignor.assign(
        cluster, {name: ConsumerProtocolMemberMetadata(0, list(TOPICS), b"") for name in members}
    )
    made = leader.assign(cluster, members)
    assert {name: one.partitions() for name, one in made.items()} == {
        name: one.partitions() for name, one in plain.items()
    }
    for share in made.values():
        member = Sharing(PATIENCE_S, lambda: 0.0)
        member.on_assignment(share)
        assert member.shared == {"a": 3, "b": 2}


def test_a_member_joins_as_one_of_any_release_does_until_it_asks() -> None:
    member = Member()
    assert member.sharing.metadata(TOPICS).encode() == RoundRobinPartitionAssignor.metadata(TOPICS).encode()
    assert member.sharing.name == RoundRobinPartitionAssignor.name


def test_a_topic_that_has_grown_is_left_to_the_leader_first_and_asked_for_then() -> None:
    member = Member()
    member.sharing.on_assignment(shared_out(a=4, b=1))
    assert not member.looks(a=4, b=1)
    assert not member.looks(PATIENCE_S, a=6, b=1), "seen for the first time"
    assert not member.looks(PATIENCE_S - 1, a=6, b=1)
    assert member.looks(1, a=6, b=1)
    assert member.joins_with() != Member().joins_with(), "Kafka shares out anew for whoever joins with something else"


def test_a_member_that_joins_asks_for_nothing_more() -> None:
    member = Member()
    member.sharing.on_assignment(shared_out(a=4))
    member.joins_with()
    for _ in range(3):
        assert not member.looks(PATIENCE_S, a=6)
    assert member.joins_with() == Member().joins_with()
    member.sharing.on_assignment(shared_out(a=6))
    assert not member.looks(PATIENCE_S, a=6)


def test_a_member_that_restarted_after_the_growth_sees_it_by_what_kafka_kept() -> None:
    member = Member()
    assert not member.looks(a=6, b=1), "nothing is shared out to it yet"
    member.sharing.on_assignment(shared_out(a=4, b=1))
    assert not member.looks(PATIENCE_S, a=6, b=1)
    assert member.looks(PATIENCE_S, a=6, b=1)


def test_asking_that_does_not_help_is_repeated_ever_more_rarely() -> None:
    member = Member()
    member.sharing.on_assignment(shared_out(a=4))
    asked_at_s = []
    for _ in range(160):
        if member.looks(1, a=6):
            asked_at_s.append(member.now_s)
            member.sharing.on_assignment(shared_out(a=4))
    waits_s = [later - earlier for earlier, later in itertools.pairwise(asked_at_s)]
    assert waits_s == [2 * PATIENCE_S + 1, 4 * PATIENCE_S + 1, 8 * PATIENCE_S + 1]


def test_what_the_leader_did_meanwhile_needs_no_asking_and_the_next_growth_is_as_prompt() -> None:
    member = Member()
    member.sharing.on_assignment(shared_out(a=4))
    member.looks(a=6)
    assert member.looks(PATIENCE_S, a=6)
    member.sharing.on_assignment(shared_out(a=6))
    assert not member.looks(PATIENCE_S, a=6)
    member.looks(a=8)
    assert member.looks(PATIENCE_S, a=8)


def test_a_topic_that_is_smaller_or_gone_is_nothing_to_ask_for() -> None:
    member = Member()
    member.sharing.on_assignment(shared_out(a=4, b=1))
    for _ in range(5):
        assert not member.looks(PATIENCE_S, a=3)
    assert member.sharing.seen == {"a": 3}


def test_a_topic_that_was_missing_when_partitions_were_shared_out_is_asked_for_once_it_is_there() -> None:
    member = Member()
    member.sharing.on_assignment(shared_out())
    assert member.sharing.shared == {}
    member.looks(a=4)
    assert member.looks(PATIENCE_S, a=4)


def test_a_leader_of_an_earlier_release_does_not_tell_and_is_not_asked_again_and_again() -> None:
    member = Member()
    plain = RoundRobinPartitionAssignor.assign(Cluster({"a": 4}), {"m": RoundRobinPartitionAssignor.metadata(TOPICS)})
    member.looks(a=4)
    for _ in range(3):
        member.sharing.on_assignment(plain["m"])
        assert not member.looks(PATIENCE_S, a=4)
        assert not member.looks(PATIENCE_S, a=4)
    member.looks(a=6)
    assert member.looks(PATIENCE_S, a=6)
    member.sharing.on_assignment(plain["m"])
    assert not member.looks(PATIENCE_S, a=6)
    assert not member.looks(PATIENCE_S, a=6)


def test_user_data_that_is_not_ours_counts_as_none() -> None:
    member = Member()
    member.looks(a=4)
    for data in (b"\xff", b"[1]", b'{"a": "x"}', b"null"):
        member.sharing.on_assignment(ConsumerProtocolMemberAssignment(0, [], data))
        assert member.sharing.shared == {"a": 4}


def test_topics_that_the_broker_does_not_know_are_left_out() -> None:
    assert counts_in(Cluster({"a": 2}), ["a", "b"]) == {"a": 2}
