"""Shapes that several of our routes share: names, times, pages, refusals as OpenAPI describes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from fqlstream.api.problems import refuse
from fqlstream.api.services import Parts
from fqlstream.client.queries import unix_ms
from fqlstream.errors import UsageError

T = TypeVar("T")

#: ClickHouse's times and Kafka's timestamps end here, year 2299.
_TIME_MS_MAX: Final = 10_413_791_999_000

NameText = Annotated[str, Field(min_length=1, max_length=256)]
NameQuery = Annotated[str, Query(min_length=1, max_length=256)]
OptionalNameQuery = Annotated[str | None, Query(min_length=1, max_length=256)]
ModelQuery = Annotated[str, Query(alias="model", min_length=1, max_length=256, description="The model's name.")]
OptionalModelQuery = Annotated[
    str | None, Query(alias="model", min_length=1, max_length=256, description="Only those of this model.")
]
FromQuery = Annotated[
    str | None,
    Query(alias="from", max_length=64, description="At or after this time, ISO 8601; UTC where it does not say."),
]
ToQuery = Annotated[str | None, Query(alias="to", max_length=64, description="Before this time.")]
#: Numbers that JSON lacks, by their names.
Number = float | Literal["NaN", "Infinity", "-Infinity"]


class Body(BaseModel):
    """The body of a request of ours: a key that it does not have is a slip that should be told."""

    model_config = ConfigDict(extra="forbid")


class PageOf(BaseModel, Generic[T]):
    """Some items of a list, and how many the whole list has."""

    items: list[T]
    total_count: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]


class ProblemBody(BaseModel):
    """Why a request was refused (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: Annotated[str, Field(description="Stable: it never changes its meaning.")]
    hint: Annotated[str | None, Field(description="What to do about it.")]
    request_id: str
    fields: Annotated[dict[str, list[str]], Field(description="What is wrong with each field of the request.")]


_DESCRIPTIONS: Final[Mapping[int, str]] = {
    400: "The request cannot be read, or makes no sense here.",
    401: "No key, or a wrong one.",
    403: "The caller may not do this.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "Something stands in the way.",
    413: "The body is too large.",
    415: "The body is of another type than this route reads.",
    422: "A field of the request is wrong.",
    429: "Too many attempts; wait.",
    503: "Kafka, ClickHouse or a worker does not answer in time; the same request may succeed later.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for OpenAPI."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {"application/problem+json": {"schema": schema}}}
        for status in statuses
    }


#: What any of our routes may answer.
COMMON_REFUSALS: Final = refusals(400, 401, 403, 408, 413, 422, 503)


def time_ms(text: str | None, field: str) -> int | None:
    """Give a time in Unix ms. Raises ApiError 422 for what is none, or lies outside of the times that are stored."""
    if text is None:
        return None
    try:
        found = unix_ms(text)
    except (UsageError, ValueError, OverflowError):
        raise refuse(
            422, f"{field}: no time: write 2026-11-21T10:00:00Z", fields={field: ["no ISO 8601 time"]}
        ) from None
    if not 0 <= found <= _TIME_MS_MAX:
        raise refuse(422, f"{field}: a time of 1970 to 2299", fields={field: ["between 1970 and 2299"]})
    return found


def number(value: float) -> Number:
    """Give a number as JSON has it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@dataclass(frozen=True, slots=True)
class Page:
    """Which items of a list are asked for."""

    offset: int
    limit: int

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Cut it out of a whole list."""
        return items[self.offset : self.offset + self.limit]


def paged(limit_default: int) -> Any:
    """Ask a route's caller for a page; one without a limit has so many items. The dependency gives the Page."""

    async def page(
        parts: Parts,
        offset: Annotated[int, Query(ge=0, le=2**31 - 1, description="Items that are left out first.")] = 0,
        limit: Annotated[
            int, Query(ge=1, le=2**31 - 1, description="Items of an answer; at most page_items_max.")
        ] = limit_default,
    ) -> Page:
        return Page(offset, min(limit, parts.settings.api.page_items_max))

    return Depends(page)


#: How a route of short items asks for a page: `page: Paged`.
Paged = Annotated[Page, paged(1_000)]
#: The same of longer items.
PagedBy100 = Annotated[Page, paged(100)]


def begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Take the first piece of a long answer, so that what goes wrong at its beginning still becomes a refusal. Blocks."""
    first = next(pieces, b"")
    return chain((first,), pieces)


def aware(moment: datetime) -> str:
    """Write a time as answers have it: RFC 3339, milliseconds, UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
