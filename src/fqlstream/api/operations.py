"""What operators do: repairs, deletions of events, topics, tables, SQL."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from confluent_kafka.admin import AdminClient
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import iterate_in_threadpool

from fqlstream.api.auth import allow
from fqlstream.api.definitions import require_model
from fqlstream.api.problems import refuse
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import Body, ModelQuery, NameText, begun, refusals, time_ms
from fqlstream.errors import StoreError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.ops import deleting, repairing, topics
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import KafkaSettings
from fqlstream.store import deletions, migrations, repairs

router = APIRouter(tags=["operations"])
Reader = Annotated[Caller, allow(Permission.READ)]
Manager = Annotated[Caller, allow(Permission.MANAGE)]

#: Formats of ClickHouse whose answers are text.
SqlFormat = Literal[
    "JSON", "JSONEachRow", "JSONCompact", "CSV", "CSVWithNames", "TabSeparated", "TabSeparatedWithNames"
]
_REPARTITION: Final = "Let topics of events grow too: labels then miss events that went to another partition before."
_MEDIA_TYPES = {"JSON": "application/json", "JSONCompact": "application/json", "JSONEachRow": "application/x-ndjson"}


class TimeRange(Body):
    """A model, and a range of event time; without bounds all of it."""

    model: NameText
    from_: Annotated[str | None, Field(alias="from", max_length=64, description="At or after this time.")] = None
    to: Annotated[str | None, Field(max_length=64, description="Before this time.")] = None


class Asked(BaseModel):
    """What owners of partitions were asked to do. They carry it out in the background; GET says how far they are."""

    model: str
    panes: int
    requested_at_ms: int


class Left(BaseModel):
    """What is still to be done."""

    model: str
    panes: int


class EventDeletion(Body):
    """Which events are to be deleted: those of these ids, or all of a range of event time."""

    model: NameText
    ids: Annotated[list[Annotated[str, Field(min_length=1, max_length=65_536)]] | None, Field(min_length=1)] = None
    from_: Annotated[str | None, Field(alias="from", max_length=64)] = None
    to: Annotated[str | None, Field(max_length=64)] = None


class DeletionAsked(BaseModel):
    """What was asked for. Records of these ids that come later are dropped. The rest says what deleting cannot reach, and until when."""

    model: str
    ids: int
    events: int
    labels: int
    partitions: int
    source_until: str | None
    dead_letters: int
    dead_letters_until: str | None
    files_until: str | None


class TopicDifference(BaseModel):
    """One difference between a topic and its declaration."""

    model_config = ConfigDict(from_attributes=True, coerce_numbers_to_str=True)

    topic: str
    setting: str
    declared: str
    actual: Annotated[str | None, Field(description="null: the topic does not exist.")]
    action: str
    note: Annotated[str, Field(description="What it means.")]


class TopicPlan(BaseModel):
    """What differs from the declarations, and what is to be done about it."""

    brokers: int
    topics: list[str]
    differences: list[TopicDifference]
    applied: Annotated[bool, Field(description="It was done.")]
    ok: Annotated[bool, Field(description="Nothing is left to a person.")]


class TopicApplication(Body):
    """How topics are to be made as they are declared."""

    repartition: Annotated[bool, Field(description=_REPARTITION)] = False


class Migrated(BaseModel):
    """Which schema files were applied."""

    applied: list[str]


class SqlQuestion(Body):
    """A statement for ClickHouse."""

    query: Annotated[str, Field(min_length=1, max_length=2**20)]
    format: SqlFormat = "JSON"


@router.post("/repairs", responses=refusals(404))
async def ask_for_repair(parts: Parts, _: Manager, body: TimeRange) -> Asked:
    """Have the states of a model rebuilt from its stored events, and publish the values that change. Returns once it is asked for."""
    entry = await require_model(parts, body.model)
    start_ms = time_ms(body.from_, "body.from") or 0
    end_ms = time_ms(body.to, "body.to")
    asked = await parts.thread(
        repairing.ask,
        parts.store,
        entry,
        start_ms,
        repairing.END_OF_TIME_MS if end_ms is None else end_ms,
        "repair by the API",
    )
    return Asked(model=asked.model, panes=asked.panes, requested_at_ms=asked.requested_at_ms)


@router.get("/repairs", responses=refusals(404))
async def repairs_left(
    parts: Parts,
    _: Reader,
    model: ModelQuery,
    requested_at_ms: Annotated[int, Query(ge=0, le=repairing.END_OF_TIME_MS, description="What the asking answered.")],
) -> Left:
    """Say how many panes of an asking wait to be rebuilt."""
    await require_model(parts, model)
    return Left(model=model, panes=await parts.thread(repairs.count_waiting, parts.store, model, requested_at_ms))


@router.post("/deletions", responses=refusals(404))
async def delete_events(parts: Parts, _: Manager, body: EventDeletion) -> DeletionAsked:
    """Delete events and their labels for good, and publish the values that change. Returns once owners are asked; it cannot be undone."""
    start_ms, end_ms = time_ms(body.from_, "body.from"), time_ms(body.to, "body.to")
    if (body.ids is None) == (start_ms is None and end_ms is None):
        raise refuse(422, "which events? give ids, or a range of event time", fields={"body": ["ids, or from and to"]})
    entry = await require_model(parts, body.model)
    found = await parts.thread(_delete, parts, entry, body, start_ms, end_ms)
    return DeletionAsked.model_validate(found)


def _delete(
    parts: Dependencies, entry: ModelEntry, body: EventDeletion, start_ms: int | None, end_ms: int | None
) -> dict[str, Any]:
    settings, store = parts.settings, parts.store
    if body.ids is not None:
        chosen = iter(dict.fromkeys(body.ids))
    else:
        upto_ms = repairing.END_OF_TIME_MS if end_ms is None else end_ms
        chosen = iter(list(deletions.ids_of_range(store, entry.name, start_ms or 0, upto_ms)))
    deletion = deleting.ask(settings, store, entry, chosen)
    rest = deleting.elsewhere(settings.kafka, store, entry.name, deletion)
    return {
        "model": entry.name,
        "ids": deletion.ids,
        "events": deletion.matches.events,
        "labels": deletion.matches.labels,
        "partitions": len(deletion.requests),
        "source_until": rest.source_until,
        "dead_letters": rest.dead_letters,
        "dead_letters_until": rest.dead_letters_until,
        "files_until": rest.files_until,
    }


@router.get("/topics")
async def check_topics(parts: Parts, _: Reader) -> list[TopicDifference]:
    """Compare topics with their declarations; an empty list: they are as declared."""
    report = await parts.thread(_plan_topics, parts.settings.kafka, repartition=False)
    return [TopicDifference.model_validate(each) for each in report.differences]


@router.get("/topics/plan")
async def plan_topics(
    parts: Parts, _: Reader, *, repartition: Annotated[bool, Query(description=_REPARTITION)] = False
) -> TopicPlan:
    """Say what applying the declarations of topics would do."""
    return _told(await parts.thread(_plan_topics, parts.settings.kafka, repartition=repartition))


@router.post("/topics")
async def apply_topics(parts: Parts, _: Manager, body: TopicApplication) -> TopicPlan:
    """Create topics that are missing, set what differs, grow what may grow; what is refused is left to a person."""
    return _told(await parts.thread(_apply_topics, parts.settings.kafka, repartition=body.repartition))


def _plan_topics(settings: KafkaSettings, *, repartition: bool) -> topics.TopicReport:
    # made and dropped in the thread that waits: dropping one waits for its own threads
    admin = AdminClient(librdkafka_options(settings))
    return topics.plan(admin, topics.load_declarations(), repartition=repartition)


def _apply_topics(settings: KafkaSettings, *, repartition: bool) -> topics.TopicReport:
    admin = AdminClient(librdkafka_options(settings))
    return topics.apply(admin, topics.plan(admin, topics.load_declarations(), repartition=repartition))


def _told(report: topics.TopicReport) -> TopicPlan:
    return TopicPlan(
        brokers=report.brokers,
        topics=list(report.topics),
        differences=[TopicDifference.model_validate(each) for each in report.differences],
        applied=report.applied,
        ok=not report.refused,
    )


@router.get("/schema")
async def pending_schema(parts: Parts, _: Reader) -> list[str]:
    """Name the schema files that were not applied to ClickHouse."""
    return await parts.thread(migrations.pending, parts.store)


@router.post("/schema")
async def apply_schema(parts: Parts, _: Manager) -> Migrated:
    """Apply the schema files that were not applied to ClickHouse. Doing it again changes nothing."""
    return Migrated(applied=await parts.thread(migrations.apply, parts.store))


@router.post(
    "/sql",
    response_class=StreamingResponse,
    responses={200: {"description": "The answer, in the format that was asked for.", "content": {"*/*": {}}}},
)
async def ask_clickhouse(parts: Parts, _: Manager, question: SqlQuestion) -> StreamingResponse:
    """Ask ClickHouse, as `fqlstream sql` does: whatever its user may. It takes an administrator."""
    try:
        pieces = await parts.thread(begun, parts.store.stream_bytes(question.query, question.format))
    except StoreError as error:
        if error.retryable:
            raise
        raise refuse(400, error.message, code=error.code, hint=error.hint) from None
    media_type = _MEDIA_TYPES.get(question.format, "text/plain; charset=utf-8")
    return StreamingResponse(iterate_in_threadpool(pieces), media_type=media_type)
