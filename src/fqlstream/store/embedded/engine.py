"""The ClickHouse engine in this process: leases of its connections, and what a statement does on one.

Built on chDB's connection object (`chdb._chdb`), which the public wrapper hides: it classifies statements with
ClickHouse's parser, streams an INSERT's bytes, and fetches results by chunks without turning them into objects.
A connection is a session: what changes a session (SET, USE, temporary tables) is never given to the next caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fqlstream.store.embedded import config
from fqlstream.store.embedded.exceptions import (
    ACCESS_DENIED,
    INTO_OUTFILE_NOT_ALLOWED,
    READONLY,
    STD_EXCEPTION,
    SYNTAX_ERROR,
    UNKNOWN_SETTING,
    UNKNOWN_STATUS_OF_INSERT,
    EngineError,
    engine_error,
    refusal,
)
from fqlstream.store.embedded.sessions import Sessions
from fqlstream.store.embedded.statements import first_word, names, names_server_file
from fqlstream.store.error_codes import BY_CODE

#: Idle connections kept: opening one with its role and settings takes 1 ms, holding one 0.1 MB.
_IDLE_MAX = 64
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
#: The one scalar function that opens files of this machine without asking for a grant.
_FILE_FUNCTION = b"file"
_FAILED_INSERTS_SQL = b"SELECT value FROM system.events WHERE event = 'FailedInsertQuery'"
#: Of the last second, those of statements only, and not those of the parser, which also judges the heads of INSERTs.
_LAST_ERRORS_SQL = (
    b"SELECT code, name, last_error_message FROM system.errors WHERE query_id != '' AND code != 62 "
    b"AND last_error_time = (SELECT max(last_error_time) FROM system.errors WHERE query_id != '' AND code != 62)"
)
#: The setting that tells whose statement it is. It changes nothing about one.
_NAMED_BY = "log_comment"


class Access(StrEnum):
    """What a caller may do."""

    READ = "read"
    WRITE = "write"


class Kind(StrEnum):
    """What ClickHouse's parser says a statement does; the names are chDB's."""

    READ_ONLY = "READ_ONLY"
    MUTATING = "MUTATING"
    MUTATING_GLOBAL = "MUTATING_GLOBAL"
    CONTROL = "CONTROL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a statement read and wrote."""

    read_rows: int = 0
    read_bytes: int = 0
    result_rows: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a result in the asked format."""

    data: bytes
    counts: Counts


@dataclass(slots=True, eq=False)
class Write:
    """A statement that may write, while it runs: how many INSERTs had failed before it, and whether it is the only one."""

    failed_before: int
    is_alone: bool


class Engine:
    """The engine of one directory. All methods may be called from any thread."""

    def __init__(self, directory: Path, config_file: Path) -> None:
        # chDB takes the zone of the process for DateTime without one
        os.environ["TZ"] = "UTC"
        from chdb import _chdb  # opening the engine is this module's business, not its import's

        self._connect: Callable[[str], Any] = _chdb.connect  # type: ignore[attr-defined]  # chDB's stubs leave it out
        self._address = f"{directory}?config-file={config_file}"
        self._lock = threading.Lock()
        # by rights, database and settings: a client sends the same settings with every request
        self._idle: OrderedDict[_Prepared, list[Any]] = OrderedDict()
        self._sessions = Sessions()
        try:
            self._base = self._connect(self._address)
        except RuntimeError as error:
            raise engine_error(error) from None
        self._judging, self._counting = threading.Lock(), threading.Lock()
        self._counter = self._connect(self._address)
        self.failed_inserts = 0
        self._writes: set[Write] = set()
        self.count_failed_inserts()
        self._judge = self._connect(self._address)
        # the judge must understand whatever a caller's settings let the engine understand
        self._judge.query("SET max_query_size = 1099511627776", "Null")
        self.version = bytes(self._base.query("SELECT version()", "TSV").bytes()).decode().strip()

    def close(self) -> None:
        """Close every idle connection; the engine ends with the last one."""
        self._sessions.close()
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()
            self._counter.close()
            self._judge.close()
            self._base.close()

    def count_failed_inserts(self) -> int:
        """Ask how many INSERTs have failed so far; `failed_inserts` is the last answer."""
        with self._counting:
            found = bytes(self._counter.query(_FAILED_INSERTS_SQL, "TSV").bytes() or b"0")
            self.failed_inserts = int(found)
            return self.failed_inserts

    def begin_write(self) -> Write:
        """Note that a statement begins that may write."""
        with self._lock:
            write = Write(self.failed_inserts, not self._writes)
            for other in self._writes:
                other.is_alone = False
            self._writes.add(write)
        return write

    def end_write(self, write: Write, *, has_failed: bool) -> None:
        """Note that it has ended; one that failed is counted first, so that it is not held against the next."""
        if has_failed:
            self.count_failed_inserts()
        with self._lock:
            self._writes.discard(write)

    def error_of(self, write: Write) -> EngineError | None:
        """Say why an INSERT failed that chDB gave a result for; None where none has failed since it began.

        Whose failure it was can be told only of one that ran alone: of others it is unknown, which is sent again.
        """
        if self.count_failed_inserts() <= write.failed_before:
            return None
        found = self._last_error()
        if write.is_alone or found.code in BY_CODE:
            return found
        told = found.text.removeprefix(f"Code: {found.code}. DB::Exception: ")
        return refusal(UNKNOWN_STATUS_OF_INSERT, f"Of INSERTs that ran at the same time one has failed: {told}")

    def _last_error(self) -> EngineError:
        """Give the error that a statement met last; of several at once one that may pass: then it is tried again."""
        with self._counting:
            lines = bytes(self._counter.query(_LAST_ERRORS_SQL, "JSONCompactEachRow").bytes() or b"").splitlines()
        if not lines:
            return refusal(STD_EXCEPTION, "An INSERT failed, and the engine does not say why")
        code, name, text = min(map(json.loads, lines), key=lambda found: found[0] not in BY_CODE)
        return EngineError(int(code), f"Code: {code}. DB::Exception: {text.rstrip('.')}. ({name})")

    def interrupt(self, request: int) -> None:
        """Cancel the statement of a request, if it still runs.

        By the request's own number: the thread that ran it may be at another one's statement by now.
        """
        self._kill(f"Settings['{_NAMED_BY}'] = '{_named(request)}'")

    def interrupt_all(self) -> None:
        """Cancel every statement that runs."""
        self._kill("1")

    def _kill(self, condition: str) -> None:
        with contextlib.suppress(EngineError):  # it has ended by itself, or the engine has
            lease = self.lease(Access.WRITE)
            try:
                lease.query(f"KILL QUERY WHERE {condition} ASYNC".encode(), "Null", {}, Kind.CONTROL)
            finally:
                lease.close()

    def classify(self, sql: bytes) -> Kind:
        """Ask ClickHouse's parser what a statement does. Refuses more than one statement, as the server does."""
        with self._judging:
            found = self._judge.classify_query(sql)
        if found["statement_count"] > 1:
            raise refusal(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)")
        return Kind(found["query_class"].name)

    def admit(self, sql: bytes, parameters: Mapping[str, str], access: Access, *, read_only: bool) -> Kind:
        """Refuse what the caller, or the method of the request, may not do; the roles in the engine refuse it again."""
        if names_server_file(sql):
            raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE and FROM INFILE are not allowed over HTTP")
        kind = self.classify(sql)
        if access is Access.READ:
            self._admit_reader(sql, parameters, kind)
        if read_only and kind not in (Kind.READ_ONLY, Kind.UNKNOWN) and first_word(sql) not in (b"SET", b"USE"):
            raise refusal(
                READONLY,
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. "
                "You should use method POST for modifying queries",
            )
        return kind

    def _admit_reader(self, sql: bytes, parameters: Mapping[str, str], kind: Kind) -> None:
        if kind is Kind.UNKNOWN:
            # what ClickHouse does not understand here must not be tried under the caller's settings
            self._formatted(sql)
            raise refusal(ACCESS_DENIED, "Not enough privileges: this statement needs the key of this store")
        if kind is not Kind.READ_ONLY:
            raise refusal(
                ACCESS_DENIED,
                "Not enough privileges: without the key of this store only reading is allowed. "
                "Send the key of its data directory (file store.key) as the password or in X-ClickHouse-Key",
            )
        # an identifier spells `file` out, hides it behind an escape, or comes as a parameter
        hidden = b"identifier" in sql.lower() and any("file" in v.lower() or "\\" in v for v in parameters.values())
        suspect = _FILE_FUNCTION in sql.lower() or b"\\" in sql
        if hidden or (suspect and names(self._formatted(sql), _FILE_FUNCTION)):
            raise refusal(
                ACCESS_DENIED,
                "Not enough privileges: file() needs the key of this store. For a column of that name write table.file",
            )

    def _formatted(self, sql: bytes) -> bytes:
        """Give a statement as ClickHouse's own formatter writes it. Raises its error where the statement does not parse."""
        text = sql.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
        with self._judging:
            try:
                return bytes(
                    self._judge.query(b"SELECT formatQuerySingleLine('" + text + b"')", "TSVRaw").bytes() or b""
                )
            except RuntimeError as error:
                found = engine_error(error)
        # the error tells of our question too
        told, _, _ = found.text.partition(": In scope SELECT formatQuerySingleLine")
        name = found.text[found.text.rfind("(") :] if told != found.text else ""
        raise EngineError(found.code, f"{told}. {name}".strip(". ") if name else told)

    def lease(
        self,
        access: Access,
        settings: Mapping[str, str] | None = None,
        database: str | None = None,
        session: SessionName | None = None,
        request: int = 0,
    ) -> Lease:
        """Take a connection with these rights and settings; with a session's name, the one that it kept.

        Statements on it can be interrupted by the number of their request, unless that has a log_comment of its own.
        """
        lease = self._lease(access, settings or {}, database, session)
        if _NAMED_BY not in (settings or {}):
            try:
                lease.run(f"SET {_NAMED_BY} = '{_named(request)}'".encode())
            except EngineError:
                lease.close()
                raise
        return lease

    def _lease(
        self, access: Access, settings: Mapping[str, str], database: str | None, session: SessionName | None
    ) -> Lease:
        database = database or "default"
        kept = self._sessions.take(session.name) if session else None
        if session and kept is not None:
            return self._in_session(Lease(self, None, kept, session), settings, database)
        kind = _Prepared(access, database, tuple(sorted(settings.items())))
        with self._lock:
            idle = self._idle.get(kind)
            connection = idle.pop() if idle else None
        return Lease(self, kind, connection or self._open(kind), session)

    def _in_session(self, lease: Lease, settings: Mapping[str, str], database: str) -> Lease:
        try:
            if database != "default":
                lease.run(_use_statement(database))
            if settings:
                lease.set_for_now(settings)
        except EngineError:
            lease.close()
            raise
        return lease

    def _open(self, kind: _Prepared) -> Any:
        statements = [f"SET ROLE {config.READER if kind.access is Access.READ else config.WRITER}".encode()]
        if kind.database != "default":
            statements.append(_use_statement(kind.database))
        if kind.access is Access.READ:
            statements.append(b"SET readonly = 2")
        if kind.settings:
            statements.append(_set_statement(dict(kind.settings)))
        try:
            connection = self._connect(self._address)
        except RuntimeError as error:
            raise engine_error(error) from None
        try:
            for statement in statements:
                connection.query(statement, "Null")
        except RuntimeError as error:
            connection.close()
            found = engine_error(error)
            raise EngineError(found.code, f"{found.text} (version {self.version})") from None
        return connection

    def give_back(self, lease: Lease) -> None:
        """Keep a connection for its session, or for a caller with the same rights and settings; close a changed one."""
        if lease.session and lease.held:
            lease.undo()
            if self._sessions.keep(lease.session.name, lease.connection, lease.session.timeout_s):
                return
        gone = [lease.connection]
        if lease.unchanged and lease.kind is not None:
            gone = self._keep(lease.kind, lease.connection)
        for connection in gone:
            connection.close()

    def _keep(self, kind: _Prepared, connection: Any) -> list[Any]:
        """Keep a connection, and name those that have to go: of the settings that were asked for longest ago."""
        with self._lock:
            self._idle.setdefault(kind, []).append(connection)
            self._idle.move_to_end(kind)
            gone = []
            while sum(map(len, self._idle.values())) > _IDLE_MAX:
                oldest, connections = next(iter(self._idle.items()))
                gone += connections[:1]
                del connections[:1]
                if not connections:
                    del self._idle[oldest]
        return gone


