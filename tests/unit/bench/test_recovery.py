from __future__ import annotations

import pytest

from fqlstream.bench.recovery import _sizes


@pytest.mark.parametrize(
    ("states_max", "names"),
    [(1_000_000, ["10k", "100k", "1m"]), (999_999, ["10k", "100k"]), (10_000, ["10k"]), (2_000, ["2000"])],
)
def test_every_size_up_to_so_many_states_is_measured(states_max: int, names: list[str]) -> None:
    assert list(_sizes(states_max).values()) == names
