"""Looks at a sandbox from inside, where a metric would be: what can be read, written, reached, and who one is."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from fqlstream.code_metrics.inside import confine


def main() -> None:
    """Enter as a job would, try each way out, print what happened; the argument is JSON: confine, secrets, unlisted, port, places."""
    orders = json.loads(sys.argv[1])
    confine.enter(confine.Plan(**orders["confine"]))
    print(json.dumps(_look(orders)))  # noqa: T201  # this program's answer


def _look(orders: dict[str, Any]) -> dict[str, Any]:
    with Path("/proc/self/status").open(encoding="ascii") as status:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    return {
        "uid": os.getuid(),
        "capabilities": sorted({lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}),
        "no_new_privs": lines["NoNewPrivs"] == "1",
        "seccomp": lines["Seccomp"] == "2",
        "read": [_read(path) for path in orders["secrets"]],
        "unlisted": _read(orders["unlisted"]),
        "wrote": [place for place in orders["places"] if _wrote(place)],
        "interfaces": _interfaces(),
        "reached": _reached(orders["port"]),
        "vsock": _has_vsock(),
        "processes": sum(path.name.isdecimal() for path in Path("/proc").iterdir()),
        "environment": sorted(os.environ),
    }


def _interfaces() -> list[str]:
    with Path("/proc/net/dev").open(encoding="ascii") as table:
        return sorted(line.split(":")[0].strip() for line in table if ":" in line)


def _read(path: str) -> str:
    """`read`, or the name of the error that refused it."""
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "unknown")
    return "read"


def _wrote(place: str) -> bool:
    path = Path(place, f"fqlstream-probe-{os.getpid()}")
    try:
        path.touch()
        path.unlink()
    except OSError:
        return False
    return True


def _reached(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _has_vsock() -> bool:
    """Whether a socket to the machine's host can be had: it is in no network namespace."""
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        return False
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
