"""Values of metrics out of ClickHouse, as pandas frames."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from pydantic import SecretStr

from fqlstream.client.store_address import StoreAddress
from fqlstream.errors import StoreError, UsageError
from fqlstream.events.durations import parse_duration_ms
from fqlstream.settings import Settings, load

if TYPE_CHECKING:
    import pandas as pd

#: The columns of the table `metric_values`, in its order.
VALUE_COLUMNS = (
    "model", "version", "metric", "segment", "window_start", "window_end", "window_s", "value", "rows", "labelled_rows", "exact",
    "error_bound", "status", "value_version", "definition_revision", "updated_at",
)  # fmt: skip
_SELECTED = ", ".join(VALUE_COLUMNS)


class QueryClient:
    """Reads what the engine published. Times are UTC; a window without a value has NaN.

    with QueryClient("http://localhost:8123") as client:
        client.values("churn", "accuracy", window="1d")
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        user: str | None = None,
        password: str | SecretStr | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Reach ClickHouse (or the embedded store, which is one) over HTTP; what is not given is read from the settings.

        Raises UsageError for a bad address, StoreError where nothing answers.
        """
        store = (settings or load()).store
        where = url or store.url
        if where is None:
            raise UsageError(
                "SDK010",
                "no ClickHouse is named",
                "give its address, or set FQLSTREAM_STORE__URL=http://host:8123/default",
            )
        address = StoreAddress.parse(where, "SDK010")
        secret = password if password is not None else store.password
        self._address = address.shown
        try:
            self._client: Any = clickhouse_connect.get_client(
                interface=address.scheme,
                host=address.host,
                port=address.port,
                username=user or address.user or store.user,
                password=address.password or _revealed(secret),
                database=address.database,
                send_receive_timeout=max(1, round(store.timeout_s)),
                autogenerate_session_id=False,
            )
        except (ClickHouseError, OSError) as error:
            raise _unreached(self._address, error) from None

    def __repr__(self) -> str:
        return f"QueryClient({self._address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def values(
        self,
        model: str,
        metric: str,
        segment: str = "",
        window: str = "1h",
        start: dt.datetime | str | None = None,
        end: dt.datetime | str | None = None,
        *,
        version: str = "all",
    ) -> pd.DataFrame:
        """Give the newest value of every window of a size, oldest first, with the columns of `metric_values`.

        `start` and `end` bound the windows' starts, half-open: datetimes, or texts in ISO 8601; without an offset they are UTC.
        """
        bound: dict[str, Any] = {"model": model, "metric": metric, "segment": segment, "version": version}
        where = [f"{name} = {{{name}:String}}" for name in bound]
        where.append("window_s = {window_s:UInt32}")
        bound["window_s"] = _seconds(window)
        for name, moment, sign in (("start", start, ">="), ("end", end, "<")):
            if moment is not None:
                where.append(f"window_start {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
                bound[name] = unix_ms(moment)
        return self.query(_select("metric_series", where, "window_start, window_end"), bound)

    def latest(self, model: str | None = None, metric: str | None = None) -> pd.DataFrame:
        """Give the newest value of every metric, segment, version and window size, of all models or of one."""
        conditions = {"model": model, "metric": metric}
        bound = {name: value for name, value in conditions.items() if value is not None}
        where = [f"{name} = {{{name}:String}}" for name in bound]
        return self.query(_select("metric_latest", where, "model, metric, segment, version, window_s"), bound)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Run any query with ClickHouse's own parameters (`{name:Type}`) and give its result.

        Raises StoreError where ClickHouse refuses it, or does not answer.
        """
        try:
            frame: pd.DataFrame = self._client.query_df(sql, dict(parameters or {}))
        except DatabaseError as error:
            raise StoreError("SDK011", str(error).split("\n")[0]) from None
        except (ClickHouseError, OSError) as error:
            raise _unreached(self._address, error) from None
        for name in frame.columns:
            # the driver leaves out the time zone where it is UTC
            if frame[name].dtype.kind == "M" and getattr(frame[name].dtype, "tz", None) is None:
                frame[name] = frame[name].dt.tz_localize("UTC")
        return frame


def _select(view: str, where: list[str], order: str) -> str:
    conditions = f" WHERE {' AND '.join(where)}" if where else ""
    return f"SELECT {_SELECTED} FROM {view}{conditions} ORDER BY {order}"  # noqa: S608 (names of ours; values are bound)


def _revealed(secret: str | SecretStr | None) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else (secret or "")


def _unreached(address: str, error: Exception) -> StoreError:
    hint = "is it up? `fqlstream up` starts a store of its own"
    return StoreError("SDK012", f"ClickHouse at {address}: {str(error).splitlines()[0]}", hint, retryable=True)


def _seconds(window: str) -> int:
    try:
        ms = parse_duration_ms(window)
    except ValueError as error:
        raise UsageError("SDK013", f"window: {error}", "write a size such as 1h, 1d or 7d") from None
    return ms // 1000


def unix_ms(moment: dt.datetime | str) -> int:
    """Give a moment in Unix ms; a text is ISO 8601, in UTC where it does not say.

    Raises UsageError for any other text.
    """
    if isinstance(moment, str):
        try:
            moment = dt.datetime.fromisoformat(moment)
        except ValueError:
            raise UsageError("SDK013", f"{moment!r} is no time", "write 2026-11-21 or 2026-11-21T10:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
