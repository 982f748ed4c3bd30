"""Scores of positive and of negative rows: what AUROC and the calibrated threshold are read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.grids import Grid, Keys, keys_of, values_of
from fqlstream.aggregates.inputs import both, everything, numbers_and_valid
from fqlstream.aggregates.masks import flags, valid_mask
from fqlstream.aggregates.protocol import ARRAY_HEAD_BYTES, Masks, Reading

Counts = npt.NDArray[np.int64]
_GRID: Final = Grid("unit")


@dataclass(frozen=True, slots=True, eq=False)
class ScorePairsState:
    """Distinct scores in rising order (as keys of a grid's level), with positive and negative rows at each."""

    level: int
    keys: Keys
    positive: Counts
    negative: Counts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScorePairsState):
            return NotImplemented
        return self.level == other.level and all(
            np.array_equal(a, b)
            for a, b in (
                (self.keys, other.keys),
                (self.positive, other.positive),
                (self.negative, other.negative),
            )
        )

    def __hash__(self) -> int:
        return hash((self.level, self.keys.tobytes(), self.positive.tobytes(), self.negative.tobytes()))


_NONE = np.zeros(0, dtype=np.int64)
_EMPTY = ScorePairsState(0, _NONE, _NONE, _NONE)


@dataclass(frozen=True, slots=True)
class ScorePairs:
    """Counts per distinct score up to `values_max` of them, then per bin of equal width between 0 and 1."""

    values_max: int
    kind: ClassVar[str] = "score_pairs"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> ScorePairsState:
        """Give the state of no rows."""
        return _EMPTY

    def update(self, state: ScorePairsState, args: tuple[pa.Array, ...]) -> ScorePairsState:
        """Take a batch in: scores, and whether the row is positive."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[ScorePairsState]:
        """Count under each mask."""
        scores, valid = numbers_and_valid(args[0])
        valid = both(valid, valid_mask(args[1]))
        order = np.argsort(scores)
        keys, positive = keys_of(scores)[order], flags(args[1])[order].astype(np.int64)
        states = []
        for mask in masks:
            kept = (mask if valid is None else mask & valid)[order]
            states.append(self._of_sorted(0, np.compress(kept, keys), np.compress(kept, positive), None))
        return states

    def merge(self, left: ScorePairsState, right: ScorePairsState) -> ScorePairsState:
        """Give the state of both."""
        if not len(left.keys) or not len(right.keys):
            # a state without rows may still be coarse: it once held more
            return self._at_least(right, left.level) if not len(left.keys) else self._at_least(left, right.level)
        return self._joined([left, right])

    def merge_many(self, states: Sequence[ScorePairsState]) -> ScorePairsState:
        """Give the state of all: their scores are put in order once."""
        return self._joined(states)

    def _joined(self, states: Sequence[ScorePairsState]) -> ScorePairsState:
        level = max(state.level for state in states)
        sides = [self._at_least(state, level) for state in states]
        keys = np.concatenate([side.keys for side in sides])
        order = np.argsort(keys, kind="stable")
        positive = np.concatenate([side.positive for side in sides])[order]
        negative = np.concatenate([side.negative for side in sides])[order]
        return self._of_sorted(level, keys[order], positive, negative)

    def retract(self, state: ScorePairsState, gone: ScorePairsState) -> ScorePairsState | None:
        """Take rows away; None where they cannot have been in. Bins stay as coarse as they are."""
        if not len(gone.keys):
            return state
        if gone.level > state.level:
            return None
        less = self._at_least(gone, state.level)
        place = np.searchsorted(state.keys, less.keys)
        if (place == len(state.keys)).any() or not np.array_equal(state.keys[place], less.keys):
            return None
        positive, negative = state.positive.copy(), state.negative.copy()
        positive[place] -= less.positive
        negative[place] -= less.negative
        if (positive < 0).any() or (negative < 0).any():
            return None
        left = (positive > 0) | (negative > 0)
        return ScorePairsState(state.level, state.keys[left], positive[left], negative[left])

    def read(self, state: ScorePairsState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `auroc`, `calibrated_threshold` or `f1_threshold`; null where one class is missing."""
        del params
        positives, negatives = int(state.positive.sum()), int(state.negative.sum())
        if not positives or not negatives:
            return Reading(None)
        if name == "auroc":
            return _auroc(state, positives, negatives)
        gain = _f1 if name == "f1_threshold" else _youden(positives, negatives)
        return _threshold(state, positives, gain)

    def bytes_of(self, state: ScorePairsState) -> int:
        """Say about how many bytes of memory a state takes."""
        return 3 * (ARRAY_HEAD_BYTES + state.keys.nbytes)

    def encode(self, state: ScorePairsState) -> list[Any]:
        """Give [version, level, scores, positive, negative]; above level 0 bin numbers stand in place of scores."""
        scores = state.keys.tolist() if state.level else values_of(state.keys).tolist()
        return [self.state_version, state.level, scores, state.positive.tolist(), state.negative.tolist()]

    def decode(self, data: Any) -> ScorePairsState:
        """Give the state back."""
        level, scores, positive, negative = body(data, self.kind, self.state_version)
        keys = np.array(scores, dtype=np.int64) if level else keys_of(np.array(scores, dtype=np.float64))
        return ScorePairsState(int(level), keys, np.array(positive, dtype=np.int64), np.array(negative, dtype=np.int64))

    def _at_least(self, state: ScorePairsState, level: int) -> ScorePairsState:
        if state.level >= level:
            return state
        keys = _GRID.coarsened(state.keys, state.level, level)
        return self._of_sorted(level, keys, state.positive, state.negative)

    def _of_sorted(self, level: int, keys: Keys, positive: Counts, negative: Counts | None) -> ScorePairsState:
        """Join equal keys, and neighbours too where they are too many; without `negative`, each key is one row."""
        finest = _GRID.level_for(keys, level, self.values_max)
        keys = _GRID.coarsened(keys, level, finest)
        if not len(keys):
            return ScorePairsState(finest, _NONE, _NONE, _NONE)
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        total = np.add.reduceat(positive, starts)
        rest = np.diff(starts, append=len(keys)) - total if negative is None else np.add.reduceat(negative, starts)
        return ScorePairsState(finest, keys[starts], total, rest)


