"""What samples of a partition say about its consumer. Pure: no Kafka, no clock, no store.

The rules are those of LinkedIn's Burrow (`core/internal/evaluator/caching.go` and its wiki page "Consumer Lag Evaluation Rules"): over a
sliding window of commits, lag that was ever zero is fine; an offset that went back is a rewind; commits that ceased are a stop; an offset
that stands still is a stall; lag that never shrinks is a warning. Burrow reads commits as they are made, from Kafka's internal topic.
Here offsets are asked for at intervals, with rights that any reader has, so three rules are said differently:

* A commit that moves nothing cannot be seen. What stands still is a STALL where a member holds the partition, a STOP where nobody does.
* A commit is the sample in which an offset was first seen: lag is compared from commit to commit, not from sample to sample, which
  would see a saw's teeth.
* Lag that was zero only before a rewind excuses nothing.

Rules by the wall clock keep groups that commit rarely from being called stalled: see `Rules`. How long a group pauses between commits
may be more than a window shows, so that is remembered for longer: see `Pauses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from fqlstream.events.durations import format_duration

#: Pauses of a partition that are remembered: one long stop is forgotten after so many commits.
_PAUSES_MAX: Final = 16


class Status(StrEnum):
    """What is said of a partition; a group is only ever OK, WARN or ERR."""

    OK = "OK"
    WARN = "WARN"
    STALL = "STALL"
    STOP = "STOP"
    REWIND = "REWIND"
    ERR = "ERR"


@dataclass(frozen=True, slots=True)
class Sample:
    """A partition at one moment (Unix ms): next offset to be read, the log's end, and whether anything readable is between them.

    `is_left` None: not known; then the offsets decide. `is_held`: a member of the group has the partition, or is about to get it.
    """

    at_ms: int
    committed: int
    end: int
    is_left: bool | None
    is_held: bool

    @property
    def lag_records(self) -> int:
        """Offsets between the commit and the end, holes and markers counted; never negative."""
        return max(0, self.end - self.committed)

    @property
    def has_left(self) -> bool:
        """Say whether something is left to read, as far as is known."""
        return self.lag_records > 0 if self.is_left is None else self.is_left


@dataclass(frozen=True, slots=True)
class Rules:
    """How much must be seen before something is said.

    `quiet_ms_min`: an offset that stands still for less is not called so, nor for less than twice the longest pause between two
    commits that was seen. `quiet_unknown_ms`: nor for less than this where no whole pause was seen yet. `samples_min`: fewer samples, or
    commits, say nothing about a trend.
    """

    samples_min: int
    quiet_ms_min: int
    quiet_unknown_ms: int


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long an offset stands still, and did before, while something was left to read. Times in ms.

    `since_ms`: when the present pause began, as far as it was seen. `is_whole`: its begin was seen. `before_ms`: the last whole ones.
    """

    committed: int
    since_ms: int
    is_whole: bool = False
    before_ms: tuple[int, ...] = ()

    def after(self, sample: Sample) -> Pauses:
        """Give what is known after one more sample."""
        if sample.committed != self.committed:
            ended = (sample.at_ms - self.since_ms,) if self.is_whole else ()
            before_ms = (*self.before_ms, *ended)[-_PAUSES_MAX:]
            return Pauses(sample.committed, sample.at_ms, is_whole=True, before_ms=before_ms)
        # nobody is expected to commit while nothing is left
        return self if sample.has_left else replace(self, since_ms=sample.at_ms, is_whole=True)


