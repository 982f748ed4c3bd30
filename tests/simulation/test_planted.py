"""Faults planted in the production code, one at a time: the simulation must notice each, or it proves nothing.

Steps that must not change places are swapped, and what the protocol rests on is broken. A fault is a change of one function's
text; what runs is the function as it is otherwise. Pairs of steps that are left out change nothing when they are swapped:
a notice and an acknowledgement, the two letters' destinations, a look at the topic's id before or after a claim. A claim that
is not read back needs two claims within one step of each other: the unit tests of a takeover hold that.
"""

from __future__ import annotations
import __future__

import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, cast

import pytest
from tests.simulation.test_delivery import DEADLY, RIVALS, SHORT, STORM, simulate

from fqlstream.app import aggregate, holding
from fqlstream.stream import delivery, finalise, panes, partition, protocol, suspects, trials

#: Histories until a fault must have shown. Most show in the first ten.
SEEDS_MAX = 300


@dataclass(frozen=True)
class Fault:
    """A change of one function: each text of `before`, which must be there once, becomes that of `after`."""

    name: str
    where: Callable[..., Any]
    changes: tuple[tuple[str, str], ...]


def fault(name: str, where: Any, *changes: tuple[str, str]) -> Fault:
    return Fault(name, where.fget if isinstance(where, property) else where, changes)


# -- the steps of a flush --------------------------------------------------------------------------------------------------

LETTERS = """    letters = [letter for _, cut in cuts for letter in cut.dead_letters]
    if letters:
        await ports.log.send_dead_letters(letters)
        await ports.store.write_dead_letters(letters)
"""
HISTORY = """    await write_history(ports.store, [(owner.partition, item) for owner, cut in cuts for item in cut.history])
"""
STATES = """    records = [record for _, cut in cuts for record in cut.records]
    if records:
        await ports.store.write_states(records)
"""
ROW = """    await ports.store.write_flushes([cut.row for _, cut in cuts])
"""
LOOK = """    epochs = {row.partition: row.version.epoch for row in await ports.store.newest_flushes(cuts[0][1].row.topic)}
"""
NOTICES = """    await ports.log.send_notices([cut.row for _, cut in cuts])
    for _, cut in cuts:
        ports.log.acknowledge(cut.row.topic, cut.row.partition, cut.next_offset)
"""
STEPS = {"dead letters": LETTERS, "history": HISTORY, "states": STATES, "flush row": ROW}


def swapped(first: str, second: str) -> Fault:
    a, b = STEPS[first], STEPS[second]
    text = inspect.getsource(delivery._flush)
    between = text[text.index(a) + len(a) : text.index(b)]
    return fault(f"flush: {second} before {first}", delivery._flush, (a + between + b, b + between + a))


FLUSH = [
    *(swapped(first, second) for first, second in itertools.combinations(STEPS, 2) if second != "history"),
    fault("flush: notices and commit before flush row", delivery._flush, (ROW, NOTICES + ROW)),
    fault("flush: look for a higher epoch before flush row", delivery._flush, (ROW + LOOK, LOOK + ROW)),
    fault("flush: no look for a higher epoch", delivery._flush, ("> cut.row.version.epoch", "> 2**60")),
    fault("flush: forgotten as written before it is", delivery._flush, (HISTORY, "    [o.flushed(c) for o, c in cuts]\n" + HISTORY)),
]  # fmt: skip

# -- what a flush writes ---------------------------------------------------------------------------------------------------

CUT = [
    fault("fence one too high", delivery.Owner._cut, ("fence = state.next_offset - 1", "fence = state.next_offset")),
    fault("fence one too low", delivery.Owner._cut, ("fence = state.next_offset - 1", "fence = state.next_offset - 2")),
    fault("a skipped fence", panes.PaneCodes.fence_mask, ("offsets > fences[self.codes]", "offsets > -1")),
    fault("fence of a lane that waits", delivery.Owner._cut, ("continue  #", "fences[lane] = fence; continue  #")),
    fault("a fence that goes back", delivery.Owner._cut, ("max(fence, pane.fences[lane])", "fence")),
    fault(
        "delta instead of absolute value", delivery.Owner._cut,
        ("contained, cells))", "contained, cells)); state.panes.held[key] = empty_pane(engine)"),
    ),
    fault("flush number not counted", delivery.Owner._cut, ("self.base.version.flush + 1", "self.base.version.flush")),
    fault("epoch ignored by versions", protocol.Version.number, ("self.epoch * FLUSHES_PER_EPOCH + ", "")),
]  # fmt: skip

# -- takeover --------------------------------------------------------------------------------------------------------------

CLAIM = "    claim, left_at_ms = await claim_partition(topic, partition, owner_id, topic_id, ports)\n"
NEW_STATE = "    state = PartitionState(partition, catalogue, engine_of, ports.settings)\n"
REBUILD = "    await _rebuild_memory(state, ports)\n"
EARLY = f"""{NEW_STATE}
    early = await ports.store.newest_flush(topic, partition)
    state.next_offset = early.fence + 1 if early else 0
{REBUILD}"""

TAKEOVER = [
    fault("epoch not raised", delivery.claim_partition, ("max(newest.version.epoch + 1, least)", "max(newest.version.epoch, 1)"), ("if not rivals:", "if True:")),
    fault("go on at the higher fence", delivery.resume_offset, ("fence = min(", "fence = max(")),
    fault("go on at the log's end", delivery.resume_offset, ("return fence + 1", "return end")),
    fault("go on one too late", delivery.resume_offset, ("return fence + 1", "return min(fence + 2, end)")),
    fault("memory not rebuilt", delivery.take_over, (REBUILD, "")),
    fault("memory rebuilt before the claim", delivery.take_over, (NEW_STATE, ""), (REBUILD, ""), (CLAIM, EARLY + CLAIM)),
    fault("open panes not looked at", delivery.take_over, ("    await owner.take_stock()\n", "")),
    fault("a takeover of a lost partition", holding.Holding.add, ("if source.lost:", "if False:")),
]  # fmt: skip

