"""What several suites on real parts start in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.integration.troubled import Troubled, troubled_stack
from tests.running_stack import RunningStack

from fqlstream.settings import KafkaSettings, Settings, load


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """What `fqlstream up` starts, with one worker, for all tests of a module."""
    running = RunningStack.start(tmp_path_factory.mktemp("stack"))
    yield running
    running.stop()


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> Settings:
    """Settings that name the session's broker."""
    return load().model_copy(update={"kafka": kafka_settings})


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    """A topic for definitions of a test's own."""
    return make_topic(prefix="definitions", config={"cleanup.policy": "compact"})


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    with troubled_stack(tmp_path_factory.mktemp("troubled")) as parts:
        yield parts


@pytest.fixture
def troubled(parts: Troubled) -> Iterator[Troubled]:
    parts.renew()
    yield parts
    parts.stack.stop_workers()
