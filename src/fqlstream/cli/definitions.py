"""`fqlstream apply | get | delete`: what is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_table, print_text
from fqlstream.errors import DefinitionError, FqlstreamError, UsageError
from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import CodeMetricDefinition, Computed, ModelDefinition
from fqlstream.events.documents import KINDS, REGISTERED_KINDS, dump_definitions
from fqlstream.ops import definitions as ops
from fqlstream.ops import registration
from fqlstream.ops.definition_log import DefinitionsReader
from fqlstream.ops.registry_mirror import RegistryMirror
from fqlstream.settings import Settings


def apply(
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="YAML file; may be given several times.")
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files.")] = None,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Give stored history values of what changed, and wait for them.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Define models, metrics and segments from files, and register pipelines, executions and jobs.

    Everything is checked together first: if anything is wrong, nothing is published. Returns once it is stored.
    """
    paths = [*(files or ()), *(more or ())]
    if not paths:
        raise UsageError("CLI001", "no file is given", "fqlstream apply -f FILE")
    documents = ops.read_files(paths)
    settings = settings_for(data)
    mirror = RegistryMirror()
    applied = ops.apply(settings, documents, mirror=mirror)
    for warning in applied.warnings:
        print_note(warning)
    _carry_out(settings, applied, mirror, backfill=backfill)
    if json:
        print_json([{"kind": r.kind, "name": r.name, "id": r.id, "result": r.result} for r in applied.results])
        return
    print_table(("kind", "name", "id", "result"), ((r.kind, r.name, r.id, r.result) for r in applied.results))


def get(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}; the plural does too.")],
    name: Annotated[str | None, typer.Argument(help="Only those of this name, or the job of this number.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only those of this model.")] = None,
    of: Annotated[
        str | None, typer.Option("--of", help="Only those of this pipeline, deployment or experiment.")
    ] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Answer as the YAML that `apply` takes.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show what is defined or registered. Exit code 1 where nothing of that name is."""
    wanted = _kind(kind)
    if wanted in REGISTERED_KINDS:
        _get_registered(settings_for(data), wanted, name, of, yaml=yaml, json=json)
        return
    with DefinitionsReader(settings_for(data)) as reader:
        reader.read_to_end()
        found = _select(reader.catalogue, wanted, name, model)
    if name is not None and not found:
        raise DefinitionError("DEF030", f"there is no {wanted} {name!r}", f"see: fqlstream get {wanted}")
    if json:
        print_json([_row(definition, revision) for definition, revision in found])
    elif yaml:
        print_text(dump_definitions(definition for definition, _ in found).rstrip("\n"))
    elif wanted == "model":
        models = [definition for definition, _ in found if isinstance(definition, ModelDefinition)]
        print_table(
            ("name", "version", "task", "columns", "windows"),
            ((m.name, m.version, m.task, len(m.columns), ", ".join(w.label for w in m.windows.sizes)) for m in models),
        )
    elif wanted == "code_metric":
        codes = [definition for definition, _ in found if isinstance(definition, CodeMetricDefinition)]
        print_table(
            ("model", "name", "id", "lines", "description"),
            ((c.model, c.name, c.id, len((c.code or "").splitlines()), c.description) for c in codes),
        )
    else:
        rows = ((getattr(d, "model", None), d.name, getattr(d, "definition", None), r) for d, r in found)
        print_table(("model", "name", "definition", "revision"), rows)


def _get_registered(settings: Settings, kind: str, name: str | None, of: str | None, *, yaml: bool, json: bool) -> None:
    with DefinitionsReader(settings) as reader:
        reader.read_to_end()
        found = registration.select(reader.catalogue.registry, kind, name=name, of=of)
    if name is not None and not found:
        raise DefinitionError("DEF030", f"there is no {kind} {name!r}", f"see: fqlstream get {kind}")
    if json:
        print_json([registration.row(entry) for entry in found])
    elif yaml:
        print_text(dump_definitions(entry.definition for entry in found).rstrip("\n"))
    else:
        rows = [registration.row(entry) for entry in found]
        columns = tuple(column for column in rows[0] if column not in ("kind", "inputs", "tags")) if rows else ()
        print_table(columns, (tuple(row[column] for column in columns) for row in rows))


def delete(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))],
    name: Annotated[str, typer.Argument(help="Its name; of a job or an experiment the number does too.")],
    model: Annotated[str | None, typer.Option("--model", help="The model it belongs to.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Of a model: this version only.")] = None,
    force: Annotated[bool, typer.Option("--force", help="What is registered goes with its members.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Take a definition back; a model's last version takes all that belongs to it with it.

    Values and events that are stored stay. What an execution or a job has recorded goes with it.
    """
    settings = settings_for(data)
    mirror = RegistryMirror()
    deleted = ops.delete(settings, _kind(kind), name, model=model, version=version, force=force, mirror=mirror)
    _show_deleted(settings, deleted, mirror)
    if json:
        print_json([{"id": key, "result": "deleted"} for key in deleted.keys])
        return
    for key in deleted.keys:
        print_text(f"deleted {key}")


