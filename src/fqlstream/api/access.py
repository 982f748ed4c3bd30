"""Who may use the API: keys and users, for administrators; logging in and out, for everybody."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, SecretStr

from fqlstream.api.auth import allow, clear_session, set_session, somebody
from fqlstream.api.problems import refuse
from fqlstream.api.services import Parts
from fqlstream.api.shapes import Body, refusals
from fqlstream.ops import access
from fqlstream.ops.access import Caller, Permission, Scope
from fqlstream.store.access import KeyRow, UserRow

router = APIRouter(tags=["access"])
Manager = Annotated[Caller, allow(Permission.MANAGE)]
Somebody = Annotated[Caller, somebody()]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=3)]
_ScopesOf = Annotated[
    list[Scope], Field(description="write: record metrics and read them back; read; admin: everything.")
]


class NewKey(Body):
    """A key that is to be made."""

    scopes: Scopes
    name: Annotated[str, Field(max_length=256, description="What it is for.")] = ""


class MadeKey(BaseModel):
    """A key that was made; its text is told this once."""

    id: str
    key: str
    scopes: _ScopesOf


class Key(BaseModel):
    """A key as it is stored, without its secret."""

    id: str
    name: str
    scopes: _ScopesOf
    created_at: datetime
    revoked_at: datetime | None


class NewUser(Body):
    """A user that is to be made."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    password: Annotated[SecretStr, Field(max_length=access.PASSWORD_CHARACTERS_MAX)]
    scopes: Annotated[Scopes, Field(default_factory=lambda: [Scope.WRITE, Scope.READ])]
    replace: Annotated[bool, Field(description="Where there is the user: a new password and new scopes.")] = False


class User(BaseModel):
    """A user."""

    name: str
    scopes: _ScopesOf
    changed_at: datetime


class Login(Body):
    """Who wants to log in."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    password: Annotated[SecretStr, Field(max_length=access.PASSWORD_CHARACTERS_MAX)]


class Me(BaseModel):
    """Who is calling, and what they may."""

    id: str
    name: str
    scopes: _ScopesOf


@router.post("/keys")
async def create_key(parts: Parts, _: Manager, body: NewKey) -> MadeKey:
    """Make a key. Only a hash of it is kept: the answer shows it once."""
    made = await parts.thread(access.create_key, parts.store, access.parse_scopes(body.scopes), body.name)
    return MadeKey(id=made.id, key=made.key, scopes=list(made.scopes))


@router.get("/keys")
async def list_keys(parts: Parts, _: Manager) -> list[Key]:
    """List all keys, the oldest first, revoked ones too."""
    return [_key(row) for row in await parts.thread(access.list_keys, parts.store)]


@router.delete("/keys", responses=refusals(404, 409))
async def revoke_key(
    parts: Parts, caller: Manager, key: Annotated[str, Query(alias="id", min_length=1, max_length=64)]
) -> Key:
    """Take a key back, for ever. Other API processes forget it within access_cache_s."""
    if caller.id == f"key:{key}":
        raise refuse(409, "a key cannot take itself back", hint="use another one, or: fqlstream keys revoke")
    row = await parts.thread(access.revoke_key, parts.store, key)
    parts.gate.forget()
    return _key(row)


@router.post("/users", responses=refusals(409))
async def add_user(parts: Parts, _: Manager, body: NewUser) -> User:
    """Make a user, or give one a new password."""
    row = await parts.thread(
        access.add_user,
        parts.store,
        parts.gate.secret,
        body.name,
        body.password.get_secret_value(),
        access.parse_scopes(body.scopes),
        parts.settings.api,
        replaces=body.replace,
    )
    parts.gate.forget()
    return _user(row)


@router.get("/users")
async def list_users(parts: Parts, _: Manager) -> list[User]:
    """List all users by name."""
    return [_user(row) for row in await parts.thread(access.list_users, parts.store)]


@router.delete("/users", responses=refusals(404), status_code=204)
async def remove_user(parts: Parts, _: Manager, name: Annotated[str, Query(min_length=1, max_length=64)]) -> None:
    """Remove a user; logins end with it."""
    await parts.thread(access.remove_user, parts.store, name)
    parts.gate.forget()


@router.post("/login", responses=refusals(429))
async def log_in(parts: Parts, request: Request, response: Response, body: Login) -> Me:
    """Log in with a password. The session is a cookie that scripts cannot read and other sites cannot send."""
    caller, cookie = await parts.gate.log_in(body.name, body.password.get_secret_value())
    set_session(response, request, cookie, parts)
    return _me(caller)


@router.post("/logout", status_code=204)
async def log_out(
    parts: Parts,
    response: Response,
    caller: Somebody,
    *,
    everywhere: Annotated[bool, Query(description="End all logins of the user.")] = False,
) -> None:
    """Log out."""
    await parts.gate.log_out(caller, everywhere=everywhere)
    clear_session(response)


@router.get("/me")
async def who_am_i(caller: Somebody) -> Me:
    """Say who is calling."""
    return _me(caller)


def _me(caller: Caller) -> Me:
    return Me(id=caller.id, name=caller.name, scopes=sorted(caller.scopes))


def _key(row: KeyRow) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=[Scope(text) for text in row.scopes],
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )


def _user(row: UserRow) -> User:
    return User(name=row.name, scopes=[Scope(text) for text in row.scopes], changed_at=row.changed_at)
