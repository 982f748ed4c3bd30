"""ClickHouse over HTTP, for the writers and readers of this package: Arrow in, Arrow out, from any thread.

One clickhouse-connect client without a session is shared: its calls only read it. The connections under it are the pool.
Inserts and results travel uncompressed as Arrow IPC streams: between processes of one machine compression costs more than
it saves; a server far away is better reached with `?compression=lz4` in its address.
"""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Self, cast

import clickhouse_connect
import lz4.frame
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError
from clickhouse_connect.driver.exceptions import Error as DriverError
from clickhouse_connect.driver.httputil import get_pool_manager
from clickhouse_connect.driver.summary import QuerySummary
from urllib3.exceptions import HTTPError

from fqlstream.client.store_address import StoreAddress
from fqlstream.errors import StoreError, UsageError
from fqlstream.settings import StoreSettings
from fqlstream.store.error_codes import BY_CODE
from fqlstream.store.naming import identifier

Parameters = Mapping[str, Any]

#: How an Arrow IPC stream ends: one that does not was cut, perhaps between two batches, and would read as fewer rows.
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
#: The end of a streamed answer is kept this far, to read the error that may stand there.
_TAIL_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
#: What the driver raises of rows that it cannot read, and of parameters that it cannot write.
_UNREADABLE = (ValueError, LookupError, EOFError, struct.error)
#: What ClickHouse says to an insert with a quorum while another one's has not been met: those into one table take turns.
_IN_TURN = "Code: 286."
#: An insert waits for so many turns, so long at most for each: some 5 s, after which replicas are away rather than busy.
_QUORUM_TRIES = 50
_QUORUM_WAIT_S = 0.2
_NOT_REACHED_HINT = "check that it runs and that its address is right; `fqlstream up` starts a store of its own"


