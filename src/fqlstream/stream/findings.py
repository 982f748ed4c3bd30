"""What the readers of records hand to `decode`, and the context they read in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.columns import event_columns
from fqlstream.events.definitions import Column, ModelDefinition
from fqlstream.events.refusals import (
    BAD_EVENT_AT,
    FUTURE_EVENT_AT,
    NO_MODEL,
    PAST_EVENT_AT,
    UNKNOWN_MODEL,
    UNKNOWN_TYPE,
    UNKNOWN_VERSION,
    Refusal,
    RefusedError,
)
from fqlstream.settings import StreamSettings
from fqlstream.stream.batches import RowKind, WatermarkMark

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
#: Rows of one table: model, version, kind.
Key = tuple[str, str, RowKind]

_KINDS: Final[Mapping[str | None, RowKind]] = {
    None: RowKind.INFERENCE,
    "inference": RowKind.INFERENCE,
    "label": RowKind.LABEL,
}
_SHOWN_CHARACTERS: Final = 80  # of a producer's text, in a reason


@dataclass(frozen=True, slots=True)
class Context:
    """What a record is read against. `columns` names per model the only columns that anybody will look at."""

    catalogue: Catalogue
    settings: StreamSettings
    record_bytes_max: int
    columns: Mapping[str, Collection[str]] | None = None

    def columns_of(self, model: ModelDefinition, kind: RowKind) -> tuple[Column, ...]:
        """Give the columns to decode of this model and kind."""
        columns = event_columns(model, kind.value)
        wanted = None if self.columns is None else self.columns.get(model.name)
        return columns if wanted is None else tuple(column for column in columns if column.name in wanted)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record, or rows of one: where it stands in the fetch, why, and what to keep (None: the record's own bytes)."""

    at: int
    refusal: Refusal
    reason: str
    row: str = "0"
    value: bytes | None = None


@dataclass(slots=True)
class Findings:
    """What a part of a fetch held; the tables of a key are in order."""

    tables: dict[Key, list[pa.Table]] = field(default_factory=dict)
    marks: list[WatermarkMark] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unknown_models: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)  # models with events that hold more columns than the model has

    def add(self, other: Findings) -> None:
        """Take in what a later part of the fetch held."""
        for key, tables in other.tables.items():
            self.tables.setdefault(key, []).extend(tables)
        self.marks.extend(other.marks)
        self.refused.extend(other.refused)
        self.unknown_models |= other.unknown_models
        self.foreign |= other.foreign


class UnknownModelError(RefusedError):
    """The catalogue lacks the model or this version of it; it may be a definition that has not been read yet."""

    def __init__(self, model: str, refusal: Refusal, reason: str) -> None:
        super().__init__(refusal, reason)
        self.model = model


def row_kind(name: Any) -> RowKind:
    """Give the kind an event's `type` names; raises RefusedError for any other."""
    if name is not None and not isinstance(name, str):
        raise RefusedError(UNKNOWN_TYPE, f"type is {shown(name)}, not a text")
    kind = _KINDS.get(name)
    if kind is None:
        raise RefusedError(UNKNOWN_TYPE, f"type is {shown(name)}")
    return kind


def model_version(catalogue: Catalogue, model: Any, version: Any) -> ModelDefinition:
    """Give the definition an event belongs to, the newest where it names no version; raises RefusedError."""
    if not isinstance(model, str) or not model:
        raise RefusedError(
            NO_MODEL, "model is missing" if model in (None, "") else f"model is {shown(model)}, not a text"
        )
    entry = catalogue.models.get(model)
    newest = None if entry is None else entry.newest
    if entry is None or newest is None:
        raise UnknownModelError(model, UNKNOWN_MODEL, f"model {shown(model)} is not defined")
    if version is None:
        return newest
    known = entry.versions.get(version) if isinstance(version, str) else None
    if known is not None:
        return known
    reason = f"model {shown(model)} has no version {shown(version)}"
    if isinstance(version, str) and version:
        raise UnknownModelError(model, UNKNOWN_VERSION, reason)
    raise RefusedError(UNKNOWN_VERSION, reason)


def time_fault(event_at_ms: int, record_at_ms: int, settings: StreamSettings) -> RefusedError | None:
    """Say what is wrong with a time that was read, if anything."""
    if event_at_ms - record_at_ms > settings.future_ms_max:
        reason = f"event_at is {(event_at_ms - record_at_ms) / 1000:.0f} s after the record's timestamp"
        return RefusedError(FUTURE_EVENT_AT, reason)
    if record_at_ms - event_at_ms > settings.past_ms_max:
        days = (record_at_ms - event_at_ms) / 86_400_000
        return RefusedError(PAST_EVENT_AT, f"event_at is {days:.0f} days before the record's timestamp")
    return None


def far_times(event_at: Ints, record_at: Ints, settings: StreamSettings) -> Mask:
    """Say which rows `time_fault` finds something wrong with."""
    # record timestamps are near now, so these sums and differences of two int64 stay within int64
    far: Mask = (event_at > record_at + settings.future_ms_max) | (event_at < record_at - settings.past_ms_max)
    return far


def no_time(value: Any) -> RefusedError:
    """Refuse an event_at that is no time."""
    return RefusedError(BAD_EVENT_AT, f"event_at is {shown(value)}")


def shown(value: Any) -> str:
    """Show a producer's value in a reason, cut to a length a person reads."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
