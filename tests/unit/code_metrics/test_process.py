from __future__ import annotations

import sys
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


@pytest.mark.parametrize("named", [True, False])
def test_only_what_bubblewrap_names_is_counted(tmp_path: Path, named: bool) -> None:  # a parameter of the test
    group = tmp_path / "group"
    group.mkdir()

    def command(fds: Mapping[str, int], _answers: int) -> Sequence[str]:
        tell = f"os.write({fds['--info-fd']}, b'{{\"child-pid\": %d}}' % os.getpid()); signal.pause()"
        return [sys.executable, "-c", f"import os, signal; {tell if named else ''}"]

    process = SandboxProcess(command, {}, Group(group, None), contained=True)
    process.end()
    assert process.counted == named
    assert (group / "cgroup.procs").exists() == named


def test_what_cannot_be_taken_into_its_group_is_not_counted(tmp_path: Path) -> None:
    def command(fds: Mapping[str, int], _answers: int) -> Sequence[str]:
        return [
            sys.executable,
            "-c",
            f"import os, signal; os.write({fds['--info-fd']}, b'{{\"child-pid\": %d}}' % os.getpid()); signal.pause()",
        ]

    process = SandboxProcess(command, {}, Group(tmp_path / "gone", None), contained=True)
    process.end()
    assert not process.counted


def test_the_machines_memory_is_read(tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemTotal: 10 kB\nMemAvailable:    3 kB\n", encoding="ascii")
    assert available_bytes(table) == 3_072
    assert available_bytes() > 0