def _auroc(state: ScorePairsState, positives: int, negatives: int) -> Reading:
    """Give the share of (positive, negative) pairs in the right order, ties one half."""
    below = wins = ties = 0
    for positive, negative in zip(state.positive.tolist(), state.negative.tolist(), strict=True):
        wins += positive * below
        ties += positive * negative
        below += negative
    pairs = positives * negatives
    value = (2 * wins + ties) / (2 * pairs)
    if state.level == 0:
        return Reading(value)
    # pairs within a bin count one half each; they might all be right, or all wrong
    bound = ties / (2 * pairs)
    return Reading(value, exact=False, error_bound=bound, low=max(value - bound, 0.0), high=min(value + bound, 1.0))


#: Out of hits and alarms at or above each score, and the number of positive rows: what is to be highest.
Gain = Callable[[Counts, Counts, int], npt.NDArray[Any]]


def _youden(positives: int, negatives: int) -> Gain:
    """TPR - FPR, times the numbers of both classes while that is a whole number that fits."""
    if positives * negatives < 2**53:
        return lambda hits, alarms, _: hits * negatives - alarms * positives
    return lambda hits, alarms, _: hits / float(positives) - alarms / float(negatives)


def _f1(hits: Counts, alarms: Counts, positives: int) -> npt.NDArray[Any]:
    """2 TP / (2 TP + FP + FN)."""
    return 2.0 * hits / (hits + alarms + positives)


def _threshold(state: ScorePairsState, positives: int, gain_of: Gain) -> Reading:
    """Give the score from which on the gain is highest; of equals the highest score."""
    # from the highest score down: rows at or above it
    hits = np.cumsum(state.positive[::-1])
    alarms = np.cumsum(state.negative[::-1])
    gain = gain_of(hits, alarms, positives)
    best = int(np.argmax(gain))
    keys = state.keys[::-1]
    low, high = _GRID.edges(keys, state.level)
    value = float(low[best])
    if state.level == 0:
        return Reading(value)
    # inside a bin all positive rows might stand above all negative ones: wherever that could win, the optimum may lie
    reach = gain_of(hits, alarms - state.negative[::-1], positives)
    possible = reach >= gain[best]
    lowest, highest = float(low[possible].min()), float(high[possible].max())
    value = value if np.isfinite(value) else float(high[best])
    bound = max(highest - value, value - lowest)
    if not np.isfinite(bound):
        return Reading(value, exact=False)
    return Reading(value, exact=False, error_bound=bound, low=lowest, high=highest)
