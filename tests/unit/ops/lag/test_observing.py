"""From rounds to reports, without a broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fqlstream.errors import StoreError
from fqlstream.ops.lag.judgement import Sample, Status
from fqlstream.ops.lag.observing import Observer, Window, report, samples_of
from fqlstream.ops.lag.places import Group, Log, Member, Place, Round, Span, Unread
from fqlstream.ops.lag.report import LagReport
from fqlstream.settings import LagSettings

LIMITS = LagSettings(window_ms=60_000, samples_min=3, quiet_ms_min=1_000)
NOW_MS = 1_000_000
P0, P1, P2 = (Place("events", number) for number in range(3))
MEMBER = Member("c-1", "c", "10.0.0.1")


def round_of(
    committed: dict[Place, int],
    logs: dict[Place, Log],
    unread: dict[Span, Unread] | None = None,
    *,
    held: dict[Place, Member] | None = None,
    state: str = "Stable",
    at_ms: int = NOW_MS,
) -> Round:
    held = held or {}
    return Round(at_ms, "cluster", (Group("g", state, len(held), committed, held),), logs, unread or {}, 0.1)


def one(found: Round, window: Window | None = None) -> Any:
    window = window or Window(LIMITS)
    window.add(samples_of(found), found.at_ms)
    return report(found, window, LIMITS)


def test_a_partition_is_told_with_everything_that_is_known_of_it() -> None:
    unread = {Span(P0, 4, 10): Unread(is_left=True, first_ms=NOW_MS - 2_500, rows=60)}
    (group,) = one(round_of({P0: 4}, {P0: Log(0, 10, 10)}, unread, held={P0: MEMBER})).groups
    (found,) = group.partitions
    assert found.document() == {
        "topic": "events", "partition": 0, "committed": 4, "end": 10, "lag_records": 6, "lag_rows": 60, "lag_seconds": 2.5,
        "status": "OK", "member": "c-1", "client_id": "c", "host": "10.0.0.1", "eta_seconds": None,
    }  # fmt: skip


def test_every_partition_of_a_topic_is_listed_and_without_a_commit_nothing_is_known() -> None:
    logs = {P0: Log(0, 0, 0), P1: Log(0, 9, 9), P2: Log(0, 3, 3), Place("other", 0): Log(0, 1, 1)}
    (group,) = one(round_of({P2: 3}, logs)).groups
    empty, waiting, read = group.partitions
    assert [(p.status, p.committed, p.lag_records, p.lag_rows, p.lag_seconds) for p in (empty, waiting)] == [
        (Status.OK, None, None, None, None), (None, None, None, None, None),
    ]  # fmt: skip
    assert (read.lag_records, read.lag_rows, read.lag_seconds, read.eta_seconds) == (0, 0, 0, 0)
    assert (group.status, group.total.lag_records, len(group.partitions)) == (Status.OK, 0, 3)


@pytest.mark.parametrize(
    ("committed", "log", "unread", "said"),
    [
        (2, Log(5, 10, 10), Unread(is_left=True, first_ms=1), "3 offsets were deleted before they were read"),
        (4, Log(0, 10, 8), Unread(is_left=True, first_ms=1), "an open transaction holds back what is from 8 on"),
        (4, Log(0, 10, 10), Unread(None, problem="not in time"), "its first unread record is not known: not in time"),
    ],
)
def test_what_changes_the_meaning_of_figures_is_said(committed: int, log: Log, unread: Unread, said: str) -> None:
    span = Span(P0, max(committed, log.start), log.stable_end)
    (group,) = one(round_of({P0: committed}, {P0: log}, {span: unread})).groups
    assert said in group.partitions[0].why


def test_an_age_is_never_negative_and_not_known_without_a_timestamp() -> None:
    for first_ms, age in ((NOW_MS + 60_000, 0.0), (None, None)):
        unread = {Span(P0, 0, 1): Unread(is_left=True, first_ms=first_ms)}
        (group,) = one(round_of({P0: 0}, {P0: Log(0, 1, 1)}, unread)).groups
        assert group.partitions[0].lag_seconds == age


def test_a_log_that_cannot_be_asked_is_an_error_only_where_somebody_reads_it() -> None:
    logs = {P0: Log(problem="the topic is gone"), P1: Log(problem="no leader")}
    (group,) = one(round_of({P0: 4}, logs)).groups
    assert [(p.status, p.committed, p.end, p.why) for p in group.partitions] == [
        (Status.ERR, 4, None, "the topic is gone"), (None, None, None, "no leader"),
    ]  # fmt: skip
    assert group.status is Status.ERR


def test_while_partitions_are_shared_out_nobody_has_stopped() -> None:
    unread = {Span(P0, 4, 10): Unread(is_left=True, first_ms=1)}
    found = round_of({P0: 4}, {P0: Log(0, 10, 10)}, unread, state="PreparingRebalance")
    rebalancing = replace(found, groups=(replace(found.groups[0], member_count=2),))
    assert one(rebalancing).groups[0].partitions[0].status is Status.OK
    assert one(found).groups[0].partitions[0].status is Status.STOP


def test_the_window_forgets_what_is_old_and_what_is_gone() -> None:
    window = Window(LIMITS)
    for second in range(0, 200, 10):
        window.add({("g", P0): Sample(second * 1000, second, 500, None, True)}, second * 1000)
    assert [sample.committed for sample in window.of("g", P0)] == list(range(130, 200, 10))
    window.add({("g", P1): Sample(300_000, 0, 5, None, True)}, 300_000)
    assert list(window.of("g", P0)) == []
    assert window.lag_over_time("g") == [5]


def test_pauses_are_remembered_for_longer_than_samples_and_forgotten_with_the_partition() -> None:
    window = Window(LIMITS)
    for second in range(0, 1000, 10):
        window.add({("g", P0): Sample(second * 1000, second // 200, 500, None, True)}, second * 1000)
    known = window.pauses_of("g", P0)
    assert known is not None
    assert (known.before_ms, known.since_ms) == ((200_000,) * 3, 800_000)
    again = Window(LIMITS)
    again.remember(
        {("g", P0): [Sample(second * 1000, second // 200, 500, None, True) for second in range(0, 1000, 10)]}
    )
    assert again.pauses_of("g", P0) == known
    window.add({}, 2_000_000)
    assert window.pauses_of("g", P0) is None


def test_lag_over_time_adds_partitions_up() -> None:
    window = Window(LIMITS)
    for at_ms in (1000, 2000):
        window.add({("g", P0): Sample(at_ms, 0, 4, None, True), ("g", P1): Sample(at_ms, 1, 4, None, True)}, at_ms)
        window.add({("h", P0): Sample(at_ms, 0, 400, None, True)}, at_ms)
    assert window.lag_over_time("g") == [7, 7]


class _Rounds:
    """Stands in for a sampler: gives rounds that were prepared."""

    def __init__(self, rounds: Sequence[Round]) -> None:
        self._rounds: Iterator[Round] = iter(rounds)

    def sample(self, *_: object, **__: object) -> Round:
        return next(self._rounds)


class _History:
    """Keeps samples in memory; fails where it is told to."""

    def __init__(self) -> None:
        self.kept: dict[Any, list[Sample]] = {}
        self.is_away = False

    def load(self, _cluster: str, groups: Sequence[str], since_ms: int) -> dict[Any, list[Sample]]:
        self._check()
        return {key: [s for s in kept if s.at_ms >= since_ms] for key, kept in self.kept.items() if key[0] in groups}

    def save(self, _report: LagReport, samples: dict[Any, Sample]) -> None:
        self._check()
        for key, sample in samples.items():
            self.kept.setdefault(key, []).append(sample)

    def _check(self) -> None:
        if self.is_away:
            raise StoreError("STO001", "nobody answers")


def observer(rounds: Sequence[Round], history: _History) -> Observer:
    return Observer(_Rounds(rounds), LIMITS, ["g"], (), history)


def growing(count: int, first: int = 0) -> list[Round]:
    return [
        round_of(
            {P0: 5}, {P0: Log(0, 10 + i, 10 + i)}, {Span(P0, 5, 10 + i): Unread(is_left=True, first_ms=1)},
            held={P0: MEMBER}, at_ms=NOW_MS + 1000 * i,
        )
        for i in range(first, first + count)
    ]  # fmt: skip


def test_a_restart_goes_on_where_its_predecessor_was() -> None:
    history = _History()
    before = observer(growing(62), history)
    for _ in range(62):
        last = before.look(with_rows=False)
    assert last.groups[0].partitions[0].status is Status.STALL
    after = observer(growing(1, first=62), history).look(with_rows=False)
    assert after.groups[0].partitions[0].status is Status.STALL
    assert after.groups[0].partitions[0].in_per_s == pytest.approx(1.0)
    alone = observer(growing(1, first=62), _History()).look(with_rows=False)
    assert alone.groups[0].partitions[0].status is Status.OK, "one sample says nothing"


def test_a_history_that_is_away_is_a_note_and_is_read_once_it_is_back() -> None:
    history = _History()
    observer(growing(1), history).look(with_rows=False)
    observing = observer(growing(3, first=1), history)
    history.is_away = True
    assert "cannot be read: STO001" in observing.look(with_rows=False).notes[0]
    history.is_away = False
    back = observing.look(with_rows=False)
    assert back.notes == ()
    assert observing.lag_over_time("g") == [5, 6, 7]
    history.is_away = True
    assert "not in the history: STO001" in observing.look(with_rows=False).notes[0]
