"""Keys and users: made, checked, taken back; secrets are kept as hashes, and never shown."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.memory_access import MemoryAccess

from fqlstream.clock import ManualClock
from fqlstream.errors import SettingsError, UsageError
from fqlstream.ops import access
from fqlstream.ops.access import GRANTS, Caller, Permission, Scope
from fqlstream.settings import ApiSettings

SETTINGS = ApiSettings()
SECRET = b"s" * 32


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryAccess:
    return MemoryAccess.instead_of_clickhouse(monkeypatch)


def test_a_key_is_known_by_its_text_and_kept_as_a_hash(memory: MemoryAccess) -> None:
    made = access.create_key(memory.store, [Scope.WRITE], "nightly")
    assert made.key.startswith(f"fq_{made.id}_")
    found = access.authenticate_key(memory.store, made.key)
    assert found is not None
    assert (found.id, found.name, found.scopes) == (made.id, "nightly", ("write",))
    secret = made.key.split("_", 2)[2]
    assert found.hash.startswith("$argon2id$")
    assert secret not in repr(memory.keys) + repr(made) + found.hash


@pytest.mark.parametrize(
    "spoil", [lambda k: k[:-1] + ("A" if k[-1] != "A" else "B"), lambda k: k + "x", lambda k: "", lambda k: "fq_" + k]
)
def test_another_text_is_no_key(memory: MemoryAccess, spoil: object) -> None:
    made = access.create_key(memory.store, [Scope.READ])
    assert callable(spoil)
    assert access.authenticate_key(memory.store, spoil(made.key)) is None


def test_a_revoked_key_is_gone_for_ever(memory: MemoryAccess) -> None:
    made = access.create_key(memory.store, [Scope.ADMIN])
    first = access.revoke_key(memory.store, made.id, clock=ManualClock(1_000))
    assert access.authenticate_key(memory.store, made.key) is None
    again = access.revoke_key(memory.store, made.id, clock=ManualClock(2_000))
    assert again.revoked_at == first.revoked_at, "revoking twice changes nothing"
    with pytest.raises(UsageError, match="no key 'nobody'"):
        access.revoke_key(memory.store, "nobody")


def test_scopes_grant_what_they_are_for() -> None:
    def may(*scopes: Scope) -> set[Permission]:
        caller = Caller("key:x", "x", frozenset(scopes))
        return {permission for permission in Permission if caller.may(permission)}

    assert may(Scope.WRITE) == {Permission.RECORD, Permission.READ_RECORDED}
    assert may(Scope.READ) == {Permission.READ, Permission.READ_RECORDED}
    assert may(Scope.ADMIN) == set(Permission)
    assert may(Scope.WRITE, Scope.READ) == set(Permission) - {Permission.MANAGE}
    assert GRANTS.keys() == set(Scope)
    assert may() == set()


def test_scopes_are_read_once_each_and_in_order() -> None:
    assert access.parse_scopes(["admin", "write", "admin"]) == (Scope.WRITE, Scope.ADMIN)
    for wrong in ([], ["root"]):
        with pytest.raises(UsageError, match="scope"):
            access.parse_scopes(wrong)


def test_a_user_logs_in_with_a_password_that_is_mixed_with_the_servers_secret(memory: MemoryAccess) -> None:
    access.add_user(memory.store, SECRET, "bob", "correct horse battery", [Scope.READ], SETTINGS)
    assert access.authenticate_user(memory.store, SECRET, "bob", "correct horse battery") is not None
    assert access.authenticate_user(memory.store, SECRET, "bob", "correct horse batterz") is None
    assert access.authenticate_user(memory.store, SECRET, "eve", "correct horse battery") is None
    assert access.authenticate_user(memory.store, b"t" * 32, "bob", "correct horse battery") is None, (
        "hash and table are not enough"
    )


def test_a_password_that_json_lets_through_is_no_accident(memory: MemoryAccess) -> None:
    odd = "\ud800 half a surrogate"
    access.add_user(memory.store, SECRET, "bob", odd, [Scope.READ], SETTINGS)
    assert access.authenticate_user(memory.store, SECRET, "bob", odd) is not None
    assert access.authenticate_user(memory.store, SECRET, "bob", "x" * 10_000_000) is None


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "x" * 65, "a\n"])
def test_a_name_that_cannot_be(memory: MemoryAccess, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        access.add_user(memory.store, SECRET, name, "long enough it is", [Scope.READ], SETTINGS)


def test_a_short_password_is_refused_and_not_repeated(memory: MemoryAccess) -> None:
    with pytest.raises(UsageError) as refused:
        access.add_user(memory.store, SECRET, "bob", "hunter2", [Scope.READ], SETTINGS)
    assert "hunter2" not in str(refused.value)
    assert not memory.users


def test_a_taken_name_is_kept_unless_one_says_so(memory: MemoryAccess) -> None:
    clock = ManualClock(1_000)
    access.add_user(memory.store, SECRET, "bob", "the first password", [Scope.READ], SETTINGS, clock=clock)
    with pytest.raises(UsageError, match="already"):
        access.add_user(memory.store, SECRET, "bob", "the other password", [Scope.ADMIN], SETTINGS)
    clock.advance(1_000)
    replaced = access.add_user(
        memory.store, SECRET, "bob", "the other password", [Scope.ADMIN], SETTINGS, replaces=True, clock=clock
    )
    assert replaced.sessions_from.timestamp() == 2, "logins of the old password are over"
    assert access.authenticate_user(memory.store, SECRET, "bob", "the first password") is None


def test_a_removed_user_is_gone_and_the_name_is_free(memory: MemoryAccess) -> None:
    access.add_user(memory.store, SECRET, "bob", "the first password", [Scope.READ], SETTINGS)
    access.remove_user(memory.store, "bob")
    assert access.list_users(memory.store) == []
    assert access.authenticate_user(memory.store, SECRET, "bob", "the first password") is None
    for wrong in (access.remove_user, access.log_out_everywhere):
        with pytest.raises(UsageError, match="no user 'bob'"):
            wrong(memory.store, "bob")
    access.add_user(memory.store, SECRET, "bob", "the next password", [Scope.READ], SETTINGS)
    assert [row.name for row in access.list_users(memory.store)] == ["bob"]


def test_the_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    made = access.load_secret(SETTINGS, tmp_path / "data")
    path = tmp_path / "data" / access.SECRET_FILE
    assert len(made) >= access.SECRET_CHARACTERS_MIN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert access.load_secret(SETTINGS, tmp_path / "data") == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == [access.SECRET_FILE], "nothing is left over"


def test_a_secret_of_the_settings_stands_first_and_must_be_long(tmp_path: Path) -> None:
    given = ApiSettings(secret=SecretStr("x" * 40))
    assert access.load_secret(given, tmp_path) == b"x" * 40
    with pytest.raises(SettingsError) as refused:
        access.load_secret(ApiSettings(secret=SecretStr("short-and-secret")), tmp_path)
    assert "short-and-secret" not in str(refused.value)


def test_the_first_key_of_a_stack_is_kept_and_made_anew_where_it_was_revoked(
    memory: MemoryAccess, tmp_path: Path
) -> None:
    path = tmp_path / access.KEY_FILE
    first = access.ensure_key(memory.store, path)
    assert access.ensure_key(memory.store, path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = access.authenticate_key(memory.store, first)
    assert found is not None
    assert found.scopes == ("admin",)
    access.revoke_key(memory.store, found.id)
    second = access.ensure_key(memory.store, path)
    assert second != first
    assert access.authenticate_key(memory.store, second) is not None
