"""The app as it is built, and the ends of a worker that need no broker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from fqlstream.app.faust_app import SourceApp, build_app, serve_source
from fqlstream.app.transport import SourceConsumer, SourceProducer, SourceTransport
from fqlstream.errors import BrokerError
from fqlstream.settings import Settings, load


def settings(**kafka: object) -> Settings:
    return load(kafka={"bootstrap": "127.0.0.1:1", "group": "g", **kafka})


@pytest.fixture
def app(tmp_path: Path) -> SourceApp:
    return build_app(settings(session_timeout_ms=12_000), source_topics=["a", "b"], data_dir=tmp_path)


def test_the_group_is_the_settings_and_the_transport_is_ours(app: SourceApp) -> None:
    assert app.conf.id == "g"
    assert isinstance(app.transport, SourceTransport)
    assert app.transport.source_topics == {"a", "b"}
    assert (app.transport.Consumer, app.transport.Producer) == (SourceConsumer, SourceProducer)


def test_faust_makes_no_topics_elects_no_leader_and_serves_no_web(app: SourceApp) -> None:
    assert not app.conf.topic_allow_declare
    assert app.conf.topic_disable_leader
    assert not app.conf.web_enabled
    assert not app.conf.stream_wait_empty
    assert 16 <= app.conf.stream_buffer_maxsize <= 64
    assert app.conf.broker_session_timeout == 12


def test_without_a_broker_there_is_no_app(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="no Kafka broker is named"):
        build_app(load(), source_topics=["a"], data_dir=tmp_path)


def test_only_source_topics_can_be_served(app: SourceApp) -> None:
    with pytest.raises(ValueError, match="c is not among"):
        serve_source(app, "c", lambda partition: pytest.fail("not called"))


def test_agents_are_isolated_one_per_partition(app: SourceApp) -> None:
    serve_source(app, "a", lambda partition: pytest.fail("not called"))
    (agent,) = app.agents.values()
    assert agent.isolated_partitions
    assert agent.concurrency == 1


def test_nothing_is_sent_through_fausts_own_producer(app: SourceApp) -> None:
    with pytest.raises(RuntimeError, match="OutboxProducer"):
        asyncio.run(SourceProducer.send(app.producer, "t", b"k", b"v"))


def test_a_process_that_does_not_stop_is_ended() -> None:
    code = "import signal; from fqlstream.app import faust_app; faust_app._end_process_after(0.1); signal.pause()"
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "has not stopped within" in ended.stderr


def test_a_worker_whose_broker_does_not_answer_says_so_and_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fqlstream.settings import load\n"
        "from fqlstream.app.faust_app import build_app, run_worker\n"
        "settings = load(kafka={'bootstrap': '127.0.0.1:1', 'request_timeout_ms': 2000})\n"
        f"sys.exit(run_worker(build_app(settings, source_topics=['a'], data_dir=Path({str(tmp_path)!r}))))"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=90, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "KFK104 no broker answers at 127.0.0.1:1" in ended.stderr
