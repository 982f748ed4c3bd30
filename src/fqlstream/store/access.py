"""Rows of who may use the API: keys, users, ended sessions. Hashes come and go as text; nothing here sees a secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from fqlstream.store.client import Store

_TIME: Final = pa.timestamp("ms", tz="UTC")
_TEXTS: Final = pa.list_(pa.string())
_KEYS: Final = pa.schema([
    ("id", pa.string()), ("name", pa.string()), ("scopes", _TEXTS), ("hash", pa.string()), ("created_at", _TIME), ("revoked_at", _TIME),
    ("step", pa.uint8()),
])  # fmt: skip
_USERS: Final = pa.schema([
    ("name", pa.string()), ("scopes", _TEXTS), ("hash", pa.string()), ("changed_at", _TIME), ("sessions_from", _TIME),
    ("version", pa.uint64()),
])  # fmt: skip
_ENDED: Final = pa.schema([("id", pa.string()), ("ended_at", pa.timestamp("s", tz="UTC"))])


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is stored. `revoked_at` None: it stands."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None
    hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as stored. Logins before `sessions_from` are over; an empty hash: the user was removed."""

    name: str
    scopes: tuple[str, ...]
    changed_at: datetime
    sessions_from: datetime
    version: int
    hash: str = field(repr=False)


def write_key(store: Store, row: KeyRow) -> None:
    """Store a key, or that it was revoked; returns once that is durable."""
    step = 0 if row.revoked_at is None else 1
    _insert(
        store,
        "access_keys",
        (row.id, row.name, list(row.scopes), row.hash, row.created_at, row.revoked_at, step),
        _KEYS,
    )


def read_keys(store: Store, key_id: str | None = None) -> list[KeyRow]:
    """Give all keys, or the one of an id; the oldest first."""
    where, bound = ("", {}) if key_id is None else ("WHERE id = {id:String}", {"id": key_id})
    rows = store.query_rows(
        f"SELECT id, name, scopes, created_at, revoked_at, hash FROM access_keys FINAL {where} ORDER BY created_at, id",
        bound,
    )
    return [
        KeyRow(each_id, name, tuple(scopes), _utc(created_at), None if revoked_at is None else _utc(revoked_at), hash_)
        for each_id, name, scopes, created_at, revoked_at, hash_ in rows
    ]


def write_user(store: Store, row: UserRow) -> None:
    """Store a user in a newer version; returns once that is durable."""
    _insert(
        store,
        "access_users",
        (row.name, list(row.scopes), row.hash, row.changed_at, row.sessions_from, row.version),
        _USERS,
    )


def read_users(store: Store, name: str | None = None) -> list[UserRow]:
    """Give all users, or the one of a name, removed ones too; by name."""
    where, bound = ("", {}) if name is None else ("WHERE name = {name:String}", {"name": name})
    rows = store.query_rows(
        f"SELECT name, scopes, changed_at, sessions_from, version, hash FROM access_users FINAL {where} ORDER BY name",
        bound,
    )
    return [
        UserRow(name, tuple(scopes), _utc(changed_at), _utc(sessions_from), version, hash_)
        for name, scopes, changed_at, sessions_from, version, hash_ in rows
    ]


def write_ended_session(store: Store, session: str, ended_at: datetime) -> None:
    """Store that a session is over; returns once that is durable."""
    _insert(store, "access_ended_sessions", (session, ended_at), _ENDED)


def is_session_ended(store: Store, session: str) -> bool:
    """Say whether a session was ended before its time."""
    found = store.query_rows("SELECT count() FROM access_ended_sessions WHERE id = {id:String}", {"id": session})
    return bool(found[0][0])


def _insert(store: Store, table: str, row: tuple[Any, ...], schema: pa.Schema) -> None:
    arrays = [pa.array([value], column.type) for value, column in zip(row, schema, strict=True)]
    store.insert_arrow(table, pa.table(arrays, schema=schema), store.quorum_write())


def _utc(moment: datetime) -> datetime:
    """Give an aware moment: the driver leaves out the time zone where it is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
