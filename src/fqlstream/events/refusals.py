"""Why a record is set aside as a dead letter: one declared row per code. A code never changes its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Before the names of the refused record's own headers, in those of its dead letter.
ORIGINAL_HEADER: Final = "original."
#: On a dead letter whose record was too large for the topic of letters: the bytes of key, value and headers that it had.
OMITTED_HEADER: Final = "omitted_bytes"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason: its stable code, what it means, and what its producer can do."""

    code: str
    meaning: str
    remedy: str


EMPTY: Final = Refusal(
    "DLQ001", "The record has no value.", "Events are never deleted by tombstones: use delete-events."
)
OVERSIZE: Final = Refusal(
    "DLQ002", "The record is larger than kafka.record_bytes_max.", "Send fewer rows in a batch, or smaller columns."
)
NOT_UTF8: Final = Refusal(
    "DLQ003", "The value is not UTF-8.", "Encode JSON as UTF-8; name Arrow's content-type in a header."
)
TOO_DEEP: Final = Refusal(
    "DLQ004", "The JSON is nested deeper than stream.json_depth_max.", "Send flat columns: numbers, texts, vectors."
)
BROKEN_JSON: Final = Refusal(
    "DLQ005", "The value is not one JSON text.", "Send one JSON object per record; NaN and Infinity are no JSON."
)
NOT_AN_EVENT: Final = Refusal("DLQ006", "The JSON is no object.", "Send an object with model, event_id and columns.")
UNKNOWN_TYPE: Final = Refusal(
    "DLQ007", "The type is none of inference, label, watermark.", "Metric events belong on their own topic."
)
NO_MODEL: Final = Refusal(
    "DLQ008", "The event names no model.", "Set model: in the object, or in an Arrow record's header."
)
UNKNOWN_MODEL: Final = Refusal(
    "DLQ009", "No model of this name is defined.", "Define it with `fqlstream apply`, then replay the dead letters."
)
UNKNOWN_VERSION: Final = Refusal(
    "DLQ010", "The model has no such version.", "Define the version, or leave version out for the newest one."
)
NO_EVENT_ID: Final = Refusal(
    "DLQ011", "The event has no usable event_id.", "Give every event a text (or an integer) that names it alone."
)
NO_COLUMNS: Final = Refusal("DLQ012", "The event has no columns object.", "Send columns as an object of name to value.")
BAD_EVENT_AT: Final = Refusal(
    "DLQ013", "The event_at is no time.", "Send RFC 3339 with an offset (2026-11-21T10:00:00Z) or Unix milliseconds."
)
FUTURE_EVENT_AT: Final = Refusal(
    "DLQ014", "The event_at lies further after the record than stream.future_ms_max.", "Check the producer's clock."
)
PAST_EVENT_AT: Final = Refusal(
    "DLQ015",
    "The event_at lies further before the record than stream.past_ms_max.",
    "Send milliseconds, not seconds; or raise the setting to load old history.",
)
BROKEN_ARROW: Final = Refusal(
    "DLQ016",
    "The value is not one whole Arrow IPC stream.",
    "Close the stream writer before sending; send nothing after.",
)
ARROW_TOO_LARGE: Final = Refusal(
    "DLQ017",
    "The Arrow stream unpacks to more rows or bytes than stream.arrow_rows_max and arrow_bytes_max.",
    "Send smaller batches.",
)
POISON: Final = Refusal(
    "DLQ018", "This record alone makes the engine fail.", "Report it: the record is kept, and the others count."
)
KILLER: Final = Refusal(
    "DLQ019",
    "This record ended every worker that applied it, even alone.",
    "Look for memory and for crashes in the workers' logs, and report it: the record is kept, and the others count.",
)

REFUSALS: Final = (
    EMPTY, OVERSIZE, NOT_UTF8, TOO_DEEP, BROKEN_JSON, NOT_AN_EVENT, UNKNOWN_TYPE, NO_MODEL, UNKNOWN_MODEL, UNKNOWN_VERSION,
    NO_EVENT_ID, NO_COLUMNS, BAD_EVENT_AT, FUTURE_EVENT_AT, PAST_EVENT_AT, BROKEN_ARROW, ARROW_TOO_LARGE, POISON,
    KILLER,
)  # fmt: skip

if len({refusal.code for refusal in REFUSALS}) != len(REFUSALS):
    raise AssertionError("two refusals share a code")  # a slip of ours, found at import


class RefusedError(Exception):
    """One record or row cannot be used; never leaves the decoder."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.reason = reason