class Store:
    """A client of one ClickHouse database. Safe for any number of threads."""

    def __init__(self, client: Any, pool: Any, *, quorum: str | None, compression: str | None, name: str) -> None:
        self._client = client
        self._pool = pool
        self._compression = compression
        self.name = name
        #: Settings of inserts into `states` and `flushes`, and of reads of them, on a replicated server.
        self.quorum = quorum

    @classmethod
    def connect(cls, settings: StoreSettings, *, url: str | None = None, key: str | None = None) -> Self:
        """Reach a store; `url` and `key` stand before those of the settings.

        Raises StoreError STO001 where nothing answers, STO003 where the key is wrong, UsageError for no or a bad address.
        """
        given = url or settings.url
        if not given:
            raise UsageError(
                "STO004",
                "no store is named",
                "set FQLSTREAM_STORE__URL, or join a stack with --data (`fqlstream up` runs one)",
            )
        where = StoreAddress.parse(given, "STO005")
        secret = settings.password.get_secret_value() if settings.password else ""
        pool = get_pool_manager(maxsize=settings.clients_max, num_pools=2, block=True)
        try:
            with _translated(where.shown):
                client = clickhouse_connect.get_client(
                    interface=where.scheme,
                    host=where.host,
                    port=where.port,
                    username=where.user or settings.user,
                    password=key if key is not None else (where.password or secret),
                    database=where.database,
                    compress=where.compression or False,
                    send_receive_timeout=max(1, round(settings.timeout_s)),
                    autogenerate_session_id=False,
                    pool_mgr=pool,
                )
        except StoreError:
            pool.clear()
            raise
        return cls(client, pool, quorum=settings.quorum, compression=where.compression, name=where.shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        with contextlib.suppress(ClickHouseError, OSError):
            self._client.close()
        self._pool.clear()

    def ping(self) -> bool:
        """Say whether the server answers."""
        return bool(self._client.ping())

    def query_arrow(
        self, sql: str, parameters: Parameters | None = None, settings: Mapping[str, object] | None = None
    ) -> pa.Table:
        """Run a query and give its whole result; text comes as Arrow strings, times in UTC."""
        with _translated(self.name):
            data = self._client.raw_query(sql, _bound(parameters), settings=_texts(settings), fmt="ArrowStream")
        if not data.endswith(_ARROW_END):
            raise _not_arrow(data, self.name)
        try:
            return pa.ipc.open_stream(data).read_all()
        except (pa.ArrowException, OSError):
            raise _not_arrow(data, self.name) from None

    def query_rows(
        self, sql: str, parameters: Parameters | None = None, settings: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a query and give its rows as Python values.

        Raises StoreError STO007 where the answer is ClickHouse's, whole, and cannot be read all the same.
        """
        with contextlib.suppress(*_UNREADABLE):
            return self._rows(sql, parameters, settings)
        # Cut or replaced on its way, or never to be read? Rows have no end that would tell; the same answer as Arrow has one.
        # Parameters that are wrong are so here too.
        self.query_arrow(sql, parameters, settings)
        try:
            return self._rows(sql, parameters, settings)
        except _UNREADABLE as error:
            raise StoreError(
                "STO007", f"an answer of {self.name} cannot be read: {_first_line(error)}", "report it"
            ) from error

    def _rows(
        self, sql: str, parameters: Parameters | None, settings: Mapping[str, object] | None
    ) -> list[tuple[Any, ...]]:
        with _translated(self.name):
            answer = self._client.query(sql, _bound(parameters), settings=_texts(settings))
            return [tuple(row) for row in answer.result_rows]

    def stream_arrow(
        self, sql: str, parameters: Parameters | None = None, settings: Mapping[str, object] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Run a query and give its result batch by batch, as it comes. An error on the way is raised where it came."""
        with _translated(self.name):
            response = self._client.raw_stream(sql, _bound(parameters), settings=_texts(settings), fmt="ArrowStream")
        source = _Tail(response)
        try:
            try:
                yield from pa.ipc.open_stream(pa.PythonFile(cast("IO[bytes]", source), mode="r"))
                source.read()  # what stands behind the stream: nothing, or an error
            except (pa.ArrowException, HTTPError, OSError) as error:
                raise _streamed_error(source, error, self.name) from None
            if (late := _told_error(source)) is not None:
                raise _refused(late, None)
            if not source.tail.endswith(_ARROW_END):
                raise _not_arrow(source.tail, self.name)
        finally:
            response.close()

    def stream_bytes(self, sql: str, format_name: str, parameters: Parameters | None = None) -> Iterator[bytes]:
        """Run a statement and give its answer in a format of ClickHouse, unless it names one itself, as it comes."""
        with _translated(self.name):
            response = self._client.raw_stream(
                sql, _bound(parameters), transport_settings={"X-ClickHouse-Format": format_name}
            )
        source = _Tail(response)
        held = b""
        try:
            while True:
                try:
                    data = source.read(_PIECE_BYTES)
                except (HTTPError, OSError) as error:
                    raise _streamed_error(source, error, self.name) from None
                if not data:
                    break
                # the end is held back: an error that stands there is no part of the result
                held += data
                if len(held) > _TAIL_BYTES:
                    yield held[:-_TAIL_BYTES]
                    held = held[-_TAIL_BYTES:]
            late = _told_error(source)
            yield held if late is None else held[: held.rfind(b"\r\n__exception__\r\n" + source.tag.encode())]
            if late is not None:
                raise _refused(late, None)
        finally:
            response.close()

    def insert_arrow(self, table: str, data: pa.Table, settings: Mapping[str, object] | None = None) -> None:
        """Insert rows; columns go by name, those that the data lacks get their defaults. Returns once they are durable."""
        if data.num_rows == 0:
            return
        body: Any = memoryview(_arrow_stream(data.unify_dictionaries()))
        if self._compression == "lz4":
            body = lz4.frame.compress(body)
        for waited in range(_QUORUM_TRIES):
            try:
                self._insert(table, data.column_names, body, settings)
            except StoreError as error:
                if _IN_TURN not in error.message or waited == _QUORUM_TRIES - 1:
                    raise
                # no outage, so nobody is told: writers that wait for different times find their turns
                time.sleep(random.uniform(0, _QUORUM_WAIT_S))  # noqa: S311  # nothing secret
            else:
                return

    def _insert(self, table: str, names: Sequence[str], body: Any, settings: Mapping[str, object] | None) -> None:
        with _translated(self.name):
            summary = self._client.raw_insert(
                identifier(table),
                names,
                body,
                # without it a server may say 200 first and fail afterwards
                settings={"wait_end_of_query": "1", **_texts(settings)},
                fmt="ArrowStream",
                compression=self._compression,
            )
        self._require_answer(summary)

    def command(
        self, sql: str, parameters: Parameters | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        """Run a statement that gives no rows."""
        with _translated(self.name):
            answer = self._client.command(sql, parameters=_bound(parameters), settings=_texts(settings))
        if isinstance(answer, QuerySummary):
            self._require_answer(answer)
        elif isinstance(answer, str) and answer.lstrip().startswith("<"):
            raise _not_clickhouse(answer.encode(), self.name)

    def _require_answer(self, summary: QuerySummary) -> None:
        """See that ClickHouse itself has said that it is done, and not something on the way to it."""
        if not summary.query_id():
            raise _not_clickhouse(b"", self.name)

    def quorum_write(self) -> dict[str, object]:
        """Give the settings of an insert that the protocol relies on."""
        return {"insert_quorum": self.quorum, "insert_quorum_parallel": 0} if self.quorum else {}

    def quorum_read(self) -> dict[str, object]:
        """Give the settings of a read that must see every such insert."""
        return {"select_sequential_consistency": 1} if self.quorum else {}


def _arrow_stream(data: pa.Table) -> pa.Buffer:
    """Encode a table as an Arrow IPC stream, in one buffer of the right size: growing one would copy it several times."""
    measured = pa.MockOutputStream()
    with pa.ipc.new_stream(measured, data.schema) as writer:
        writer.write_table(data)
    buffer = pa.allocate_buffer(measured.size())
    with pa.ipc.new_stream(pa.FixedSizeBufferWriter(buffer), data.schema) as writer:
        writer.write_table(data)
    return buffer


class _Tail:
    """A readable answer that remembers its end."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.tail = b""
        self.closed = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = None) -> bytes:
        data = bytes(self._response.read(size) if size is not None and size >= 0 else self._response.read())
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        return data

    def close(self) -> None:
        self.closed = True

    @property
    def tag(self) -> str:
        """The mark that an error in the answer carries."""
        return str(self._response.headers.get("X-ClickHouse-Exception-Tag", ""))


def _told_error(source: _Tail) -> str | None:
    """Read the error that ClickHouse wrote into an answer it had begun."""
    mark = b"__exception__\r\n" + source.tag.encode() + b"\r\n"
    if not source.tag or mark not in source.tail:
        return None
    return source.tail.split(mark, 1)[1].rsplit(b"\n", 3)[0].decode(errors="replace")


def _streamed_error(source: _Tail, error: Exception, name: str) -> StoreError:
    with contextlib.suppress(HTTPError, OSError):
        while source.read(_TAIL_BYTES):
            pass
    told = _told_error(source)
    if told is not None:
        return _refused(told, None)
    if b"DB::Exception" in source.tail:
        return _not_arrow(source.tail, name)
    return StoreError("STO001", f"{name} broke off its answer: {error}", _NOT_REACHED_HINT, retryable=True)


def _bound(parameters: Parameters | None) -> dict[str, Any] | None:
    return dict(parameters) if parameters else None


def _texts(settings: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items()} if settings else {}


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn what the driver raises into StoreError, ClickHouse's own words kept."""
    try:
        yield
    except OperationalError as error:
        if error.code is not None:
            raise _refused(str(error), error.code) from None
        raise StoreError(
            "STO001", f"{name} does not answer: {_first_line(error)}", _NOT_REACHED_HINT, retryable=True
        ) from None
    except (DriverError, ClickHouseError) as error:
        text, code = str(error), getattr(error, "code", None)
        if code is None and "HTTP status" in text and "Code: " not in text:
            raise _not_clickhouse(text.encode(), name) from None
        raise _refused(text, code) from None
    except (HTTPError, OSError) as error:
        raise StoreError(
            "STO001", f"{name} does not answer: {_first_line(error)}", _NOT_REACHED_HINT, retryable=True
        ) from None


def _refused(text: str, code: int | None) -> StoreError:
    told = text[text.find("Code: ") :] if "Code: " in text else text
    told = told.split(" (for url ", 1)[0].strip()
    if code is None:
        number = told.removeprefix("Code: ").split(".", 1)[0]
        code = int(number) if number.isdigit() else None
    known = BY_CODE.get(code) if code is not None else None
    if known is not None and known.verdict == "access":
        return StoreError("STO003", f"ClickHouse refused access: {told}", known.hint)
    hint = known.hint if known is not None else None
    return StoreError("STO002", f"ClickHouse refused: {told}", hint, retryable=known is not None)


def _not_arrow(data: bytes, name: str) -> StoreError:
    """Name what came instead of a whole Arrow stream: an error in its middle, half of it, or somebody else's page."""
    text = data[-_TAIL_BYTES:].decode(errors="replace")
    if (at := text.find("Code: ")) >= 0 and "DB::Exception" in text[at:]:
        return _refused(text[at:].rstrip(), None)
    return _not_clickhouse(data, name)


def _not_clickhouse(data: bytes, name: str) -> StoreError:
    shown = "".join(char if char.isprintable() else "." for char in data[:120].decode(errors="replace")) or "nothing"
    return StoreError(
        "STO006",
        f"{name} answers with what is no whole answer of ClickHouse: {shown}",
        "is a proxy or a login page between, or does another program listen at that address?",
        retryable=True,
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Give a small table as rows."""
    return cast("list[dict[str, Any]]", table.to_pylist())


def int_list(values: Sequence[int]) -> str:
    """Write whole numbers for an IN clause."""
    return ",".join(str(int(value)) for value in values)