def _named(request: int) -> str:
    return f"fqlstream request {request}" if request else ""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a connection was prepared for."""

    access: Access
    database: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SessionName:
    """A session as its caller names it, and how long it is kept unused."""

    name: str
    timeout_s: float


class Lease:
    """One connection in one caller's hands. One statement at a time."""

    def __init__(self, engine: Engine, kind: _Prepared | None, connection: Any, session: SessionName | None) -> None:
        self.engine = engine
        self.kind = kind
        self.connection = connection
        self.session = session
        self.held = kind is None  # it belongs to its session, now and afterwards
        self.unchanged = True
        self._undo: list[bytes] = []
        self._closed = False

    def close(self) -> None:
        """Give the connection back."""
        if not self._closed:
            self._closed = True
            self.engine.give_back(self)

    def run(self, sql: bytes) -> None:
        """Run a statement that gives nothing."""
        self.call(self.connection.query, sql, "Null")

    def set_for_now(self, settings: Mapping[str, str]) -> None:
        """Apply the settings of one statement; the session gets its own back afterwards."""
        before = self._values(settings)
        self.run(_set_statement(settings))
        for name in settings:
            self._undo.append(
                _set_statement({name: before[name]}) if name in before else f"SET {name} = DEFAULT".encode()
            )

    def undo(self) -> None:
        """Take back the settings of one statement."""
        while self._undo:
            with contextlib.suppress(EngineError):
                self.run(self._undo.pop())

    def _values(self, settings: Mapping[str, str]) -> dict[str, str]:
        names = ", ".join(f"'{name}'" for name in settings if _SETTING_NAME.fullmatch(name))
        sql = f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})"
        lines = bytes(self.call(self.connection.query, sql, "JSONEachRow").bytes() or b"").splitlines()
        return {row["name"]: row["value"] for row in map(json.loads, lines)}

    def query(self, sql: bytes, format_name: str, parameters: Mapping[str, str], kind: Kind) -> Chunk:
        """Run a statement to its end and give its whole result."""
        if kind in (Kind.CONTROL, Kind.UNKNOWN):
            self.unchanged = False
            if self.session is not None and not self.held:
                # what this statement changes is the session's from now on; what the request set is not
                self.held = True
                self._undo += [
                    f"SET {name} = DEFAULT".encode() for name, _ in (self.kind.settings if self.kind else ())
                ]
        result = self._run(sql, format_name, parameters, kind)
        counts = Counts(
            result.storage_rows_read() or 0,
            result.storage_bytes_read() or 0,
            result.rows_read() or 0,
            result.rows_written() or 0,
            result.bytes_written() or 0,
            int(result.elapsed() * 1e9),
        )
        return Chunk(bytes(result.bytes() or b""), counts)

    def _run(self, sql: bytes, format_name: str, parameters: Mapping[str, str], kind: Kind) -> Any:
        write = None if kind is Kind.READ_ONLY else self.engine.begin_write()
        has_failed = True
        try:
            result = self.call(self.connection.query, sql, format_name, params=dict(parameters))
            has_failed = False
        finally:
            if write is not None:
                self.engine.end_write(write, has_failed=has_failed)
        return result

    def stream(self, sql: bytes, format_name: str, parameters: Mapping[str, str]) -> Stream | None:
        """Start a query whose result is fetched by chunks; None where chDB cannot stream this kind of statement."""
        try:
            handle = self.call(self.connection.send_query, sql, format_name, params=dict(parameters))
        except EngineError as error:
            if "Streaming query is not supported" in error.text:
                return None
            raise
        return Stream(self, handle)

    def insert(self, sql: bytes, format_name: str) -> Inserting:
        """Start an INSERT whose data follows in any number of pieces."""
        write = self.engine.begin_write()
        try:
            handle = self.call(self.connection.send_insert, sql, format_name)
        except BaseException:
            self.unchanged = False
            self.engine.end_write(write, has_failed=True)
            raise
        return Inserting(self, handle, write)

    def call(self, function: Any, *args: object, **keywords: object) -> Any:
        """Call chDB; what it raises becomes ClickHouse's error."""
        try:
            return function(*args, **keywords)
        except RuntimeError as error:
            found = engine_error(error)
            raise EngineError(found.code, f"{found.text} (version {self.engine.version})") from None


