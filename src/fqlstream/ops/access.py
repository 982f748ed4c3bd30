"""Who may use the API: keys for programs, users with passwords for people; made, listed, taken back, checked.

A key is `fq_<id>_<secret>`. It is found by its id, which is no secret; of the secret only an argon2id hash is stored. A
password is mixed with the API's own secret before it is hashed (HMAC-SHA256), so that the stored hash alone lets nobody guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import SettingsError, UsageError
from fqlstream.settings import ApiSettings
from fqlstream.store import access as rows
from fqlstream.store.access import KeyRow, UserRow
from fqlstream.store.client import Store

SECRET_FILE: Final = "api.secret"  # noqa: S105  # a file's name
KEY_FILE: Final = "api.key"
SECRET_CHARACTERS_MIN: Final = 32
#: OWASP's first choice for argon2id (Password Storage Cheat Sheet): 19 MiB, two passes. About 20 ms of one core.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_KEY: Final = re.compile(r"fq_(?P<id>[a-z0-9]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
#: No half surrogate pairs either: they have no UTF-8, in which names are stored and sent.
_USER_NAME: Final = re.compile(r"[^\s/:\x00-\x1f\x7f\ud800-\udfff]{1,64}")
#: Longer ones only cost time: whoever sends a megabyte as a password wants the server to hash it.
PASSWORD_CHARACTERS_MAX: Final = 1_024


class Scope(StrEnum):
    """What a key or a user is for."""

    WRITE = "write"
    READ = "read"
    ADMIN = "admin"


class Permission(StrEnum):
    """What one request does."""

    RECORD = "record"  # metrics of executions and jobs, and starting an execution
    READ_RECORDED = "read_recorded"  # those metrics, and what they belong to
    READ = "read"  # models, values, snapshots, dead letters
    MANAGE = "manage"  # everything that changes something else: definitions, replays, keys, users


#: A job that records has to see what it has recorded; it has no business with models and their values.
GRANTS: Final[Mapping[Scope, frozenset[Permission]]] = {
    Scope.WRITE: frozenset({Permission.RECORD, Permission.READ_RECORDED}),
    Scope.READ: frozenset({Permission.READ, Permission.READ_RECORDED}),
    Scope.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request. `id` is `key:<id>`, `user:<name>` or `anyone`; `session` names the login of a user."""

    id: str
    name: str
    scopes: frozenset[Scope]
    session: str | None = None

    def may(self, permission: Permission) -> bool:
        """Say whether a scope of the caller grants it."""
        return any(permission in GRANTS[scope] for scope in self.scopes)


#: Everybody, where the API asks for no key.
ANYONE: Final = Caller("anyone", "anyone", frozenset({Scope.ADMIN}))


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made; its text is told this once."""

    id: str
    scopes: tuple[Scope, ...]
    key: str = field(repr=False)


# ---------------------------------------------------------------------------------------------------- the API's secret


def load_secret(settings: ApiSettings, data: Path) -> bytes:
    """Give what signs sessions and tokens: the setting, else the file of the data directory, made at first for its owner only.

    Raises SettingsError for one that is too short.
    """
    if settings.secret is not None:
        text = settings.secret.get_secret_value()
        if len(text) < SECRET_CHARACTERS_MIN:
            raise SettingsError(
                "ACC007",
                f"FQLSTREAM_API__SECRET has fewer than {SECRET_CHARACTERS_MIN} characters",
                "make one: openssl rand -base64 48",
            )
        return text.encode()
    return _kept_text(data / SECRET_FILE, lambda: secrets.token_urlsafe(48)).encode()


def ensure_key(store: Store, path: Path, *, clock: Clock | None = None) -> str:
    """Give the administrator's key that a file keeps; where there is none that stands, make one. Only its owner may read the file."""
    if path.exists():
        path.chmod(0o600)
        text = path.read_text().strip()
        if authenticate_key(store, text) is not None:
            return text
        path.unlink()
    made = create_key(store, [Scope.ADMIN], "made at the first start", clock=clock)
    return _kept_text(path, lambda: made.key)


def _kept_text(path: Path, make: Callable[[], str]) -> str:
    """Read a file of one secret, or make it whole, readable by its owner only: of two that make it at once one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # the other one's stands
        finally:
            temporary.unlink()
    path.chmod(0o600)
    return path.read_text().strip()


# ---------------------------------------------------------------------------------------------------------------- keys


def parse_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Read scopes, each once, in their usual order. Raises UsageError for an unknown one or none."""
    wanted = set(texts)
    unknown = sorted(wanted - {scope.value for scope in Scope})
    if unknown or not wanted:
        what = f"unknown scope {unknown[0]!r}" if unknown else "no scope is given"
        raise UsageError("ACC001", what, f"known scopes: {', '.join(Scope)}")
    return tuple(scope for scope in Scope if scope in wanted)


