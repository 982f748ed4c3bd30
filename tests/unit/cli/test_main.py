from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fqlstream.cli.main import COMMANDS, build_app, called_command, report_error
from fqlstream.errors import BrokerError, UsageError


def fqlstream(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fqlstream.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def test_help_lists_every_command_with_its_words() -> None:
    text = CliRunner().invoke(build_app(), ["--help"], env={"COLUMNS": "160"}).output
    for row in COMMANDS:
        assert row.name in text
        assert row.help in text


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_row_of_the_table_is_a_command_that_can_be_asked_for_help(row: object) -> None:
    name = row.name
    shown = CliRunner().invoke(build_app(name), [name, "--help"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    assert f"Usage: root {name}" in shown.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fqlstream.cli.main import build_app; build_app(None);"
        "print([m for m in ('pyarrow', 'pandas', 'faust', 'confluent_kafka', 'clickhouse_connect', 'chdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "name"),
    [
        (["up", "--json"], {}, "up"),
        (["--version"], {}, None),
        ([], {}, None),
        ([], {"COMP_WORDS": "fqlstream topics --re"}, "topics"),
        ([], {"_TYPER_COMPLETE_ARGS": "fqlstream fql che"}, "fql"),
    ],
)
def test_the_called_command_is_found(arguments: list[str], environment: dict[str, str], name: str | None) -> None:
    assert called_command(arguments, environment) == name


def test_an_error_is_a_message_and_a_hint_and_never_a_traceback(tmp_path: Path) -> None:
    done = fqlstream("topics", "check", "--data", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"LOC010 no stack runs in {tmp_path}\n"
        f"  hint: start one with: fqlstream up --data {tmp_path}; or name the parts in settings\n"
    )


def test_an_error_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    done = fqlstream("topics", "check", "--json", "--data", str(tmp_path))
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["message"]) == ("LOC010", f"no stack runs in {tmp_path}")
    assert "hint" in error


@pytest.mark.parametrize(("error", "code"), [(BrokerError("X", "m"), 1), (UsageError("X", "m"), 2)])
def test_the_exit_code_is_the_errors(
    error: BrokerError | UsageError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_error(error, as_json=False) == code
    assert capsys.readouterr() == ("", "X m\n")


def test_a_wrong_setting_is_an_error_with_its_name(tmp_path: Path) -> None:
    done = fqlstream("topics", "check", FQLSTREAM_STREAM__FLUSH_MS="never")
    assert done.returncode == 2
    assert "setting FQLSTREAM_STREAM__FLUSH_MS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("no-such-command",), ("topics", "check", "--no-such-option"), ("topics",)])
def test_a_call_that_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert fqlstream(*arguments).returncode == 2


def test_the_version_is_the_packages() -> None:
    assert fqlstream("--version").stdout.startswith("fqlstream 0.")


def test_every_target_is_written_as_module_and_attribute() -> None:
    for row in COMMANDS:
        module, _, attribute = row.target.partition(":")
        target = getattr(importlib.import_module(module), attribute)
        assert isinstance(target, typer.Typer) or target.__doc__, f"{row.name} says what it does"
