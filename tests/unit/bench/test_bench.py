"""The frame of the benchmarks: the JSON contract, unknown names, contenders that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fqlstream.bench import Report, Request, machine, run_bench
from fqlstream.bench.contender import Measurement, Meter, Task, run_contender
from fqlstream.bench.pipeline import CONTENDERS
from fqlstream.errors import FqlstreamError, UsageError

TASK = Task("localhost:1", "t", 4, 10, 100, "d")


def request(*figures: str) -> Request:
    return Request(10, frozenset(figures), lambda _: None)


def test_a_report_has_the_four_keys_of_the_contract() -> None:
    report = Report("pipeline", "a machine", True, {"x_per_s": 1.5})
    assert report.as_dict() == {
        "name": "pipeline",
        "machine": "a machine",
        "checked": True,
        "figures": {"x_per_s": 1.5},
    }


def test_the_machine_is_said_with_its_cores_and_python() -> None:
    assert " cores, " in machine()
    assert sys.version.split()[0] in machine()


def test_an_unknown_benchmark_or_figure_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="no benchmark 'speed'") as caught:
        run_bench("speed", request())
    assert "pipeline" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no figure 'x'") as caught:
        run_bench("pipeline", request("x"))
    assert CONTENDERS[0].figure in (caught.value.hint or "")


def test_every_figure_belongs_to_one_contender() -> None:
    assert len({contender.figure for contender in CONTENDERS}) == len(CONTENDERS)


def test_a_meter_counts_the_processors_time_and_not_the_walls() -> None:
    meter = Meter()
    total = sum(range(2_000_000))
    measured = meter.measurement(100, checked=total > 0)
    assert measured.cpu_s > 0
    assert measured.events_per_s_core == 100 / measured.cpu_s


def contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    (tmp_path / "contender_under_test.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "contender_under_test"


def test_a_contenders_last_line_is_its_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = contender(
        tmp_path,
        monkeypatch,
        "from fqlstream.bench.contender import Measurement, Task\n"
        "task = Task.from_arguments()\nprint('some noise')\n"
        "Measurement(task.events_count, 2.0, 3.0, task.topic == 't').hand_in()\n",
    )
    assert run_contender(module, TASK, 60) == Measurement(10, 2.0, 3.0, checked=True)


def test_a_contender_that_fails_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = contender(tmp_path, monkeypatch, "raise SystemExit('nobody answers')")
    with pytest.raises(FqlstreamError, match="ended with 1") as caught:
        run_contender(module, TASK, 60)
    assert caught.value.hint == "nobody answers"


def test_a_contender_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = contender(tmp_path, monkeypatch, "import signal; signal.pause()")
    with pytest.raises(FqlstreamError, match="did not end within 1 s"):
        run_contender(module, TASK, 1)
