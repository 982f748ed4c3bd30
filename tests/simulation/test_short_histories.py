"""Two thousand short histories of four kinds: what a few long ones in `test_delivery` may miss. Many more: `pytest -m soak`.

A failure names its kind and seed: `simulate(seed, RIVALS)` replays it.
"""

from __future__ import annotations

import pytest
from tests.simulation.test_delivery import DEADLY, RIVALS, SHORT, STORM, Shape, simulate

#: Histories of each kind, run in blocks so that a failure does not hide the others.
SEEDS = 500
BLOCKS = 10


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("shape", [SHORT, RIVALS, STORM, DEADLY], ids=lambda shape: shape.name)
def test_finals_equal_a_recount(shape: Shape, block: int) -> None:
    for seed in range(block, SEEDS, BLOCKS):
        simulate(seed, shape)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shape", [SHORT, RIVALS, STORM, DEADLY], ids=lambda shape: shape.name)
def test_finals_equal_a_recount_in_many_more(shape: Shape) -> None:
    for seed in range(10_000, 15_000):
        simulate(seed, shape)
