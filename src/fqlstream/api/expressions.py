"""The language: checking, explaining and evaluating expressions; its functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.definitions import require_fql, require_model, version_of
from fqlstream.api.problems import refuse
from fqlstream.api.services import Parts
from fqlstream.api.shapes import Body, NameText, refusals
from fqlstream.api.uploads import sent_data
from fqlstream.errors import DefinitionError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import MetricDefinition
from fqlstream.fql.check import check
from fqlstream.fql.evaluate import Evaluation, Question, evaluate_table, window_of
from fqlstream.fql.explain import explain
from fqlstream.fql.planner import plan_model
from fqlstream.functions.index import FUNCTION_BY_NAME, FUNCTIONS, OPERATOR_BY_NAME
from fqlstream.functions.operators import OPERATORS
from fqlstream.functions.reference import spec_as_dict
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.data_files import read_data
from fqlstream.settings import Settings
from fqlstream.store.naming import event_view, identifier
from fqlstream.store.sql_evaluation import evaluate_in_clickhouse

router = APIRouter(tags=["fql"], prefix="/fql")
Reader = Annotated[Caller, allow(Permission.READ)]
Text = Annotated[str, Field(min_length=1, max_length=2**20)]


class Expression(Body):
    """An expression, and the model that it is about."""

    model: NameText
    expression: Annotated[str, Field(max_length=2**20)]
    version: Annotated[NameText | None, Field(description="A version of the model; the newest otherwise.")] = None
    kind: Annotated[Literal["metric", "segment", "expression"], Field(description="What it is to be used for.")] = (
        "expression"
    )


class Finding(BaseModel):
    """One finding; `start` and `end` are character offsets, half-open."""

    code: str
    message: str
    start: int
    end: int
    hint: str | None


class Checked(BaseModel):
    """What is known about an expression."""

    ok: bool
    type: Literal["Number", "Boolean", "String"] | None = None
    level: Literal["const", "row", "agg"] | None = None
    errors: list[Finding]
    warnings: list[Finding]


class Explained(Body):
    """What is to be explained: a metric, or all metrics of the model."""

    model: NameText
    expression: Annotated[Text | None, Field(description="All metrics of the model where it is left out.")] = None
    version: NameText | None = None


class Answer(BaseModel):
    """A value over the rows of a file; `window_start` and `window_end` where windows were asked for."""

    value: float | None
    rows: int
    exact: bool
    error_bound: float | None
    window_start: str | None = None
    window_end: str | None = None


class Answers(BaseModel):
    """Values over the rows of a file, one for each window, and what should be known about the file."""

    values: list[Answer]
    notes: list[str]


@router.post("/check", responses=refusals(404))
async def check_expression(parts: Parts, _: Reader, asked: Expression) -> Checked:
    """Check an expression against a model. The answer is 200 also where it is refused: `ok` says."""
    entry = await require_model(parts, asked.model)
    result = await parts.thread(
        check,
        asked.expression,
        version_of(entry, asked.version),
        asked.kind,
        baselines=entry.baselines,
        settings=parts.settings.fql,
    )
    return Checked.model_validate(result.as_dict())


@router.post("/explain", responses=refusals(404))
async def explain_metrics(parts: Parts, _: Reader, asked: Explained) -> dict[str, Any]:
    """Show how metrics are computed: what is shared, what a state costs, what is exact, the SQL."""
    entry = await require_model(parts, asked.model)
    return await parts.thread(_explained, entry, asked, parts.settings)


def _explained(entry: ModelEntry, asked: Explained, settings: Settings) -> dict[str, Any]:
    model = version_of(entry, asked.version)
    metrics: tuple[MetricDefinition, ...] = tuple(entry.metrics.values())
    if asked.expression is not None:
        metrics = (MetricDefinition(model=entry.name, name="metric", definition=asked.expression),)
    if not metrics:
        raise DefinitionError("DEF042", f"model {entry.name!r} defines no metric to explain", "give an expression")
    plan = plan_model(
        model,
        metrics,
        tuple(entry.segments.values()),
        baselines=entry.baselines,
        streamed=True,
        settings=settings.fql,
    )
    return explain(plan, settings.fql, source=identifier(event_view(entry.name))).as_dict()


@router.get("/functions")
async def list_functions(_: Reader) -> list[dict[str, Any]]:
    """List all functions and operators."""
    return [spec_as_dict(spec) for spec in (*OPERATORS, *FUNCTIONS)]


@router.get("/function", responses=refusals(404))
async def show_function(_: Reader, name: Annotated[str, Query(min_length=1, max_length=100)]) -> dict[str, Any]:
    """Show one function or operator."""
    spec = FUNCTION_BY_NAME.get(name) or OPERATOR_BY_NAME.get(name)
    if spec is None:
        raise refuse(404, f"there is no function {name!r}")
    return spec_as_dict(spec)


@router.post("/eval", responses=refusals(404))
async def evaluate(
    parts: Parts,
    _: Reader,
    model: Annotated[str, Form(min_length=1, max_length=256)],
    expression: Annotated[str, Form(min_length=1, max_length=2**20, description="A metric.")],
    file: UploadFile,
    segment: Annotated[str | None, Form(min_length=1, max_length=2**20)] = None,
    version: Annotated[str | None, Form(min_length=1, max_length=256)] = None,
    window: Annotated[str | None, Form(min_length=1, max_length=32, description="Size of windows, such as 1h.")] = None,
    every: Annotated[
        str | None, Form(min_length=1, max_length=32, description="Let the window hop, such as 5m.")
    ] = None,
    event_at: Annotated[
        str, Form(min_length=1, max_length=256, description="Column of times, in flat rows.")
    ] = "event_at",
    engine: Annotated[Literal["arrow", "clickhouse"], Form()] = "arrow",
) -> Answers:
    """Compute a metric over the rows of a file (.jsonl, .csv or .parquet), as streaming would."""
    entry = await require_model(parts, model)
    if every is not None and window is None:
        raise refuse(422, "every: a window is needed to let it hop", fields={"body.every": ["needs body.window"]})
    reading = version_of(entry, version)
    size = None if window is None else window_of(window if every is None else {"size": window, "every": every})
    await parts.thread(require_fql, entry, reading, expression, segment, parts.settings.fql)
    async with sent_data(parts, file) as path:
        data = await parts.upload_thread(read_data, path, reading, event_at=event_at)
    periods = {item.name: item for item in entry.baselines.values() if item.file is None}
    question = Question(expression, segment, size, data.event_at_ms, {}, periods)
    compute = evaluate_in_clickhouse if engine == "clickhouse" else evaluate_table
    found: list[Evaluation] = await parts.upload_thread(compute, data.table, reading, question, parts.settings.fql)
    return Answers(values=[Answer.model_validate(value) for value in found], notes=list(data.notes))
