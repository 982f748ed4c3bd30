"""Rows of keys, users and sessions in memory, for tests of whoever reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import pytest

from fqlstream.store import access as rows
from fqlstream.store.access import KeyRow, UserRow
from fqlstream.store.client import Store


@dataclass
class MemoryAccess:
    """What ClickHouse would hold. `asked` counts questions by what was asked for."""

    keys: dict[str, KeyRow] = field(default_factory=dict)
    users: dict[str, UserRow] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """Stands for the store: none of it is called."""
        return cast("Store", self)

    @classmethod
    def instead_of_clickhouse(cls, monkeypatch: pytest.MonkeyPatch) -> MemoryAccess:
        """Put one in the place of the tables for a test."""
        memory = cls()
        for name in ("read_keys", "write_key", "read_users", "write_user", "write_ended_session", "is_session_ended"):
            monkeypatch.setattr(rows, name, getattr(memory, f"_{name}"))
        return memory

    def _read_keys(self, _: Any, key_id: str | None = None) -> list[KeyRow]:
        self.asked.append("key")
        return [row for row in self.keys.values() if key_id is None or row.id == key_id]

    def _write_key(self, _: Any, row: KeyRow) -> None:
        self.keys[row.id] = row

    def _read_users(self, _: Any, name: str | None = None) -> list[UserRow]:
        self.asked.append("user")
        return [row for row in self.users.values() if name is None or row.name == name]

    def _write_user(self, _: Any, row: UserRow) -> None:
        assert row.name not in self.users or self.users[row.name].version < row.version
        self.users[row.name] = row

    def _write_ended_session(self, _: Any, session: str, _at: datetime) -> None:
        self.ended.add(session)

    def _is_session_ended(self, _: Any, session: str) -> bool:
        self.asked.append("session")
        return session in self.ended
