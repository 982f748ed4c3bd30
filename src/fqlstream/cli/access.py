"""`fqlstream keys` and `fqlstream users`: who may use the API."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_table, print_text
from fqlstream.errors import UsageError
from fqlstream.ops import access
from fqlstream.store.access import KeyRow, UserRow
from fqlstream.store.client import Store

keys = typer.Typer(no_args_is_help=True, help="Keys of the API, for programs.")
users = typer.Typer(no_args_is_help=True, help="Users of the API, who log in with a password.")

_SCOPES = (
    "write: record metrics and read them back. read: everything that is measured. admin: all of it, and changing it. "
    "May be given several times."
)


@keys.command("create")
def create_key(
    scope: Annotated[list[str], typer.Option("--scope", metavar="write|read|admin", help=_SCOPES)],
    name: Annotated[str, typer.Option("--name", help="What it is for, for whoever looks at the list.")] = "",
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and show it, this once: only a hash is kept.

    The same key serves as a bearer token of our API and as CRAFT_AI_SDK_TOKEN.
    """
    scopes = access.parse_scopes(scope)
    with Store.connect(settings_for(data).store) as store:
        made = access.create_key(store, scopes, name)
    if json:
        print_json({"id": made.id, "key": made.key, "scope": " ".join(made.scopes)})
        return
    print_text(made.key)
    print_note("it is shown this once; take it back with: fqlstream keys revoke " + made.id)


@keys.command("list")
def list_keys(data: DataOption = None, json: JsonOption = False) -> None:
    """List all keys, the oldest first, revoked ones too."""
    with Store.connect(settings_for(data).store) as store:
        found = access.list_keys(store)
    if json:
        print_json([_key(row) for row in found])
    else:
        print_table(
            ("id", "name", "scope", "created at", "revoked at"),
            ((r["id"], r["name"] or None, r["scope"], r["created_at"], r["revoked_at"]) for r in map(_key, found)),
        )


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or the key.")],
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Take a key back, for ever. A running API forgets it within FQLSTREAM_API__ACCESS_CACHE_S."""
    parts = access.split_key(key_id)
    with Store.connect(settings_for(data).store) as store:
        row = access.revoke_key(store, parts[0] if parts else key_id)
    if json:
        print_json(_key(row))
    else:
        print_text(f"revoked {row.id}")


def _key(row: KeyRow) -> dict[str, str | None]:
    return {
        "id": row.id,
        "name": row.name,
        "scope": " ".join(row.scopes),
        "created_at": row.created_at.isoformat(timespec="milliseconds"),
        "revoked_at": row.revoked_at.isoformat(timespec="milliseconds") if row.revoked_at else None,
    }


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to log in with.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, its first line.")
    ] = False,
    scope: Annotated[list[str] | None, typer.Option("--scope", metavar="write|read|admin", help=_SCOPES)] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Where there is the user: a new password and new scopes.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Make a user, who may write and read unless you say otherwise. Without --password-stdin the password is asked for."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise UsageError("CLI040", "no password is given", "pipe it: ... | fqlstream users add NAME --password-stdin")
    scopes = access.parse_scopes(scope or ["write", "read"])
    settings = settings_for(data)
    secret = access.load_secret(settings.api, settings.data)
    with Store.connect(settings.store) as store:
        row = access.add_user(store, secret, name, password, scopes, settings.api, replaces=replace)
    if json:
        print_json(_user(row))
    else:
        print_text(f"added {row.name}, who may {' and '.join(row.scopes)}")


@users.command("list")
def list_users(data: DataOption = None, json: JsonOption = False) -> None:
    """List all users by name."""
    with Store.connect(settings_for(data).store) as store:
        found = [_user(row) for row in access.list_users(store)]
    if json:
        print_json(found)
    else:
        print_table(("name", "scope", "changed at"), ((r["name"], r["scope"], r["changed_at"]) for r in found))


@users.command("remove")
def remove_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user.")],
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a user; logins end with it, within FQLSTREAM_API__ACCESS_CACHE_S."""
    with Store.connect(settings_for(data).store) as store:
        access.remove_user(store, name)
    if json:
        print_json({"name": name, "result": "removed"})
    else:
        print_text(f"removed {name}")


def _user(row: UserRow) -> dict[str, str]:
    return {
        "name": row.name,
        "scope": " ".join(row.scopes),
        "changed_at": row.changed_at.isoformat(timespec="milliseconds"),
    }
