"""The rules, each by its own history, and what must hold for any history."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.ops.lag.judgement import (
    Pace,
    Rules,
    Sample,
    Status,
    eta_seconds,
    group_status,
    judge,
    pace,
    pauses_of,
)

WINDOW_MS = 300_000
RULES = Rules(samples_min=5, quiet_ms_min=60_000, quiet_unknown_ms=WINDOW_MS)
STEP_MS = 10_000


def history(
    *offsets: tuple[int, int], held: bool = True, left: bool | None = None, step_ms: int = STEP_MS
) -> list[Sample]:
    """Samples (committed, end), one every `step_ms`."""
    return [Sample(i * step_ms, committed, end, left, held) for i, (committed, end) in enumerate(offsets)]


def line(commit: int, commit_step: int, end: int, end_step: int, count: int) -> list[tuple[int, int]]:
    return [(commit + i * commit_step, end + i * end_step) for i in range(count)]


@pytest.mark.parametrize(
    ("samples", "status", "word"),
    [
        (history((5, 5)), Status.OK, "nothing is left"),
        (history((5, 6), left=False), Status.OK, "only markers, holes"),
        (history((9, 6)), Status.WARN, "beyond the log's end"),
        (history((5, 6)), Status.OK, "too few"),
        (history((5, 6), held=False), Status.STOP, "no member"),
        (history((5, 6), left=False, held=False), Status.OK, "nothing is left"),
        # caught up at some time: whatever is left now is fine
        (history((0, 9), (9, 9), *line(9, 0, 10, 1, 20)), Status.OK, "caught up"),
        # reads as fast as is written, but never less behind: Burrow's rule 5
        (history(*line(0, 10, 50, 10, 10)), Status.WARN, "did not shrink"),
        (history(*line(0, 10, 50, 20, 10)), Status.WARN, "60 to 140"),
        (history(*line(0, 10, 50, 20, 9), (110, 220)), Status.OK, "shrinks at times"),
        (history(*line(0, 20, 500, 10, 10)), Status.OK, "shrinks at times"),
        # stands still: until it was seen how long it pauses, nobody says so for five minutes
        (history(*line(7, 0, 9, 1, 31)), Status.OK, "not for long yet"),
        (history(*line(7, 0, 9, 1, 32)), Status.STALL, "stands still for 310s"),
        (history(*line(7, 0, 9, 0, 32)), Status.STALL, "stands still"),
        (history(*line(7, 0, 9, 1, 8), held=False), Status.STOP, "no member"),
        # commits ceased, for longer than they had been seen before: Burrow's rule 3; and for a minute nobody says so
        (history(*line(0, 5, 90, 5, 4), *line(15, 0, 110, 5, 6)), Status.OK, "moves"),
        (history(*line(0, 5, 90, 5, 4), *line(15, 0, 110, 5, 7)), Status.STALL, "stands still for 70s"),
        # it commits once in 50 s: 80 s without a commit are not called a stall
        (history(*[(i // 5, 90) for i in range(18)]), Status.OK, "moves"),
        # its last pause was 50 s long: 100 s are not called a stall, 110 s are
        (history((0, 90), *line(1, 0, 90, 0, 5), *line(2, 0, 90, 0, 11)), Status.OK, "moves"),
        (history((0, 90), *line(1, 0, 90, 0, 5), *line(2, 0, 90, 0, 12)), Status.STALL, "for 110s"),
        (history(*line(50, 10, 100, 10, 4), *line(10, 10, 140, 10, 5)), Status.REWIND, "from 80 to 10"),
        (history((50, 60), (10, 60), (60, 60), (60, 61), (60, 62)), Status.OK, "caught up"),
        # zero lag before a rewind excuses nothing
        (history((60, 60), (10, 60), (12, 60)), Status.REWIND, "from 60 to 10"),
    ],
)  # fmt: skip
def test_a_history_is_judged(samples: Sequence[Sample], status: Status, word: str) -> None:
    verdict = judge(samples, RULES)
    assert (verdict.status, word in verdict.why) == (status, True), verdict


def test_a_consumer_that_is_no_member_is_judged_by_its_commits() -> None:
    """Spark and Flink assign partitions themselves and commit without joining."""
    alone = history(*line(0, 20, 500, 10, 10), held=False)
    assert judge(alone, RULES).status is Status.OK
    left_just_now = [*history(*line(0, 20, 500, 10, 10)), Sample(10 * STEP_MS, 200, 600, None, is_held=False)]
    assert judge(left_just_now, RULES).status is Status.STOP, "its members are gone, whatever it committed before"


def test_without_a_sample_nothing_can_be_said() -> None:
    with pytest.raises(ValueError, match="no samples"):
        judge([], RULES)


samples = st.lists(
    st.tuples(
        st.integers(1, 100_000),
        st.integers(0, 50),
        st.integers(0, 50),
        st.sampled_from([True, False, None]),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
).map(lambda rows: [Sample(sum(r[0] for r in rows[: i + 1]), r[1], r[2], r[3], r[4]) for i, r in enumerate(rows)])


@given(samples)
def test_any_history_has_a_verdict_that_says_why(history: list[Sample]) -> None:
    verdict = judge(history, RULES)
    now = history[-1]
    assert verdict.why
    assert verdict.status is not Status.ERR, "that is for what cannot be asked"
    if now.committed > now.end:
        assert verdict.status is Status.WARN, "the log is not the one that was read"
        return
    if not now.has_left:
        assert verdict.status is Status.OK, "nothing to read is never trouble"
    if len(history) < RULES.samples_min:
        assert verdict.status in (Status.OK, Status.STOP, Status.REWIND)
    if verdict.status is Status.STALL:
        assert now.is_held
    if verdict.status is Status.STOP:
        assert not now.is_held


LOOK_S = 5


def watched(moments_s: Sequence[int], until_s: int) -> list[tuple[int, Status]]:
    """Give what is said at each look of a partition to which a record comes every second, and which is committed at some moments."""
    said, seen, pauses = [], [], None
    for at_s in range(0, until_s, LOOK_S):
        committed = max((moment for moment in moments_s if moment <= at_s), default=-1000)
        sample = Sample(at_s * 1000, 2000 + committed, 2001 + at_s, None, is_held=True)
        pauses = pauses.after(sample) if pauses else pauses_of([sample])
        seen = [each for each in [*seen, sample] if each.at_ms >= sample.at_ms - WINDOW_MS]
        said.append((at_s, judge(seen, RULES, pauses).status))
    return said


@pytest.mark.parametrize("first_s", [3, 71])
@pytest.mark.parametrize("every_s", [90, 120, 150, 210, 240, 300, 420, 600])
def test_who_commits_rarely_is_not_called_stalled_and_who_stops_is(every_s: int, first_s: int) -> None:
    moments_s = [first_s + i * every_s for i in range(10)]
    said = watched(moments_s, moments_s[-1] + 3 * every_s + WINDOW_MS // 1000)
    # a pause longer than the window must have been seen once
    learned_s = 0 if every_s * 1000 <= WINDOW_MS else moments_s[1] + LOOK_S
    wrong = [at_s for at_s, status in said if learned_s <= at_s <= moments_s[-1] and status is Status.STALL]
    assert wrong == []
    found_s = next(at_s for at_s, status in said if at_s > moments_s[-1] and status is Status.STALL)
    assert found_s - moments_s[-1] <= 2 * every_s + 4 * LOOK_S


def test_one_long_stop_is_forgotten_after_some_commits() -> None:
    moments_s = [*range(0, 50, 10), *range(4000, 5000, 10)]
    found_s = next(at_s for at_s, status in watched(moments_s, 6000) if at_s > 5000 and status is Status.STALL)
    assert found_s < 5000 + WINDOW_MS // 1000


def test_standing_still_while_nothing_is_left_is_no_pause() -> None:
    idle = [Sample(i * 1000, 5, 5, None, is_held=True) for i in range(3600)]
    moved = [Sample(3_600_000, 5, 6, None, is_held=True), Sample(3_605_000, 6, 7, None, is_held=True)]
    assert pauses_of([*idle, *moved]).before_ms == (6000,)


@given(samples, st.integers(-(10**12), 10**12))
def test_only_differences_of_time_and_offset_count(history: list[Sample], by: int) -> None:
    moved = [Sample(s.at_ms + by, s.committed + 1000, s.end + 1000, s.is_left, s.is_held) for s in history]
    assert judge(moved, RULES).status is judge(history, RULES).status
    assert pace(moved) == pace(history)


@given(st.integers(2, 30), st.integers(0, 50), st.integers(0, 50), st.integers(0, 1000))
def test_a_steady_pace_is_found_and_the_time_to_drain_follows(count: int, arrive: int, read: int, lag: int) -> None:
    history_ = history(*line(0, read, lag + 60 * 30, arrive, count), step_ms=1000)
    found = pace(history_)
    assert found == Pace(arrive, read)
    eta = eta_seconds(history_[-1], found)
    if read <= arrive:
        assert eta is None
    else:
        assert eta == pytest.approx(history_[-1].lag_records / (read - arrive))


def test_pace_is_not_known_of_one_look_across_a_rewind_or_in_a_new_log() -> None:
    assert pace(history((5, 9))) == Pace(None, None)
    assert pace(history((50, 90), (10, 100))) == Pace(1.0, None)
    assert pace(history((5, 90), (10, 20))) == Pace(None, 0.5)
    assert eta_seconds(history((5, 9))[0], Pace(None, None)) is None
    assert eta_seconds(history((9, 9))[0], Pace(None, None)) == 0


@pytest.mark.parametrize(
    ("partitions", "group"),
    [([], "OK"), ([None], "OK"), (["OK", None], "OK"), (["OK", "WARN"], "WARN"), (["WARN", "STALL"], "ERR"), (["STOP"], "ERR"),
     (["REWIND", "OK"], "ERR"), (["ERR"], "ERR")],
)  # fmt: skip
def test_a_group_is_as_bad_as_its_worst_partition(partitions: list[str | None], group: str) -> None:
    assert group_status([None if each is None else Status(each) for each in partitions]) == group
