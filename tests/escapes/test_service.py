"""Ways out of the sandbox, tried through a whole running stack: REST, Kafka, a runner, ClickHouse. All of them: `pytest -m soak tests/escapes`."""

from __future__ import annotations

import pytest
from tests.escapes import service, suite
from tests.escapes.attempts import ATTEMPTS
from tests.escapes.ordinary_user import run_program

#: A sandbox starts in a second and Spark's in ten, beside other suites in many times as much.
pytestmark = pytest.mark.timeout(3_000)
_ALL_S = 6 * 3_600


def test_no_attempt_of_any_class_gets_out_through_the_service() -> None:
    found = service.run("sqlframe", suite.one_per_class(), static_check=False, controls=False)
    suite.assert_held(found.results)
    assert {"file_system", "network", "supervisor"} <= set(found.layers)
    assert "static_check" not in found.layers
    assert found.answers > 0


@pytest.mark.soak
@pytest.mark.timeout(_ALL_S)
@pytest.mark.parametrize("static_check", [True, False])
def test_every_attempt_through_the_service_and_spark(static_check: bool) -> None:  # a parameter of the test
    found = service.run("spark", ATTEMPTS, static_check=static_check, controls=True)
    suite.assert_held(found.results)
    assert ("static_check" in found.layers) == static_check


@pytest.mark.soak
@pytest.mark.timeout(_ALL_S)
@pytest.mark.parametrize("words", [("--static-check",), ()], ids=["checked", "unchecked"])
def test_every_attempt_through_the_service_and_spark_as_an_ordinary_user(words: tuple[str, ...]) -> None:
    answer = run_program("tests.escapes.service", "--engine", "spark", *words)
    suite.assert_held(suite.results_of(answer))
    assert ("static_check" in answer["layers"]) == bool(words)
