"""Files that come with requests: where they wait while they are read, and what is wrong with them in words of the client."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from fastapi import UploadFile

from fqlstream.api.problems import refuse
from fqlstream.api.services import Dependencies
from fqlstream.errors import FqlstreamError
from fqlstream.ops.data_files import require_bounded

#: Endings say how a data file is read.
_DATA_FILE: Final = re.compile(r"[A-Za-z0-9._-]{1,120}\.(?:jsonl|csv|parquet)")
_PIECE_BYTES: Final = 1 << 20


@contextmanager
def sent_files() -> Iterator[Path]:
    """Give a folder for files of a request. What is wrong with them is 422, and names them as they were sent."""
    with tempfile.TemporaryDirectory(prefix="fqlstream-request-") as folder:
        try:
            yield Path(folder)
        except FqlstreamError as error:
            if folder not in error.message:
                raise
            message = error.message.replace(f"{folder}/", "")
            raise refuse(422, message, code=error.code, hint=error.hint, fields={"body": [message]}) from None


@asynccontextmanager
async def sent_data(parts: Dependencies, file: UploadFile, *, is_whole: bool = True) -> AsyncIterator[Path]:
    """Give a data file of a request (.jsonl, .csv or .parquet) under its own name.

    Raises ApiError 422 for another name, and, where all of it will be read, for one that unpacks to too much.
    """
    name = Path(file.filename or "").name
    if not _DATA_FILE.fullmatch(name):
        raise refuse(
            422, "file: name it so that it ends in .jsonl, .csv or .parquet", fields={"body.file": ["its name"]}
        )
    with sent_files() as folder:
        path = folder / name
        await parts.upload_thread(_save, file, path)
        if is_whole:
            await parts.upload_thread(require_bounded, path, parts.settings.api.upload_table_bytes_max)
        yield path


def _save(file: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        while data := file.file.read(_PIECE_BYTES):
            target.write(data)
