"""The README's tables of settings and commands, generated from what declares them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from fqlstream.cli.main import COMMANDS
from fqlstream.errors import UsageError
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


TABLES: Final[Mapping[str, Callable[[], str]]] = {"settings": settings_table, "commands": commands_table}


def stale_tables(readme: Path) -> list[str]:
    """Name the tables that are not what their declarations give.

    Raises UsageError where the file lacks the place of one.
    """
    text = readme.read_text()
    return [f"{readme.name}: table of {name}" for name in TABLES if _replaced(text, name, readme) != text]


def write_tables(readme: Path) -> list[str]:
    """Put current tables in place; names those that were stale."""
    stale = stale_tables(readme)
    text = readme.read_text()
    for name in TABLES:
        text = _replaced(text, name, readme)
    if stale:
        readme.write_text(text)
    return stale


def _replaced(text: str, name: str, readme: Path) -> str:
    begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise UsageError(
            "CLI020", f"{readme} has no place for the table of {name}", f"put these lines into it: {begin} and {end}"
        )
    return pattern.sub(lambda _: f"{begin}\n{TABLES[name]()}\n{end}", text)


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
