"""Loads a metric's code, calls it, and turns what it returns or raises into a number or a failure its author can act on."""

from __future__ import annotations

import errno
import linecache
import re
import traceback
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from types import TracebackType
from typing import Any, Final

from fqlstream.code_metrics.inside.collected import MissingColumnError

#: The file name under which a metric's own lines appear in tracebacks.
SOURCE: Final = "<metric>"
_MESSAGE_MAX: Final = 2_000

_SNOWFLAKE: Final = "snowflake.snowpark can only build expressions here: a metric has no Snowflake account and no network; use pyspark.sql.functions"
_UNRESOLVED: Final = re.compile(
    r"""(?:Referenced\ column\ "(?P<duckdb>[^"]+)"|Column\ '"?(?P<sqlglot>[^'"]+)"?'\ could\ not\ be\ resolved)""",
    re.VERBOSE,
)
_WORKER_LINE: Final = re.compile(rf'File "{SOURCE}", line (\d+), in (\S+)')
_WORKER_ERROR: Final = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*$", re.MULTILINE)


class MetricError(Exception):
    """A failure of the metric's own: the four parts that travel to the caller."""

    def __init__(self, code: str, message: str, own_lines: str = "", hint: str | None = None) -> None:
        super().__init__(message)
        self.parts = {"code": code, "message": message[:_MESSAGE_MAX], "traceback": own_lines, "hint": hint}


def load(code: str) -> Callable[[Any], object]:
    """Run the code's top level and give its calc_metric. Raises MetricError."""
    linecache.cache[SOURCE] = (len(code), None, code.splitlines(keepends=True), SOURCE)
    # A function of __main__ is sent to Spark's Python workers by value: they could import nothing else of a metric.
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(code, SOURCE, "exec", dont_inherit=True), names)  # noqa: S102  # it is what a sandbox is for
    except BaseException as error:  # whatever a metric raises is its failure, SystemExit too
        raise explained(error, ()) from None
    function = names.get("calc_metric")
    if not callable(function):
        raise MetricError(
            "CBM004", "the code defines no function calc_metric", hint="write: def calc_metric(df): ... return a number"
        )
    return function  # type: ignore[no-any-return]  # callable is all that can be known of it


def compute(function: Callable[[Any], object], frame: Any, columns: Sequence[str]) -> float:
    """Call calc_metric with one frame. Raises MetricError."""
    try:
        return as_number(function(frame))
    except MetricError:
        raise
    except BaseException as error:  # as in load
        raise explained(error, columns) from None


def as_number(value: object) -> float:
    """Read a metric's result: any real number, NumPy's and decimals too; a missing value of pandas is NaN. Raises MetricError."""
    kind = type(value).__name__
    if kind == "NAType":
        return float("nan")
    if kind == "ndarray" and getattr(value, "ndim", 1) == 0:
        value = value.item()  # type: ignore[attr-defined]  # a NumPy array without dimensions
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise MetricError("CBM011", "calc_metric returned an integer beyond what a float holds") from None
    raise MetricError("CBM011", f"calc_metric returned {kind}, not a number", hint=_how_to_return(kind))


def explained(error: BaseException, columns: Sequence[str]) -> MetricError:
    """Say what went wrong in the metric's own terms: its lines, its columns, its limits."""
    own_lines, text = _own_lines(error), _first_line(error)
    missing = _missing_column(error, columns)
    if missing is not None:
        listed = ", ".join(columns[:200])
        return MetricError("CBM012", f"there is no column {missing}", own_lines, f"the columns are {listed}")
    if isinstance(error, SyntaxError):
        return MetricError("CBM001", f"the code is no Python: {error.msg}", f"line {error.lineno}\n")
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(error, own_lines)
    code, hint = _limit(error)
    return MetricError(code, f"{type(error).__name__}: {text}", own_lines, hint)


def _not_installed(error: ModuleNotFoundError, own_lines: str) -> MetricError:
    name = error.name or str(error)
    hint = _SNOWFLAKE if name.startswith("snowflake") else "install it in the environment that runs code metrics"
    return MetricError("CBM013", f"{name} is not installed here", own_lines, hint)


def _limit(error: BaseException) -> tuple[str, str | None]:
    text = str(error)
    if isinstance(error, MemoryError) or "java.lang.OutOfMemoryError" in text:
        return "CBM021", "aggregate on the data frame before collecting it"
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT} or "No space left on device" in text:
        return "CBM024", "select fewer columns before sorting or joining"
    if number == errno.EAGAIN or "can't start new thread" in text or "unable to create native thread" in text:
        return "CBM023", "a metric needs no processes of its own: Spark runs in parallel by itself"
    if type(error).__module__.startswith("snowflake"):
        return "CBM010", _SNOWFLAKE
    if isinstance(error, OSError):
        return "CBM010", "a metric computes on its data frame: there are no files and no network here"
    return "CBM010", None


def _missing_column(error: BaseException, columns: Sequence[str]) -> str | None:
    if isinstance(error, MissingColumnError):
        return repr(error.column)
    if isinstance(error, KeyError) and len(error.args) == 1 and columns and str(error.args[0]) not in columns:
        return str(error) if _is_frame_lookup(error.__traceback__) else None
    condition = getattr(error, "getCondition", None) or getattr(error, "getErrorClass", None)
    name = condition() if callable(condition) else None
    if isinstance(name, str) and name.startswith("UNRESOLVED_COLUMN"):
        return str(error.getMessageParameters().get("objectName", ""))  # type: ignore[attr-defined]  # pyspark's own errors
    if name == "ATTRIBUTE_NOT_SUPPORTED":
        return str(error.getMessageParameters().get("attr_name", ""))  # type: ignore[attr-defined]  # as above
    found = (
        _UNRESOLVED.search(str(error)) if type(error).__module__.startswith(("_duckdb", "duckdb", "sqlglot")) else None
    )
    return repr(found["duckdb"] or found["sqlglot"]) if found else None


def _is_frame_lookup(place: TracebackType | None) -> bool:
    """Whether a KeyError comes out of pandas, and not out of a dictionary of the metric's own."""
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and "/pandas/" in place.tb_frame.f_code.co_filename


def _first_line(error: BaseException) -> str:
    """Give the part of an error's text that is about the metric: of a failed Spark task that is the error of the Python worker."""
    text = str(error)
    if SOURCE in text:
        found = _WORKER_ERROR.findall(text.partition("JVM stacktrace")[0])
        if found:
            return str(found[-1])
    return text.strip().partition("\n")[0]


def _own_lines(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == SOURCE]
    rows = [f"line {frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames]
    # Lines that ran in Spark's Python workers are only in the text.
    for number, name in dict.fromkeys(_WORKER_LINE.findall(str(error))):
        rows.append(f"line {number}, in {name}\n    {linecache.getline(SOURCE, int(number)).strip()}")
    return "\n".join(rows[-20:])


def _how_to_return(kind: str) -> str:
    if kind == "NoneType":
        return "is a return missing? Where there is nothing to measure return float('nan')"
    if kind == "Column":
        return "a column is an expression: return df.agg(...).first()[0]"
    if kind in {"DataFrame", "Row", "CollectedRows", "list", "tuple"}:
        return "return one number of it, for example df.agg(...).first()[0]"
    return "return a float or an int"
