"""What several suites on real parts start in the same way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.troubled import Troubled, troubled_stack


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    with troubled_stack(tmp_path_factory.mktemp("troubled")) as parts:
        yield parts


@pytest.fixture
def troubled(parts: Troubled) -> Iterator[Troubled]:
    parts.renew()
    yield parts
    parts.stack.stop_workers()
