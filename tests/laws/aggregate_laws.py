"""The laws of mergeable states. Each takes a subject and raises AssertionError with an example where it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.laws.catalogue import Batch, Subject

from fqlstream.aggregates.exact import Room, slice_exactly, weighted_totals
from fqlstream.aggregates.inputs import Argument
from fqlstream.aggregates.protocol import Additive, MergesMany

Law = Callable[..., None]

#: Few rows and small integers make most examples hit an edge; ten subjects times eight laws must stay a matter of seconds.
QUICK = settings(database=None, max_examples=40, report_multiple_bugs=False)
#: For what must be found, and need not be shown small.
THOROUGH = settings(database=None, max_examples=2_000, report_multiple_bugs=False, phases=[Phase.generate])


def _joined(left: Batch, right: Batch) -> Batch:
    return tuple(pa.concat_arrays([a, b]) for a, b in zip(left, right, strict=True))


def _run(subject: Subject, how: settings, check: Callable[..., None], count: int) -> None:
    batches = [subject.batches() for _ in range(count)]
    how(given(*batches)(check))()


def identity(subject: Subject, how: settings = QUICK) -> None:
    """Merging with the state of no rows changes nothing, on either side."""

    def check(batch: Batch) -> None:
        state, nothing = subject.state(batch), subject.aggregator.init()
        assert subject.same(subject.aggregator.merge(state, nothing), state)
        assert subject.same(subject.aggregator.merge(nothing, state), state)
        assert subject.same(subject.aggregator.update(state, tuple(column[:0] for column in batch)), state)

    _run(subject, how, check, 1)


def associativity(subject: Subject, how: settings = QUICK) -> None:
    """(a + b) + c is a + (b + c)."""

    def check(one: Batch, two: Batch, three: Batch) -> None:
        a, b, c = map(subject.state, (one, two, three))
        merge = subject.aggregator.merge
        left, right = merge(merge(a, b), c), merge(a, merge(b, c))
        assert subject.same(left, right), (left, right)
        assert subject.readings(left) == subject.readings(right)

    _run(subject, how, check, 3)


def many_at_once(subject: Subject, how: settings = QUICK) -> None:
    """Merging many states at once is merging them one after the other."""

    def check(one: Batch, two: Batch, three: Batch) -> None:
        aggregator = subject.aggregator
        if not isinstance(aggregator, MergesMany):
            return
        states = [subject.state(batch) for batch in (one, two, three)]
        before = [aggregator.encode(state) for state in states]
        many = aggregator.merge_many([aggregator.init(), *states])
        single = aggregator.merge(aggregator.merge(states[0], states[1]), states[2])
        assert subject.same(many, single), (many, single)
        assert subject.readings(many) == subject.readings(single)
        assert [aggregator.encode(state) for state in states] == before

    _run(subject, how, check, 3)


def commutativity(subject: Subject, how: settings = QUICK) -> None:
    """a + b is b + a."""

    def check(one: Batch, two: Batch) -> None:
        a, b = subject.state(one), subject.state(two)
        assert subject.same(subject.aggregator.merge(a, b), subject.aggregator.merge(b, a))

    _run(subject, how, check, 2)


def split_is_whole(subject: Subject, how: settings = QUICK) -> None:
    """However rows are cut into batches, and in whatever order these come, the state is the same."""

    def check(one: Batch, two: Batch) -> None:
        whole = subject.state(_joined(one, two))
        update = subject.aggregator.update
        assert subject.same(update(subject.state(one), two), whole)
        assert subject.same(update(subject.state(two), one), whole)
        assert subject.same(subject.aggregator.merge(subject.state(one), subject.state(two)), whole)
        assert subject.readings(whole) == subject.readings(update(subject.state(two), one))

    _run(subject, how, check, 2)


def retract_undoes(subject: Subject, how: settings = QUICK) -> None:
    """Taking away what was put in gives the state before, or None where that cannot be told; nothing can always go."""

    def check(one: Batch, two: Batch) -> None:
        kept, gone = subject.state(one), subject.state(two)
        undone = subject.aggregator.retract(subject.aggregator.merge(kept, gone), gone)
        assert undone is None or (subject.undone or subject.same)(undone, kept), (undone, kept)
        assert subject.same(subject.aggregator.retract(kept, subject.aggregator.init()), kept)

    _run(subject, how, check, 2)


def round_trip(subject: Subject, how: settings = QUICK) -> None:
    """A state comes back from its encoding, which is plain msgpack, begins with a version, and has one form."""

    def check(batch: Batch) -> None:
        state = subject.state(batch)
        data = msgspec.msgpack.encode(subject.aggregator.encode(state))
        plain = msgspec.msgpack.decode(data)
        assert plain[0] == subject.aggregator.state_version
        again = subject.aggregator.decode(plain)
        assert again == state
        assert hash(again) == hash(state)
        assert subject.readings(again) == subject.readings(state)
        assert msgspec.msgpack.encode(subject.aggregator.encode(again)) == data

    _run(subject, how, check, 1)


def repeatable(subject: Subject, how: settings = QUICK) -> None:
    """Reading, merging and updating leave a state as it was; a reading repeats itself and is finite or null."""

    def check(one: Batch, two: Batch) -> None:
        state, other = subject.state(one), subject.state(two)
        before, data = subject.readings(state), subject.aggregator.encode(state)
        copy = subject.aggregator.decode(data)
        subject.aggregator.merge(state, other)
        subject.aggregator.update(state, two)
        subject.aggregator.retract(state, other)
        assert subject.readings(state) == before
        assert subject.aggregator.encode(state) == data
        assert subject.same(state, copy)
        assert all(r.value is None or np.isfinite(r.value) for r in before)
        assert all(r.error_bound is None or not r.exact for r in before)

    _run(subject, how, check, 2)


def masks_select(subject: Subject, how: settings = QUICK) -> None:
    """Reducing under a mask is the state of the rows that it lets in; so are the totals of what adds up."""

    @how
    @given(st.data())
    def check(data: st.DataObject) -> None:
        batch = data.draw(subject.batches())
        rows = len(batch[0])
        drawn = data.draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=1, max_size=3))
        masks = np.array(drawn, dtype=np.bool_).reshape(len(drawn), rows)
        expected = [subject.state(tuple(column.filter(pa.array(mask)) for column in batch)) for mask in masks]
        reduced = subject.aggregator.reduce(batch, masks)
        assert all(map(subject.same, reduced, expected)), (reduced, expected)
        for mask, state in zip(masks, expected, strict=True):
            assert all(subject.same(added, state) for added in _added(subject.aggregator, batch, mask))

    check()


def _added(aggregator: Any, batch: Batch, mask: np.ndarray) -> list[Any]:
    """Give the state by way of addends, as the engine does; nothing where the aggregator has no such way for this batch."""
    if not isinstance(aggregator, Additive):
        return []
    # the room may hold other sums already, and be too small
    room = Room(len(batch[0]), 1)
    other = slice_exactly(np.arange(float(len(batch[0]))), room=room)
    addends = aggregator.addends(tuple(map(Argument, batch)), room)
    if addends is None or other is None:
        return []
    counts = [
        int((np.array(column.fill_null(False).to_pylist(), dtype=bool) & mask).sum()) for column in addends.counts
    ]
    totals = weighted_totals([other, *addends.sums], mask[None].astype(float))
    sums = [of[0] for of in totals[1:]]
    return [aggregator.from_totals(counts, sums)]


LAWS: tuple[Law, ...] = (
    identity,
    associativity,
    many_at_once,
    commutativity,
    split_is_whole,
    retract_undoes,
    round_trip,
    repeatable,
    masks_select,
)
