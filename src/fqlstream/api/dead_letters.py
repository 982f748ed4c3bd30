"""What was refused, and why; and sending it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import iterate_in_threadpool

from fqlstream.api.auth import allow
from fqlstream.api.problems import refuse
from fqlstream.api.services import Parts
from fqlstream.api.shapes import Body, FromQuery, ToQuery, begun, refusals, time_ms
from fqlstream.api.uploads import sent_files
from fqlstream.errors import UsageError
from fqlstream.ops import dead_letters, letter_files, replaying
from fqlstream.ops.access import Caller, Permission
from fqlstream.ops.dead_letters import CodeCount, Letter, LetterRow, Place, Selection

router = APIRouter(tags=["dead letters"], prefix="/dead-letters")
Reader = Annotated[Caller, allow(Permission.READ)]
Manager = Annotated[Caller, allow(Permission.MANAGE)]

CodesQuery = Annotated[
    list[str] | None, Query(alias="code", max_length=100, description="Only those refused for these reasons.")
]
TopicQuery = Annotated[str, Query(alias="topic", max_length=249, description="Only those that came from this topic.")]
Limit = Annotated[int, Query(ge=1, le=2**31 - 1, description="Letters of an answer; at most page_items_max.")]
_PLACE = "0@17, a letter's own place, or inference-events[2]@4711, its origin."
PlaceText = Annotated[str, Field(min_length=1, max_length=300, description=_PLACE)]


async def _selection(
    codes: CodesQuery = None, topic: TopicQuery = "", start: FromQuery = None, end: ToQuery = None
) -> Selection:
    return Selection(frozenset(codes or ()), topic, time_ms(start, "query.from"), time_ms(end, "query.to"))


Selected = Annotated[Selection, Depends(_selection)]


class WholeLetter(BaseModel):
    """A dead letter whole; bytes are `{"text": ...}` where they are UTF-8, else `{"base64": ...}`."""

    id: str
    letter: str
    code: str
    reason: str
    topic: str
    partition: int | None
    offset: int | None
    row: str
    seen_at: str
    record_at: int | None
    written_at: int
    replays: int
    key: dict[str, str] | None
    value: dict[str, str] | None
    headers: list[tuple[str, dict[str, str] | None]]
    remedy: str
    replayed_at: str | None


class Replay(Body):
    """Which letters are to be sent again, and how. All that match what is given; `all` where nothing is."""

    places: Annotated[list[PlaceText], Field(max_length=10_000, default_factory=list)]
    codes: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100, default_factory=list)]
    topic: Annotated[str, Field(max_length=249)] = ""
    from_: Annotated[str | None, Field(alias="from", max_length=64)] = None
    to: Annotated[str | None, Field(max_length=64)] = None
    all: Annotated[bool, Field(description="All of them, where nothing else is given.")] = False
    again: Annotated[bool, Field(description="Also what was sent again before.")] = False
    by_key: Annotated[bool, Field(description="To the partition that the key belongs to now.")] = False
    limit: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="The oldest so many.")] = None
    dry_run: Annotated[bool, Field(description="Say what would be sent, and send nothing.")] = False


class Report(BaseModel):
    """What became of the letters that were chosen."""

    counts: dict[str, int]
    letters: list[str]
    returned: int
    expiring: int
    labels: int
    dry_run: bool
    ok: Annotated[bool, Field(description="Every chosen letter could be sent.")]


@router.get("")
async def list_letters(parts: Parts, _: Reader, selection: Selected, limit: Limit = 100) -> list[LetterRow]:
    """List the newest dead letters with their origin; oldest first."""
    limit = min(limit, parts.settings.api.page_items_max)
    return list(await parts.thread(dead_letters.list_dead_letters, parts.settings.kafka, selection, limit=limit))


@router.get("/counts")
async def count_letters(parts: Parts, _: Reader, selection: Selected) -> list[CodeCount]:
    """Count dead letters by code and origin topic, with what to do about each."""
    return list(await parts.thread(dead_letters.count_dead_letters, parts.settings.kafka, selection))


@router.get("/letter", responses=refusals(404))
async def show_letter(
    parts: Parts, _: Reader, place: Annotated[str, Query(min_length=1, max_length=300, description=_PLACE)]
) -> WholeLetter:
    """Show one dead letter whole: why, where from, what to do, its headers and its bytes."""
    letter, mark = await parts.thread(dead_letters.find_letter, parts.settings.kafka, _place(place, "query.place"))
    document = letter_files.letter_document(letter)
    return WholeLetter.model_validate(
        {**document, "remedy": letter.remedy, "replayed_at": mark.replayed_at if mark else None}
    )


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
async def export_letters(parts: Parts, _: Reader, selection: Selected) -> StreamingResponse:
    """Give dead letters with their very bytes, a JSON object a line; `dead-letters/replay/file` reads it, also edited."""
    letters = replaying.letters_of(parts.settings.kafka, selection)
    lines = await parts.thread(begun, _lines(letters(), selection))
    return StreamingResponse(iterate_in_threadpool(lines), media_type="application/x-ndjson")


@router.post("/replay")
async def replay_letters(parts: Parts, _: Manager, body: Replay) -> Report:
    """Send refused records again to where they came from, each of them once. They keep key, value, headers, time and partition."""
    places = frozenset(_place(text, "body.places") for text in body.places)
    times = time_ms(body.from_, "body.from"), time_ms(body.to, "body.to")
    selection = Selection(frozenset(body.codes), body.topic, *times, places)
    if not selection and not body.all:
        raise refuse(
            422, "which letters?", hint="name places, codes, a topic or times; or say all", fields={"body": ["empty"]}
        )
    plan = replaying.ReplayPlan(selection, body.again, body.by_key, body.limit, None, parts.settings.stream.replays_max)
    source = replaying.letters_of(parts.settings.kafka, selection)
    run = replaying.plan_replay if body.dry_run else replaying.replay
    return _report(await parts.thread(run, parts.settings.kafka, source, plan))


@router.post(
    "/replay/file",
    openapi_extra={"requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def replay_file(
    parts: Parts,
    _: Manager,
    request: Request,
    *,
    again: Annotated[bool, Query(description="Also what was sent again before.")] = False,
    by_key: Annotated[bool, Query(description="To the partition that the key belongs to now.")] = False,
    dry_run: Annotated[bool, Query(description="Say what would be sent, and send nothing.")] = False,
) -> Report:
    """Send the letters of a file that `export` wrote, as they are there."""
    plan = replaying.ReplayPlan(Selection(), again, by_key, None, None, parts.settings.stream.replays_max)
    with sent_files() as folder:
        path = folder / "letters.jsonl"
        path.write_bytes(await request.body())
        run = replaying.plan_replay if dry_run else replaying.replay
        report = await parts.thread(run, parts.settings.kafka, lambda: letter_files.read_letters(path), plan)
    return _report(report)


def _report(report: replaying.ReplayReport) -> Report:
    return Report(
        counts=dict(report.counts),
        letters=list(report.letters),
        returned=report.returned,
        expiring=report.expiring,
        labels=report.labels,
        dry_run=report.dry_run,
        ok=not report.has_trouble,
    )


def _place(text: str, field: str) -> Place:
    try:
        return Place.parse(text)
    except UsageError as error:
        raise refuse(422, error.message, code=error.code, hint=error.hint, fields={field: [error.message]}) from None


def _lines(letters: Iterator[Letter], selection: Selection) -> Iterator[bytes]:
    for letter in letters:
        if selection.holds(letter):
            document: dict[str, Any] = letter_files.letter_document(letter)
            yield msgspec.json.encode(document) + b"\n"
