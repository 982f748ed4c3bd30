from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from fqlstream.local.membership import Membership
from fqlstream.local.processes import ProcessError


@dataclass
class Member:
    id: str


@dataclass
class Answer:
    state: str = "Stable"
    members: list[Member] = field(default_factory=list)
    error: KafkaError | None = None


class Admin:
    """Answers as told."""

    def __init__(self) -> None:
        self.answer: Answer | KafkaException | None = Answer()

    def list_groups(self, _group: str, **_: Any) -> list[Answer]:
        if isinstance(self.answer, KafkaException):
            raise self.answer
        return [] if self.answer is None else [self.answer]


def place(name: str) -> Member:
    return Member(f"w1-{name:-<36}")


def test_the_place_of_a_worker_that_has_ended_is_not_the_worker() -> None:
    admin = Admin()
    membership = Membership(admin, "g", list)
    admin.answer = Answer(members=[place("old"), Member("rdkafka-0a1b")])
    membership.look(1.0)
    assert not membership.has_joined("w1")
    admin.answer = Answer("PreparingRebalance", [place("new")])
    assert not membership.has_joined("w1"), "the partitions are not shared out yet"
    admin.answer = Answer(members=[place("new")])
    assert membership.has_joined("w1")
    # it dies and is started again
    assert not membership.has_joined("w1")
    admin.answer = Answer(members=[place("newer")])
    assert membership.has_joined("w1")
    assert not membership.has_joined("w2")


def test_a_group_that_nobody_was_in_has_no_members() -> None:
    admin = Admin()
    membership = Membership(admin, "g", list)
    admin.answer = None
    membership.look(1.0)
    admin.answer = Answer(members=[place("new")])
    assert membership.has_joined("w1")


def test_a_broker_that_does_not_say_is_no_empty_group() -> None:
    admin = Admin()
    membership = Membership(admin, "g", list)
    for answer in (
        KafkaException(KafkaError(KafkaError._TRANSPORT)),
        Answer(error=KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)),
    ):
        admin.answer = answer
        with pytest.raises(ProcessError, match="did not say"):
            membership.look(0.1)
        assert not membership.has_joined("w1")


def test_an_instance_whose_name_begins_like_another_is_another() -> None:
    admin = Admin()
    membership = Membership(admin, "g", list)
    admin.answer = Answer(members=[Member(f"w1-two-{'0' * 36}")])
    assert not membership.has_joined("w1")
    assert membership.has_joined("w1-two")


def test_a_group_that_its_coordinator_has_not_read_yet_is_not_an_empty_one() -> None:
    admin = Admin()
    asked = []

    def reach() -> None:
        asked.append(1)
        admin.answer = Answer(members=[place("old")]) if len(asked) > 2 else None
        if len(asked) < 3:
            raise KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))

    membership = Membership(admin, "g", reach)
    membership.look(5.0)
    assert not membership.has_joined("w1"), "its predecessor's place"
