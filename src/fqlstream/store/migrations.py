"""ClickHouse's tables, as numbered files applied in order and recorded.

Every statement of a file may be run again without effect (IF NOT EXISTS, OR REPLACE): two processes that apply the same
files at once do the same work twice and harm nothing, and a process that dies in the middle starts its file again.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fqlstream.errors import StoreError
from fqlstream.packaged import packaged
from fqlstream.store.client import Store

_FILE_NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")
_REPEATABLE = re.compile(r"\bIF NOT EXISTS\b|\bOR REPLACE\b|\bIF EXISTS\b")
_RECORD = """CREATE TABLE IF NOT EXISTS schema_migrations (
    name String COMMENT 'file in schemas/clickhouse',
    checksum String COMMENT 'SHA-256 of the file when it was applied',
    applied_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree ORDER BY name COMMENT 'which schema files have been applied'"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    checksum: str
    statements: tuple[str, ...]


def load(directory: Path | None = None) -> list[Migration]:
    """Read all files in their order. Raises StoreError STO021 for a statement that must not be run twice."""
    files = sorted((directory or packaged("schemas") / "clickhouse").glob("*.sql"))
    migrations = [_read(path) for path in files]
    numbers = [migration.name[:3] for migration in migrations]
    if len(set(numbers)) < len(numbers):
        raise StoreError(
            "STO021",
            f"two schema files have the same number: {', '.join(numbers)}",
            "give the newer one the next free number",
        )
    return migrations


def pending(store: Store, directory: Path | None = None) -> list[str]:
    """Name the files that have not been applied. Raises StoreError STO020 where an applied one has changed since."""
    return [migration.name for migration in _pending(store, load(directory))]


def apply(store: Store, directory: Path | None = None) -> list[str]:
    """Apply what has not been applied, and name it."""
    store.command(_engines(_RECORD, store))
    applied = []
    for migration in _pending(store, load(directory)):
        for statement in migration.statements:
            store.command(_engines(statement, store))
        _record(store, migration)
        applied.append(migration.name)
    return applied


def _pending(store: Store, migrations: Sequence[Migration]) -> list[Migration]:
    known = _applied(store)
    changed = [m.name for m in migrations if m.name in known and known[m.name] != m.checksum]
    if changed:
        raise StoreError(
            "STO020",
            f"schema file {changed[0]} was applied to {store.name} and has changed since",
            "an applied file never changes: put the change into a new file",
        )
    return [migration for migration in migrations if migration.name not in known]


def _applied(store: Store) -> dict[str, str]:
    exists = store.query_rows(
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations'"
    )
    if not exists[0][0]:
        return {}
    rows = store.query_rows("SELECT name, argMax(checksum, applied_at) FROM schema_migrations GROUP BY name")
    return {str(name): str(checksum) for name, checksum in rows}


def _record(store: Store, migration: Migration) -> None:
    applied_at = pa.array([time.time_ns() // 1_000_000], pa.timestamp("ms", tz="UTC"))
    store.insert_arrow(
        "schema_migrations",
        pa.table({"name": [migration.name], "checksum": [migration.checksum], "applied_at": applied_at}),
    )


def _read(path: Path) -> Migration:
    if not _FILE_NAME.fullmatch(path.name):
        raise StoreError("STO021", f"{path.name} is no name of a schema file", "name it NNN_what_it_does.sql")
    text = path.read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    statements = tuple(part.strip() for part in re.split(r";[ \t]*(?:\n|$)", "\n".join(lines)) if part.strip())
    for statement in statements:
        if not _REPEATABLE.search(statement):
            first = statement.splitlines()[0]
            raise StoreError(
                "STO021", f"{path.name}: {first!r} must not be run twice", "use IF NOT EXISTS or OR REPLACE"
            )
    return Migration(path.name, hashlib.sha256(text.encode()).hexdigest(), statements)


def _engines(statement: str, store: Store) -> str:
    """Use replicated engines where writes need a quorum; paths and replica names are the server's defaults."""
    return (
        statement.replace("ENGINE = ReplacingMergeTree", "ENGINE = ReplicatedReplacingMergeTree")
        if store.quorum
        else statement
    )
