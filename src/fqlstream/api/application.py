"""The API as one ASGI application: our own routes, the wire formats beside them, and the edge around both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from starlette.types import Scope as AsgiScope

from fqlstream.api import (
    access,
    aporia,
    code_metrics,
    craft_ai,
    dead_letters,
    definitions,
    dioptra,
    events,
    expressions,
    health,
    operations,
    recorded,
    registry,
    values,
)
from fqlstream.api.auth import admit
from fqlstream.api.edge import Edge
from fqlstream.api.observed import Numbers
from fqlstream.api.problems import ApiError, problem_of, render_own
from fqlstream.api.services import Dependencies
from fqlstream.api.shapes import COMMON_REFUSALS, ProblemBody
from fqlstream.api.wires import Wire
from fqlstream.errors import FqlstreamError
from fqlstream.ops.access import Permission

PREFIX: Final = "/api/fqlstream/v1"
_ABOUT: Final = """
Windowed FQL metrics of machine-learning models, and metrics that pipelines and jobs record.

Our own routes live under `/api/fqlstream/v1`. Beside them are the routes that the Craft AI SDK and the Dioptra client call, and
Aporia's of code-based metrics, in their own forms. Every answer has the header `x-request-id`; a client may send one.
"""

#: Our own routes. Each module declares a router with paths below `PREFIX`. Those that programs call all day come first: routes are
#: looked through in this order, and each that does not match costs a request some microseconds.
OWN_ROUTERS: Final[tuple[APIRouter, ...]] = (
    recorded.router,
    values.router,
    registry.router,
    definitions.router,
    events.router,
    expressions.router,
    dead_letters.router,
    operations.router,
    code_metrics.router,
    access.router,
)
#: Other vendors' forms, which live below `/api/v1`.
WIRES: Final[tuple[Wire, ...]] = (craft_ai.WIRE, dioptra.WIRE, aporia.WIRE)
#: Paths that take whole files, and what their callers must be allowed: that is found out before any of a file is read.
UPLOADS: Final = {
    f"{PREFIX}/events/file": Permission.MANAGE,
    f"{PREFIX}/baselines/file": Permission.MANAGE,
    f"{PREFIX}/models/infer/file": Permission.READ,
    f"{PREFIX}/fql/eval": Permission.READ,
}


def create_app(dependencies: Dependencies, *, wires: Sequence[Wire] = WIRES) -> FastAPI:
    """Put the application together. It opens and closes nothing: whoever made the dependencies does."""
    app = FastAPI(
        title="fqlstream",
        version=version("fqlstream"),
        description=_ABOUT,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # the usual page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_name_of,
    )
    numbers = Numbers()
    app.state.dependencies = dependencies
    app.state.numbers = numbers
    app.include_router(health.router)
    for router in OWN_ROUTERS:
        app.include_router(router, prefix=PREFIX, responses=COMMON_REFUSALS)
    for wire in wires:
        app.include_router(wire.router)

    by_claim = sorted(wires, key=lambda wire: wire.takes_the_rest)

    def answer(scope: AsgiScope, error: Exception) -> ASGIApp:
        request = Request(scope)
        render = next((wire.render for wire in by_claim if wire.owns(scope)), render_own)
        problem = problem_of(error)
        told = render(problem, request, scope["state"]["request_id"])
        # in ASCII: what was given is told again, and half a surrogate pair has no UTF-8
        return Response(json.dumps(dict(told.body)), told.status, dict(problem.headers), told.media_type)

    async def handle(request: Request, error: Exception) -> Any:
        return answer(request.scope, error)

    async def admit_upload(scope: AsgiScope) -> None:
        if scope["method"] == "POST":  # no other is routed to what reads a body
            await admit(Request(scope), dependencies, UPLOADS[scope["path"]])

    for kind in (ApiError, FqlstreamError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)
    app.add_middleware(
        Edge,
        settings=dependencies.settings.api,
        numbers=numbers,
        answer=answer,
        uploads=UPLOADS.__contains__,
        admit=admit_upload,
    )
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]  # how FastAPI's own manual extends it
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """Describe the application, once, with the shape of refusals, which no route names as its answer."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        body = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        shapes = schema["components"]["schemas"]
        shapes[ProblemBody.__name__] = body
        # FastAPI's own form of wrong fields, which it promises of every route that does not say 422 itself: nobody answers so here
        for shape in ("HTTPValidationError", "ValidationError"):
            shapes.pop(shape, None)
        for operation in (each for item in schema["paths"].values() for each in item.values()):
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
        app.openapi_schema = schema
    return app.openapi_schema


def _name_of(route: APIRoute) -> str:
    """Name an operation for generated clients: its tag and function, which stay when paths change."""
    return f"{'_'.join(str(tag).replace(' ', '_') for tag in route.tags[:1])}_{route.name}"
