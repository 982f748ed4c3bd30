"""What operators do over REST: in which thread Kafka is asked, and what is told of a plan that was carried out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from tests.memory_access import MemoryAccess
from tests.unit.api.asgi import ask
from tests.unit.api.test_application import Made

from fqlstream.api import operations
from fqlstream.api.application import PREFIX
from fqlstream.ops.access import Scope
from fqlstream.ops.topics import Action, Difference, TopicReport

PLAN = TopicReport(
    3,
    ("events", "labels"),
    (
        Difference("events", "exists", "yes", None, Action.CREATE),
        Difference("labels", "partitions", "3", "6", Action.REFUSED, "partitions are never taken away"),
    ),
)


def test_topics_are_made_as_declared_and_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made_in: list[threading.Thread] = []
    asked: list[bool] = []

    def plan(_admin: Any, _declared: Any, *, repartition: bool) -> TopicReport:
        asked.append(repartition)
        return PLAN

    monkeypatch.setattr(operations, "librdkafka_options", lambda _: {})
    monkeypatch.setattr(operations, "AdminClient", lambda _: made_in.append(threading.current_thread()))
    monkeypatch.setattr(operations.topics, "plan", plan)
    monkeypatch.setattr(operations.topics, "apply", lambda _admin, planned: replace(planned, applied=True))
    with ThreadPoolExecutor(2) as threads:
        made = Made(MemoryAccess.instead_of_clickhouse(monkeypatch), threads)
        answer = ask(made.app(), "POST", f"{PREFIX}/topics", headers=made.key(Scope.ADMIN), json={"repartition": True})
    told = answer.json()
    assert (answer.status_code, told["applied"], told["ok"], told["brokers"], asked) == (200, True, False, 3, [True])
    assert [(each["topic"], each["actual"], each["action"]) for each in told["differences"]] == [
        ("events", None, Action.CREATE), ("labels", "6", Action.REFUSED),
    ]  # fmt: skip
    assert threading.main_thread() not in made_in
    assert len(made_in) == 1
