from __future__ import annotations

import os
from pathlib import Path

import pytest

from fqlstream.code_metrics import cgroups
from fqlstream.code_metrics.request import Limits

LIMITS = Limits(wall_s=1, memory_bytes=1_000, processes=10, output_bytes=1, disk_bytes=500)


def mounted(mount: Path, own: str, *groups: str) -> Path:
    """Lay out a mount with these groups; give a file as /proc/self/cgroup."""
    for group in groups:
        (mount / group).mkdir(parents=True, exist_ok=True)
    path = mount.parent / "own"
    path.write_text(own, encoding="ascii")
    return path


def test_version_one_divides_only_groups_that_are_ours(tmp_path: Path) -> None:
    own = mounted(tmp_path / "cg", "8:pids:/\n4:memory:/somebody/else\n", "pids", "memory/somebody/else")
    found = cgroups.find_parents(None, tmp_path / "cg", own)
    assert found == cgroups.Parents(None, tmp_path / "cg" / "pids", 1, "no group of ours for memory")


def test_a_configured_group_is_taken(tmp_path: Path) -> None:
    own = mounted(tmp_path / "cg", "8:pids:/x\n4:memory:/y\n", "pids/metrics", "memory/metrics")
    found = cgroups.find_parents("/metrics", tmp_path / "cg", own)
    assert found == cgroups.Parents(tmp_path / "cg/memory/metrics", tmp_path / "cg/pids/metrics", 1)


@pytest.mark.parametrize(
    ("own", "configured", "handed", "why_not"),
    [
        ("0::/system.slice/x\n", None, "memory pids", "the group /system.slice/x is not ours to divide"),
        ("0::/system.slice/x\n", "/metrics", "cpu", "metrics does not hand memory and pids to its children"),
        ("0::/system.slice/x\n", "/metrics", "cpu memory pids", ""),
    ],
)
def test_version_two_needs_what_is_handed_down(
    tmp_path: Path, own: str, configured: str | None, handed: str, why_not: str
) -> None:
    mount = tmp_path / "cg"
    path = mounted(mount, own, "metrics")
    (mount / "cgroup.controllers").touch()
    (mount / "metrics" / "cgroup.subtree_control").write_text(handed, encoding="ascii")
    found = cgroups.find_parents(configured, mount, path)
    assert found.why_not.endswith(why_not)
    assert (found.memory == mount / "metrics") == (not why_not)


def test_a_group_has_its_limits_and_says_who_died_of_them(tmp_path: Path) -> None:
    parent = tmp_path / "metrics"
    parent.mkdir()
    group = cgroups.make(cgroups.Parents(parent, parent, 2), "one", LIMITS)
    assert (parent / "one" / "memory.max").read_text(encoding="ascii") == "1500"
    assert (parent / "one" / "pids.max").read_text(encoding="ascii") == "10"
    group.add(77)
    assert (parent / "one" / "cgroup.procs").read_text(encoding="ascii") == "77"
    assert not group.out_of_memory()
    (parent / "one" / "memory.events").write_text("oom 1\noom_kill 0\n", encoding="ascii")
    assert not group.out_of_memory()
    (parent / "one" / "memory.events").write_text("oom 1\noom_kill 2\n", encoding="ascii")
    assert group.out_of_memory()


def test_groups_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    alive, gone, other = (
        tmp_path / name for name in (f"fqlstream-{os.getpid()}-slot-0", "fqlstream-999999999-slot-0", "x-1-y")
    )
    for path in (alive, gone, other):
        path.mkdir()
    cgroups.sweep(cgroups.Parents(None, tmp_path, 1))
    assert (alive.exists(), gone.exists(), other.exists()) == (True, False, True)
