"""Looking at groups again and again: rounds become samples, samples of a while become a report."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fqlstream.errors import StoreError
from fqlstream.ops.lag.history import LagHistory
from fqlstream.ops.lag.judgement import Pauses, Rules, Sample, Status, Verdict, eta_seconds, judge, pace, pauses_of
from fqlstream.ops.lag.places import Group, Log, Member, Place, Round, Span, Unread
from fqlstream.ops.lag.report import GroupLag, LagReport, PartitionLag
from fqlstream.ops.lag.sampling import Sampler, unread_span
from fqlstream.settings import KafkaSettings, LagSettings

Key = tuple[str, Place]
_NOTHING = Unread(is_left=False, rows=0)
#: Windows of a history that are read at first: pauses between rare commits are longer than one.
_RECALLED_WINDOWS: Final = 4


class Window:
    """The samples of the last while, by group and partition, and what pauses there were before; what is no longer seen is forgotten."""

    def __init__(self, limits: LagSettings) -> None:
        self._length_ms = limits.window_ms
        self._samples: dict[Key, deque[Sample]] = {}
        self._pauses: dict[Key, Pauses] = {}

    def remember(self, past: Mapping[Key, Sequence[Sample]]) -> None:
        """Take over samples of an earlier process, oldest first: they go before those that are here."""
        for key, samples in past.items():
            known = self._samples[key] = deque([*samples, *self._samples.get(key, ())])
            if known:
                self._pauses[key] = pauses_of(known)

    def add(self, samples: Mapping[Key, Sample], now_ms: int) -> None:
        """Add what a round found."""
        for key, sample in samples.items():
            self._samples.setdefault(key, deque()).append(sample)
            before = self._pauses.get(key)
            self._pauses[key] = before.after(sample) if before else pauses_of([sample])
        for key in list(self._samples):
            kept = self._samples[key]
            while kept and kept[0].at_ms < now_ms - self._length_ms:
                kept.popleft()
            if not kept:
                del self._samples[key]
                del self._pauses[key]

    def lag_over_time(self, group: str) -> list[int]:
        """Give a group's lag in records, all its partitions together, at each moment that was sampled, the oldest first."""
        sums: dict[int, int] = {}
        for (name, _), samples in self._samples.items():
            if name == group:
                for sample in samples:
                    sums[sample.at_ms] = sums.get(sample.at_ms, 0) + sample.lag_records
        return [sums[at_ms] for at_ms in sorted(sums)]

    def of(self, group: str, place: Place) -> Sequence[Sample]:
        """Give the samples of one partition, oldest first."""
        return list(self._samples.get((group, place), ()))

    def pauses_of(self, group: str, place: Place) -> Pauses | None:
        """Give what is known of one partition's pauses; None where there is no sample of it."""
        return self._pauses.get((group, place))


class Observer:
    """Looks at groups again and again, and judges what it sees by what it saw. Not for several threads."""

    def __init__(
        self,
        sampler: Sampler,
        limits: LagSettings,
        patterns: Sequence[str],
        topics: Sequence[str] = (),
        history: LagHistory | None = None,
    ) -> None:
        self._sampler, self._limits, self._history = sampler, limits, history
        self._patterns, self._topics = patterns, topics
        self._window = Window(limits)
        self._recalled: set[str] = set()

    def look(self, *, with_rows: bool) -> LagReport:
        """Look once. Trouble with the history is a note in the report: lag is known without it.

        Raises BrokerError LAG001 for a name without a group, LAG002 where the cluster does not answer.
        """
        found = self._sampler.sample(self._patterns, topics=self._topics, with_rows=with_rows)
        samples = samples_of(found)
        trouble = self._recall(found)
        self._window.add(samples, found.at_ms)
        made = report(found, self._window, self._limits)
        if self._history is not None and not trouble:
            try:
                self._history.save(made, samples)
            except StoreError as error:
                trouble = f"this look is not in the history: {error.code} {error.message}"
        return replace(made, notes=(*made.notes, trouble) if trouble else made.notes)

    def _recall(self, found: Round) -> str:
        """Read the windows of groups that are seen for the first time; say what went wrong."""
        groups = {group.name for group in found.groups} - self._recalled
        if self._history is None or not groups:
            return ""
        try:
            past = self._history.load(
                found.cluster, sorted(groups), found.at_ms - _RECALLED_WINDOWS * self._limits.window_ms
            )
        except StoreError as error:
            return f"the history cannot be read: {error.code} {error.message}"
        self._window.remember(past)
        self._recalled |= groups
        return ""

    def lag_over_time(self, group: str) -> list[int]:
        """Give a group's lag in records at each look of the window, the oldest first."""
        return self._window.lag_over_time(group)


