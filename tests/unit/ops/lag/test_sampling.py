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
        self.list_errors: list[
            KafkaError
        ] = []  # bare, as the client gives them, and no exceptions that anybody catches
        self.offsets: dict[str, KafkaException] = {}
        self.newer: dict[str, Any] = {}
        self.describe_errors: dict[str, KafkaException] = {}
        self.gone: set[str] = set()
        self.dead: set[str] = set()
        self.topics_error: KafkaException | None = None

    def list_consumer_groups(self, **_: object) -> Future[Any]:
        valid = [SimpleNamespace(group_id=name, type=ConsumerGroupType.CLASSIC) for name in self.groups]
        valid += [SimpleNamespace(group_id=name, type=ConsumerGroupType.CONSUMER) for name in self.newer]
        return done(SimpleNamespace(valid=valid, errors=self.list_errors))

    def list_topics(self, **_: object) -> Any:
        if self.topics_error is not None:
            raise self.topics_error
        return SimpleNamespace(topics={}, cluster_id="c")

    def list_groups(self, name: str | None = None, **_: object) -> list[Any]:
        names = [name] if name else self.groups
        errors = {name: error.args[0] for name, error in self.describe_errors.items()}
        return [
            SimpleNamespace(
                id=n, error=errors.get(n), state="Dead" if n in self.dead else "Empty", members=[], protocol_type="consumer"
            )
            for n in names
            if n not in self.gone
        ]  # fmt: skip

    def describe_consumer_groups(self, names: list[str], **_: object) -> dict[str, Future[Any]]:
        return {name: done(self.newer[name]) for name in names}

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
    assert "group a is left out" in found.left_out[0]
    with pytest.raises(BrokerError) as refused:
        sampler.sample(["a"])
    assert (refused.value.code, refused.value.retryable) == ("LAG002", False)


NEWER = SimpleNamespace(members=[], state=SimpleNamespace(name="STABLE"))


def test_a_group_that_cannot_be_described_is_told_of_and_hides_no_other(sampler: Sampler, admin: _Admin) -> None:
    admin.describe_errors["a"] = failed(KafkaError.GROUP_AUTHORIZATION_FAILED)
    admin.newer = {"n": NEWER, "o": failed(KafkaError.GROUP_AUTHORIZATION_FAILED)}
    found = sampler.sample(["*"])
    assert [group.name for group in found.groups] == ["b", "n"]
    assert [words.split(":")[0] for words in found.left_out] == ["group a is left out", "group o is left out"]
    for name in ("a", "o"):
        with pytest.raises(BrokerError) as refused:
            sampler.sample([name, "b"])
        assert (refused.value.code, refused.value.retryable) == ("LAG002", False)


def test_a_group_that_is_gone_is_no_trouble_unless_it_was_named(sampler: Sampler, admin: _Admin) -> None:
    admin.groups = ["a", "b", "c"]
    admin.gone, admin.dead = {"a"}, {"c"}
    admin.newer = {"n": NEWER, "o": failed(KafkaError.GROUP_ID_NOT_FOUND)}
    found = sampler.sample(["*"])
    assert ([group.name for group in found.groups], found.left_out) == (["b", "n"], ())
    for name in ("a", "c", "o"):
        with pytest.raises(BrokerError, match=f"there is no consumer group {name}") as refused:
            sampler.sample([name, "b"])
        assert refused.value.code == "LAG001"


@pytest.mark.parametrize("is_newer", [True, False])
def test_a_describing_that_may_pass_is_trouble(sampler: Sampler, admin: _Admin, is_newer: bool) -> None:
    error = failed(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    if is_newer:
        admin.newer = {"n": error}
    else:
        admin.describe_errors["a"] = error
    with pytest.raises(BrokerError) as refused:
        sampler.sample(["*"])
    assert (refused.value.code, refused.value.retryable) == ("LAG002", True)


def test_that_a_broker_did_not_list_its_groups_is_told_to_who_asked_for_all(sampler: Sampler, admin: _Admin) -> None:
    admin.list_errors = [KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)]
    found = sampler.sample(["a*"])
    assert [group.name for group in found.groups] == ["a"]
    assert "a broker did not say which groups it has" in found.left_out[0]
    assert sampler.sample(["a"]).left_out == ()


def test_a_pattern_that_takes_nothing_in_is_told(sampler: Sampler) -> None:
    assert "no consumer group like x*" in sampler.sample(["x*"]).left_out[0]


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
    admin.list_errors = [KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)]
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
