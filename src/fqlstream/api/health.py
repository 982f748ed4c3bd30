"""Whether the process lives, whether it can do its work, and its numbers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow, is_allowed
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import refusals
from fqlstream.errors import FqlstreamError
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.code_metric_status import present_runners

router = APIRouter(tags=["health"])


class Dependency(BaseModel):
    """One thing that the API needs. What exactly is wrong with it is in the log: these routes ask for no key."""

    status: Literal["ok", "away"]
    ms: float = Field(description="How long the question took.")
    code: str | None = Field(None, description="Code of the error, where there was one.")


class RunnerHealth(BaseModel):
    """A runner of code metrics, and what contains the code there."""

    host: str
    engine: str
    layers: list[str] = Field(description="Layers of the sandbox that hold there.")
    missing: list[str] = Field(description="Those that do not, each with the reason.")
    code: str | None = Field(description="Code of the error by which it runs nothing.")


class Health(BaseModel):
    """Whether requests can be served."""

    status: Literal["ok", "away"]
    dependencies: dict[str, Dependency]
    runners_count: int | None = Field(
        None, description="Runners of code metrics that were seen within a minute; null where ClickHouse does not say."
    )
    runners_able: int | None = Field(None, description="Those of them that run what they are given.")
    runners: list[RunnerHealth] | None = Field(
        None, description="Which they are and what contains code there: only for a key that may read."
    )


class Live(BaseModel):
    """That the process answers."""

    status: Literal["ok"] = "ok"


Check = Callable[[Dependencies], Awaitable[None]]


async def _ask_store(parts: Dependencies) -> None:
    await parts.thread(parts.store.query_rows, "SELECT 1")


async def _ask_definitions(parts: Dependencies) -> None:
    await parts.definitions.refresh()


#: What is asked, by the name that answers carry. Definitions are read from Kafka: the answer is Kafka's too.
CHECKS: Final[dict[str, Check]] = {"clickhouse": _ask_store, "kafka": _ask_definitions}


@router.get("/health/live")
async def live() -> Live:
    """Say that the process answers."""
    return Live()


@router.get("/health", responses={503: {"model": Health}})
async def health(request: Request, parts: Parts, response: Response) -> Health:
    """As `/health/ready`."""
    return await ready(request, parts, response)


@router.get("/health/ready", responses={503: {"model": Health}})
async def ready(request: Request, parts: Parts, response: Response) -> Health:
    """Ask everything that requests depend on; 503 where one does not answer. A key that may read is told who runs code metrics."""
    names = list(CHECKS)
    asking = asyncio.gather(*(_asked(CHECKS[name], parts) for name in names))
    runners, may_read, answers = await asyncio.gather(_runners(parts), _may_read(request, parts), asking)
    found = dict(zip(names, answers, strict=True))
    status: Literal["ok", "away"] = "ok" if all(each.status == "ok" for each in answers) else "away"
    response.status_code = 200 if status == "ok" else 503
    return Health(
        status=status,
        dependencies=found,
        runners_count=None if runners is None else len(runners),
        runners_able=None if runners is None else sum(runner.code is None for runner in runners),
        runners=runners if may_read else None,
    )


async def _may_read(request: Request, parts: Dependencies) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(parts.settings.api.health_wait_s):
            return await is_allowed(request, parts, Permission.READ)
    return False


async def _runners(parts: Dependencies) -> list[RunnerHealth] | None:
    """Give who runs code metrics. Nothing that requests depend on: where it is not known, all else is as healthy."""
    with contextlib.suppress(TimeoutError, FqlstreamError):
        async with asyncio.timeout(parts.settings.api.health_wait_s):
            return [
                RunnerHealth(
                    host=row.host,
                    engine=row.engine,
                    layers=list(row.layers),
                    missing=list(row.missing),
                    code=row.code or None,
                )
                for row in await parts.thread(present_runners, parts.store, parts.clock)
            ]
    return None


async def _asked(check: Check, parts: Dependencies) -> Dependency:
    began_s = parts.clock.monotonic_s()
    code: str | None = None
    try:
        async with asyncio.timeout(parts.settings.api.health_wait_s):
            await check(parts)
    except TimeoutError:
        code = "API020"
    except FqlstreamError as error:
        code = error.code
    ms = round((parts.clock.monotonic_s() - began_s) * 1000, 2)
    return Dependency(status="ok" if code is None else "away", ms=ms, code=code)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **refusals(401, 403, 408, 413, 503)},
)
async def numbers(request: Request, parts: Parts, _: Annotated[Caller, allow(Permission.READ)]) -> Response:
    """Give this process's numbers in Prometheus' text form."""
    found = request.app.state.numbers
    found.definitions_age.set(max(0.0, parts.clock.monotonic_s() - parts.definitions.read_at_s))
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
