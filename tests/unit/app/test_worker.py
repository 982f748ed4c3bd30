"""A worker as a whole, before it runs: no Kafka and no ClickHouse is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fqlstream.app import worker as module
from fqlstream.app.worker import Worker
from fqlstream.settings import Settings


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(module.Store, "connect", lambda _settings: object())
    monkeypatch.setattr(module, "bound_arenas", lambda: None)  # of this process, for good
    settings: Any = {"data": tmp_path, "kafka": {"bootstrap": "127.0.0.1:1"}}
    return Worker(Settings(**settings))


def test_a_scrape_before_it_runs_is_refused_and_binds_it_to_no_event_loop(worker: Worker) -> None:
    """The thread of /metrics has an event loop of its own, and Faust's app keeps the first one that it is asked for."""
    with pytest.raises(TimeoutError):
        asyncio.run(worker.metrics())
    assert worker.app._loop is None
    assert worker._loops() == {}


def test_a_scrape_is_answered_on_the_workers_own_event_loop(worker: Worker) -> None:
    async def scraped() -> bytes:
        worker._loop = asyncio.get_running_loop()
        return await asyncio.to_thread(asyncio.run, worker.metrics())

    text = asyncio.run(scraped()).decode()
    assert "fqlstream_worker_ready 0.0" in text
    assert worker.app._loop is None
