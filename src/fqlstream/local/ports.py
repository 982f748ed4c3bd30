"""Ports of a data directory: the usual ones where they are free, and the same ones again next time."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

#: Below the range that operating systems hand out to outgoing connections: a port found free stays free until it is used.
_FIRST, _LAST = 15_000, 31_999
_TRIES = 200


def keep_port(data: Path, name: str, preferred: int | None, *, host: str = "127.0.0.1") -> int:
    """Give the port of a part of this data directory: the one it had, else the preferred one, else a free one.

    A port that something else listens on meanwhile is given up. Remembered in `ports.json` of the directory.
    """
    path = data / "ports.json"
    kept: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    taken = {port for other, port in kept.items() if other != name}
    candidates = [port for port in (kept.get(name), preferred) if port and port not in taken]
    port = next((port for port in candidates if is_free(port, host)), None) or find_free_port(host, taken)
    if kept.get(name) != port:
        data.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**kept, name: port}, indent=1) + "\n")
        temporary.replace(path)
    return port


def kept_port(data: Path, name: str) -> int:
    """Give the port that a part of this data directory has.

    Raises KeyError where it never had one.
    """
    return int(json.loads((data / "ports.json").read_text())[name])


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether a server could listen here now; `host` is a name or an address of either family."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def find_free_port(host: str = "127.0.0.1", taken: set[int] | None = None) -> int:
    """Give a random free port outside the range of outgoing connections."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)  # noqa: S311  # not a secret
        if port not in (taken or ()) and is_free(port, host):
            return port
    message = f"no free port found between {_FIRST} and {_LAST}"
    raise OSError(message)


def answers(host: str, port: int, timeout_s: float = 0.3) -> bool:
    """Say whether something accepts connections here."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
