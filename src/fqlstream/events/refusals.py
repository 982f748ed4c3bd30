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
UNKNOWN_METRIC_TYPE: Final = Refusal(
    "DLQ020",
    "The type is none of pipeline_metric, list_metric, job_metric, forget.",
    "Name the type in every metric event; inference events and labels belong on inference-events.",
)
NO_RECORD_ID: Final = Refusal(
    "DLQ021",
    "The metric event has no usable id.",
    "Give the execution or job as a text (or an integer) of at most record.name_characters_max characters.",
)
BAD_METRIC_NAME: Final = Refusal(
    "DLQ022",
    "The name is no name of such a metric.",
    "A text of 1 to record.name_characters_max characters; of a job metric one letter, or letters, digits and _ after a letter or _.",
)
BAD_METRIC_VALUE: Final = Refusal(
    "DLQ023", "The value is no number.", 'Send a JSON number, or one of the texts "NaN", "Infinity", "-Infinity".'
)
BAD_LIST_VALUES: Final = Refusal(
    "DLQ024", "The values are not a list of numbers.", "Send an array of numbers, as long as the list has room for."
)
BAD_STEP: Final = Refusal("DLQ025", "The step is no integer of 64 bits.", "Leave it out for step 0.")
BAD_METRIC_TIME: Final = Refusal(
    "DLQ026",
    "The at is no time of the years 1 to 9999.",
    "Send RFC 3339 with an offset (2026-11-21T10:00:00.123456Z) or Unix milliseconds, or leave it out.",
)
LIST_FULL: Final = Refusal(
    "DLQ027",
    "The list would hold more than record.list_values_max values: none of this record's was stored.",
    "Record every tenth value, or begin a list of another name; `fqlstream sql` shows what is stored.",
)
BAD_FORGET: Final = Refusal(
    "DLQ028", "What is to be forgotten is neither an execution nor a job.", 'Set kind to "execution" or "job".'
)

REFUSALS: Final = (
    EMPTY, OVERSIZE, NOT_UTF8, TOO_DEEP, BROKEN_JSON, NOT_AN_EVENT, UNKNOWN_TYPE, NO_MODEL, UNKNOWN_MODEL, UNKNOWN_VERSION,
    NO_EVENT_ID, NO_COLUMNS, BAD_EVENT_AT, FUTURE_EVENT_AT, PAST_EVENT_AT, BROKEN_ARROW, ARROW_TOO_LARGE, POISON,
    KILLER, UNKNOWN_METRIC_TYPE, NO_RECORD_ID, BAD_METRIC_NAME, BAD_METRIC_VALUE, BAD_LIST_VALUES, BAD_STEP, BAD_METRIC_TIME,
    LIST_FULL, BAD_FORGET,
)  # fmt: skip

if len({refusal.code for refusal in REFUSALS}) != len(REFUSALS):
    raise AssertionError("two refusals share a code")  # a slip of ours, found at import


class RefusedError(Exception):
    """One record or row cannot be used; never leaves the decoder."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.reason = reason
