"""What is computed: models, metrics, segments, baselines, code metrics; applied together, shown, deleted."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, UploadFile
from pydantic import BaseModel, Field

from fqlstream.api.auth import allow
from fqlstream.api.problems import refuse
from fqlstream.api.services import Dependencies, Parts
from fqlstream.api.shapes import (
    Body,
    ModelQuery,
    NameQuery,
    OptionalModelQuery,
    OptionalNameQuery,
    Paged,
    PageOf,
    refusals,
)
from fqlstream.api.uploads import sent_data
from fqlstream.errors import DefinitionError
from fqlstream.events.catalogue import Catalogue, ModelEntry
from fqlstream.events.definitions import (
    BaselineDefinition,
    Computed,
    ModelDefinition,
)
from fqlstream.events.documents import COMPUTED_KINDS, Document, dump_definitions, read_documents
from fqlstream.fql.check import check
from fqlstream.ops import definition_effects
from fqlstream.ops.access import Caller, Permission
from fqlstream.settings import FqlSettings

router = APIRouter(tags=["definitions"])
Reader = Annotated[Caller, allow(Permission.READ)]
Manager = Annotated[Caller, allow(Permission.MANAGE)]

Given = Annotated[Computed, Field(discriminator="kind")]
Kind = Literal["model", "metric", "segment", "baseline", "code_metric"]
_SOURCE: Final = "request"
_BACKFILL = Query(description="Give stored history values of what changed; the answer says how much was asked for.")


class Definitions(Body):
    """Definitions that are applied together."""

    definitions: Annotated[list[Given], Field(min_length=1, max_length=10_000)]


class Result(BaseModel):
    """What became of one definition."""

    kind: str
    name: str
    id: Annotated[str | int, Field(description="Its key; of an experiment or a job its number.")]
    result: Literal["created", "changed", "unchanged", "deleted"]


class Applied(BaseModel):
    """What became of definitions, in their order."""

    results: list[Result]
    warnings: list[str]
    panes_asked: Annotated[int, Field(description="Stored panes that workers were asked to compute anew.")]


class Standing(BaseModel):
    """A definition as it stands."""

    kind: Kind
    model: str
    name: str
    version: Annotated[str | None, Field(description="Of a model.")]
    revision: Annotated[int | None, Field(description="Of a metric: values carry it.")]
    definition: Annotated[dict[str, Any], Field(description="What `apply` takes.")]


@router.get("/definitions")
async def list_definitions(
    parts: Parts,
    _: Reader,
    page: Paged,
    kind: Kind | None = None,
    model: OptionalModelQuery = None,
    name: OptionalNameQuery = None,
) -> PageOf[Standing]:
    """Show what is defined, by model, kind and name."""
    found = [
        row
        for row in _standing(await parts.definitions.refresh(), model)
        if (kind is None or row[0] == kind) and (name is None or row[2].name == name)
    ]
    return PageOf(items=[_shown(*row) for row in page.of(found)], total_count=len(found), offset=page.offset)


@router.post("/definitions", responses=refusals(409))
async def apply_definitions(
    parts: Parts, _: Manager, body: Definitions, *, backfill: Annotated[bool, _BACKFILL] = False
) -> Applied:
    """Apply definitions. They are checked together first: if anything is wrong, nothing is published. Returns once they are stored."""
    documents = read_documents(dump_definitions(body.definitions), _SOURCE)
    return await _apply(parts, documents, backfill=backfill)


@router.post(
    "/definitions/yaml",
    responses=refusals(409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/yaml": {"schema": {"type": "string", "description": "What `fqlstream apply` reads."}}
            },
        }
    },
)
async def apply_yaml(
    parts: Parts, _: Manager, request: Request, *, backfill: Annotated[bool, _BACKFILL] = False
) -> Applied:
    """Apply a file of definitions, as `fqlstream apply` does."""
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise refuse(400, f"the body is not UTF-8: byte {error.start}") from None
    documents = await parts.thread(read_documents, text, _SOURCE)
    if not documents:
        raise refuse(400, "the body holds no definition", hint="a definition starts with `kind:`")
    return await _apply(parts, documents, backfill=backfill)


@router.delete("/definitions", responses=refusals(404, 409))
async def delete_definition(
    parts: Parts,
    _: Manager,
    kind: Kind,
    name: NameQuery,
    model: OptionalModelQuery = None,
    version: Annotated[
        str | None, Query(min_length=1, max_length=256, description="Of a model: this one only.")
    ] = None,
) -> list[Result]:
    """Take a definition back; a model's last version takes all that belongs to it with it. Stored values stay."""
    deleted = await parts.definitions.change(lambda writer: writer.delete(kind, name, model=model, version=version))
    await parts.thread(definition_effects.show_in_store, parts.store, deleted.catalogue, deleted.folded)
    return [Result(kind=kind, name=name, id=key, result="deleted") for key in deleted.keys]


