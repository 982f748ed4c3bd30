"""Names in ClickHouse: names of tables that stand for free text, and quoting, as FQL's own SQL quotes."""

from __future__ import annotations

import hashlib
import re

from fqlstream.events.definitions import Column
from fqlstream.fql.sql_text import identifier
from fqlstream.fql.sql_text import text_literal as literal

#: ClickHouse stores a table's definition in a file named after it, every unusual byte as three, and adds suffixes.
_FILE_NAME_BYTES_MAX = 150
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]{1,100}", re.ASCII)
_UNUSUAL = re.compile(r"[^A-Za-z0-9_]+", re.ASCII)


def slug(name: str) -> str:
    """Give a short plain name for free text: itself if it is plain, else what is plain of it and a hash."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{_UNUSUAL.sub('_', name)[:40].strip('_')}_{digest}"


def event_table(model: str) -> str:
    """Name the table of a model's event rows."""
    return f"event_rows_{slug(model)}"


def label_table(model: str) -> str:
    """Name the table of a model's label rows."""
    return f"label_rows_{slug(model)}"


def event_view(model: str) -> str:
    """Name the view people read: `events_` and the model's name, or its slug where that is no file name."""
    size = sum(1 if _PLAIN_NAME.fullmatch(c) else 3 * len(c.encode()) for c in model)
    return f"events_{model if size <= _FILE_NAME_BYTES_MAX else slug(model)}"


def stored_column(column: Column) -> str:
    """Name the stored column: its type is part of it, so that a version that changes the type has a column of its own."""
    return f"{column.name}:{column.type}"


__all__ = ["event_table", "event_view", "identifier", "label_table", "literal", "slug", "stored_column"]
