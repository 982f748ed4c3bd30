from __future__ import annotations

from pathlib import Path

import pytest

from fqlstream.errors import StoreError
from fqlstream.store.migrations import load


def test_every_shipped_statement_may_be_run_twice() -> None:
    migrations = load()
    assert [migration.name for migration in migrations] == sorted(migration.name for migration in migrations)
    assert sum(len(migration.statements) for migration in migrations) >= 10


@pytest.mark.parametrize(
    ("name", "text"),
    [("001_x.sql", "CREATE TABLE t (a Int8) ENGINE = Memory;"), ("001_x.sql", "ALTER TABLE t ADD COLUMN b Int8;"), ("x.sql", ""), ("1_x.sql", "")],
)  # fmt: skip
def test_what_must_not_be_run_twice_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StoreError, match="STO021"):
        load(tmp_path)


def test_numbers_are_not_used_twice(tmp_path: Path) -> None:
    for name in ("001_a.sql", "001_b.sql"):
        (tmp_path / name).write_text("")
    with pytest.raises(StoreError, match="same number"):
        load(tmp_path)


def test_statements_end_with_a_semicolon_at_the_end_of_a_line(tmp_path: Path) -> None:
    text = "-- first; comment\nCREATE TABLE IF NOT EXISTS t (a String DEFAULT ';x') ENGINE = Memory;  \n\n-- end\nDROP TABLE IF EXISTS u"
    (tmp_path / "001_x.sql").write_text(text)

    (migration,) = load(tmp_path)

    assert [statement.split()[0] for statement in migration.statements] == ["CREATE", "DROP"]
