"""Ways out of the sandbox, tried. The long form, every attempt in a sandbox of its own with real Spark: `pytest -m soak tests/escapes`.

Shared sandboxes are for speed: an attempt that may end its sandbox has one of its own all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.escapes import suite
from tests.escapes.attempts import ATTEMPTS, CONTROLS, SPARK_CONTROLS, Attempt

from fqlstream.code_metrics.inside.static_check import check
from fqlstream.code_metrics.sandbox import find_bwrap

_NOBODY = 65_534
#: A hundred attempts, some of which wait for an answer from nowhere.
pytestmark = pytest.mark.timeout(3_000)
_KINDS = sorted({attempt.kind for attempt in ATTEMPTS})


def test_there_are_attempts_of_every_class() -> None:
    assert len(ATTEMPTS) >= 80
    assert len({(attempt.kind, attempt.name) for attempt in ATTEMPTS}) == len(ATTEMPTS)
    assert len(_KINDS) == 14


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: f"{attempt.kind}: {attempt.name}")
def test_the_static_check_sees_what_it_is_said_to_see(attempt: Attempt) -> None:
    filled = attempt.code
    for mark in ("$PORT", "$VICTIM"):
        filled = filled.replace(mark, "1")
    assert (check(filled) is not None) == attempt.seen


@pytest.mark.parametrize("name", sorted(CONTROLS | SPARK_CONTROLS))
def test_the_static_check_lets_ordinary_code_pass(name: str) -> None:
    assert check((CONTROLS | SPARK_CONTROLS)[name][0]) is None


def test_without_the_static_check_no_attempt_gets_out() -> None:
    held(suite.run("sqlframe", ATTEMPTS, together=True, static_check=False, controls=True))


def test_no_attempt_of_any_class_gets_out_of_spark() -> None:
    held(suite.run("spark", suite.one_per_class(), together=True, static_check=False, controls=True))


def test_an_ordinary_user_is_held_as_well() -> None:
    held(as_ordinary_user("--engine", "sqlframe", "--one-per-class", "--together"))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("static_check", [True, False])
@pytest.mark.parametrize("kind", _KINDS)
def test_every_attempt_alone_through_spark(kind: str, static_check: bool) -> None:  # a parameter of the test
    attempts = [attempt for attempt in ATTEMPTS if attempt.kind == kind]
    held(suite.run("spark", attempts, together=False, static_check=static_check, controls=True))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_every_attempt_alone_through_spark_as_an_ordinary_user() -> None:
    held(as_ordinary_user("--engine", "spark"))


def held(results: Sequence[suite.Result]) -> None:
    """Assert that something was tried and that nothing got out."""
    assert results
    failed = [result for result in results if result.complaints]
    assert not failed, "\n".join(map(str, failed))


def as_ordinary_user(*arguments: str) -> list[suite.Result]:
    """Run the suite as a program, as a user who is not root."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o777)
        environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "TMPDIR": scratch, "HOME": scratch}
        command = [sys.executable, "-B", "-m", "tests.escapes.suite", *arguments]
        done = subprocess.run(
            [*_as_nobody(root), *command], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
    assert done.stdout, done.stderr[-4_000:]
    answer = json.loads(done.stdout)
    assert answer["uid"] != 0
    return [suite.Result(**{**row, "complaints": tuple(row["complaints"])}) for row in answer["results"]]


def _as_nobody(root: Path) -> list[str]:
    """Become somebody else, where we are root: with what we run from in view, though it may lie where only root may look."""
    if os.getuid() != 0:
        return []
    bwrap = find_bwrap(None)
    assert bwrap is not None
    command = [str(bwrap), "--dev-bind", "/", "/"]
    needed = {Path(place) for place in (sys.prefix, sys.base_prefix)} | {root}
    closed = {top for place in needed for top in place.parents if top.stat().st_mode & 0o005 != 0o005}
    for top in sorted(closed):
        command += ["--tmpfs", str(top), "--chmod", "0755", str(top)]
    for place in sorted(needed):
        for parent in reversed([parent for parent in place.parents if closed & set(parent.parents)]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(place), str(place)]
    return [*command, "--", "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
