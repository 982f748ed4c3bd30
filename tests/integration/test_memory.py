"""A real worker with less memory than its states would take: bounds hold, and no number is another one."""

from __future__ import annotations

import json

import pytest
from tests.commands import command, invoke

from fqlstream.cli.bench import bench

PANES_BYTES = 4 * 2**20
BLOCKS_BYTES = 8 * 2**20


@pytest.mark.timeout(300)
def test_a_worker_killed_amid_many_states_goes_on_within_its_bounds_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten panes of two hundred segments take 10 MB, their hours and days as much: most of it is read and merged anew."""
    monkeypatch.setenv("FQLSTREAM_STREAM__PANES_BYTES_MAX", str(PANES_BYTES))
    monkeypatch.setenv("FQLSTREAM_STREAM__BLOCKS_BYTES_MAX", str(BLOCKS_BYTES))
    monkeypatch.setenv("FQLSTREAM_STREAM__LOAD_BYTES_MAX", str(2**20))
    monkeypatch.setenv("FQLSTREAM_STREAM__LABEL_FLUSH_MS", "1000")
    result = invoke(command(bench), "recovery", "--json", "--events", "2000")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["name"], report["checked"]) == ("recovery", True)
    figures = report["figures"]
    assert figures["states_2000"] == 2_000
    for when in ("at_rest", "after_late", "after_kill"):
        assert figures[f"panes_mib_{when}_2000"] * 2**20 <= PANES_BYTES
        assert figures[f"blocks_mib_{when}_2000"] * 2**20 <= BLOCKS_BYTES
    assert figures["panes_after_late_2000"] < 10
    assert figures["stored_mib_2000"] > 0.1
    assert 0 < figures["takeover_s_2000"] < figures["recovery_s_2000"]
