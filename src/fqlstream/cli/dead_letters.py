"""`fqlstream dead-letters`: what was refused, and why; and sending it again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fqlstream.cli.options import DataOption, JsonOption, settings_for
from fqlstream.cli.output import print_json, print_note, print_table, print_text, printable
from fqlstream.client.queries import unix_ms
from fqlstream.errors import UsageError
from fqlstream.ops import letter_files, replaying
from fqlstream.ops.dead_letters import (
    Letter,
    Mark,
    Place,
    Selection,
    count_dead_letters,
    find_letter,
    list_dead_letters,
)
from fqlstream.ops.letter_files import letter_document

app = typer.Typer(no_args_is_help=True, help="What was refused, and why; and sending it again.")

CodeOption = Annotated[
    list[str] | None, typer.Option("--code", metavar="C", help="Only those refused for this reason; several times.")
]
TopicOption = Annotated[str, typer.Option("--topic", metavar="T", help="Only those that came from this topic.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only those refused from this time on (UTC).")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only those refused before this time (UTC).")
]
PlacesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PLACE]...",
        help="Letters by their place (0@17) or by their origin (inference-events[2]@4711); all that the options let in otherwise.",
    ),
]
#: Bytes of a value that `show` writes out for people.
_SHOWN_BYTES = 64 * 2**10
_SHOWN_ROWS = 20


@app.callback()
def _group() -> None:
    """Show what was refused, and why; send it again."""


def _selection(
    codes: Sequence[str] | None, topic: str, since: str | None, until: str | None, places: Sequence[str] | None = None
) -> Selection:
    return Selection(
        frozenset(codes or ()),
        topic,
        None if since is None else unix_ms(since),
        None if until is None else unix_ms(until),
        frozenset(Place.parse(text) for text in places or ()),
    )


@app.command("list")
def list_letters(
    code: CodeOption = None,
    topic: TopicOption = "",
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="The newest so many.")] = 100,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List the newest dead letters with their origin; oldest first."""
    rows = list_dead_letters(settings_for(data).kafka, _selection(code, topic, since, until), limit=limit)
    if json:
        print_json([asdict(row) for row in rows])
    elif not rows:
        print_text("no dead letters" + (f" of code {', '.join(code)}" if code else ""))
    else:
        print_table(
            ("letter", "seen at", "code", "origin", "row", "bytes", "replayed", "reason"),
            (
                (
                    f"{r.letter_partition}@{r.letter_offset}", r.seen_at, r.code, f"{r.topic}[{r.partition}]@{r.offset}", r.row,
                    r.bytes, r.replayed_at or (f"came back from {r.replays}" if r.replays else None), r.reason,
                )
                for r in rows
            ),
        )  # fmt: skip


