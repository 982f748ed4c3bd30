"""A look at what is away is a page too; and what a health route says, in a few words."""

from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.local.ports import find_free_port
from fqlstream.ops.doctor.examining import CHECKS, Look, _status_in, examine
from fqlstream.ops.doctor.findings import Severity
from fqlstream.settings import Settings


def test_where_nothing_answers_every_check_says_so_and_none_is_left_out(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{find_free_port()}"
    settings = Settings(
        data=tmp_path,
        kafka={"bootstrap": nowhere},  # type: ignore[arg-type]  # pydantic makes the groups
        store={"url": f"http://{nowhere}"},  # type: ignore[arg-type]
        doctor={"ask_wait_s": 0.5},  # type: ignore[arg-type]
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
