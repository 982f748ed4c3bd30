from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fqlstream.code_metrics.scratch import Scratch

HOLD = """
import sys, time
from pathlib import Path
from fqlstream.code_metrics.scratch import Scratch
scratch = Scratch()
(scratch.path / "rows.parquet").touch()
print(scratch.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_directory_is_for_its_owner_and_goes_with_the_pool() -> None:
    scratch = Scratch()
    assert scratch.path.stat().st_mode & 0o777 == 0o700
    (scratch.path / "rows.parquet").touch()
    scratch.close()
    assert not scratch.path.exists()


def test_it_lies_where_it_is_told_to(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "rows")
    assert scratch.path.parent == (tmp_path / "rows").resolve()
    assert (tmp_path / "rows").stat().st_mode & 0o777 == 0o700
    scratch.close()


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        first = Scratch()
        assert (left / "rows.parquet").exists()
        other.kill()
        other.wait(30)
        second = Scratch()
        assert not left.exists()
        assert first.path.exists()
        first.close()
        second.close()


def test_directories_of_another_name_or_place_are_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    for name in ("rows-left", "other-left"):
        (place / name).mkdir()
    (tmp_path / "rows-elsewhere").mkdir()
    scratch = Scratch(place, "rows-")
    assert scratch.path.parent == place
    assert sorted(path.name for path in place.iterdir() if path != scratch.path) == ["other-left"]
    assert (tmp_path / "rows-elsewhere").exists()
    scratch.close()
