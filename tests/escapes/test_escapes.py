"""Ways out of the sandbox, tried. The long form, every attempt in a sandbox of its own with real Spark: `pytest -m soak tests/escapes`.

Shared sandboxes are for speed: an attempt that may end its sandbox has one of its own all the same.
"""

from __future__ import annotations

import pytest
from tests.escapes import suite
from tests.escapes.attempts import ATTEMPTS, CONTROLS, SPARK_CONTROLS, Attempt
from tests.escapes.ordinary_user import run_program

from fqlstream.code_metrics.inside.static_check import check

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
    suite.assert_held(suite.run("sqlframe", ATTEMPTS, together=True, static_check=False, controls=True))


def test_no_attempt_of_any_class_gets_out_of_spark() -> None:
    suite.assert_held(suite.run("spark", suite.one_per_class(), together=True, static_check=False, controls=True))


def test_an_ordinary_user_is_held_as_well() -> None:
    suite.assert_held(as_ordinary_user("--engine", "sqlframe", "--one-per-class", "--together"))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("static_check", [True, False])
@pytest.mark.parametrize("kind", _KINDS)
def test_every_attempt_alone_through_spark(kind: str, static_check: bool) -> None:  # a parameter of the test
    attempts = [attempt for attempt in ATTEMPTS if attempt.kind == kind]
    suite.assert_held(suite.run("spark", attempts, together=False, static_check=static_check, controls=True))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_every_attempt_alone_through_spark_as_an_ordinary_user() -> None:
    suite.assert_held(as_ordinary_user("--engine", "spark"))


def as_ordinary_user(*arguments: str) -> list[suite.Result]:
    """Run the suite as a program, as a user who is not root."""
    return suite.results_of(run_program("tests.escapes.suite", *arguments))
