"""`fqlstream bench api`: single values written and latest values read through the REST API, by 1 and by 32 clients.

Each case is sent by clients that wait for every answer before the next request. An empty FastAPI route of a process of its own is
measured in the same run, so that the figures say what the API adds. All that was acknowledged is read back afterwards.
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from fqlstream.bench import Report, Request, machine
from fqlstream.bench.http_load import Call, Load, run_load
from fqlstream.errors import FqlstreamError, UsageError
from fqlstream.events.documents import read_documents
from fqlstream.local.ports import answers, find_free_port
from fqlstream.local.progress import Progress
from fqlstream.local.stack import running_stack
from fqlstream.ops.definitions import apply
from fqlstream.settings import load

CLIENTS: Final = (1, 32)
_PREFIX: Final = "/api/fqlstream/v1"
_EXECUTION: Final = "bench-execution"
_DEFINITIONS: Final = """
kind: pipeline
name: bench
---
{kind: execution, name: bench-execution, pipeline: bench}
---
{kind: experiment, name: bench}
---
{kind: job, name: bench-job, experiment: bench}
"""
#: Names that the latest values of the job have.
_NAMES: Final = 10
_REQUESTS_MIN: Final = 200
_EVENTS_PER_REQUEST: Final = 200
_START_S: Final = 30.0
_PAGE: Final = 1_000


def run(request: Request) -> Report:
    """Measure all cases, or those that were named (such as write_1). Raises UsageError where there is none of a name."""
    cases = [f"{kind}_{clients}" for kind in ("empty_write", "empty_read", "write", "read") for clients in CLIENTS]
    unknown = sorted(request.figures - set(cases))
    if unknown:
        raise UsageError("BEN004", f"there is no figure {unknown[0]!r}", f"there are: {', '.join(cases)}")
    wanted = [case for case in cases if not request.figures or case in request.figures]
    count = max(_REQUESTS_MIN, request.events_count // _EVENTS_PER_REQUEST)
    with tempfile.TemporaryDirectory(prefix="fqlstream-api-") as directory:
        data = Path(directory)
        with running_stack(load(), data, workers=1, progress=Progress(request.say, lambda _: None)) as stack:
            told = stack.describe()
            applied = apply(stack.settings, read_documents(_DEFINITIONS, "bench"))
            server = _Api(told.api_url or "", told.api_key or "", int(applied.results[-1].id))
            with _empty_route() as empty:
                return _measure(server, empty, wanted, count, request)


def _measure(server: _Api, empty: str, wanted: Sequence[str], count: int, request: Request) -> Report:
    server.prepare()
    figures: dict[str, float] = {}
    written, failures = 0, 0
    for case in wanted:
        kind, _, clients = case.rpartition("_")
        url, key = (empty, None) if kind.startswith("empty") else (server.url, server.key)
        calls = _calls(kind, server, int(clients), count, first=written)
        # the first requests of a process are slow for reasons of their own
        asyncio.run(run_load(url, key, [mine[:20] for mine in calls]))
        load_ = asyncio.run(run_load(url, key, calls))
        written += count if kind == "write" else 0
        failures += len(load_.failures)
        figures |= _figures(case, load_)
        request.say(
            f"{case}: {load_.requests_per_s:,.0f} requests/s, p50 {load_.percentile_ms(0.5):.2f} ms, p99 {load_.percentile_ms(0.99):.2f} ms"
        )
    return Report("api", machine(), failures == 0 and server.holds(written), figures)


def _figures(case: str, found: Load) -> dict[str, float]:
    return {
        f"{case}_requests_per_s": round(found.requests_per_s, 1),
        f"{case}_p50_ms": round(found.percentile_ms(0.5), 3),
        f"{case}_p99_ms": round(found.percentile_ms(0.99), 3),
    }


def _calls(kind: str, server: _Api, clients: int, count: int, *, first: int) -> list[list[Call]]:
    """Give each client its share. Every write has a name of its own: what is stored in the end can be counted."""
    shares = [range(start, count, clients) for start in range(clients)]
    match kind:
        case "write":
            return [[server.write(first + number) for number in share] for share in shares]
        case "read":
            return [[server.read for _ in share] for share in shares]
        case "empty_write":
            body = {"execution": _EXECUTION, "name": "loss", "value": 0.5}
            return [[Call("POST", "/empty", body) for _ in share] for share in shares]
        case _:
            return [[Call("GET", "/empty") for _ in share] for share in shares]


class _Api:
    """The API of the stack, and what is asked of it."""

    def __init__(self, url: str, key: str, job: int) -> None:
        self.url, self.key, self._job = url, key, job
        self.read = Call("GET", f"{_PREFIX}/recorded/job-metrics?job={job}")

    def write(self, number: int) -> Call:
        """Give a call that records one value; its name and value are the number's."""
        body = {"execution": _EXECUTION, "name": f"metric-{number}", "value": number / 8}
        return Call("POST", f"{_PREFIX}/recorded/pipeline-metrics", body)

    def prepare(self) -> None:
        """Record what the latest values of the job are."""
        for number in range(_NAMES):
            body = {"job": self._job, "name": f"metric_{number}", "value": number, "step": number}
            self._ask(Call("POST", f"{_PREFIX}/recorded/job-metrics", body))
        if len(self._ask(self.read)) != _NAMES:
            raise FqlstreamError("BEN030", "the API does not give back what it has acknowledged")

    def holds(self, written: int) -> bool:
        """Say whether every write is there, once, with its value."""
        found: dict[str, float] = {}
        total = 0
        while True:
            query = urlencode({"execution": _EXECUTION, "offset": len(found), "limit": _PAGE})
            page = self._ask(Call("GET", f"{_PREFIX}/recorded/pipeline-metrics?{query}"))
            total += len(page["items"])
            found |= {row["name"]: row["value"] for row in page["items"]}
            if total >= page["total_count"] or not page["items"]:
                break
        wanted = {f"metric-{number}": number / 8 for number in range(written)}
        return found == wanted and total == written

    def _ask(self, call: Call) -> Any:
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_START_S)
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        try:
            connection.request(call.method, call.path, msgspec.json.encode(call.body), headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise FqlstreamError("BEN031", f"the API answered {answer.status}: {data[:500].decode(errors='replace')}")
        return msgspec.json.decode(data)


@contextmanager
def _empty_route() -> Iterator[str]:
    """Run the empty application, and give its address."""
    port = find_free_port()
    process = subprocess.Popen([sys.executable, "-m", "fqlstream.bench.empty_route", str(port)])  # noqa: S603  # ours
    try:
        end_s = time.monotonic() + _START_S
        while not answers("127.0.0.1", port):
            if process.poll() is not None or time.monotonic() > end_s:
                raise FqlstreamError("BEN032", "the empty application did not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
