from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException

from fqlstream.local.membership import Membership
from fqlstream.local.processes import ProcessError


@dataclass
class Member:
    group_instance_id: str | None
    member_id: str


@dataclass
class Answer:
    state: ConsumerGroupState = ConsumerGroupState.STABLE
    members: list[Member] = field(default_factory=list)


class Admin:
    """Answers as told."""

    def __init__(self) -> None:
        self.answer: Answer | KafkaException = Answer()

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Future[Answer]]:
        future: Future[Answer] = Future()
        if isinstance(self.answer, KafkaException):
            future.set_exception(self.answer)
        else:
            future.set_result(self.answer)
        return dict.fromkeys(groups, future)


def place(member_id: str) -> Member:
    return Member("w1", member_id)


def test_the_place_of_a_worker_that_has_ended_is_not_the_worker() -> None:
    admin = Admin()
    membership = Membership(admin, "g")
    admin.answer = Answer(members=[place("w1-old"), Member(None, "somebody")])
    membership.look(1.0)
    assert not membership.has_joined("w1")
    admin.answer = Answer(ConsumerGroupState.PREPARING_REBALANCING, [place("w1-new")])
    assert not membership.has_joined("w1"), "the partitions are not shared out yet"
    admin.answer = Answer(members=[place("w1-new")])
    assert membership.has_joined("w1")
    # it dies and is started again
    assert not membership.has_joined("w1")
    admin.answer = Answer(members=[place("w1-newer")])
    assert membership.has_joined("w1")
    assert not membership.has_joined("w2")


def test_a_group_that_nobody_was_in_has_no_members() -> None:
    admin = Admin()
    membership = Membership(admin, "g")
    admin.answer = KafkaException(KafkaError(KafkaError.GROUP_ID_NOT_FOUND))
    membership.look(1.0)
    admin.answer = Answer(members=[place("w1-new")])
    assert membership.has_joined("w1")


def test_a_broker_that_does_not_say_is_no_empty_group() -> None:
    admin = Admin()
    membership = Membership(admin, "g")
    admin.answer = KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
    with pytest.raises(ProcessError, match="did not say"):
        membership.look(0.1)
    assert not membership.has_joined("w1")
