"""Published values, and any FQL over stored events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.definitions import require_fql, require_model, version_of
from fqlstream.api.problems import refuse
from fqlstream.api.services import Parts
from fqlstream.api.shapes import (
    Body,
    FromQuery,
    ModelQuery,
    NameQuery,
    NameText,
    OptionalModelQuery,
    OptionalNameQuery,
    Paged,
    PageOf,
    refusals,
    time_ms,
)
from fqlstream.events.durations import parse_duration_ms
from fqlstream.ops.access import Caller, Permission
from fqlstream.store import published, snapshots

router = APIRouter(tags=["values"])
Reader = Annotated[Caller, allow(Permission.READ)]

_WINDOW_S_MAX = 2**32 - 1


class Value(BaseModel):
    """One value of one window."""

    model: str
    version: Annotated[str, Field(description="The model's version, or `all`.")]
    metric: str
    segment: Annotated[str, Field(description="'' is all rows.")]
    window_start: datetime
    window_end: Annotated[datetime, Field(description="The first moment that is no longer in the window.")]
    window_s: int
    value: float | None
    rows: int
    labelled_rows: int
    exact: bool
    error_bound: Annotated[
        float | None,
        Field(description="Of a quantile a normalised rank error at 99 % confidence, else an absolute one."),
    ]
    status: Literal["early", "final", "revised"]
    value_version: int
    definition_revision: int
    updated_at: datetime


class SnapshotQuestion(Body):
    """An expression over stored events."""

    model: NameText
    expression: Annotated[str, Field(min_length=1, description="A metric in FQL.")]
    segment: Annotated[str | None, Field(min_length=1, description="Only rows where this is true, in FQL.")] = None
    version: Annotated[
        NameText | None, Field(description="A version of the model; all of them together otherwise.")
    ] = None
    from_: Annotated[str | None, Field(alias="from", max_length=64, description="Events at or after this time.")] = None
    to: Annotated[str | None, Field(max_length=64, description="Events before this time.")] = None


class SnapshotAnswer(BaseModel):
    """The value of an expression."""

    value: float | None
    rows: int
    exact: bool
    error_bound: float | None


@router.get("/values")
async def read_values(
    parts: Parts,
    _: Reader,
    model: ModelQuery,
    metric: NameQuery,
    page: Paged,
    segment: Annotated[str, Query(max_length=256, description="'' is all rows.")] = "",
    window: Annotated[str, Query(max_length=32, description="Size of the windows, such as 1h or 7d.")] = "1h",
    version: Annotated[str, Query(min_length=1, max_length=256)] = "all",
    start: FromQuery = None,
    end: Annotated[
        str | None, Query(alias="to", max_length=64, description="Windows that begin before this time.")
    ] = None,
) -> PageOf[Value]:
    """Give the newest value of every window, oldest first."""
    asked = published.Series(
        model, metric, segment, _window_s(window), version, time_ms(start, "query.from"), time_ms(end, "query.to")
    )
    rows, total = await parts.shared(published.read_series, parts.store, asked, offset=page.offset, limit=page.limit)
    return PageOf(items=[Value.model_validate(row) for row in rows], total_count=total, offset=page.offset)


@router.get("/values/latest")
async def read_latest_values(
    parts: Parts,
    _: Reader,
    page: Paged,
    model: OptionalModelQuery = None,
    metric: OptionalNameQuery = None,
) -> PageOf[Value]:
    """Give the newest value of every metric, segment, version and window size."""
    rows, total = await parts.shared(
        published.read_latest, parts.store, model, metric, offset=page.offset, limit=page.limit
    )
    return PageOf(items=[Value.model_validate(row) for row in rows], total_count=total, offset=page.offset)


@router.post("/snapshots", responses=refusals(404))
async def take_snapshot(parts: Parts, _: Reader, question: SnapshotQuestion) -> SnapshotAnswer:
    """Compute a metric over stored events, whatever is published: exactly, from what is stored by now."""
    entry = await require_model(parts, question.model)
    within = snapshots.Range(time_ms(question.from_, "body.from"), time_ms(question.to, "body.to"))
    model = version_of(entry, question.version)
    await parts.thread(require_fql, entry, model, question.expression, question.segment, parts.settings.fql)
    found = await parts.thread(
        snapshots.snapshot,
        parts.store,
        entry,
        question.expression,
        segment=question.segment,
        within=within,
        version=question.version,
        settings=parts.settings.fql,
    )
    return SnapshotAnswer.model_validate(found)


def _window_s(text: str) -> int:
    try:
        ms = parse_duration_ms(text)
    except ValueError as error:
        raise refuse(422, f"query.window: {error}", fields={"query.window": [str(error)]}) from None
    if not 1_000 <= ms <= _WINDOW_S_MAX * 1_000:
        raise refuse(422, "query.window: one second or longer", fields={"query.window": ["one second or longer"]})
    return ms // 1_000
