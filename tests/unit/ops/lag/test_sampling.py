"""What is asked of Kafka, where the answers are rare ones; tests/integration/test_lag.py asks a broker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupType, KafkaError, KafkaException

from fqlstream.errors import BrokerError
from fqlstream.ops.lag import sampling
from fqlstream.ops.lag.sampling import Sampler, _matcher
from fqlstream.settings import KafkaSettings, LagSettings


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


def failed(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


class _Admin:
    """Answers as a cluster whose groups have committed nothing, but for what a test says."""

    def __init__(self) -> None:
        self.groups: list[str] = ["a", "b"]
        self.list_errors: list[KafkaException] = []
        self.offsets: dict[str, KafkaException] = {}
        self.topics_error: KafkaException | None = None

    def list_consumer_groups(self, **_: object) -> Future[Any]:
        valid = [SimpleNamespace(group_id=name, type=ConsumerGroupType.CLASSIC) for name in self.groups]
        return done(SimpleNamespace(valid=valid, errors=self.list_errors))

    def list_topics(self, **_: object) -> Any:
        if self.topics_error is not None:
            raise self.topics_error
        return SimpleNamespace(topics={}, cluster_id="c")

    def list_groups(self, name: str | None = None, **_: object) -> list[Any]:
        names = [name] if name else self.groups
        return [SimpleNamespace(id=n, error=None, state="Empty", members=[], protocol_type="consumer") for n in names]

    def list_consumer_group_offsets(self, request: list[Any], **_: object) -> dict[str, Future[Any]]:
        name = request[0].group_id
        return {name: done(self.offsets.get(name, SimpleNamespace(topic_partitions=[])))}


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Admin]:
    made = _Admin()
    monkeypatch.setattr(sampling, "AdminClient", lambda _: made)
    return made


@pytest.fixture
def sampler(admin: _Admin) -> Sampler:
    return Sampler(KafkaSettings(bootstrap="nowhere:1"), LagSettings())


def test_a_group_that_may_not_be_asked_hides_no_other(sampler: Sampler, admin: _Admin) -> None:
    admin.offsets["a"] = failed(KafkaError.GROUP_AUTHORIZATION_FAILED)
    found = sampler.sample(["*"])
    assert [group.name for group in found.groups] == ["b"]
    assert "group a is left out" in found.refused[0]
    with pytest.raises(BrokerError) as refused:
        sampler.sample(["a"])
    assert (refused.value.code, refused.value.retryable) == ("LAG002", False)


def test_a_coordinator_that_is_away_is_trouble_and_not_a_group_less(sampler: Sampler, admin: _Admin) -> None:
    admin.offsets["a"] = failed(KafkaError.NOT_COORDINATOR)
    with pytest.raises(BrokerError) as refused:
        sampler.sample(["*"])
    assert (refused.value.code, refused.value.retryable) == ("LAG002", True)


def test_a_group_is_only_said_to_be_missing_where_every_broker_said_what_it_has(
    sampler: Sampler, admin: _Admin
) -> None:
    with pytest.raises(BrokerError, match="there is no consumer group nope"):
        sampler.sample(["nope"])
    admin.list_errors = [failed(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)]
    with pytest.raises(BrokerError, match="did not say where groups stand"):
        sampler.sample(["nope"])
    assert [group.name for group in sampler.sample(["a"]).groups] == ["a"], "one that was found is told"


def test_a_near_name_is_offered(sampler: Sampler, admin: _Admin) -> None:
    admin.groups = ["orders-v1", "orders-v2", "other"]
    with pytest.raises(BrokerError) as refused:
        sampler.sample(["orders-v3"])
    assert refused.value.hint is not None
    assert refused.value.hint.startswith("did you mean orders-v")


def test_a_time_out_and_a_wrong_setting_say_what_to_do(
    sampler: Sampler, admin: _Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.topics_error = failed(KafkaError._TRANSPORT)
    with pytest.raises(BrokerError) as refused:
        sampler.sample(["a"])
    assert (refused.value.code, "Describe on groups" in (refused.value.hint or "")) == ("LAG002", True)

    def wrong(_: object) -> None:
        raise failed(KafkaError._INVALID_ARG)

    monkeypatch.setattr(sampling, "AdminClient", wrong)
    with pytest.raises(BrokerError, match="did not say"):
        Sampler(KafkaSettings(bootstrap="nowhere:1"), LagSettings())


@pytest.mark.parametrize(
    ("pattern", "name", "is_meant"),
    [("a*", "abc", True), ("a*", "ba", False), ("*", "", True), ("a.c", "abc", False), ("a[b]", "a[b]", True), ("a[b]*", "a[b]c", True),
     ("*b*", "abc", True), ("a?c", "abc", False), ("a", "a\n", False), ("a*", "a\nb", True)],
)  # fmt: skip
def test_only_a_star_is_special_in_a_name(pattern: str, name: str, is_meant: bool) -> None:
    assert _matcher([pattern])(name) is is_meant
