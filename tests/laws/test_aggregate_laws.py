"""All laws over the whole catalogue, and proof that they notice a broken aggregator."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
from tests.laws.aggregate_laws import (
    LAWS,
    THOROUGH,
    Law,
    identity,
    repeatable,
    retract_undoes,
    round_trip,
    split_is_whole,
)
from tests.laws.catalogue import SUBJECTS, Subject, kinds_without_a_subject, with_aggregator

from fqlstream.aggregates.counts import Count
from fqlstream.aggregates.exact import ExactNumber, exact_number
from fqlstream.aggregates.extremes import Extreme, ExtremeState
from fqlstream.aggregates.index import AGGREGATORS
from fqlstream.aggregates.quantiles import ExactValues, Quantile, Sketched
from fqlstream.aggregates.sums import Sum, SumState
from fqlstream.errors import FqlstreamError

BY_NAME = {subject.name: subject for subject in SUBJECTS}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds(law: Law, subject: Subject) -> None:
    law(subject)


def test_every_kind_is_tried() -> None:
    assert kinds_without_a_subject() == set()
    assert len(AGGREGATORS) >= 8


# -- planted bugs


@dataclass(frozen=True, slots=True)
class RoundedSum(Sum):
    """Adds in float64, so that the order shows."""

    def merge(self, left: SumState, right: SumState) -> SumState:
        total = float(left.total) + float(right.total)
        return SumState(left.n + right.n, exact_number(total) if abs(total) < 1e309 else left.total)


@dataclass(frozen=True, slots=True)
class ForgetfulSum(Sum):
    """Loses the count in merging."""

    def merge(self, left: SumState, right: SumState) -> SumState:
        return SumState(max(left.n, right.n), left.total + right.total)


@dataclass(frozen=True, slots=True)
class ClippedSum(Sum):
    """Encodes the integer as if 64 bits were enough."""

    def encode(self, state: SumState) -> list[Any]:
        low = state.total.m & (2**64 - 1)
        return Sum.encode(self, SumState(state.n, ExactNumber(low, state.total.e)))


@dataclass(frozen=True, slots=True)
class StickyCount(Count):
    """Does not take rows back."""

    def retract(self, state: int, gone: int) -> int:
        return state


@dataclass(frozen=True, slots=True)
class OneBasedCount(Count):
    """Begins at one."""

    def init(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class ConfidentMinimum(Extreme):
    """Claims to know what stood behind the smallest."""

    def retract(self, state: ExtremeState, gone: ExtremeState) -> ExtremeState:
        return state


@dataclass(frozen=True, slots=True)
class GrowingQuantile(Quantile):
    """Changes a state that was handed out."""

    def merge(self, left: Any, right: Any) -> Any:
        if isinstance(left, Sketched) and isinstance(right, ExactValues):
            left.sketch.update_many(right.values)
            return left
        return Quantile.merge(self, left, right)


def planted(name: str, broken: type, law: Law) -> Any:
    subject = BY_NAME[name]
    given = {field.name: getattr(subject.aggregator, field.name) for field in fields(broken)}
    if "values_max" in given:
        given["values_max"] = 2  # most batches then become sketches, where the bug lives
    return pytest.param(law, with_aggregator(subject, broken(**given)), id=f"{broken.__name__}-{law.__name__}")


@pytest.mark.parametrize(
    ("law", "subject"),
    [
        planted("sum", RoundedSum, split_is_whole),
        planted("sum", ForgetfulSum, split_is_whole),
        planted("sum", ClippedSum, round_trip),
        planted("count of numbers", StickyCount, retract_undoes),
        planted("count of numbers", OneBasedCount, identity),
        planted("min", ConfidentMinimum, retract_undoes),
        planted("quantile", GrowingQuantile, repeatable),
    ],
)
def test_planted_bug_is_caught(law: Law, subject: Subject) -> None:
    with pytest.raises(AssertionError):
        law(subject, THOROUGH)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_newer_and_damaged_states_are_refused(subject: Subject) -> None:
    version, *rest = subject.aggregator.encode(subject.aggregator.init())
    with pytest.raises(FqlstreamError, match="has version") as newer:
        subject.aggregator.decode([version + 1, *rest])
    assert newer.value.code == "STA001"
    assert newer.value.hint is not None
    with pytest.raises(FqlstreamError, match="damaged"):
        subject.aggregator.decode({"no": "state"})
