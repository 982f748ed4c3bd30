"""Requests over HTTP/1.1 as fast as answers come, and how long each took: next to no work of the client's own per request."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

#: A request without an answer for so long has failed.
_ANSWER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    path: str
    body: object = None


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a run: seconds of each request, sorted; seconds of the whole; answers that were no success, by status."""

    took_s: tuple[float, ...]
    wall_s: float
    failures: tuple[int, ...]

    def percentile_ms(self, share: float) -> float:
        """Give the time that this share of all requests did not exceed (nearest rank)."""
        return self.took_s[max(0, math.ceil(share * len(self.took_s)) - 1)] * 1000

    @property
    def requests_per_s(self) -> float:
        """Answers a second, all clients together."""
        return len(self.took_s) / self.wall_s


async def run_load(url: str, key: str | None, calls: Sequence[Sequence[Call]]) -> Load:
    """Let each client send its calls one after the other, all clients at once, each over one connection."""
    requests = [[_encoded(url, key, call) for call in mine] for mine in calls]
    connections = [await _connect(url) for _ in requests]
    began_s = time.perf_counter()
    results = await asyncio.gather(
        *(_send_all(*connection, mine) for connection, mine in zip(connections, requests, strict=True))
    )
    wall_s = time.perf_counter() - began_s
    for _, writer in connections:
        writer.close()
    took_s = sorted(each for mine, _ in results for each in mine)
    return Load(tuple(took_s), wall_s, tuple(status for _, failed in results for status in failed))


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = urlsplit(url)
    return await asyncio.open_connection(where.hostname, where.port)


async def _send_all(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Sequence[bytes]
) -> tuple[list[float], list[int]]:
    took_s: list[float] = []
    failed: list[int] = []
    async with asyncio.timeout(_ANSWER_S * max(1, len(requests) / 100)):
        for request in requests:
            began_s = time.perf_counter()
            writer.write(request)
            status = await _answer(reader)
            took_s.append(time.perf_counter() - began_s)
            if not 200 <= status < 300:
                failed.append(status)
    return took_s, failed


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end; gives its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        end = lower.index(b"\r\n", at + 2)
        await reader.readexactly(int(lower[at + 17 : end]))
    return int(head[9:12])


def _encoded(url: str, key: str | None, call: Call) -> bytes:
    body = b"" if call.body is None else msgspec.json.encode(call.body)
    lines = [f"{call.method} {call.path} HTTP/1.1", f"host: {urlsplit(url).netloc}", f"content-length: {len(body)}"]
    if call.body is not None:
        lines.append("content-type: application/json")
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body
