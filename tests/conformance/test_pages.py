"""What the pages say against what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "src" / "ARCHITECTURE.md").read_text()
#: What starts like this is a path in this repository.
PATH = re.compile(r"(?:src|topics|schemas|tests|deploy|\.ci)/[\w./<>-]+")


def _shell_blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def _paths(text: str) -> list[str]:
    return sorted({found.rstrip(".") for found in PATH.findall(text)})


def test_the_readme_begins_with_the_two_commands() -> None:
    demo, tests = _shell_blocks(README)[:2]
    assert demo.endswith(".venv/bin/fqlstream demo")
    assert tests.endswith(".venv/bin/pytest")


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines.count(_shell_blocks(README)[1]) == 1
    assert "set -euo pipefail" in lines


def test_ci_runs_the_demo_of_the_wheel() -> None:
    assert '"$scratch/venv/bin/fqlstream" demo --once' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", _paths(ARCHITECTURE))
def test_every_path_of_the_architecture_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", _paths(README))
def test_every_path_of_the_readme_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_architecture_names_its_files() -> None:
    assert len(_paths(ARCHITECTURE)) > 40