@app.command()
def counts(
    code: CodeOption = None,
    topic: TopicOption = "",
    since: SinceOption = None,
    until: UntilOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Count dead letters by code and origin topic, with what to do about each."""
    found = count_dead_letters(settings_for(data).kafka, _selection(code, topic, since, until))
    if json:
        print_json([asdict(count) for count in found])
    elif not found:
        print_text("no dead letters")
    else:
        print_table(
            ("code", "topic", "letters", "bytes", "first seen", "last seen", "replayed", "came back", "what to do"),
            (
                (c.code or None, c.topic or None, c.letters, c.bytes, c.first_seen_at, c.last_seen_at, c.replayed,
                 c.returned, c.remedy)
                for c in found
            ),
        )  # fmt: skip


@app.command()
def show(
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="The letter (0@17), or its origin (inference-events[2]@4711).")
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the refused bytes to standard output, and no more.")
    ] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show one dead letter whole: why, where from, what to do, its headers and its bytes."""
    letter, mark = find_letter(settings_for(data).kafka, Place.parse(place))
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        sys.stdout.buffer.flush()
    elif json:
        print_json({**letter_document(letter), "remedy": letter.remedy, "replayed_at": mark and mark.replayed_at})
    else:
        for line in _described(letter, mark):
            print_text(line)


def _described(letter: Letter, mark: Mark | None) -> list[str]:
    facts = {
        "letter": str(letter.place),
        "code": letter.code or "-",
        "reason": letter.reason or "-",
        "what to do": letter.remedy or "-",
        "origin": letter.origin + (f", rows {letter.row}" if letter.row not in ("", "0") else ""),
        "seen at": letter.seen_at,
        "record time": "-" if letter.record_at_ms is None else f"{letter.record_at_ms} (Unix ms)",
        "replayed": "no" if mark is None else f"{mark.replayed_at} to {mark.sent_to}",
        "came back": f"{letter.replays} times, last from {letter.replayed_from}" if letter.replays else "no",
        "key": "null" if letter.key is None else _readable(letter.key),
    }
    lines = [f"{name + ':':<13}{text}" for name, text in facts.items()]
    lines += [f"header {name}: {_readable(content or b'')}" for name, content in letter.headers]
    size = "null" if letter.value is None else f"{len(letter.value):,} bytes"
    if letter.omitted_bytes:
        lines.append(
            f"left out: {letter.omitted_bytes:,} bytes, too large for a letter: they are at the origin, if anywhere"
        )
    return [*lines, f"value ({size}):", *_shown_value(letter)]


def _shown_value(letter: Letter) -> list[str]:
    """Show a value as what it is: Arrow as a table, JSON with indents, text as it is, the rest as hexadecimal digits."""
    import json

    from fqlstream.stream.arrow_events import ARROW_CONTENT_TYPE

    value = letter.value or b""
    if letter.content_type == ARROW_CONTENT_TYPE and (table := _arrow_lines(value)):
        return table
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _hexadecimal(value)
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    cut = (
        [] if len(text) <= _SHOWN_BYTES else [f"... {len(text) - _SHOWN_BYTES:,} characters more: --raw has all of it"]
    )
    return [*(printable(line) for line in text[:_SHOWN_BYTES].split("\n")), *cut]


def _arrow_lines(value: bytes) -> list[str]:
    """Show the first rows of an Arrow stream; nothing where it cannot be read."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    try:
        with pa.ipc.open_stream(pa.BufferReader(value)) as reader:
            schema = ", ".join(f"{item.name} {item.type}" for item in reader.schema)
            for batch in reader:
                batch.validate(full=True)
                rows += batch.slice(0, _SHOWN_ROWS + 1 - len(rows)).to_pylist()
                if len(rows) > _SHOWN_ROWS:
                    break
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return []
    more = ["... more rows: --raw has all of them"] if len(rows) > _SHOWN_ROWS else []
    return [f"  Arrow: {schema}", *(f"  {printable(str(row))}" for row in rows[:_SHOWN_ROWS]), *more]


def _hexadecimal(value: bytes) -> list[str]:
    cut = value[: _SHOWN_BYTES // 16]
    lines = [
        f"  {at:08x}  {cut[at : at + 16].hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in cut[at : at + 16])}"
        for at in range(0, len(cut), 16)
    ]
    return lines + (
        [f"... {len(value) - len(cut):,} bytes more: --raw has all of them"] if len(value) > len(cut) else []
    )


def _readable(content: bytes) -> str:
    try:
        return printable(content.decode())
    except UnicodeDecodeError:
        return content.hex(" ")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    place: PlacesArgument = None,
    code: CodeOption = None,
    topic: TopicOption = "",
    since: SinceOption = None,
    until: UntilOption = None,
    data: DataOption = None,
) -> None:
    """Write dead letters to a file, a JSON object a line, with their very bytes; `replay --file` reads it, also edited."""
    settings = settings_for(data).kafka
    selection = _selection(code, topic, since, until, place)
    letters = (letter for letter in replaying.letters_of(settings, selection)() if selection.holds(letter))
    count = letter_files.export(letters, None if str(file) == "-" else file)
    print_note(f"wrote {count:,} dead letters")


@app.command()
def replay(
    place: PlacesArgument = None,
    code: CodeOption = None,
    topic: TopicOption = "",
    since: SinceOption = None,
    until: UntilOption = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Letters of a file that `export` wrote, as they are there."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was sent again before.")] = False,
    by_key: Annotated[
        bool, typer.Option("--by-key", help="To the partition that the key belongs to now, not to the one it was in.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The oldest so many.")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Records a second; as fast as it goes otherwise.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, on a terminal, before all of them are sent.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Send refused records again to where they came from, after what was wrong was put right; each of them once.

    They keep key, value, headers, time and partition. Exit code 1 where a chosen letter could not be sent.
    """
    selection = _selection(code, topic, since, until, place)
    if not selection and file is None and not every:
        raise UsageError(
            "DLT003", "which letters?", "name places, or --code, --topic, --since, --until, --file; or --all"
        )
    settings = settings_for(data)
    plan = replaying.ReplayPlan(selection, again, by_key, limit, rate, settings.stream.replays_max)
    source = (
        replaying.letters_of(settings.kafka, selection) if file is None else lambda: letter_files.read_letters(file)
    )
    if every and not selection and not (dry_run or yes) and sys.stdin.isatty():
        planned = replaying.plan_replay(settings.kafka, source, plan)
        if not typer.confirm(f"Send {planned.counts[replaying.Outcome.REPLAYED]:,} letters again?", err=True):
            raise typer.Exit(1)
    if dry_run:
        report = replaying.plan_replay(settings.kafka, source, plan)
    else:
        from fqlstream.cli.repair import bar

        with bar("sending") as progress:
            report = replaying.replay(settings.kafka, source, plan, progress)
    if json:
        print_json({**asdict(report), "ok": not report.has_trouble})
    else:
        _say(report)
    named_and_not_sent = selection.places and len(selection.places) > report.counts.get("replayed", 0)
    if report.has_trouble or named_and_not_sent:
        raise typer.Exit(1)


def _say(report: replaying.ReplayReport) -> None:
    sent = report.counts.get(replaying.Outcome.REPLAYED, 0)
    print_note(f"{'would replay' if report.dry_run else 'replayed'} {sent:,} letters")
    for outcome, number in report.counts.items():
        if outcome != replaying.Outcome.REPLAYED and number:
            print_note(f"not sent, {outcome.replace('_', ' ')}: {number:,}")
    for line in report.letters:
        print_note(f"  {line}")
    if report.returned:
        print_note(f"{report.returned:,} of them had come back from an earlier replay")
    if report.labels:
        print_note(
            f"{report.labels:,} of them look like labels: what is sent last counts, also over a correction sent meanwhile"
        )
    if report.expiring:
        print_note(
            f"{report.expiring:,} of them are older than their topic's retention: Kafka may drop them unless workers read them now"
        )
