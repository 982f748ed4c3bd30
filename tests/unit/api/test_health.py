"""What /health tells anybody, and what it tells whoever may read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from tests.memory_access import MemoryAccess
from tests.unit.api.asgi import ask
from tests.unit.api.test_application import Made

from fqlstream.api import health
from fqlstream.errors import StoreError
from fqlstream.ops.access import Scope

RUNNERS = [
    SimpleNamespace(host="inside-7", engine="spark", layers=["file_system"], missing=["network: no"], code=""),
    SimpleNamespace(host="inside-8", engine="spark", layers=[], missing=["network: no"], code="CMX001"),
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.setattr(health, "CHECKS", {})
    monkeypatch.setattr(health, "present_runners", lambda *_: RUNNERS)
    with ThreadPoolExecutor(2) as threads:
        yield Made(MemoryAccess.instead_of_clickhouse(monkeypatch), threads)


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_who_runs_code_and_what_contains_it_there_is_told_to_whoever_may_read(made: Made, path: str) -> None:
    app = made.app()
    wrong = {"authorization": "Bearer fq_wrong_key"}
    for headers in ({}, wrong, made.key(Scope.WRITE)):
        told = ask(app, "GET", path, headers=headers)
        assert told.status_code == 200
        assert told.json() == {
            "status": "ok", "dependencies": {}, "runners_count": 2, "runners_able": 1, "runners": None,
        }  # fmt: skip
        assert "inside" not in told.text
    runners = ask(app, "GET", path, headers=made.key(Scope.READ)).json()["runners"]
    assert [runner["host"] for runner in runners] == ["inside-7", "inside-8"]
    assert runners[0]["missing"] == ["network: no"]


def test_health_is_told_while_nobody_knows_who_asks(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made.key(Scope.READ)

    def away(*_: Any) -> None:
        raise StoreError("STO001", "away", retryable=True)

    monkeypatch.setattr("fqlstream.ops.access.standing_key", away)
    told = ask(made.app(), "GET", "/health", headers=key)
    assert (told.status_code, told.json()["runners"], told.json()["runners_count"]) == (200, None, 2)
