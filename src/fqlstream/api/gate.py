"""Who is calling: keys, access tokens, logins; what was checked is remembered for some seconds."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import jwt
from itsdangerous import BadSignature, URLSafeSerializer

from fqlstream.api.problems import ApiError, refuse
from fqlstream.clock import Clock
from fqlstream.errors import StoreError
from fqlstream.ops import access
from fqlstream.ops.access import Caller, Scope
from fqlstream.settings import ApiSettings
from fqlstream.store import access as rows
from fqlstream.store.access import KeyRow, UserRow
from fqlstream.store.client import Store

T = TypeVar("T")

_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "fqlstream"
#: Checked callers that are remembered: each is a few hundred bytes.
_REMEMBERED_MAX: Final = 10_000
#: Names whose failed logins are counted; the oldest are forgotten.
_FAILING_MAX: Final = 10_000
_FAILURES_S: Final = 60.0
_CHALLENGE: Final = {"www-authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and its life."""

    text: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    value: Any
    until_s: float


class Gate:
    """Checks callers of one API process. Calls of ClickHouse and argon2 run in threads."""

    def __init__(self, settings: ApiSettings, store: Store, secret: bytes, clock: Clock, threads: Executor) -> None:
        self._settings = settings
        self._store = store
        #: What passwords are mixed with. Never shown.
        self.secret = secret
        self._clock = clock
        self._threads = threads
        self._hashing = asyncio.Semaphore(settings.hashes_at_once)
        #: Logins wait in a queue of their own: a flood of wrong passwords must not hold up keys.
        self._logging_in = asyncio.Semaphore(settings.hashes_at_once)
        self._outage_s = settings.access_outage_s
        #: Keys are remembered by a digest that only this process can compute: its memory holds no key in clear.
        self._digest_key = secrets.token_bytes(32)
        self._remembered: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._sessions = URLSafeSerializer(
            secret, salt="fqlstream session", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )
        self._token_secret = hmac.new(secret, b"fqlstream access token", hashlib.sha256).digest()

    # -- programs --------------------------------------------------------------------------------------------------

    async def caller_of_bearer(self, text: str) -> Caller:
        """Give who a key or an access token belongs to. Raises ApiError 401."""
        if text.startswith("fq_"):
            return _caller_of_key(await self._checked_key(text))
        return await self._caller_of_token(text)

    async def issue_token(self, key: str) -> Token:
        """Give an access token (a JWT with iat and exp, seconds) for a key. Raises ApiError 401 for a wrong one."""
        row = await self._checked_key(key)
        now_s = self._clock.now_ms() // 1000
        expires_at = now_s + self._settings.access_s
        claims = {"sub": row.id, "aud": _AUDIENCE, "iat": now_s, "exp": expires_at}
        return Token(jwt.encode(claims, self._token_secret, _ALGORITHM), now_s, expires_at)

    async def _caller_of_token(self, text: str) -> Caller:
        try:
            claims = jwt.decode(
                text,
                self._token_secret,
                [_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["sub", "iat", "exp"], "verify_exp": False, "verify_iat": False},
            )
            key_id, expires_at = str(claims["sub"]), int(claims["exp"])
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            raise _unauthorized("this is neither a key nor an access token of this server") from None
        if self._clock.now_ms() // 1000 >= expires_at:
            raise _unauthorized("the access token has expired", "ask for a new one with the key")
        # the token says whose it is; whether that key still stands, and what it may, its row says
        row = await self._key_row(key_id)
        if row is None:
            raise _unauthorized("the key of this access token was revoked")
        return _caller_of_key(row)

    async def _checked_key(self, text: str) -> KeyRow:
        parts = access.split_key(text)
        row = await self._key_row(parts[0]) if parts is not None else None
        if parts is None or row is None:
            raise _unauthorized("there is no such key, or it was revoked")
        digest = hmac.new(self._digest_key, text.encode(), hashlib.sha256).hexdigest()
        # right for as long as the row has this hash: argon2 is paid once, revoking is seen by the row
        known = await self._remember(("secret", digest), lambda: self._verified(row, text), _FOREVER_S)
        if known != row.hash:
            raise _unauthorized("there is no such key, or it was revoked")
        return row

    async def _verified(self, row: KeyRow, text: str) -> str | None:
        """Check a key's secret by argon2; gives the hash that it matches."""
        parts = access.split_key(text)
        async with self._hashing:
            is_right = await self._thread(access.matches, row.hash, parts[1] if parts else "")
        return row.hash if is_right else None

    async def _key_row(self, key_id: str) -> KeyRow | None:
        return await self._remember(
            ("key", key_id),
            lambda: self._thread(access.standing_key, self._store, key_id),
            self._settings.access_cache_s,
        )

    # -- people ----------------------------------------------------------------------------------------------------

    async def log_in(self, name: str, password: str) -> tuple[Caller, str]:
        """Check a password; gives the caller and the value of the session's cookie. Raises ApiError 401, 429."""
        if not access.is_user_name(name):
            # nobody is called so, and it may be megabytes: it is neither counted nor looked up
            raise _unauthorized("wrong user name or password")
        self._require_patience(name)
        async with self._logging_in:
            self._require_patience(name)  # again: others of this name failed while this one waited
            row = await self._thread(access.authenticate_user, self._store, self.secret, name, password)
            if row is None:
                self._note_failure(name)  # before the next one's turn
        if row is None:
            raise _unauthorized("wrong user name or password")
        self._failures.pop(name, None)
        self._remembered.pop(("user", name), None)
        session = secrets.token_urlsafe(16)
        cookie = self._sessions.dumps({"user": row.name, "session": session, "at_ms": self._clock.now_ms()})
        return _caller_of_user(row, session), str(cookie)

    async def caller_of_session(self, cookie: str) -> Caller:
        """Give who a session's cookie belongs to. Raises ApiError 401."""
        try:
            claims = self._sessions.loads(cookie)
            name, session, at_ms = str(claims["user"]), str(claims["session"]), int(claims["at_ms"])
        except (BadSignature, KeyError, TypeError, ValueError):
            raise _unauthorized("this is no login of this server") from None
        if self._clock.now_ms() >= at_ms + self._settings.session_s * 1000:
            raise _unauthorized("the login has expired", "log in again")
        row = await self._remember(
            ("user", name),
            lambda: self._thread(access.standing_user, self._store, name),
            self._settings.access_cache_s,
        )
        since = datetime.fromtimestamp(at_ms / 1000, UTC)
        if row is None or since < row.sessions_from or await self._is_ended(session):
            raise _unauthorized("the login is over", "log in again")
        return _caller_of_user(row, session)

    async def log_out(self, caller: Caller, *, everywhere: bool = False) -> None:
        """End a user's login, or all of them. A caller without one has nothing to end."""
        if caller.session is None:
            return
        if everywhere:
            await self._thread(lambda: access.log_out_everywhere(self._store, caller.name, clock=self._clock))
            self._remembered.pop(("user", caller.name), None)
        else:
            now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
            await self._thread(rows.write_ended_session, self._store, caller.session, now)
            self._remembered.pop(("session", caller.session), None)

    async def _is_ended(self, session: str) -> bool:
        return await self._remember(
            ("session", session),
            lambda: self._thread(rows.is_session_ended, self._store, session),
            self._settings.access_cache_s,
        )

    def forget(self) -> None:
        """Believe nothing that was checked before: keys or users have changed."""
        self._remembered.clear()

    # -- guessing --------------------------------------------------------------------------------------------------

    def _require_patience(self, name: str) -> None:
        failures = self._failures.get(name)
        now_s = self._clock.monotonic_s()
        while failures and now_s - failures[0] > _FAILURES_S:
            failures.popleft()
        if failures and len(failures) >= self._settings.login_failures_max:
            wait_s = max(1, round(_FAILURES_S - (now_s - failures[0])))
            raise refuse(
                429, "too many failed logins of this name", hint="wait a minute", headers={"retry-after": str(wait_s)}
            )

    def _note_failure(self, name: str) -> None:
        self._failures.setdefault(name, deque()).append(self._clock.monotonic_s())
        self._failures.move_to_end(name)
        while len(self._failures) > _FAILING_MAX:
            self._failures.popitem(last=False)

    # -- remembering -----------------------------------------------------------------------------------------------

    async def _remember(self, key: tuple[str, str], ask: Callable[[], Coroutine[Any, Any, T]], life_s: float) -> T:
        """Give what was found out before, while that is young enough; else find it out, once for all who ask meanwhile."""
        known = self._remembered.get(key)
        if known is not None and self._clock.monotonic_s() < known.until_s:
            return cast("T", known.value)
        if (asking := self._asking.get(key)) is None:
            asking = self._asking[key] = asyncio.ensure_future(ask())
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        try:
            # whoever gives up must not take the answer from the others
            value: T = await asyncio.shield(asking)
        except StoreError as error:
            if known is None or not error.retryable or self._clock.monotonic_s() >= known.until_s + self._outage_s:
                raise
            # nothing can be revoked where it would be noted: what was known stands while that is away
            return cast("T", known.value)
        self._remembered[key] = _Remembered(value, self._clock.monotonic_s() + life_s)
        self._remembered.move_to_end(key)
        while len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return value

    async def _thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


#: A secret that matched a hash matches it always.
_FOREVER_S: Final = float("inf")


def _caller_of_key(row: KeyRow) -> Caller:
    return Caller(f"key:{row.id}", row.name or row.id, frozenset(map(Scope, row.scopes)))


def _caller_of_user(row: UserRow, session: str) -> Caller:
    return Caller(f"user:{row.name}", row.name, frozenset(map(Scope, row.scopes)), session)


def _unauthorized(message: str, hint: str | None = None) -> ApiError:
    return refuse(401, message, hint=hint, headers=_CHALLENGE)