def _carry_out(settings: Settings, applied: ops.Applied, mirror: RegistryMirror, *, backfill: bool) -> None:
    """Let ClickHouse show what was applied, and have stored panes computed under it; where that fails a worker does it later."""
    if settings.store.url is None:
        return
    from fqlstream.cli.repair import bar
    from fqlstream.ops import definition_effects, repairing
    from fqlstream.store.client import Store

    try:
        store = Store.connect(settings.store)
    except FqlstreamError as error:
        if backfill:
            raise
        print_note(definition_effects.shown_later(error))
        return
    with store:
        effects = definition_effects.carry_out(
            store, applied, "fqlstream apply --backfill", backfill=backfill, mirror=mirror
        )
        for note in effects.notes:
            print_note(note)
        for asked in effects.asked:
            with bar(f"back-filling {asked.model}") as progress:
                repairing.await_done(store, asked, progress, stall_s=settings.stream.repair_stall_ms / 1000)
            print_note(f"back-filled {asked.panes:,} panes of model {asked.model}")


def _show_deleted(settings: Settings, deleted: ops.Deleted, mirror: RegistryMirror) -> None:
    """Take what was deleted out of ClickHouse's copy of the definitions; where that fails a worker does it later."""
    if settings.store.url is None:
        return
    from fqlstream.ops import definition_effects
    from fqlstream.store.client import Store

    try:
        with Store.connect(settings.store) as store:
            notes = definition_effects.show_in_store(store, deleted.catalogue, deleted.folded, mirror)
    except FqlstreamError as error:
        notes = (definition_effects.shown_later(error),)
    for note in notes:
        print_note(note)


def _kind(text: str) -> str:
    wanted = text.lower().replace("-", "_").removesuffix("s")
    if wanted not in KINDS:
        raise UsageError("CLI002", f"unknown kind {text!r}", f"known kinds: {', '.join(KINDS)}")
    return wanted


def _select(catalogue: Catalogue, kind: str, name: str | None, model: str | None) -> list[tuple[Computed, int | None]]:
    """Give the definitions of a kind with their revisions (of metrics), model by model."""
    found: list[tuple[Computed, int | None]] = []
    for entry in sorted(catalogue.models.values(), key=lambda entry: entry.name):
        if model is not None and entry.name != model:
            continue
        match kind:
            case "model":
                found += [(definition, None) for definition in entry.versions.values()]
            case "metric":
                found += [(metric, entry.revisions.get(metric.name)) for metric in entry.metrics.values()]
            case "segment":
                found += [(segment, None) for segment in entry.segments.values()]
            case "baseline":
                found += [(baseline, None) for baseline in entry.baselines.values()]
            case _:
                found += [(code_metric, None) for code_metric in entry.code_metrics.values()]
    return [pair for pair in found if name is None or pair[0].name == name]


def _row(definition: Computed, revision: int | None) -> dict[str, Any]:
    row = definition.model_dump(mode="json", by_alias=True)
    return row if revision is None else {**row, "revision": revision}
