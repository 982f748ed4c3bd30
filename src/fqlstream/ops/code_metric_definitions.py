"""Code metrics as they are applied: their file is read, they get an id, and no two of them may have the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from fqlstream.errors import DefinitionError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.events.definitions import CODE_BYTES_MAX, CodeMetricDefinition


def with_code(definition: CodeMetricDefinition, folder: Path) -> CodeMetricDefinition:
    """Read the file of a code metric; its path is relative to `folder`. Without the file, code that came with it stands.

    Raises DefinitionError where there is neither, or where the file is no code of a metric.
    """
    if definition.file is None:
        return definition
    path = folder / definition.file
    what = f"code metric {definition.name!r}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if definition.code is not None:
            return definition
        raise DefinitionError(
            "DEF060", f"{what}: there is no file {path}", "a file is named relative to the YAML that names it"
        ) from None
    except OSError as error:
        raise DefinitionError("DEF060", f"{what}: {path} cannot be read: {error.strerror}") from None
    if not 0 < len(data) <= CODE_BYTES_MAX:
        raise DefinitionError(
            "DEF061", f"{what}: {path} has {len(data)} bytes; a code metric has 1 to {CODE_BYTES_MAX}"
        )
    try:
        code = data.decode()
    except UnicodeDecodeError as error:
        raise DefinitionError("DEF061", f"{what}: {path} is not UTF-8: byte {error.start}") from None
    return definition.model_copy(update={"code": code})


def with_id(definition: CodeMetricDefinition, standing: CodeMetricDefinition | None) -> CodeMetricDefinition:
    """Give a code metric the id of the one that it replaces, or a new one; one that it brings along stands."""
    if definition.id is not None:
        return definition
    known = standing.id if standing is not None else None
    return definition.model_copy(update={"id": known or str(uuid.uuid4())})


def problems(definition: CodeMetricDefinition, after: Mapping[str, ModelEntry]) -> Iterator[tuple[str, str]]:
    """Give what is wrong with a code metric beside all that would stand: the field, and what."""
    if definition.id is None:
        return
    for entry in after.values():
        for other in entry.code_metrics.values():
            if other.id == definition.id and (other.model, other.name) != (definition.model, definition.name):
                yield "id", f"its id {definition.id} is that of code metric {other.name!r} of model {other.model!r}"


def find_code_metric(models: Mapping[str, ModelEntry], metric_id: str) -> CodeMetricDefinition | None:
    """Give the code metric of an id."""
    found = (metric for entry in models.values() for metric in entry.code_metrics.values())
    return next((metric for metric in found if metric.id == metric_id), None)
