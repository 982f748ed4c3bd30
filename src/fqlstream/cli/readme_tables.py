"""The tables of the READMEs, of settings, commands and numbers, generated from what declares them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from fqlstream.cli.main import COMMANDS
from fqlstream.errors import UsageError
from fqlstream.ops.numbers import API_NUMBERS, LAG_NUMBERS, WORKER_NUMBERS, NumberRow
from fqlstream.settings import Settings

_PREFIX: Final = "FQLSTREAM_"
_DELIMITER: Final = "__"


def settings_table() -> str:
    """Give every setting as a row: environment variable, default, what it is and why."""
    rows = "\n".join(
        f"| `{name}` | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in _settings(Settings, _PREFIX)
    )
    return f"| setting | default | what and why |\n| --- | --- | --- |\n{rows}"


def commands_table() -> str:
    """Give every command as a row."""
    rows = "\n".join(f"| `fqlstream {row.name}` | {_cell(row.help)} |" for row in COMMANDS)
    return f"| command | what it does |\n| --- | --- |\n{rows}"


def numbers_table() -> str:
    """Give every number that Prometheus is told as a row, with who tells it."""
    told = (("worker", WORKER_NUMBERS), ("API", API_NUMBERS), ("lag", LAG_NUMBERS))
    lines = [_number(told_by, row) for told_by, rows in told for row in rows]
    return "\n".join(("| number | type | unit | of | what it says |", "| --- | --- | --- | --- | --- |", *lines))


def _number(told_by: str, row: NumberRow) -> str:
    labels = f"{{{', '.join(row.labels)}}}" if row.labels else ""
    return f"| `{row.name}{labels}` | {row.kind} | {row.unit} | {told_by} | {_cell(row.help)} |"


Tables = Mapping[str, Callable[[], str]]

#: The tables of each page, by the page's path in a checkout.
PAGES: Final[Mapping[str, Tables]] = {
    "README.md": {"settings": settings_table, "commands": commands_table},
    "deploy/README.md": {"numbers": numbers_table},
}


def stale_tables(page: Path, tables: Tables) -> list[str]:
    """Name the tables that are not what their declarations give.

    Raises UsageError where the file lacks the place of one.
    """
    text = page.read_text()
    return [f"{page.name}: table of {name}" for name in tables if _replaced(text, name, tables[name], page) != text]


def write_tables(page: Path, tables: Tables) -> list[str]:
    """Put current tables in place; names those that were stale."""
    stale = stale_tables(page, tables)
    text = page.read_text()
    for name, table in tables.items():
        text = _replaced(text, name, table, page)
    if stale:
        page.write_text(text)
    return stale


def _replaced(text: str, name: str, table: Callable[[], str], page: Path) -> str:
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise UsageError(
            "CLI020", f"{page} has no place for the table of {name}", f"put these lines into it: {begin} and {end}"
        )
    return pattern.sub(lambda _: f"{begin}\n{table()}\n{end}", text)


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            yield from _settings(group, f"{prefix}{name.upper()}{_DELIMITER}")
        else:
            yield f"{prefix}{name.upper()}", field


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or isinstance(value, SecretStr):
        return "none"
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
