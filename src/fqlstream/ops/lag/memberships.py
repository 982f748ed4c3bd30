"""Who holds which partitions of a group.

Groups of the older protocol, which every client speaks, are asked for by librdkafka's older call: the newer one can end this process
when a broker dies under it. Only groups of the newer protocol (KIP-848), which the older call does not see, are asked for by that.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import ConsumerGroupType, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from fqlstream.ops.lag.places import Member, Place

#: The only protocol whose assignments say partitions.
_CONSUMER: Final = "consumer"


@dataclass(frozen=True, slots=True)
class Membership:
    """A group's state in Kafka's words, how many members it has, and what they hold."""

    state: str
    member_count: int
    held: dict[Place, Member]


def memberships(
    admin: AdminClient, kinds: dict[str, ConsumerGroupType], wait_s: float
) -> dict[str, Membership | KafkaError]:
    """Ask for groups, by name and kind: of each what is known, or why nothing is; those that are gone meanwhile may be left out.

    Raises KafkaException and TimeoutError where the cluster does not answer.
    """
    newer = [name for name, kind in kinds.items() if kind == ConsumerGroupType.CONSUMER]
    older = [name for name in kinds if name not in set(newer)]
    found: dict[str, Membership | KafkaError] = {}
    if newer:
        futures = admin.describe_consumer_groups(newer, request_timeout=wait_s)
        found.update({name: _answered(future, wait_s) for name, future in futures.items()})
    if older:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # see the head of this file
            # one round either way: without a name, the older call asks for all groups
            groups = (
                admin.list_groups(older[0], timeout=wait_s) if len(older) == 1 else admin.list_groups(timeout=wait_s)
            )
        wanted = set(older)
        found.update({group.id: group.error or _older(group) for group in groups if group.id in wanted})
    return found


def _answered(future: Any, wait_s: float) -> Membership | KafkaError:
    """One group that cannot be described says nothing of the others."""
    try:
        return _newer(future.result(wait_s))
    except KafkaException as error:
        told: KafkaError = error.args[0]
        return told


def _newer(described: Any) -> Membership:
    held = {
        Place(partition.topic, partition.partition): Member(member.member_id, member.client_id, _host(member.host))
        for member in described.members
        for partition in (member.assignment.topic_partitions if member.assignment else ())
    }
    return Membership(str(described.state.name).title(), len(described.members), held)


def _older(described: Any) -> Membership:
    held: dict[Place, Member] = {}
    for each in described.members:
        member = Member(each.id, each.client_id, _host(each.client_host))
        assigned = assigned_partitions(each.assignment or b"") if described.protocol_type == _CONSUMER else ()
        held.update(dict.fromkeys(assigned, member))
    return Membership(described.state, len(described.members), held)


def _host(text: str) -> str:
    """Leave out the slash that Java writes before an address."""
    return text.removeprefix("/")


def assigned_partitions(assignment: bytes) -> Iterable[Place]:
    """Read an assignment of Kafka's consumer protocol (`ConsumerProtocolAssignment`); nothing where it is cut or is none."""
    places: list[Place] = []
    try:
        (topics,) = struct.unpack_from(">2xi", assignment)
        at = 6
        for _ in range(topics):
            (length,) = struct.unpack_from(">h", assignment, at)
            topic = assignment[at + 2 : at + 2 + length].decode()
            (count,) = struct.unpack_from(">i", assignment, at + 2 + length)
            at += 6 + length
            places += [Place(topic, number) for number in struct.unpack_from(f">{count}i", assignment, at)]
            at += 4 * count
    except (struct.error, UnicodeDecodeError):
        return ()
    return places
