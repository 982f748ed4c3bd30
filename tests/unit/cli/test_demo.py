"""The command's refusals and its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from rich.console import Console
from tests.commands import invoke

from fqlstream.cli import demo
from fqlstream.errors import UsageError
from fqlstream.events.definitions import DAY_MS, HOUR_MS
from fqlstream.local.demo.answers import Value
from fqlstream.local.demo.session import read_shown

app = typer.Typer()
app.command()(demo.demo)


def _value(metric: str, segment: str = "", *, window_ms: int = HOUR_MS, value: float | None = 0.123456) -> Value:
    return Value("phishing", metric, segment, 0, window_ms, value, 12500, 11480, True, None, "revised", 1000)


@pytest.mark.parametrize("arguments", [("--once", "--seconds", "3"), ("--json",)])
def test_arguments_that_contradict_each_other_are_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        invoke(app, *arguments, "--data", tmp_path / "never")
    assert refused.value.hint
    assert not (tmp_path / "never").exists()


def test_the_live_table_holds_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    shown = read_shown()
    metrics = [*shown[0].metrics]
    values = [_value(metric) for metric in metrics] + [_value(metrics[0], segment) for segment in shown[0].segments]
    Console(width=80).print(demo._live_table(values, shown, 3_000, lines_max=len(metrics) + 2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == [*metrics, metrics[0], metrics[0]]
    assert all(len(line) <= 80 for line in lines)
    assert lines[2].split()[-2:] == ["2", "s"]
    Console(width=80).print(demo._live_table([], shown, 3_000, lines_max=5))


def test_the_day_is_shown_per_segment(capsys: pytest.CaptureFixture[str]) -> None:
    phishing = read_shown()[0]
    values = [
        _value(metric, segment, window_ms=DAY_MS, value=None if segment == "missed" else 0.125)
        for metric in phishing.metrics
        for segment in phishing.segments
    ]
    demo._print_day(phishing, values)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "phishing, the day from 1970-01-01 00:00 UTC"
    assert lines[2].split()[:2] == ["all", "rows"]
    assert lines[3].split() == ["rows", *["12,500"] * 5]
    assert lines[5].split() == [phishing.metrics[0], *["0.125"] * 4, "-"]


def test_a_number_that_is_not_exact_says_so() -> None:
    exact = _value("f1", value=0.123456)
    assert demo._number(exact) == "0.1235"
    assert demo._number(Value(*[*_fields(exact)[:8], False, 0.01, "final", 0])) == "0.1235~"


def _fields(value: Value) -> list[object]:
    return [getattr(value, name) for name in Value.__slots__]
