from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fqlstream.code_metrics.cgroups import Group
from fqlstream.code_metrics.process import SandboxProcess, available_bytes


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_process_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()

    def command(_fds: Mapping[str, int], _answers: int) -> Sequence[str]:
        return [str(tmp_path / "nowhere")]

    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        SandboxProcess(command, {}, Group(group, None), contained=True)
    assert open_descriptors() == before
    assert not group.exists()


def test_the_machines_memory_is_read(tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemTotal: 10 kB\nMemAvailable:    3 kB\n", encoding="ascii")
    assert available_bytes(table) == 3_072
    assert available_bytes() > 0
