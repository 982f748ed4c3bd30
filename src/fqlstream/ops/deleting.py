"""Events deleted for good: a privacy request. The owners of the partitions take the rows out, and publish what changes."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import pyarrow as pa

from fqlstream.clock import Clock, SystemClock
from fqlstream.errors import BrokerError, FqlstreamError, StoreError, UsageError
from fqlstream.events.catalogue import ModelEntry
from fqlstream.ops.dead_letters import TOPIC as DEAD_LETTERS
from fqlstream.ops.dead_letters import Letter, Mark, reading
from fqlstream.ops.repairing import SOURCE, ProgressBar, await_published, pause
from fqlstream.ops.topics import longest_kept_ms
from fqlstream.settings import KafkaSettings, Settings
from fqlstream.store import deletions, model_tables, states
from fqlstream.store.client import Store
from fqlstream.store.deletions import DeletionRequest, Matches
from fqlstream.stream.arrow_events import ARROW_CONTENT_TYPE
from fqlstream.stream.deleted import DeletedIds
from fqlstream.stream.fingerprints import fingerprint

#: Bytes of one id in a file: a longer line is not a list of ids.
_ID_BYTES_MAX: Final = 2**16


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was asked of the owners: `ids` were named, `matches` is what was stored of them then."""

    model: str
    ids: int
    matches: Matches
    requests: tuple[DeletionRequest, ...]

    @property
    def partitions(self) -> frozenset[int]:
        """Whose owners were asked."""
        return frozenset(request.partition for request in self.requests)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What deleting events cannot reach, and until when (RFC 3339; None: for ever) it may hold their bytes.

    `dead_letters` counts letters of these ids on the dead-letter topic. Where Kafka did not answer, `kafka_answered` is False and
    all that it would have told is None. `files_until` is None where no file had to be written anew.
    """

    kafka_answered: bool
    source_until: str | None
    dead_letters: int | None
    dead_letters_until: str | None
    files_until: str | None


def read_ids(file: TextIO) -> list[str]:
    """Read ids, one a line; empty lines are skipped, and so is the mark with which some editors begin a text.

    Raises UsageError DEL002 for a line that is no id.
    """
    ids: dict[str, None] = {}
    try:
        for number, line in enumerate(file, start=1):
            text = (line.removeprefix(codecs.BOM_UTF8.decode()) if number == 1 else line).rstrip("\r\n")
            if len(text.encode()) > _ID_BYTES_MAX:
                raise UsageError("DEL002", f"line {number} is no event_id: it has more than {_ID_BYTES_MAX} bytes")
            if text:
                ids[text] = None
    except UnicodeDecodeError as error:
        raise UsageError("DEL002", f"the ids are no UTF-8 text: {error.reason}", "one event_id a line") from None
    return list(ids)


def read_ids_file(path: Path) -> list[str]:
    """Read a file of ids.

    Raises UsageError DEL002 where it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return read_ids(file)
    except OSError as error:
        raise UsageError("DEL002", f"{path} cannot be read: {error.strerror}") from None


def ask(
    settings: Settings, store: Store, entry: ModelEntry, ids: Iterable[str], *, clock: Clock | None = None
) -> Deletion:
    """Note ids as deleted, and ask the owners of all partitions to take their rows out of history.

    Records of these ids that come later are dropped, for `stream.deleted_ids_ms` at least, and for as long as the source topic may
    hold them. Raises FqlstreamError DEL001 where no history is kept.
    """
    if not settings.stream.history:
        message = "no history is kept (FQLSTREAM_STREAM__HISTORY=false): there are no rows to delete"
        hint = "states hold no ids; what they have counted cannot be taken back, and ends with the model's retention"
        raise FqlstreamError("DEL001", message, hint)
    model_tables.ensure(store, list(entry.versions.values()))
    now_ms = (clock or SystemClock()).now_ms()
    kept_until_ms = _known_until_ms(now_ms, settings.stream.deleted_ids_ms, longest_kept_ms(settings.kafka, SOURCE))
    # the ids first: an owner that meets the request must know them
    count = deletions.add_ids(store, entry.name, ids, deleted_at_ms=now_ms, kept_until_ms=kept_until_ms)
    if not count:
        return Deletion(entry.name, 0, Matches(0, 0, 0), ())
    matches = deletions.count_rows(store, entry.name)
    partitions = [row.partition for row in states.newest_flushes(store, SOURCE)]
    requests = deletions.request(store, entry.name, partitions, requested_at_ms=now_ms)
    return Deletion(entry.name, count, matches, tuple(requests))


