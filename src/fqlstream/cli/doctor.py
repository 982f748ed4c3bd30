"""`fqlstream doctor`: one page of truth."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_table, print_text
from fqlstream.local.joining import is_locked, read_stack
from fqlstream.ops.doctor.examining import Look, examine
from fqlstream.ops.doctor.findings import DoctorReport, Finding, Severity
from fqlstream.settings import Settings

_MARKS = {Severity.OK: "ok", Severity.NOTE: "note", Severity.WARN: "WARN", Severity.ERROR: "ERROR"}


def doctor(
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="A worker or an API to ask for its /health; several times. Those of a stack here are asked anyway.",
        ),
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Look at everything: broker, topics, store, clocks, group, windows, what was refused, what waits, disks, processes.

    Changes nothing. Exit code 1 where something should be done, which is said; 0 where notes are all there is.
    """
    settings = settings_for(data)
    report = examine(Look(settings, {**_urls_here(settings), **_urls_given(url or ())}))
    if json:
        print_json(report.as_dict())
    else:
        _show(report)
    raise typer.Exit(1 if report.has_trouble else 0)


def _urls_here(settings: Settings) -> dict[str, str]:
    """Give the health routes of the stack that runs in the data directory, if it is the one that is looked at."""
    if not is_locked(settings.data) or not (settings.data / "stack.json").exists():
        return {}
    stack = read_stack(settings.data)
    if stack.bootstrap != settings.kafka.bootstrap:
        return {}
    try:
        ports = json_text.loads((settings.data / "ports.json").read_text())
    except (OSError, ValueError):
        ports = {}  # somebody tidied up: the workers run all the same, and say nothing here
    running = [f"worker-{number}" for number, _ in enumerate(stack.pids.workers, start=1)]
    workers = {name: f"http://127.0.0.1:{ports[name]}/health" for name in running if name in ports}
    return workers if stack.api_url is None else {**workers, "API": f"{stack.api_url}/health"}


def _urls_given(urls: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {f"process {number}": f"{url.rstrip('/').removesuffix('/health')}/health" for number, url in enumerate(urls, start=1)}  # fmt: skip


def _show(report: DoctorReport) -> None:
    before = ""
    rows = []
    for finding in report.findings:
        rows.append((_MARKS[finding.severity], "" if finding.check == before else finding.check, finding.what))
        before = finding.check
    print_table(("", "looked at", "found"), rows)
    to_do = [finding for finding in report.findings if finding.do and finding.severity is not Severity.OK]
    if to_do:
        print_text("")
    for finding in to_do:
        print_text(_advice(finding))
    counts = [
        _counted(sum(each.severity is severity for each in report.findings), word)
        for severity, word in ((Severity.ERROR, "error"), (Severity.WARN, "warning"), (Severity.NOTE, "note"))
    ]
    print_text(f"\n{', '.join(counts)}; looked for {report.took_s:.1f} s")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _advice(finding: Finding) -> str:
    return f"{finding.check}: {finding.what}\n  -> {finding.do}"
