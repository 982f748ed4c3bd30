"""Asking Kafka where groups and logs stand: everything of a look in one round of requests, whatever the number of groups.

Nothing is changed: no group is joined, nothing committed, no topic made. A group is only asked for where the cluster lists it, because
asking for one makes a cluster that has none make its internal topic.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    ConsumerGroupType,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import BrokerError
from fqlstream.ops.kafka_errors import NO_SUCH_GROUP, may_pass
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.ops.lag.memberships import Membership, memberships
from fqlstream.ops.lag.places import Group, Log, Place, Round, Span, Unread
from fqlstream.ops.lag.reading import count_rows, read_first
from fqlstream.settings import KafkaSettings, LagSettings

V = TypeVar("V")
_NEAR_MAX: Final = 3
#: What the older protocol calls a group that it does not know.
_GONE: Final = "Dead"


class Sampler:
    """Takes samples of groups. Holds one connection to each broker; not for several threads."""

    def __init__(self, kafka: KafkaSettings, limits: LagSettings, clock: Clock | None = None) -> None:
        self._kafka, self._limits = kafka, limits
        self._clock = clock or SystemClock()
        with _asking(kafka.bootstrap):
            self._admin = AdminClient(librdkafka_options(kafka))
        self._wait_s = limits.request_wait_ms / 1000

    def sample(self, patterns: Sequence[str], *, topics: Sequence[str] = (), with_rows: bool = True) -> Round:
        """Look once at the groups of these names; a name that holds `*` is a pattern. `topics` likewise; none: all.

        Raises BrokerError LAG001 for a name without a group, LAG002 where the cluster does not answer.
        """
        began_s = time.monotonic()
        is_wanted = _matcher(topics or ["*"])
        with _asking(self._kafka.bootstrap):
            kinds, unlisted = self._named(patterns)
            metadata = self._admin.list_topics(timeout=self._wait_s)
            members, undescribed = self._described(kinds, set(patterns))
            committed, unasked = self._committed(members, set(patterns))
            groups = tuple(
                Group(
                    name,
                    members[name].state,
                    members[name].member_count,
                    _only(offsets, is_wanted),
                    _only(members[name].held, is_wanted),
                )
                for name, offsets in sorted(committed.items())
            )
            logs = self._logs(_places(groups, metadata), metadata)
            at_ms = self._clock.now_ms()
            unread = self._unread(groups, logs, with_rows=with_rows)
        left_out = (*unlisted, *undescribed, *unasked)
        if not groups and not left_out:
            left_out = (f"there is no consumer group like {', '.join(patterns)}, or you may not see it",)
        return Round(at_ms, metadata.cluster_id or "", groups, logs, unread, time.monotonic() - began_s, left_out)

    def _named(self, patterns: Sequence[str]) -> tuple[dict[str, ConsumerGroupType], list[str]]:
        """Give the groups of these names, each with its kind; and say in words where there may be more of them."""
        listed = self._admin.list_consumer_groups(request_timeout=self._wait_s).result(self._wait_s)
        kinds = {each.group_id: each.type for each in listed.valid}
        missing = next((name for name in patterns if not _is_pattern(name) and name not in kinds), None)
        if listed.errors and (missing is not None or not kinds):
            raise KafkaException(_told(listed.errors[0]))  # a broker did not say which groups it has
        if missing is not None:
            raise _no_group(missing, kinds)
        is_wanted = _matcher(patterns)
        # who asks for all of a kind must know that they may not be all
        unlisted = listed.errors if any(_is_pattern(name) for name in patterns) else ()
        words = [f"a broker did not say which groups it has: {_told(error).str()}" for error in unlisted]
        return {name: kind for name, kind in kinds.items() if is_wanted(name)}, words

    def _described(
        self, kinds: dict[str, ConsumerGroupType], asked_for: Container[str]
    ) -> tuple[dict[str, Membership], list[str]]:
        """Ask for the members of groups; and say which of them may not be asked. Raises as `_committed` does."""
        found = memberships(self._admin, kinds, self._wait_s) if kinds else {}
        members: dict[str, Membership] = {}
        refused: list[str] = []
        for name in kinds:
            described = found.get(name) or KafkaError(KafkaError.GROUP_ID_NOT_FOUND)
            if isinstance(described, Membership):
                members[name] = described
            else:
                refused += _left_out(name, described, asked_for)
        return members, refused

    def _committed(
        self, members: Mapping[str, Membership], asked_for: Container[str]
    ) -> tuple[dict[str, dict[Place, int]], list[str]]:
        """Ask what groups committed, all at once; and say which of them may not be asked.

        Raises KafkaException for a group that was asked for by its name, BrokerError LAG001 where that is gone by now: one that a
        pattern only happens to take in must not hide the others.
        """
        futures: dict[str, Any] = {}
        for name in members:
            request = [ConsumerGroupTopicPartitions(name)]
            futures.update(self._admin.list_consumer_group_offsets(request, request_timeout=self._wait_s))
        committed: dict[str, dict[Place, int]] = {}
        refused: list[str] = []
        for name, future in futures.items():
            try:
                offsets = future.result(self._wait_s).topic_partitions
            except KafkaException as error:
                refused += _left_out(name, error.args[0], asked_for)
                continue
            if not offsets and members[name].state == _GONE:
                refused += _left_out(name, KafkaError(KafkaError.GROUP_ID_NOT_FOUND), asked_for)
                continue
            committed[name] = {
                Place(each.topic, each.partition): each.offset
                for each in offsets
                if each.offset >= 0 and each.error is None
            }
        return committed, refused

    def _logs(self, places: Sequence[Place], metadata: Any) -> dict[Place, Log]:
        """Ask for start and end of every log, and for how far one may read: three requests to each broker, at once."""
        logs = {place: Log(problem=_problem(place, metadata)) for place in places}
        there = [place for place, log in logs.items() if not log.problem]
        if not there:
            return logs
        starts = self._offsets(there, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
        ends = self._offsets(there, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
        stable = self._offsets(there, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
        for place in there:
            partition = TopicPartition(place.topic, place.partition)
            try:
                start, end, stable_end = (
                    futures[partition].result(self._wait_s).offset for futures in (starts, ends, stable)
                )
                logs[place] = Log(start, max(start, end, stable_end), stable_end)
            except KafkaException as error:
                logs[place] = Log(problem=error.args[0].str())
        return logs

    def _offsets(self, places: Sequence[Place], spec: Any, isolation: IsolationLevel) -> dict[TopicPartition, Any]:
        asked = {TopicPartition(place.topic, place.partition): spec for place in places}
        futures = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=self._wait_s)
        return dict(futures)

    def _unread(self, groups: Iterable[Group], logs: Mapping[Place, Log], *, with_rows: bool) -> dict[Span, Unread]:
        spans = {
            span
            for group in groups
            for place, offset in group.committed.items()
            if (log := logs.get(place)) and not log.problem and (span := unread_span(place, offset, log))
        }
        found = read_first(self._kafka, self._limits, spans)
        if not with_rows:
            return found
        rows = count_rows(self._kafka, self._limits, [span for span, unread in found.items() if unread.is_left])
        return {span: replace(unread, rows=rows.get(span, unread.rows)) for span, unread in found.items()}


def unread_span(place: Place, committed: int, log: Log) -> Span | None:
    """Give what a group may still read of a partition; None: nothing now. What the log has lost is not there to be read."""
    span = Span(place, max(committed, log.start), log.stable_end)
    return span if span.start < span.end else None


def _left_out(name: str, error: KafkaError, asked_for: Container[str]) -> tuple[str, ...]:
    """Say in words that a group is left out, or nothing of one that is gone.

    Raises KafkaException where that may pass, or the group was asked for by its name; BrokerError LAG001 where such a one is gone.
    """
    is_gone = error.code() in NO_SUCH_GROUP
    if is_gone and name in asked_for:
        raise _no_group(name, ())
    if name in asked_for or may_pass(error):
        raise KafkaException(error)
    return () if is_gone else (f"group {name} is left out: {error.str()}",)


def _no_group(name: str, others: Iterable[str]) -> BrokerError:
    near = difflib.get_close_matches(name, list(others), _NEAR_MAX)
    hint = f"did you mean {', '.join(near)}?" if near else "--group '*' lists all that there are"
    return BrokerError("LAG001", f"there is no consumer group {name}, or you may not see it", hint)


def _is_pattern(name: str) -> bool:
    return "*" in name


def _places(groups: Iterable[Group], metadata: Any) -> list[Place]:
    """Name every partition of the topics that groups committed or hold, also those of which they did neither."""
    places = {place for group in groups for place in (*group.committed, *group.held)}
    for topic in {place.topic for place in places} & set(metadata.topics):
        places.update(Place(topic, partition) for partition in metadata.topics[topic].partitions)
    return sorted(places)


def _problem(place: Place, metadata: Any) -> str:
    topic = metadata.topics.get(place.topic)
    if topic is None or topic.error is not None:
        return "the topic is gone, or you may not see it"
    partition = topic.partitions.get(place.partition)
    if partition is None:
        return "the topic has no such partition any more"
    return "" if partition.leader >= 0 else "the partition has no leader"


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Give what says whether a name is meant. Only `*` is special, and stands for any text."""
    compiled = [re.compile(".*".join(re.escape(part) for part in name.split("*")), re.DOTALL) for name in patterns]
    return lambda name: any(pattern.fullmatch(name) for pattern in compiled)


def _only(partitions: Mapping[Place, V], is_wanted: Callable[[str], bool]) -> dict[Place, V]:
    return {place: value for place, value in partitions.items() if is_wanted(place.topic)}


def _told(error: Any) -> KafkaError:
    """Give what went wrong: the client hands errors of a list of groups over bare, and says that it wraps them."""
    told: KafkaError = error if isinstance(error, KafkaError) else error.args[0]
    return told


@contextmanager
def _asking(bootstrap: str | None) -> Iterator[None]:
    """Turn what the Kafka client raises into an error that says what to do."""
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        first: Any = error.args[0] if error.args else None
        told = first if isinstance(first, KafkaError) else None
        text = told.str() if told else "no answer in time"
        hint = "is the cluster up? Reading lag needs Describe on groups and topics, and Read on topics"
        retryable = told is None or may_pass(told)
        raise BrokerError(
            "LAG002", f"Kafka at {bootstrap} did not say where groups stand: {text}", hint, retryable=retryable
        ) from error
