"""How commands answer: tables for people, JSON for scripts, never both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fqlstream.local.progress import Progress


def print_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Write a line to standard output as it is, free of markup."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_note(text: str) -> None:
    """Write a line to standard error: what a person should know, and no script should have to skip."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table to standard output; None is shown as a dash. Nothing is cut off where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold" if sys.stdout.isatty() else "")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(("-" if cell is None else _plain(cell)) for cell in row))
    console.print(table)


def printable(text: str) -> str:
    """Escape what would steer a terminal: anybody may have written it."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


def _plain(cell: object) -> str:
    from rich.markup import escape

    return escape(str(cell))


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Give what long work speaks through: on a terminal the status changes in place; all of it goes to standard error."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        said: set[str] = set()

        def once(text: str) -> None:
            # without a terminal a changing status is only worth its first words
            first = text.split(":")[0]
            if first and first not in said and not quiet:
                said.add(first)
                print_note(text)

        yield Progress(line=print_note, status=once)
        return
    with console.status("") as status:

        def line(text: str) -> None:
            status.update("")
            console.print(text)

        yield Progress(line=line, status=status.update)
