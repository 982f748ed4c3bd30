"""A look at what is away is a page too; and what a health route says, in a few words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fqlstream.local.ports import find_free_port
from fqlstream.ops.doctor import examining
from fqlstream.ops.doctor.examining import CHECKS, Check, Look, _asked, _status_in, _windows, examine
from fqlstream.ops.doctor.findings import Finding, Severity
from fqlstream.settings import Settings


def test_where_nothing_answers_every_check_says_so_and_none_is_left_out(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{find_free_port()}"
    settings = Settings(
        data=tmp_path,
        kafka={"bootstrap": nowhere},
        store={"url": f"http://{nowhere}"},
        doctor={"ask_wait_s": 0.5},
    )
    report = examine(Look(settings, {"worker": f"http://{nowhere}/health", "bad": "ftp://x"}))
    by_check = {finding.check: finding for finding in report.findings}
    assert by_check.keys() == {check.name for check in CHECKS}
    assert report.status is Severity.ERROR
    assert by_check["broker"].severity is Severity.ERROR
    assert "STO001" in by_check["store"].what
    assert by_check["log"].what == "not looked at: broker, store does not answer"
    assert [f.severity for f in report.findings if f.check == "processes"] == [Severity.ERROR, Severity.WARN]
    assert [f.severity for f in report.findings if f.check == "disk"] == [Severity.NOTE, by_check["disk"].severity]


def test_a_check_that_fails_in_a_way_nobody_thought_of_is_a_finding_and_the_others_go_on() -> None:
    def broken(_look: Look) -> Iterator[Finding]:
        yield Finding("broker", Severity.OK, "so far")
        raise KeyError("x")

    checks = (
        Check("broker", frozenset(), broken),
        Check("topics", frozenset({"broker"}), broken),
        Check("disk", frozenset(), lambda _: [Finding("disk", Severity.OK, "room")]),
    )
    found = examine(Look(Settings()), checks).findings
    assert [(each.check, each.severity) for each in found] == [
        ("broker", Severity.OK), ("broker", Severity.ERROR), ("topics", Severity.NOTE), ("disk", Severity.OK),
    ]  # fmt: skip
    assert "KeyError" in found[1].what


def test_what_does_not_speak_http_is_a_finding_and_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{find_free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_nonsense, args=(listener,))
        thread.start()
        status, what = _asked(f"http://127.0.0.1:{listener.getsockname()[1]}/health", 5.0)
        thread.join()
    assert (status, "nonsense" in what) == (Severity.ERROR, True)


def _answer_nonsense(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"nonsense\r\n\r\n")


def test_what_seems_stuck_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush of this moment is published within a second."""
    waits: list[float] = []
    stuck, fine = Finding("windows", Severity.ERROR, "stuck"), Finding("windows", Severity.OK, "fine")
    answers = [[fine], [stuck], [fine], [stuck], [stuck]]
    monkeypatch.setattr(examining, "_windows_now", lambda _look: answers.pop(0))
    look = Look(Settings(), wait=waits.append)
    assert [list(_windows(look)) for _ in range(3)] == [[fine], [fine], [stuck]]
    assert waits == [Settings().doctor.publish_again_ms / 1000] * 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"status": "ok"}', "ok"),
        (b'{"status": "trouble", "trouble": [{"part": "Kafka", "for_s": 3.5}]}', "trouble (Kafka for 3.5 s)"),
        (b'{"status": "away", "dependencies": {"clickhouse": {"status": "away"}, "kafka": {"status": "ok"}}}', "away (clickhouse)"),
        (b"<html>", ""),
        (b'["ok"]', ""),
    ],
)  # fmt: skip
def test_a_health_routes_answer_in_a_few_words(body: bytes, words: str) -> None:
    assert _status_in(body) == words
