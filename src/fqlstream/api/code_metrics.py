"""What became of code metrics: runs and values. Defining and trying one is in Aporia's form (`fqlstream.api.aporia`) and in `definitions`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.services import Parts
from fqlstream.api.shapes import ModelQuery, Number, OptionalModelQuery, aware, number, refusals
from fqlstream.errors import DefinitionError
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.code_metric_status import statuses
from fqlstream.store import code_metric_rows as rows

router = APIRouter(tags=["code metrics"])
Reader = Annotated[Caller, allow(Permission.READ)]


class CodeMetricStatus(BaseModel):
    """A code metric with its last run; what is null has not happened yet."""

    model: str
    name: str
    id: str
    state: Literal["running", "success", "failed", "given_up"] | None
    period_end: str | None
    value: Annotated[Number | None, Field(description="Of all rows of all versions, of that period.")]
    rows: int | None
    seconds: float | None
    layers: Annotated[list[str], Field(description="Layers of the sandbox that were active.")]
    code: Annotated[str | None, Field(description="Of the error: it never changes its meaning.")]
    error: str | None
    hint: str | None


class CodeMetricValue(BaseModel):
    """A value of the newest period."""

    version: Annotated[str, Field(description="Of the model; `all` is all of them together.")]
    segment: Annotated[str, Field(description="'' is all rows.")]
    period_end: str
    value: Annotated[Number | None, Field(description="Null where there is no row or the run failed.")]
    rows: int
    data_from: str
    data_to: str
    computed_at: str


@router.get("/code-metrics")
async def list_code_metrics(parts: Parts, _: Reader, model: OptionalModelQuery = None) -> list[CodeMetricStatus]:
    """Give code metrics with their last runs, by model and name."""
    catalogue = await parts.definitions.refresh()
    metrics = [
        catalogue.models[owner].code_metrics[name]
        for owner in sorted(catalogue.models)
        for name in sorted(catalogue.models[owner].code_metrics)
        if model in (None, owner)
    ]
    found = await parts.thread(statuses, parts.store, metrics)
    return [
        CodeMetricStatus.model_validate(
            {
                **{name: getattr(each, name) for name in CodeMetricStatus.model_fields},
                "period_end": _time(each.period_end),
                "value": _number(each.value),
            }
        )
        for each in found
    ]


@router.get("/code-metrics/values", responses=refusals(404))
async def latest_code_metric_values(
    parts: Parts, _: Reader, model: ModelQuery, name: Annotated[str, Query(min_length=1, max_length=256)]
) -> list[CodeMetricValue]:
    """Give the values of a code metric's newest period, by version and segment. SQL has all periods: code_metric_values."""
    entry = (await parts.definitions.refresh()).models.get(model)
    metric = entry.code_metrics.get(name) if entry is not None else None
    if metric is None:
        raise DefinitionError("DEF030", f"there is no code_metric {name!r} of model {model!r}", "GET code-metrics")
    found = await parts.thread(rows.latest_values, parts.store, metric.id or "")
    times = ("period_end", "data_from", "data_to", "computed_at")
    return [
        CodeMetricValue(**{**row, **{at: _time(row[at]) for at in times}, "value": _number(row["value"])})
        for row in found
    ]


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else aware(moment)


def _number(value: float | None) -> Number | None:
    return None if value is None else number(value)