def create_key(store: Store, scopes: Iterable[Scope], name: str = "", *, clock: Clock | None = None) -> NewKey:
    """Make a key and store its hash."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    kept = tuple(scopes)
    row = KeyRow(key_id, name, tuple(scope.value for scope in kept), _now(clock), None, _HASHER.hash(secret))
    rows.write_key(store, row)
    return NewKey(key_id, kept, f"fq_{key_id}_{secret}")


def list_keys(store: Store) -> list[KeyRow]:
    """Give all keys, revoked ones too, the oldest first."""
    return rows.read_keys(store)


def revoke_key(store: Store, key_id: str, *, clock: Clock | None = None) -> KeyRow:
    """Take a key back, for ever. Raises UsageError ACC004 where there is none of that id; revoking twice is no error."""
    found = rows.read_keys(store, key_id)
    if not found:
        raise UsageError("ACC004", f"there is no key {key_id!r}", "see: fqlstream keys list")
    if found[0].revoked_at is not None:
        return found[0]
    revoked = replace(found[0], revoked_at=_now(clock))
    rows.write_key(store, revoked)
    return revoked


def split_key(text: str) -> tuple[str, str] | None:
    """Take a key apart into id and secret; None for what is no key at all."""
    found = _KEY.fullmatch(text)
    return (found["id"], found["secret"]) if found is not None else None


def standing_key(store: Store, key_id: str) -> KeyRow | None:
    """Give a key that was not revoked."""
    return next((row for row in rows.read_keys(store, key_id) if row.revoked_at is None), None)


def authenticate_key(store: Store, text: str) -> KeyRow | None:
    """Give the key whose text this is, if it stands; None otherwise."""
    parts = split_key(text)
    row = standing_key(store, parts[0]) if parts is not None else None
    return row if row is not None and parts is not None and matches(row.hash, parts[1]) else None


# --------------------------------------------------------------------------------------------------------------- users


def add_user(
    store: Store,
    secret: bytes,
    name: str,
    password: str,
    scopes: Iterable[Scope],
    settings: ApiSettings,
    *,
    replaces: bool = False,
    clock: Clock | None = None,
) -> UserRow:
    """Make a user. With `replaces` one of that name gets the new password and scopes, and is logged out everywhere.

    Raises UsageError for a name or password that cannot be, and ACC006 where the name is taken.
    """
    if not is_user_name(name):
        raise UsageError(
            "ACC003", "a user's name has 1 to 64 characters, without spaces, '/', ':' or control characters"
        )
    if not settings.login_characters_min <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise UsageError(
            "ACC002",
            f"a password has {settings.login_characters_min} to {PASSWORD_CHARACTERS_MAX} characters",
            "several words are easier to remember than few signs",
        )
    old = next(iter(rows.read_users(store, name)), None)
    if old is not None and old.hash and not replaces:
        raise UsageError("ACC006", f"there is a user {name!r} already", "give --replace to set a new password")
    now = _now(clock)
    texts = tuple(scope.value for scope in scopes)
    # a new user has no logins to end: the clocks of two machines must not make the first one too old
    since, version = (now, old.version + 1) if old else (_EPOCH, 1)
    row = UserRow(name, texts, now, since, version, _HASHER.hash(_peppered(secret, password)))
    rows.write_user(store, row)
    return row


def is_user_name(name: str) -> bool:
    """Say whether a user could be called so."""
    return _USER_NAME.fullmatch(name) is not None


def list_users(store: Store) -> list[UserRow]:
    """Give all users that were not removed, by name."""
    return [row for row in rows.read_users(store) if row.hash]


def standing_user(store: Store, name: str) -> UserRow | None:
    """Give a user that was not removed."""
    return next((row for row in rows.read_users(store, name) if row.hash), None)


def remove_user(store: Store, name: str, *, clock: Clock | None = None) -> None:
    """Remove a user and end all logins. Raises UsageError ACC005 where there is none of that name."""
    row = _require_user(store, name)
    now = _now(clock)
    rows.write_user(store, replace(row, hash="", changed_at=now, sessions_from=now, version=row.version + 1))


def log_out_everywhere(store: Store, name: str, *, clock: Clock | None = None) -> None:
    """End all logins of a user. Raises UsageError ACC005 where there is none of that name."""
    row = _require_user(store, name)
    rows.write_user(store, replace(row, sessions_from=_now(clock), version=row.version + 1))


def authenticate_user(store: Store, secret: bytes, name: str, password: str) -> UserRow | None:
    """Give the user of that name and password; None otherwise, after the same time whether or not there is the name."""
    row = standing_user(store, name)
    given = _peppered(secret, password[: PASSWORD_CHARACTERS_MAX + 1])
    is_right = matches(row.hash if row is not None else _hash_of_nobody(), given)
    return row if is_right and row is not None else None


def _require_user(store: Store, name: str) -> UserRow:
    row = standing_user(store, name)
    if row is None:
        raise UsageError("ACC005", f"there is no user {name!r}", "see: fqlstream users list")
    return row


@cache
def _hash_of_nobody() -> str:
    """Give what is checked where there is no such user: an answer must not tell by its time who exists."""
    return _HASHER.hash(secrets.token_urlsafe(16))


def _peppered(secret: bytes, password: str) -> str:
    # surrogates that JSON lets through are bytes like any others here
    return hmac.new(secret, password.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def matches(stored: str, given: str) -> bool:
    """Say whether a secret is the one of a stored hash."""
    try:
        return _HASHER.verify(stored, given)
    except (VerificationError, InvalidHashError):
        return False


def _now(clock: Clock | None) -> datetime:
    return datetime.fromtimestamp((clock or SystemClock()).now_ms() / 1000, UTC)