def look(kafka: KafkaSettings, limits: LagSettings, patterns: Sequence[str], *, with_rows: bool = True) -> LagReport:
    """Look once. Raises BrokerError LAG001 for a name without a group, LAG002 where the cluster does not answer."""
    found = Sampler(kafka, limits).sample(patterns, with_rows=with_rows)
    window = Window(limits)
    window.add(samples_of(found), found.at_ms)
    return report(found, window, limits)


def samples_of(found: Round) -> dict[Key, Sample]:
    """Give a sample of each partition that a group has committed for, and whose log is known."""
    return {
        (group.name, place): Sample(
            found.at_ms, offset, log.end, _unread(found, place, offset).is_left, _is_held(group, place)
        )
        for group in found.groups
        for place, offset in group.committed.items()
        if not (log := found.logs[place]).problem
    }


def report(found: Round, window: Window, limits: LagSettings) -> LagReport:
    """Judge every partition of a round by its samples, the round's own among them."""
    rules = Rules(limits.samples_min, limits.quiet_ms_min, limits.window_ms)
    groups = []
    for group in found.groups:
        places = _places_of(group, found.logs)
        partitions = tuple(_partition(found, group, place, window, rules) for place in places)
        groups.append(GroupLag(group.name, group.state, group.member_count, partitions))
    return LagReport(found.at_ms, found.cluster, tuple(groups), found.took_s, left_out=found.left_out)


def _places_of(group: Group, logs: Mapping[Place, Log]) -> Iterable[Place]:
    """Name every partition of the topics that a group committed or holds."""
    topics = {place.topic for place in (*group.committed, *group.held)}
    return sorted(place for place in logs if place.topic in topics)


def _partition(found: Round, group: Group, place: Place, window: Window, rules: Rules) -> PartitionLag:
    log, committed, held = found.logs[place], group.committed.get(place), group.held.get(place)
    if log.problem:
        # a partition that went away with its topic is worth a word only where the group has been reading it
        return _unknown(place, log, committed, held, Status.ERR if committed is not None else None, log.problem)
    if committed is None:
        is_empty = log.start == log.end
        why = "the log is empty" if is_empty else "nothing was committed yet: where it is read from is not known"
        return _unknown(place, log, None, held, Status.OK if is_empty else None, why)
    samples, unread = window.of(group.name, place), _unread(found, place, committed)
    sample = samples[-1]
    verdict, speed = judge(samples, rules, window.pauses_of(group.name, place)), pace(samples)
    eta = eta_seconds(sample, speed)
    return PartitionLag(
        place.topic,
        place.partition,
        committed,
        log.start,
        log.end,
        sample.lag_records,
        unread.rows,
        _age_s(found.at_ms, unread),
        verdict.status,
        _explained(verdict, committed, log, unread),
        *_named(held),
        in_per_s=speed.in_per_s,
        out_per_s=speed.out_per_s,
        eta_seconds=None if eta is None else round(eta, 3),
    )


def _unknown(
    place: Place, log: Log, committed: int | None, held: Member | None, status: Status | None, why: str
) -> PartitionLag:
    """Tell of a partition whose lag nobody can know."""
    start, end = (None, None) if log.problem else (log.start, log.end)
    return PartitionLag(
        place.topic, place.partition, committed, start, end, None, None, None, status, why, *_named(held)
    )


def _named(held: Member | None) -> tuple[str | None, str | None, str | None]:
    return (held.id, held.client_id, held.host) if held else (None, None, None)


def _explained(verdict: Verdict, committed: int, log: Log, unread: Unread) -> str:
    """Say why, and what else changes what the numbers mean."""
    notes = [verdict.why]
    if committed < log.start:
        notes.append(f"{log.start - committed} offsets were deleted before they were read")
    if log.stable_end < log.end and committed <= log.end:
        notes.append(f"an open transaction holds back what is from {log.stable_end} on")
    if unread.problem:
        notes.append(f"its first unread record is not known: {unread.problem}")
    return "; ".join(notes)


def _age_s(now_ms: int, unread: Unread) -> float | None:
    """Give how long ago the first unread record was written, 0 where there is none. A clock ahead of ours counts as now."""
    if unread.is_left is False:
        return 0.0
    return None if unread.first_ms is None else max(0, now_ms - unread.first_ms) / 1000


def _unread(found: Round, place: Place, committed: int) -> Unread:
    span: Span | None = unread_span(place, committed, found.logs[place])
    return _NOTHING if span is None else found.unread[span]


def _is_held(group: Group, place: Place) -> bool:
    return place in group.held or group.is_rebalancing
