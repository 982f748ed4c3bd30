from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fqlstream.code_metrics import sandbox
from fqlstream.code_metrics.request import Limits
from fqlstream.code_metrics.sandbox import Isolation, Slot

LIMITS = Limits(wall_s=1, memory_bytes=1, processes=1, output_bytes=1, disk_bytes=1)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a virtual environment in its own directory, beside its keys."""
    for name in ("bin", "lib", ".fqlstream"):
        (tmp_path / name).mkdir()
    for name in ("pyvenv.cfg", ".env", ".fqlstream/api.secret", "bin/python"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return tmp_path


def test_of_a_virtual_environment_only_what_python_reads_is_shown(project: Path) -> None:
    slot = Slot(project / "slot", 0, None)
    command = sandbox.command(
        Isolation(Path("/usr/bin/bwrap"), user_namespace=True, network=True), slot, LIMITS, None, ("x",), {}
    )
    bound = {Path(command[place + 1]) for place, part in enumerate(command) if part == "--ro-bind-try"}
    shown = {path for path in bound if path.is_relative_to(project) and not path.is_relative_to(slot.directory)}
    assert shown == {project / "bin", project / "lib", project / "pyvenv.cfg"}


def test_directories_of_ours_below_what_is_shown_are_found(project: Path) -> None:
    inside = project / "lib" / "data"
    assert sandbox.seen([project, project / ".fqlstream", inside, Path("/usr/share/x")], None) == [
        inside,
        Path("/usr/share/x"),
    ]
    assert sandbox.seen([project / ".fqlstream"], project) == [project / ".fqlstream"]