def _known_until_ms(now_ms: int, wanted_ms: int, source_ms: int | None) -> int:
    """Say until when ids are kept: as long as the source topic holds its records at least (None: for ever)."""
    if source_ms is None:
        return deletions.KEPT_UNTIL_MAX_MS
    return min(now_ms + max(wanted_ms, source_ms), deletions.KEPT_UNTIL_MAX_MS)


def await_done(store: Store, deletion: Deletion, progress: ProgressBar, *, stall_s: float) -> None:
    """Wait until every owner has taken the rows out, made the panes anew, and the values that follow are published.

    Raises StoreError REP001 where nothing has moved for `stall_s` seconds, neither an owner nor ClickHouse's work for it: the
    requests stay, and are carried out later. STO060 where ClickHouse cannot delete.
    """
    total = len(deletion.requests)
    moved_at_s, left, seen = time.monotonic(), total, tuple[int, ...]()
    while left:
        waiting = deletions.waiting_of(store, deletion.requests)
        left = len(waiting)
        progress(total - left, total)
        if left:
            now_seen = (left, *deletions.progress(store, deletion.model, [request.partition for request in waiting]))
            if now_seen != seen:
                moved_at_s, seen = time.monotonic(), now_seen
            _pause(store, deletion.model, moved_at_s, stall_s, f"{left} of {total} partitions still hold the events")
    if total and (deletion.matches.events or deletion.matches.labels):
        await_published(store, deletion.model, deletion.partitions, stall_s=stall_s)


def _pause(store: Store, model: str, moved_at_s: float, stall_s: float, what: str) -> None:
    """Wait a moment. Raises as `await_done`."""
    try:
        pause(moved_at_s, stall_s, what)
    except StoreError:
        refusal = deletions.refusal(store, model)
        if refusal is None:
            raise
        hint = "ClickHouse goes on trying, and the requests stay: once it can, the owners carry them out"
        raise StoreError("STO060", f"{what}: {refusal}", hint) from None


# ------------------------------------------------------------------------------------------- what is out of reach


def elsewhere(
    settings: KafkaSettings, store: Store, model: str, deletion: Deletion, *, clock: Clock | None = None
) -> Elsewhere:
    """Say where bytes of the events may still be, and until when. A Kafka that is away keeps nobody from hearing the rest."""
    now_ms = (clock or SystemClock()).now_ms()
    touched = bool(deletion.matches.events or deletion.matches.labels)
    files_until = _until(now_ms, 1000 * deletions.files_kept_s(store, model)) if touched else None
    try:
        return Elsewhere(
            True,
            _until(now_ms, longest_kept_ms(settings, SOURCE)),
            count_letters(settings, model, deletions.read_ids(store, model)),
            _until(now_ms, longest_kept_ms(settings, DEAD_LETTERS)),
            files_until,
        )
    except BrokerError:
        return Elsewhere(False, None, None, None, files_until)


def _until(now_ms: int, kept_ms: int | None) -> str | None:
    if kept_ms is None:
        return None
    return datetime.fromtimestamp((now_ms + kept_ms) / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def count_letters(settings: KafkaSettings, model: str, deleted: DeletedIds, *, topic: str = DEAD_LETTERS) -> int:
    """Count the dead letters that name a deleted id: as their key, or in their bytes as far as these can be read."""
    count = 0
    with reading(settings, topic) as reader:
        for found in reader.read():
            if not isinstance(found, Mark):
                texts = _ids_in(found)
                count += bool(texts) and bool(deleted.holds(fingerprint(pa.array(texts, pa.string()), model)).any())
    return count


def _ids_in(letter: Letter) -> list[str]:
    texts: list[str] = []
    if letter.key:
        texts.append(letter.key.decode(errors="replace"))
    read: Callable[[bytes], list[Any]] = _arrow_ids if letter.content_type == ARROW_CONTENT_TYPE else _json_ids
    with suppress(ValueError, RecursionError, OSError, pa.ArrowException):  # what nobody can read names no id
        texts += [str(found) for found in read(letter.value or b"") if found is not None]
    return [text.encode(errors="replace").decode() for text in texts]


def _json_ids(value: bytes) -> list[Any]:
    event = json.loads(value)
    return [event.get("event_id")] if isinstance(event, dict) else []


def _arrow_ids(value: bytes) -> list[Any]:
    with pa.ipc.open_stream(pa.BufferReader(value)) as reader:
        if "event_id" not in reader.schema.names:
            return []
        table = reader.read_all().select(["event_id"])
    table.validate(full=True)
    return list(table.column(0).to_pylist())
