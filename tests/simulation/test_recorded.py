"""The record agent's protocol, killed and paused between any two of its steps: what is stored equals what the log says.

A failure names its seed: `simulate(seed)` replays it. What shows only where three owners meet in one step is held by the unit tests
of `record_delivery`.
"""

from __future__ import annotations

import pytest
from tests.simulation.recorded_world import simulate
from tests.simulation.test_planted import Fault, fault, planted

from fqlstream.stream import delivery, record_delivery, recorded

SEEDS = 400
BLOCKS = 8


@pytest.mark.parametrize("block", range(BLOCKS))
def test_what_is_stored_equals_what_the_log_says(block: int) -> None:
    for seed in range(block, SEEDS, BLOCKS):
        simulate(seed)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_what_is_stored_equals_what_the_log_says_in_many_more() -> None:
    for seed in range(10_000, 40_000):
        simulate(seed)


LETTERS = """    if letters:
        await ports.log.send_dead_letters(letters)
        await ports.store.write_dead_letters(letters)
"""
ROWS = """    await ports.store.write_recorded({owner.partition: cut.rows for owner, cut in cuts})
"""
FORGET = """    for owner, cut in cuts:
        await ports.store.forget_recorded(owner.partition, cut.forgotten)
"""
SUMMARIES = """    await ports.store.write_summaries({owner.partition: (cut.row.version, cut.summaries) for owner, cut in cuts})
"""
READABLE = """    for owner, cut in cuts:
        owner.written(cut)
"""
ROW = """    await ports.store.write_flushes([cut.row for _, cut in cuts])
"""

FLUSH = record_delivery._flush
STATE = recorded.RecordState
FAULTS = [
    fault("summaries before rows", FLUSH, (ROWS, ""), (FORGET, ""), (SUMMARIES, SUMMARIES + ROWS + FORGET)),
    fault("forgotten before rows", FLUSH, (ROWS, ""), (FORGET, FORGET + ROWS)),
    fault("flush row before summaries", FLUSH, (SUMMARIES, ""), (ROW, ROW + SUMMARIES)),
    fault("flush row before rows", FLUSH, (ROWS, ""), (ROW, ROW + ROWS)),
    fault("flush row before letters", FLUSH, (LETTERS, ""), (ROW, ROW + LETTERS)),
    fault("told before it can be read", FLUSH, (READABLE, ""), (ROWS, READABLE + ROWS)),
    fault("fence one too high", record_delivery.RecordOwner._cut, ("fence = state.next_offset - 1", "fence = state.next_offset")),
    fault("fence of a summary ignored", STATE._decide, ("if row.offset <= state.fence:", "if False:")),
    fault("a predecessor's refusals not told", STATE._decide, ("return None if before is None else", "return None if True else")),
    fault("room counted by the batch's begin", STATE._decide, ("counts[key] = start + len(row.values)", "pass")),
    fault("limit one too high", STATE._decide, ("> most:", "> most + 1:")),
    fault("forgotten lists still count", STATE.commit, ("ListState.empty(row.offset, is_forgotten=True)", "self.lists[key]")),
    fault("lists that wait are let go of", STATE.evict, ("if key not in self.dirty", "if True")),
    fault("what was loaded is not written again", STATE.absorb, ("self.dirty |= loaded.keys() - self.lists.keys()", "pass")),
    fault("epoch not raised", delivery.claim_partition, ("max(newest.version.epoch + 1, least)", "max(newest.version.epoch, 1)"), ("if not rivals:", "if True:")),
    fault("go on one too late", delivery.resume_offset, ("return fence + 1", "return min(fence + 2, end)")),
    fault("records given again are applied again", record_delivery.RecordOwner.apply, ("int(np.searchsorted(fetch.offsets, self.state.next_offset))", "0")),
]  # fmt: skip


@pytest.mark.parametrize("what", FAULTS, ids=lambda what: what.name)
def test_a_planted_fault_is_noticed(what: Fault) -> None:
    with planted(what):
        for seed in range(1_500):
            try:
                simulate(seed)
            except Exception:
                return
    pytest.fail(f"nothing noticed: {what.name}")