def pauses_of(samples: Sequence[Sample]) -> Pauses:
    """Give what samples, at least one, oldest first, tell of pauses."""
    found = Pauses(samples[0].committed, samples[0].at_ms)
    for sample in samples:
        found = found.after(sample)
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, and in words why."""

    status: Status
    why: str


@dataclass(frozen=True, slots=True)
class Pace:
    """Records a second into a partition and out of it; None: not known."""

    in_per_s: float | None
    out_per_s: float | None


def judge(samples: Sequence[Sample], rules: Rules, pauses: Pauses | None = None) -> Verdict:
    """Say how a partition's consumer does, by its samples, oldest first, the last one taken now. Raises ValueError for none.

    `pauses`: what was seen up to the last sample, also before the first; None: what the samples tell.
    """
    if not samples:
        message = "no samples"
        raise ValueError(message)
    now = samples[-1]
    if now.committed > now.end:
        why = f"its offset {now.committed} is beyond the log's end {now.end}: the topic was made anew or lost records"
        return Verdict(Status.WARN, why)
    if not now.has_left:
        # what an open transaction wrote, and what follows it, nobody is given yet
        more = ": behind it are only markers, holes, or what no reader is given yet" if now.lag_records else ""
        return Verdict(Status.OK, f"nothing is left to read{more}")
    since = _last_rewind(samples)
    if since and all(sample.has_left for sample in samples[since:]):
        before, after = samples[since - 1].committed, samples[since].committed
        return Verdict(Status.REWIND, f"its offset went back from {before} to {after}, and is behind since")
    # offsets that move though nobody ever held the partition: a consumer that commits without being a member
    if not now.is_held and (not _moves(samples) or any(sample.is_held for sample in samples)):
        return Verdict(Status.STOP, "something is left to read, and no member of the group reads it")
    if len(samples) < rules.samples_min:
        return Verdict(Status.OK, f"{len(samples)} of {rules.samples_min} samples: too few to judge by")
    if not all(sample.has_left for sample in samples[since:]):
        return Verdict(Status.OK, "it had caught up within the window")
    return _standing(samples, rules, pauses or pauses_of(samples)) or _falling_behind(samples, rules)


def _standing(samples: Sequence[Sample], rules: Rules, pauses: Pauses) -> Verdict | None:
    """Say that an offset stands still, if it does for longer than is usual for it."""
    now = samples[-1]
    moves = _moves(samples)
    quiet_ms = now.at_ms - pauses.since_ms
    usual_ms = 2 * max(pauses.before_ms) if pauses.before_ms else rules.quiet_unknown_ms
    span_ms = moves[-1].at_ms - samples[0].at_ms if moves else 0
    # Burrow: silent for longer than the span of the commits before; by the wall clock: and longer than is usual
    if quiet_ms <= max(span_ms, rules.quiet_ms_min, usual_ms):
        return None
    quiet = format_duration(quiet_ms // 1000 * 1000)
    if now.is_held:
        return Verdict(Status.STALL, f"its offset {now.committed} stands still for {quiet}, though a member holds it")
    return Verdict(Status.STOP, f"its offset {now.committed} stands still for {quiet}, and no member reads it")


def _falling_behind(samples: Sequence[Sample], rules: Rules) -> Verdict:
    """Say that lag does not shrink, if it never did from commit to commit."""
    commits = _moves(samples)
    if len(commits) < rules.samples_min:
        return Verdict(Status.OK, "it moves" if commits else "it stands still, not for long yet")
    lags = [sample.lag_records for sample in commits]
    if any(later < earlier for earlier, later in pairwise(lags)):
        return Verdict(Status.OK, "it moves, and its lag shrinks at times")
    return Verdict(Status.WARN, f"it moves, but its lag did not shrink in {len(lags)} commits: {lags[0]} to {lags[-1]}")


def _moves(samples: Sequence[Sample]) -> list[Sample]:
    """Give the samples in which a new offset was first seen."""
    return [later for earlier, later in pairwise(samples) if later.committed != earlier.committed]


def _last_rewind(samples: Sequence[Sample]) -> int:
    """Give the place of the last sample whose offset is before its predecessor's; 0 where there is none."""
    return next((i for i in range(len(samples) - 1, 0, -1) if samples[i].committed < samples[i - 1].committed), 0)


def pace(samples: Sequence[Sample]) -> Pace:
    """Give the average pace over the samples, oldest first. Not known: of one sample, or across a rewind or a new log."""
    if len(samples) < 2 or (seconds := (samples[-1].at_ms - samples[0].at_ms) / 1000) <= 0:
        return Pace(None, None)
    arrived = samples[-1].end - samples[0].end
    read = samples[-1].committed - samples[0].committed
    went_back = _last_rewind(samples) > 0
    return Pace(arrived / seconds if arrived >= 0 else None, None if went_back else read / seconds)


def eta_seconds(now: Sample, speed: Pace) -> float | None:
    """Estimate how long until nothing is left, should the pace stay; None: not known, or never at this pace."""
    if not now.has_left:
        return 0.0
    if speed.in_per_s is None or speed.out_per_s is None or speed.out_per_s <= speed.in_per_s:
        return None
    return now.lag_records / (speed.out_per_s - speed.in_per_s)


def group_status(partitions: Sequence[Status | None]) -> Status:
    """Give a group's status: ERR where a partition is worse than WARN; what is not known counts for nothing."""
    known = {status for status in partitions if status is not None}
    if known - {Status.OK, Status.WARN}:
        return Status.ERR
    return Status.WARN if Status.WARN in known else Status.OK
