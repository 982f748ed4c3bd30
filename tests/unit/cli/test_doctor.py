"""Which processes of a stack here are asked for their health; what is made of the answers is tested in ops/doctor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fqlstream.cli import doctor as module
from fqlstream.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data directory that looks as one of a running stack with two workers and an API."""
    stack = SimpleNamespace(bootstrap=None, pids=SimpleNamespace(workers=(1, 2)), api_url="http://127.0.0.1:5")
    (tmp_path / "stack.json").write_text("{}")
    monkeypatch.setattr(module, "is_locked", lambda _data: True)
    monkeypatch.setattr(module, "read_stack", lambda _data: stack)
    return Settings(data=tmp_path)


def test_the_workers_of_a_stack_are_asked_where_they_listen(settings: Settings) -> None:
    (settings.data / "ports.json").write_text('{"worker-1": 7}')
    assert module._urls_here(settings) == {
        "worker-1": "http://127.0.0.1:7/health",
        "API": "http://127.0.0.1:5/health",
    }


@pytest.mark.parametrize("content", [None, "", "{"])
def test_ports_that_nobody_wrote_down_end_no_look(settings: Settings, content: str | None) -> None:
    if content is not None:
        (settings.data / "ports.json").write_text(content)
    assert module._urls_here(settings) == {"API": "http://127.0.0.1:5/health"}
