"""The forms of request and answer that the API speaks side by side: its own, and those of other vendors' clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.types import Scope as AsgiScope

from fqlstream.api.problems import Render


@dataclass(frozen=True, slots=True)
class Wire:
    """One form: its routes, how it writes refusals, and which requests are its own, also where no route matches them.

    `owns` looks at an ASGI scope: path, method and headers (lower-case names, bytes). One that `takes_the_rest` owns only what no
    other form does.
    """

    name: str
    router: APIRouter
    render: Render
    owns: Callable[[AsgiScope], bool]
    takes_the_rest: bool = False
