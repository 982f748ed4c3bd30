"""Letters as files: one JSON object a line, from which the very bytes can be had again.

A line holds `id`, `letter` (the letter's own place), code, reason, topic, partition, offset, row, seen_at (RFC 3339), record_at
and written_at (Unix ms, of the record and of the letter), replays, omitted_bytes
(0 but for a record that was too large for a letter), `key`, `value` and `headers` (a list of pairs of a name and its content). Bytes are null, `{"text": ...}` where
they are UTF-8, or `{"base64": ...}`. Key, value, headers, topic, partition and record_at may be edited before a replay; the
id says which letter it is that is then sent again.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from fqlstream.errors import FqlstreamError
from fqlstream.ops.dead_letters import REPLAYED_FROM, Headers, Letter, Place

_ID: Final = re.compile(r"[0-9a-f]{32}")
_INT64_MAX: Final = 2**63 - 1


def export(letters: Iterable[Letter], path: Path | None) -> int:
    """Write letters to a file, whole or not at all, or to standard output where there is no path. Gives how many.

    Raises FqlstreamError DLT010 where the file cannot be written.
    """
    if path is None:
        return _write(letters, sys.stdout)
    try:
        with _replacing(path) as file:
            return _write(letters, file)
    except OSError as error:
        raise FqlstreamError("DLT010", f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """Give a file that takes a path's place once it is complete."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _write(letters: Iterable[Letter], file: IO[str]) -> int:
    count = 0
    for letter in letters:
        count += 1
        file.write(json.dumps(letter_document(letter), ensure_ascii=False) + "\n")
    file.flush()
    return count


def letter_document(letter: Letter) -> dict[str, Any]:
    """Give a letter as a line holds it."""
    return {
        "id": letter.id,
        "letter": str(letter.place),
        "code": letter.code,
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "row": letter.row,
        "seen_at": letter.seen_at,
        "record_at": letter.record_at_ms,
        "written_at": letter.written_at_ms,
        "replays": letter.replays,
        "omitted_bytes": letter.omitted_bytes,
        "key": _packed(letter.key),
        "value": _packed(letter.value),
        "headers": [[name, _packed(content)] for name, content in letter.headers],
    }


def _packed(content: bytes | None) -> dict[str, str] | None:
    if content is None:
        return None
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def read_letters(path: Path) -> Iterator[Letter]:
    """Read a file that `export` wrote, perhaps edited since.

    Raises FqlstreamError DLT011 with the line that is wrong.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _letter(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise FqlstreamError("DLT011", f"{path} cannot be read: {error}") from error


def _letter(line: str, where: str) -> Letter:
    try:
        document = json.loads(line)
        place = Place.parse(document["letter"])
        headers = tuple((_text(name), _unpacked(content)) for name, content in document["headers"])
        return Letter(
            id=_letter_id(document["id"]),
            code=_text(document["code"]),
            reason=_text(document["reason"]),
            topic=_text(document["topic"]),
            partition=_integer(document["partition"]),
            offset=_integer(document["offset"]),
            row=_text(document["row"]),
            seen_at=_text(document["seen_at"]),
            record_at_ms=_integer(document["record_at"]),
            letter_partition=place.partition,
            letter_offset=place.offset,
            written_at_ms=_integer(document["written_at"]) or 0,
            key=_unpacked(document["key"]),
            value=_unpacked(document["value"]),
            headers=headers,
            told=headers,
            replays=_integer(document["replays"]) or 0,
            replayed_from=_replayed_from(headers),
            omitted_bytes=_integer(document.get("omitted_bytes")) or 0,
        )
    except KeyError as error:
        raise _wrong(where, f"{error.args[0]} is missing") from error
    except (ValueError, TypeError, FqlstreamError) as error:
        raise _wrong(where, str(error)) from error


def _wrong(where: str, what: str) -> FqlstreamError:
    return FqlstreamError("DLT011", f"{where}: {what}", "lines are as `fqlstream dead-letters export` writes them")


def _replayed_from(headers: Headers) -> str:
    return next(((content or b"").decode(errors="replace") for name, content in headers if name == REPLAYED_FROM), "")


def _unpacked(packed: Any) -> bytes | None:
    match packed:
        case None:
            return None
        case {"text": str(text), **rest} if not rest:
            return text.encode()
        case {"base64": str(text), **rest} if not rest:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise ValueError(f"base64: {error}") from error
    raise ValueError('bytes are null, {"text": ...} or {"base64": ...}')


def _letter_id(value: Any) -> str:
    text = _text(value)
    if not _ID.fullmatch(text):
        raise ValueError("id is not that of a letter")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{json.dumps(value)[:40]} is no text")
    return value


def _integer(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _INT64_MAX:
        raise TypeError(f"{json.dumps(value)[:40]} is no number of this kind")
    return value