# -- fetches, labels, repairs ----------------------------------------------------------------------------------------------

FETCH = [
    fault("rows counted again after a late seek", delivery._from_offset, ("if not len(fetch) or", "if True or")),
    fault(
        "label added instead of replaced", partition.PartitionState._step,
        ("engine.replace(Lane.LABELS, old, gone[code], come[code])", "(engine.merge(Lane.LABELS, old, come[code]), True)"),
    ),
    fault("a broken pane left as it is", partition.PartitionState._step, ("pane = replace(pane, broken=True)", "pass")),
    fault("labels applied in order of arrival only", partition.PartitionState._apply_in_order,
          ("np.lexsort((rows, offsets, np.repeat([task.rank for task in tasks], lengths), places))", "np.lexsort((-offsets, places))")),
    fault("a duplicate counted", partition.PartitionState._judge,
          ("return [(verdict.duplicate,", "return [(verdict.duplicate & False,"), ("= verdict.duplicate,", "= False,")),
    fault("history not written before it is asked", delivery.Owner._write_history, ("if not items:", "if True:")),
    fault("panes rebuilt beyond what was applied", delivery.Owner._rebuild_some,
          ("upto = self.state.next_offset - 1", "upto = 2**62")),
    fault("panes evicted before they are written", panes.Panes.unwritten,
          ("return self.dirty[Lane.EVENTS] | self.dirty[Lane.LABELS] | self.writing", "return set()")),
    fault("a repair noted as done before it is written", aggregate.AggregateAgent._repair_partition,
          ("            await self.flush(labels=True)\n", "            await self.repairs.finish_repairs(part)\n            await self.flush(labels=True)\n")),
]  # fmt: skip

# -- publishing ------------------------------------------------------------------------------------------------------------

SEND = "                await self.log.send_values(values)\n"
WRITE = "                await self.store.write_values(values, entry.newest.retention_ms)\n"
EACH = "        while left:\n"
REMEMBER = "        await self._remember(now, now_ms, is_news=is_news)\n"
FINALISE = [
    fault("finaliser: flush rows read after the states", finalise.ModelFinaliser.look,
          (REMEMBER, "        rows = await self.store.newest_flushes(self.topic)\n"
                     "        now = Published({r.partition: r.version.number for r in rows}, watermark, self._digest)\n" + REMEMBER)),
    fault("finaliser: remembered before values are written", finalise.ModelFinaliser.look,
          (EACH, "        await self._remember(now, now_ms, is_news=True)\n" + EACH)),
    fault("finaliser: table before topic", finalise.ModelFinaliser.look, (SEND + WRITE, WRITE + SEND)),
    fault("finaliser: watermark goes back", finalise.ModelFinaliser.look, ("before.watermark_ms\n", "None\n")),
    fault("finaliser: merged panes kept though one changed", finalise.ModelFinaliser._changed_panes,
          ("self.memory.blocks.pop((self._owner, key.version, block))", "pass")),
    fault("finaliser: claim without a higher epoch", finalise.ModelFinaliser._claim, (".values()]) + 1", ".values()])")),
]  # fmt: skip

# -- records that end their workers ----------------------------------------------------------------------------------------

NOTE = "    await _note(owner, int(part.offsets[0]), int(part.offsets[-1]))\n"
TRIALS = [
    fault("trial: noted after it is applied", trials.try_alone, (NOTE, ""),
          ("is_known=True)\n", "is_known=True)\n" + NOTE)),
    fault("trial: history of the record is kept", trials._set_aside, ("        await owner.ports.store.forget_record(owner.partition, offset)\n", "")),
    fault("trial: states of the record are kept", trials._set_aside,
          ("        await owner.rebuild(await owner.ports.store.panes_beyond(owner.partition, offset - 1))\n", "")),
    fault("suspects: ends are not counted", suspects.inherited, ("return replace(known, deaths=known.deaths + 1)", "return known")),
]  # fmt: skip


FAULTS = [*FLUSH, *CUT, *TAKEOVER, *FETCH, *FINALISE, *TRIALS]


@contextmanager
def planted(what: Fault) -> Iterator[None]:
    """Run the changed text in the function's place, for everybody who holds the function."""
    function = cast("FunctionType", what.where)
    text = inspect.getsource(function)
    for before, after in what.changes:
        assert text.count(before) == 1, (
            f"{what.name}: {before!r} is {text.count(before)} times in {function.__qualname__}"
        )
        text = text.replace(before, after)
    scope = dict(vars(sys.modules[function.__module__]))
    flags = __future__.annotations.compiler_flag
    exec(compile(textwrap.dedent(text), function.__code__.co_filename, "exec", flags), scope)  # noqa: S102  # our own text, changed
    changed = scope[function.__name__]
    kept = function.__code__
    function.__code__ = getattr(changed, "fget", changed).__code__
    try:
        yield
    finally:
        function.__code__ = kept


def noticed(what: Fault) -> str | None:
    """Give what the simulation says of a fault; None: nothing."""
    with planted(what):
        for seed in range(SEEDS_MAX // 4):
            for shape in (SHORT, RIVALS, STORM, DEADLY):
                try:
                    simulate(seed, shape)
                except Exception as error:
                    return f"{shape.name} seed {seed}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("what", FAULTS, ids=lambda what: what.name)
def test_a_planted_fault_is_noticed(what: Fault) -> None:
    assert noticed(what) is not None