@router.post("/baselines/file", responses=refusals(404, 409))
async def apply_baseline_file(
    parts: Parts,
    _: Manager,
    model: ModelQuery,
    name: NameQuery,
    file: UploadFile,
) -> Applied:
    """Apply a static baseline whose rows are in this file (.jsonl, .csv or .parquet): they are counted, and not kept."""
    await require_model(parts, model)
    async with sent_data(parts, file) as path:
        definition = BaselineDefinition(model=model, name=name, type="static", file=path.name)
        documents = read_documents(dump_definitions([definition]), str(path.with_name(_SOURCE)))
        return await _apply(parts, documents, backfill=False, with_files=True)


async def require_model(parts: Dependencies, name: str) -> ModelEntry:
    """Give a model. Raises DefinitionError DEF030 where there is none of that name, also after another look."""
    entry = parts.definitions.catalogue.models.get(name)
    if entry is None or entry.newest is None:
        entry = (await parts.definitions.refresh()).models.get(name)
    if entry is None or entry.newest is None:
        raise DefinitionError(
            "DEF030", f"there is no model {name!r}", "see what is defined: GET definitions?kind=model"
        )
    return entry


def version_of(entry: ModelEntry, version: str | None) -> ModelDefinition:
    """Give a version of a model, the newest where none is named. Raises ApiError 404 where there is none of that name."""
    found = entry.newest if version is None else entry.versions.get(version)
    if found is None:
        known = ", ".join(entry.versions)
        raise refuse(404, f"model {entry.name} has no version {version!r}", hint=f"its versions: {known}")
    return found


def require_fql(
    entry: ModelEntry, model: ModelDefinition, expression: str, segment: str | None, settings: FqlSettings
) -> None:
    """Check a metric and a segment. Raises FqlError with every finding."""
    check(expression, model, "metric", baselines=entry.baselines, settings=settings).require()
    if segment is not None:
        check(segment, model, "segment", baselines=entry.baselines, settings=settings).require()


async def _apply(
    parts: Dependencies, documents: tuple[Document, ...], *, backfill: bool, with_files: bool = False
) -> Applied:
    kinds = {document.value.get("kind") for document in documents}
    if not with_files and any(document.value.get("file") is not None for document in documents):
        raise refuse(
            422,
            "a file is read where `fqlstream apply` runs, and never by the server",
            code="API040",
            hint="send a baseline's file itself: POST baselines/file; of a code metric its `code`",
        )
    applied = await parts.definitions.change(lambda writer: writer.apply(documents))
    asked, notes = 0, applied.warnings
    if kinds & set(COMPUTED_KINDS):
        effects = await parts.thread(
            definition_effects.carry_out, parts.store, applied, "apply by the API", backfill=backfill
        )
        asked, notes = sum(each.panes for each in effects.asked), (*notes, *effects.notes)
    results = [Result(kind=r.kind, name=r.name, id=r.id, result=verdict_of(r.result)) for r in applied.results]
    return Applied(results=results, warnings=list(notes), panes_asked=asked)


def verdict_of(text: str) -> Literal["created", "changed", "unchanged", "deleted"]:
    """Give what became of a definition as an answer has it."""
    match text:
        case "created" | "changed" | "unchanged" | "deleted":
            return text
        case _:
            message = f"no verdict is called {text!r}"
            raise AssertionError(message)


_Row = tuple[Kind, ModelEntry, Computed]


def _standing(catalogue: Catalogue, model: str | None) -> list[_Row]:
    rows: list[_Row] = []
    for entry in sorted(catalogue.models.values(), key=lambda entry: entry.name):
        if model is None or entry.name == model:
            rows += [("model", entry, definition) for definition in entry.versions.values()]
            rows += [("metric", entry, definition) for definition in entry.metrics.values()]
            rows += [("segment", entry, definition) for definition in entry.segments.values()]
            rows += [("baseline", entry, definition) for definition in entry.baselines.values()]
            rows += [("code_metric", entry, definition) for definition in entry.code_metrics.values()]
    return rows


def _shown(kind: Kind, entry: ModelEntry, definition: Computed) -> Standing:
    return Standing(
        kind=kind,
        model=entry.name,
        name=definition.name,
        version=definition.version if isinstance(definition, ModelDefinition) else None,
        revision=entry.revisions.get(definition.name) if kind == "metric" else None,
        definition=definition.model_dump(mode="json", by_alias=True),
    )
