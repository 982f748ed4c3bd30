"""What a statement does in its thread: as much as possible in one visit, since every hop between threads costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fqlstream.store.embedded import formats
from fqlstream.store.embedded.engine import Access, Counts, Engine, Inserting, Kind, Lease, SessionName, Stream
from fqlstream.store.embedded.native import all_with_revision
from fqlstream.store.embedded.statements import Insert, output_format

#: Bytes of a running result given at once.
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """One statement and everything that goes with it."""

    sql: bytes
    access: Access
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    database: str | None
    read_only: bool
    default_format: str
    held_bytes_max: int
    protocol_version: int = 0
    session: SessionName | None = None
    number: int = 0  # which request this is


class Reading:
    """A result: whole where `more` is False, else its beginning; `counts` covers what was read so far."""

    def __init__(self, format_name: str, pieces: list[bytes], counts: Counts) -> None:
        self.format = format_name
        self.pieces = pieces
        self.counts = counts
        self.has_result = True
        self._lease: Lease | None = None
        self._stream: Stream | None = None
        self._join: formats.Joiner | None = None

    @property
    def more(self) -> bool:
        """Whether the rest must be asked for."""
        return self._stream is not None

    def follow(self, lease: Lease, stream: Stream, join: formats.Joiner) -> None:
        """Keep what the rest comes from."""
        self._lease, self._stream, self._join = lease, stream, join

    def next(self) -> list[bytes]:
        """Give the next pieces; none after the last."""
        pieces: list[bytes] = []
        size = 0
        while self._stream is not None and self._join is not None and size < _PIECE_BYTES:
            chunk = self._stream.fetch()
            if chunk is None:
                pieces.append(formats.ending(self.format))
                self.close()
                break
            self.counts = _added(self.counts, chunk.counts)
            pieces.append(self._join(chunk.data))
            size += len(pieces[-1])
        return pieces

    def close(self) -> None:
        """Cancel what is still running, and give the connection back."""
        stream, self._stream = self._stream, None
        lease, self._lease = self._lease, None
        try:
            if stream is not None:
                stream.close()
        finally:
            if lease is not None:
                lease.close()


def read(engine: Engine, call: Call) -> Reading:
    """Run a statement; give its whole result, or its beginning if it is longer than may be held."""
    kind = engine.admit(call.sql, call.parameters, call.access, read_only=call.read_only)
    format_name = output_format(call.sql) or call.default_format
    lease = _lease(engine, call)
    kept = False
    try:
        join = formats.joiner(format_name, call.protocol_version) if kind is Kind.READ_ONLY else None
        stream = lease.stream(call.sql, format_name, call.parameters) if join else None
        if stream is None or join is None:
            chunk = lease.query(call.sql, format_name, call.parameters, kind)
            data = all_with_revision(chunk.data, call.protocol_version) if format_name == "Native" else chunk.data
            reading = Reading(format_name, [data], chunk.counts)
            reading.has_result = kind is Kind.READ_ONLY or bool(chunk.data)
            return reading
        reading = Reading(format_name, [], Counts())
        reading.follow(lease, stream, join)
        kept = True
        try:
            while reading.more and sum(map(len, reading.pieces)) < call.held_bytes_max:
                reading.pieces.extend(reading.next())
        except BaseException:
            reading.close()
            raise
        return reading
    finally:
        if not kept:
            lease.close()


class Writing:
    """An INSERT whose data follows."""

    def __init__(self, lease: Lease, inserting: Inserting) -> None:
        self._lease = lease
        self._inserting = inserting

    def append(self, data: bytes) -> None:
        """Hand over a piece of the data."""
        self._inserting.append(data)

    def finish(self) -> Counts:
        """Write what was handed over, and give the connection back."""
        counts = self._inserting.finish()
        self._lease.close()
        return counts

    def cancel(self) -> None:
        """Drop what was not finished."""
        try:
            self._inserting.close()
        finally:
            self._lease.close()


def write(engine: Engine, call: Call, insert: Insert, data: bytes, *, whole: bool) -> Writing | Counts:
    """Begin an INSERT with its first data; where that is all of it, finish it too."""
    engine.admit(insert.sql, call.parameters, call.access, read_only=call.read_only)
    lease = _lease(engine, call)
    try:
        writing = Writing(lease, lease.insert(insert.sql, insert.format))
    except BaseException:
        lease.close()
        raise
    try:
        if data:
            writing.append(data)
        return writing.finish() if whole else writing
    except BaseException:
        writing.cancel()
        raise


def _lease(engine: Engine, call: Call) -> Lease:
    return engine.lease(call.access, call.settings, call.database, call.session, call.number)


def _added(left: Counts, right: Counts) -> Counts:
    return replace(
        left,
        read_rows=left.read_rows + right.read_rows,
        read_bytes=left.read_bytes + right.read_bytes,
        result_rows=left.result_rows + right.result_rows,
        elapsed_ns=left.elapsed_ns + right.elapsed_ns,
    )
