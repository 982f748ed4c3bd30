"""What a route demands of its caller: `caller: Annotated[Caller, allow(Permission.RECORD)]`."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from fqlstream.api.problems import ApiError, refuse
from fqlstream.api.services import Dependencies, Parts
from fqlstream.errors import StoreError
from fqlstream.listening import is_loopback
from fqlstream.ops.access import ANYONE, Caller, Permission

SESSION_COOKIE: Final = "fqlstream_session"
_BEARER: Final = HTTPBearer(
    scheme_name="key",
    description="A key of `fqlstream keys create`, or an access token made of one.",
    auto_error=False,
)
_COOKIE: Final = APIKeyCookie(
    name=SESSION_COOKIE, scheme_name="session", description="The login of a user.", auto_error=False
)
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]
_Session = Annotated[str | None, Security(_COOKIE)]


async def find_caller(request: Request, parts: Parts, bearer: _Bearer, session: _Session) -> Caller | None:
    """Give the caller of a request; None where it names nobody. Raises ApiError 401 for a wrong key or login, 403 for other sites."""
    if not parts.settings.api.auth:
        _refuse_other_sites(request, must_be_local=True)
        caller = ANYONE
    elif bearer is not None:
        caller = await parts.gate.caller_of_bearer(bearer.credentials)
    elif session is not None:
        _refuse_other_sites(request, must_be_local=False)
        caller = await parts.gate.caller_of_session(session)
    else:
        return None
    request.scope["caller"] = caller.id
    return caller


async def _require_caller(request: Request, parts: Parts, bearer: _Bearer, session: _Session) -> Caller:
    caller = await find_caller(request, parts, bearer, session)
    if caller is None:
        raise refuse(
            401,
            "no key is given",
            hint="send the header `Authorization: Bearer KEY`; make a key with: fqlstream keys create",
            headers={"www-authenticate": "Bearer"},
        )
    return caller


def somebody() -> Any:
    """Demand a caller, whatever they may do. The dependency gives the Caller; it raises ApiError 401 without one."""
    return Depends(_require_caller)


def allow(permission: Permission) -> Any:
    """Demand a caller who may do this. The dependency gives the Caller; it raises ApiError 401 without one, 403 where it may not."""

    # one dependency that calls the others: each that FastAPI has to resolve costs a request tens of microseconds
    async def check(request: Request, parts: Parts, bearer: _Bearer, session: _Session) -> Caller:
        return _permitted(await _require_caller(request, parts, bearer, session), permission)

    return Depends(check)


async def admit(request: Request, parts: Dependencies, permission: Permission) -> Caller:
    """Demand a caller who may do this, before any of the request's body is read. Raises ApiError 401 or 403."""
    caller = await _require_caller(request, parts, await _BEARER(request), await _COOKIE(request))
    return _permitted(caller, permission)


async def is_allowed(request: Request, parts: Dependencies, permission: Permission) -> bool:
    """Say whether a request names a caller who may do this, for a route that tells everybody something, and such a one more."""
    try:
        await admit(request, parts, permission)
    except (ApiError, StoreError):  # nobody, a wrong key, or nobody knows
        return False
    return True


def _permitted(caller: Caller, permission: Permission) -> Caller:
    if not caller.may(permission):
        raise refuse(
            403,
            f"the scope {' '.join(sorted(caller.scopes)) or 'none'} does not allow this",
            hint=f"it takes a key that may {permission.replace('_', ' ')}: see fqlstream keys create --help",
        )
    return caller


def set_session(response: Response, request: Request, cookie: str, parts: Dependencies) -> None:
    """Give the client a session's cookie: not readable by scripts, not sent from other sites, by TLS only where there is TLS."""
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=parts.settings.api.session_s,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )


def clear_session(response: Response) -> None:
    """Take the session's cookie away from the client."""
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict", path="/")


def _refuse_other_sites(request: Request, *, must_be_local: bool) -> None:
    """Refuse what a page of another site made a browser send: with a cookie, or where nobody asks for a key.

    A page whose name was made to point to this machine still names itself in `Host`.
    """
    host = request.headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if must_be_local and name and not is_loopback(name):
        raise refuse(403, "without keys this API answers only to the names of this machine itself")
    origin = request.headers.get("origin")
    is_other = origin is not None and urlsplit(origin).netloc != host
    if is_other and (must_be_local or request.method not in _SAFE):
        raise refuse(403, "requests that pages of other sites make need a key")
