"""Files of events: sent to their topic, and models inferred from them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Response, UploadFile
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.definitions import require_model, version_of
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import refusals
from fqlstream.api.uploads import sent_data
from fqlstream.client import Producer
from fqlstream.events.definitions import Task
from fqlstream.ops import publishing
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.inference import infer_model, inferred_yaml

router = APIRouter(tags=["events"])
Reader = Annotated[Caller, allow(Permission.READ)]
Manager = Annotated[Caller, allow(Permission.MANAGE)]
NameForm = Annotated[str, Form(min_length=1, max_length=256)]
OptionalNameForm = Annotated[str | None, Form(min_length=1, max_length=256)]


class Published(BaseModel):
    """What was sent; Kafka has all of it."""

    rows: int
    form: publishing.Form
    notes: Annotated[list[str], Field(description="What was left out or filled in.")]


@router.post("/events/file", responses=refusals(404))
async def publish_file(
    parts: Parts,
    _: Manager,
    model: NameForm,
    file: UploadFile,
    version: OptionalNameForm = None,
    form: Annotated[publishing.Form | None, Form(description="JSON or Arrow; what suits the file otherwise.")] = None,
    event_id_column: Annotated[NameForm, Form(description="Column of ids, in flat rows.")] = "event_id",
    event_at_column: Annotated[
        NameForm, Form(description="Column of times, in flat rows; without one events happen now.")
    ] = "event_at",
    *,
    labels: Annotated[bool, Form(description="The file holds labels.")] = False,
    finish: Annotated[bool, Form(description="Promise that nothing older comes: windows may become final.")] = False,
) -> Published:
    """Send a file of events or labels (.jsonl, .csv or .parquet), as `fqlstream publish` does. Returns once Kafka has all of it."""
    entry = await require_model(parts, model)
    async with sent_data(parts, file) as path:
        plan = publishing.PublishPlan(
            path, version_of(entry, version), version, labels, form, event_id_column, event_at_column
        )
        report = await parts.upload_thread(_publish, parts, plan, finish=finish)
    return Published(rows=report.rows, form=report.form, notes=list(report.notes))


def _publish(parts: Dependencies, plan: publishing.PublishPlan, *, finish: bool) -> publishing.PublishReport:
    with Producer(settings=parts.settings) as producer:
        report = publishing.publish(producer, plan)
        if finish:
            producer.finish(plan.model.name)
        producer.flush()
    return report


@router.post(
    "/models/infer/file",
    response_class=Response,
    responses={200: {"content": {"application/yaml": {"schema": {"type": "string"}}}}},
)
async def infer_from_file(
    parts: Parts,
    _: Reader,
    file: UploadFile,
    name: Annotated[OptionalNameForm, Form(description="Name of the model; that of the file otherwise.")] = None,
    task: Annotated[Task | None, Form(description="Its task; guessed otherwise.")] = None,
) -> Response:
    """Write a model definition that the rows of a file fit; what is a guess says so. `definitions/yaml` takes the answer."""
    bytes_max = parts.settings.api.upload_table_bytes_max
    async with sent_data(parts, file, is_whole=False) as path:
        text = await parts.upload_thread(
            lambda: inferred_yaml(infer_model(path, name, task, bytes_max=bytes_max), path)
        )
    return Response(text, media_type="application/yaml")