class Stream:
    """A running query: chunks of whole blocks in its format."""

    def __init__(self, lease: Lease, handle: Any) -> None:
        self._lease = lease
        self._handle = handle
        self._open = True

    def fetch(self) -> Chunk | None:
        """Give the next chunk; None after the last. A failed stream raises once."""
        if not self._open:
            return None
        try:
            result = self._lease.call(self._lease.connection.streaming_fetch_result, self._handle)
        except EngineError:
            self._open = False
            raise
        rows = result.rows_read() or 0
        data = bytes(result.bytes() or b"")
        if rows == 0:
            self._open = False
            if not data:
                return None
        counts = Counts(
            result.storage_rows_read() or 0, result.storage_bytes_read() or 0, rows, 0, 0, int(result.elapsed() * 1e9)
        )
        return Chunk(data, counts)

    def close(self) -> None:
        """Cancel what is still running."""
        if self._open:
            self._open = False
            self._lease.unchanged = False
            self._lease.call(self._lease.connection.streaming_cancel_query, self._handle)


class Inserting:
    """A running INSERT. Nothing is acknowledged before `finish` returns: then its parts are files of the table."""

    def __init__(self, lease: Lease, handle: Any, write: Write) -> None:
        self._lease = lease
        self._handle = handle
        self._write = write
        self._open = True

    def append(self, data: bytes) -> None:
        """Hand over a piece of the data."""
        self._lease.call(self._lease.connection.insert_append, self._handle, data)

    def finish(self) -> Counts:
        """Write what was handed over.

        chDB 26.9 gives a result with rows also where writing them failed: a full disk, a limit of memory, a constraint. Only the
        engine's own counter tells. So an INSERT counts as failed where any has since this one began: at worst rows are written
        that are said to be none.
        """
        self._open = False
        engine, error = self._lease.engine, None
        has_failed = True
        try:
            result = self._lease.call(self._lease.connection.insert_done, self._handle)
            error = engine.error_of(self._write)
            has_failed = False
        finally:
            engine.end_write(self._write, has_failed=has_failed)
        if error is not None:
            self._lease.unchanged = False
            raise error
        written = result.rows_written() or 0
        size = result.bytes_written() or 0
        return Counts(written, size, written, written, size, int(result.elapsed() * 1e9))

    def close(self) -> None:
        """Drop what was not finished; the connection is not used again."""
        self._lease.unchanged = False
        if not self._open:
            return
        self._open = False
        try:
            self._lease.call(self._lease.connection.insert_cancel, self._handle)
        finally:
            self._lease.engine.end_write(self._write, has_failed=True)


def _use_statement(database: str) -> bytes:
    name = database.replace("\\", "\\\\").replace("`", "\\`")
    return f"USE `{name}`".encode(errors="surrogateescape")


def _set_statement(settings: Mapping[str, str]) -> bytes:
    parts = []
    for name, value in settings.items():
        if not _SETTING_NAME.fullmatch(name):
            raise refusal(
                UNKNOWN_SETTING, f"Setting {name!r} is neither a builtin setting nor a name that could be one"
            )
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        parts.append(f"{name} = '{quoted}'")
    return ("SET " + ", ".join(parts)).encode(errors="surrogateescape")
