"""Ranking metrics: items of queries, kept whole until they are read, and how well their order fits their relevance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from fqlstream.aggregates.encoding import body
from fqlstream.aggregates.inputs import both, everything, numbers_and_valid
from fqlstream.aggregates.masks import Mask
from fqlstream.aggregates.protocol import ARRAY_HEAD_BYTES, Masks, Reading

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
#: Query, score, relevance, count.
Items = tuple[Hashes, Doubles, Doubles, Counts]

_HASH_BITS: Final = 64


def ranked(sizes: Counts, scores: Doubles, relevance: Doubles) -> Doubles:
    """Give relevance in the order of falling scores within each list, ties as they stand. Lists follow each other."""
    lists = np.repeat(np.arange(len(sizes)), sizes)
    return relevance[np.lexsort((-scores, lists))]


def average_precisions(sizes: Counts, relevance: Doubles, top_k: int) -> Doubles:
    """Give the average precision at `top_k` of each ranked list; 0 for one without a relevant item.

    An item is relevant above 0. The sum of precisions at relevant places is divided by the smaller of `top_k` and the
    relevant items.
    """
    hit = (relevance > 0).astype(np.float64)
    place = _places(sizes)
    precision = np.cumsum(hit) - np.repeat(_before(np.cumsum(hit), sizes), sizes)
    precision /= place
    lists = np.repeat(np.arange(len(sizes)), sizes)
    gained = np.bincount(lists, weights=hit * precision * (place <= top_k), minlength=len(sizes))
    relevant = np.minimum(np.bincount(lists, weights=hit, minlength=len(sizes)), top_k)
    return gained / np.maximum(relevant, 1)


def normalised_gains(sizes: Counts, relevance: Doubles, top_k: int) -> Doubles:
    """Give NDCG at `top_k` of each ranked list, with linear gain and discount 1/log2(place + 1); 0 where all gain is 0.

    A grade below 0 gains nothing, as nothing could be gained by showing it.
    """
    lists = np.repeat(np.arange(len(sizes)), sizes)
    relevance = np.maximum(relevance, 0.0)
    greatest = np.zeros(len(sizes))
    np.maximum.at(greatest, lists, relevance)
    # by a power of two, so exactly: the largest and the smallest grades there are must not overflow a sum or a quotient
    relevance = np.ldexp(relevance, -np.frexp(greatest)[1][lists])
    place = _places(sizes)
    discount = np.where(place <= top_k, 1.0 / np.log2(place + 1), 0.0)
    best = relevance[np.lexsort((-relevance, lists))]
    gained = np.bincount(lists, weights=relevance * discount, minlength=len(sizes))
    possible = np.bincount(lists, weights=best * discount, minlength=len(sizes))
    return np.divide(gained, possible, out=np.zeros(len(sizes)), where=possible > 0)


def _places(sizes: Counts) -> Doubles:
    """Give the place of each item in its list, from 1."""
    starts = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(1, int(sizes.sum()) + 1) - np.repeat(starts, sizes), dtype=np.float64)


def _before(totals: Doubles, sizes: Counts) -> Doubles:
    """Give the running total in front of each list."""
    return np.asarray(np.concatenate([[0.0], totals])[np.cumsum(sizes) - sizes])


@dataclass(frozen=True, slots=True, eq=False)
class QueriesState:
    """Distinct items by query, score (falling) and relevance, with how often each occurs.

    Queries are known by the 64-bit xxh3 of their id. Above level 0 only those are kept whose hash begins with `level`
    zero bits: a fair sample of whole queries.
    """

    level: int
    queries: Hashes
    scores: Doubles
    relevance: Doubles
    counts: Counts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueriesState):
            return NotImplemented
        pairs = zip(self.columns, other.columns, strict=True)
        return self.level == other.level and all(np.array_equal(a, b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.level, *(column.tobytes() for column in self.columns)))

    @property
    def columns(self) -> Items:
        """The four columns, of one length."""
        return self.queries, self.scores, self.relevance, self.counts


_EMPTY = QueriesState(0, np.zeros(0, np.uint64), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class Queries:
    """Items per query, up to `items_max` distinct ones; beyond, a sample of whole queries.

    Items of one score stand with the less relevant first: in what order they came is not known once states are merged.
    """

    items_max: int
    kind: ClassVar[str] = "queries"
    state_version: ClassVar[int] = 1
    retractable: ClassVar[bool] = True

    def init(self) -> QueriesState:
        """Give the state of no rows."""
        return _EMPTY

    def update(self, state: QueriesState, args: tuple[pa.Array, ...]) -> QueriesState:
        """Take a batch in: query id, score, relevance."""
        return self.merge(state, self.reduce(args, everything(len(args[0])))[0])

    def reduce(self, args: tuple[pa.Array, ...], masks: Masks) -> list[QueriesState]:
        """Collect under each mask."""
        queries, known = _hashes(args[0])
        scores, scored = numbers_and_valid(args[1])
        relevance, labelled = numbers_and_valid(args[2])
        valid = both(known, scored, labelled)
        ones = np.ones(len(queries), dtype=np.int64)
        states = []
        for mask in masks:
            kept = mask if valid is None else mask & valid
            # adding 0.0 makes -0.0 the same number as 0.0
            items = (queries[kept], scores[kept] + 0.0, relevance[kept] + 0.0, ones[kept])
            states.append(self._of(0, items))
        return states

    def merge(self, left: QueriesState, right: QueriesState) -> QueriesState:
        """Give the state of both."""
        return self._of(max(left.level, right.level), _joined(left.columns, right.columns))

    def retract(self, state: QueriesState, gone: QueriesState) -> QueriesState | None:
        """Take rows away; None where they cannot have been in. A sample does not grow again."""
        if gone.level > state.level:
            return None
        queries, scores, relevance, counts = gone.columns
        left = self._of(state.level, _joined(state.columns, (queries, scores, relevance, -counts)))
        if (left.counts < 0).any():
            return None
        return QueriesState(left.level, *_taken(left.columns, left.counts > 0))

    def read(self, state: QueriesState, name: str, params: Mapping[str, float]) -> Reading:
        """Read `map` or `ndcg` at `top_k`, means over queries, or their `count`. Of a sample, estimates of unknown error."""
        starts = np.flatnonzero(_changes(state.queries))
        if name == "count":
            return Reading(float(len(starts) << state.level), exact=state.level == 0)
        if not len(starts):
            return Reading(None, exact=state.level == 0)
        per_query = np.add.reduceat(state.counts, starts)
        relevance = np.repeat(state.relevance, state.counts)
        measure = average_precisions if name == "map" else normalised_gains
        values = measure(per_query, relevance, int(params["top_k"]))
        return Reading(float(np.mean(values)), exact=state.level == 0)

    def bytes_of(self, state: QueriesState) -> int:
        """Say about how many bytes of memory a state takes."""
        return sum(ARRAY_HEAD_BYTES + column.nbytes for column in state.columns)

    def encode(self, state: QueriesState) -> list[Any]:
        """Give [version, level, hashes, scores, relevance, counts]."""
        return [self.state_version, state.level, *(column.tolist() for column in state.columns)]

    def decode(self, data: Any) -> QueriesState:
        """Give the state back."""
        level, queries, scores, relevance, counts = body(data, self.kind, self.state_version)
        return QueriesState(
            int(level),
            np.array(queries, dtype=np.uint64),
            np.array(scores, dtype=np.float64),
            np.array(relevance, dtype=np.float64),
            np.array(counts, dtype=np.int64),
        )

    def _of(self, level: int, items: Items) -> QueriesState:
        """Bring items into their one order, equal ones together, and sample until they fit."""
        items = _sampled(level, items)
        items = _taken(items, np.lexsort((items[2], -items[1], items[0])))
        queries, scores, relevance, counts = items
        starts = np.flatnonzero(_changes(queries) | _changes(scores) | _changes(relevance))
        totals = np.add.reduceat(counts, starts) if len(starts) else counts
        items = (queries[starts], scores[starts], relevance[starts], totals)
        while len(items[0]) > self.items_max and level < _HASH_BITS:
            level += 1
            items = _sampled(level, items)
        return QueriesState(level, *items)


def _joined(left: Items, right: Items) -> Items:
    queries, scores, relevance, counts = (np.concatenate(pair) for pair in zip(left, right, strict=True))
    return queries, scores, relevance, counts


def _taken(items: Items, rows: npt.NDArray[Any]) -> Items:
    queries, scores, relevance, counts = items
    return queries[rows], scores[rows], relevance[rows], counts[rows]


def _sampled(level: int, items: Items) -> Items:
    """Keep queries whose hash begins with so many zero bits."""
    if level == 0:
        return items
    return _taken(items, items[0] >> np.uint64(_HASH_BITS - level) == 0)


def _changes(column: npt.NDArray[Any]) -> Mask:
    """Tell where a column differs from the row before; the first row does."""
    return np.append(True, column[1:] != column[:-1]) if len(column) else np.zeros(0, dtype=np.bool_)


def _hashes(ids: pa.Array) -> tuple[Hashes, Mask | None]:
    """Give the hash of each query id, and where there is one ('' is none)."""
    coded = ids.dictionary_encode()
    texts = coded.dictionary.to_pylist()
    hashes = np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts] or [0], dtype=np.uint64)
    codes = np.asarray(coded.indices.fill_null(0).to_numpy(zero_copy_only=False))
    present = np.array([text != "" for text in texts] or [False])[codes]
    valid = present & np.asarray(coded.indices.is_valid().to_numpy(zero_copy_only=False))
    return hashes[codes], None if valid.all() else valid
