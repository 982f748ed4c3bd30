"""Who is calling: the key, loopback without it, and nothing that a browser was talked into."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from fqlstream.listening import is_loopback
from fqlstream.store.embedded.engine import Access
from fqlstream.store.embedded.exceptions import ACCESS_DENIED, AUTHENTICATION_FAILED, EngineError, refusal

KEY_FILE = "store.key"


def load_key(directory: Path) -> str:
    """Read the key of a data directory, or make one that only its owner can read."""
    path = directory / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return path.read_text().strip()
    key = secrets.token_urlsafe(24)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def _password(headers: Mapping[str, str], parameters: Mapping[str, str]) -> tuple[str, str]:
    """Give user and password from the header pair, basic authorization, a bearer token, or the address."""
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", "default"), headers.get("x-clickhouse-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return "default", token.strip()
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise refusal(AUTHENTICATION_FAILED, "The Authorization header is no valid basic authorization") from None
        return user, password
    return parameters.get("user", "default"), parameters.get("password", "")


def authenticate(headers: Mapping[str, str], parameters: Mapping[str, str], peer: str, key: str) -> Access:
    """Say what a caller may do. Raises for a wrong key, and for what comes without one from a browser or from afar."""
    user, password = _password(headers, parameters)
    if password:
        if hmac.compare_digest(password.encode(), key.encode()) and user in ("", "default"):
            return Access.WRITE
        raise _failed(user)
    if user not in ("", "default"):
        raise _failed(user)
    if not is_loopback(peer):
        raise refusal(
            AUTHENTICATION_FAILED,
            "From another machine this store answers only with its key (password, or X-ClickHouse-Key)",
        )
    if "origin" in headers or not _is_local_name(headers.get("host", "")):
        raise refusal(ACCESS_DENIED, "Not enough privileges: requests that a web page makes need the key of this store")
    return Access.READ


def _failed(user: str) -> EngineError:
    return refusal(
        AUTHENTICATION_FAILED,
        f"{user}: Authentication failed: password is incorrect, or there is no user with such name. "
        "The user is 'default', the password is the key in the file store.key of the data directory",
    )


def _is_local_name(host: str) -> bool:
    """Tell whether a Host header names this machine itself: a page whose name was made to point here names its own."""
    name = host.strip()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
