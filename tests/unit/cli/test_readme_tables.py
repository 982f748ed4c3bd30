"""The README's generated tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from fqlstream.cli.main import COMMANDS
from fqlstream.cli.readme_tables import (
    PAGES,
    commands_table,
    numbers_table,
    settings_table,
    stale_tables,
    write_tables,
)
from fqlstream.errors import UsageError
from fqlstream.ops.numbers import API_NUMBERS, LAG_NUMBERS, WORKER_NUMBERS
from fqlstream.settings import Settings, load

TABLES = PAGES["README.md"]
PLACES = "".join(f"about {name}\n<!-- generated: {name} -->\n<!-- end: {name} -->\nafter\n" for name in TABLES)


def test_every_setting_of_the_table_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [line.split("`")[1] for line in settings_table().splitlines()[2:]]
    values = [value for _, value in Settings()]
    assert len(names) == sum(len(list(value)) if isinstance(value, BaseModel) else 1 for value in values)
    monkeypatch.setenv("FQLSTREAM_STREAM__FLUSH_MS", "777")
    assert "FQLSTREAM_STREAM__FLUSH_MS" in names
    assert load().stream.flush_ms == 777


def test_no_secret_has_a_default_in_the_table() -> None:
    (row,) = [line for line in settings_table().splitlines() if "SASL_PASSWORD" in line]
    assert row.split("|")[2].strip() == "none"


def test_every_command_has_a_row() -> None:
    rows = commands_table().splitlines()[2:]
    assert [row.split("`")[1].removeprefix("fqlstream ") for row in rows] == [command.name for command in COMMANDS]


def test_writing_makes_stale_tables_current_and_changes_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(PLACES)
    assert len(stale_tables(readme, TABLES)) == len(TABLES)
    assert write_tables(readme, TABLES) == [f"README.md: table of {name}" for name in TABLES]
    assert stale_tables(readme, TABLES) == []
    assert write_tables(readme, TABLES) == []
    text = readme.read_text()
    assert all(f"about {name}\n" in text for name in TABLES)
    assert text.count("\nafter\n") == len(TABLES)
    readme.write_text(text.replace("FQLSTREAM_STREAM__FLUSH_MS", "FQLSTREAM_STREAM__FLUSHES_MS"))
    assert stale_tables(readme, TABLES) == ["README.md: table of settings"]


def test_a_readme_without_a_place_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(UsageError, match="has no place for the table of settings"):
        write_tables(readme, TABLES)


def test_every_number_that_is_told_has_a_row() -> None:
    names = [row.split("`")[1].partition("{")[0] for row in numbers_table().splitlines()[2:]]
    assert names == [row.name for row in (*WORKER_NUMBERS, *API_NUMBERS, *LAG_NUMBERS)]
