"""Benchmarks on small workloads: every contender reads all of it and answers right."""

from __future__ import annotations

import json

import pytest
from tests.commands import command, invoke

from fqlstream.cli.bench import bench
from fqlstream.settings import KafkaSettings


def test_the_pipeline_benchmark_checks_every_contenders_answer(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FQLSTREAM_KAFKA__BOOTSTRAP", str(kafka_settings.bootstrap))
    figures = ["consume_events_per_s_core", "faust_events_per_s_core"]
    options = [word for figure in figures for word in ("--only", figure)]
    result = invoke(command(bench), "pipeline", "--json", "--events", "20000", *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["name"], report["checked"]) == ("pipeline", True)
    assert sorted(report["figures"]) == figures
    assert all(value > 0 for value in report["figures"].values())


@pytest.mark.timeout(180)
def test_a_worker_without_the_protocol_still_answers_right_while_nothing_goes_wrong() -> None:
    result = invoke(command(bench), "protocol", "--json", "--events", "20000", "--only", "json_no_protocol")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["name"], report["checked"]) == ("protocol", True)
    assert sorted(report["figures"]) == ["json_no_protocol_events_per_s", "json_no_protocol_events_per_s_core"]
