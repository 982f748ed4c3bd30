"""Where ClickHouse is: an address taken apart, and shown without its password."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from fqlstream.errors import UsageError

_PORTS = {"http": 8123, "https": 8443}


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """An address such as `https://user:password@host:8443/database?compression=lz4`; what it leaves out is empty."""

    scheme: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    compression: str | None = None

    @classmethod
    def parse(cls, url: str, code: str) -> Self:
        """Take an address apart. Raises UsageError with this code for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # a port that is no number, an IPv6 address without its end
            parts, port = urlsplit(""), None
        if parts.scheme not in _PORTS or not parts.hostname:
            shown = url.rpartition("@")[2]  # what stands before it may be a password
            raise UsageError(code, f"{shown!r} is no address of ClickHouse", "write http(s)://host:port/database")
        compression = parse_qs(parts.query).get("compression", [None])[0]
        if compression not in (None, "lz4"):
            raise UsageError(
                code, f"compression {compression!r} is not supported", "write ?compression=lz4, or nothing"
            )
        return cls(
            parts.scheme,
            parts.hostname,
            port or _PORTS[parts.scheme],
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            unquote(parts.path.strip("/")) or "default",
            compression,
        )

    @property
    def shown(self) -> str:
        """The address without its user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.database}"
