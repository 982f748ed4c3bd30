"""Every kernel's SQL against its Arrow form, in ClickHouse itself (chDB), over the same awkward values."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from chdb.session import Session

from fqlstream.functions.index import KERNELS
from fqlstream.functions.spec import Kernel
from fqlstream.functions.sql_lambdas import lambdas_of

NUMBERS = [
    None,
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    3.0,
    -7.0,
    0.5,
    -0.5,
    0.1,
    0.29,
    1e300,
    -1e300,
    1e-300,
    1e16,
    123456.75,
    2.0**53,
    700.0,
    1000.0,
]
TEXTS = [None, "", "a", "ab", "abcde", "é", "e\u0301x", "😀😀", "a\nb", "it's", "\\", "A"]
FLAGS = [None, True, False]
COUNTS = [0.0, 1.0, 3.0, 40.0]
PROBABILITIES = [None, 0.0, 0.05, 0.1, 0.29, 0.3, 0.7, 0.9999, 1.0, -0.5, 1.5]

SQL_TYPE = {"n": "Nullable(Float64)", "s": "Nullable(String)", "b": "Nullable(Bool)"}
ARROW_TYPE = {"n": pa.float64(), "s": pa.string(), "b": pa.bool_()}

Column = tuple[str, list[Any]]
N, S, B, C, P = ("n", NUMBERS), ("s", TEXTS), ("b", FLAGS), ("n", COUNTS), ("n", PROBABILITIES)
SMALL: Column = ("n", [None, 0.0, 1.0, 2.0, 3.7, -1.0, 9.0, 1e300])


class Constant:
    """A literal argument."""

    def __init__(self, kind: str, value: Any) -> None:
        self.kind, self.value = kind, value

    def __repr__(self) -> str:
        return repr(self.value)


def number(value: float) -> Constant:
    return Constant("n", value)


def text(value: str) -> Constant:
    return Constant("s", value)


#: Arguments for each kernel; several lines where constants matter.
CASES: dict[str, list[list[Column | Constant]]] = {
    **{
        name: [[N, N], [N, number(2.0)], [number(-8.0), N]]
        for name in ("^", "*", "/", "%", "+", "-", "<", "<=", ">", ">=")
    },
    **{name: [[N, N], [S, S], [B, B], [S, text("ab")], [N, number(0.0)]] for name in ("==", "!=")},
    "negate": [[N]],
    "not": [[B]],
    "and": [[B, B]],
    "or": [[B, B]],
    "if": [[B, N, N], [B, S, text("z")]],
    "strict_if": [[B, N, N], [B, S, text("z")]],
    "length": [[S]],
    "to_string": [[B], [S]],
    "number_to_string": [
        [N],
        [("n", [10.0**place * digit for place in range(-12, 24) for digit in (1, -1.5, 1.2345678901234567)])],
    ],
    "startswith": [[S, S], [S, text("a")]],
    "substring": [[S, SMALL, SMALL], [S, number(2.0), number(2.0)]],
    "match": [[S, text(pattern)] for pattern in ("a.b", "^a", "[[:alpha:]]$", "", "(?i)A", "é|x", r"\\")],
    "is_null": [[N], [S], [B]],
    "is_not_null": [[N], [S], [B]],
    **{name: [[N]] for name in ("abs", "exp", "log", "log2", "log10", "sqrt")},
    **{name: [[N, N], [N, N, number(1.0)], [SMALL, SMALL, SMALL]] for name in ("greatest", "least")},
    "class_index": [[S, text("a"), text("ab"), text("é")], [N, number(0.0), number(1.0)]],
    "argmax": [[P, P, P]],
    "pick": [[("n", [None, 0.0, 1.0]), P, P]],
    "both": [[B, B]],
    "bin_index": [[P, *(number(place / 10) for place in range(11))], [P, number(0.0), number(1.0)]],
    "clip": [[N, number(0.0), number(1.0)]],
    "to_number": [[B]],
    "jsd_of_counts": [[C, C, C, C], [C, C, number(3.0), number(1.0)]],
    "psi_of_counts": [[number(1.0), C, C, C, C]],
}
#: They read lists: the differential test has them.
ELSEWHERE = {"type_violation", "range_violation", "average_precision", "normalised_gain"}


def test_every_kernel_is_tried() -> None:
    with_sql = {name for name, kernel in KERNELS.items() if kernel.clickhouse is not None}
    assert with_sql == set(CASES) | ELSEWHERE
    for name in set(KERNELS) - with_sql:
        assert KERNELS[name].clickhouse_reason, name


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[Session]:
    with Session() as session:
        yield session


def _literal(kind: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if kind == "b":
        return "true" if value else "false"
    if kind == "n":
        return f"toFloat64({value!r})"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _theirs(
    session: Session, kernel: Kernel, arguments: list[Column | Constant], rows: list[tuple[Any, ...]]
) -> list[Any]:
    names, fields = [], []
    for place, argument in enumerate(arguments):
        if isinstance(argument, Constant):
            names.append(_literal(argument.kind, argument.value))
        else:
            names.append(f"c{place}")
            fields.append((f"c{place}", argument[0]))
    columns = ", ".join(f"{name} {SQL_TYPE[kind]}" for name, kind in fields)
    kinds = [kind for _, kind in fields]
    data = ", ".join(f"({', '.join(map(_literal, kinds, row))})" for row in rows)
    assert kernel.clickhouse is not None
    form = kernel.clickhouse(*names)
    value = "if(isFinite(r), r, NULL)" if kernel.undefined_is_null else "r"
    lambdas = lambdas_of(form)
    prefix = f"WITH {', '.join(lambdas)} " if lambdas else ""
    query = f"{prefix}SELECT {value} AS v FROM (SELECT {form} AS r FROM values('{columns}', {data}))"
    answer = session.query(query, "JSONCompact").bytes()
    return [row[0] for row in json.loads(answer)["data"]]


def _ours(kernel: Kernel, arguments: list[Column | Constant], rows: list[tuple[Any, ...]]) -> list[Any]:
    arrays = []
    place = itertools.count()
    for argument in arguments:
        if isinstance(argument, Constant):
            arrays.append(pa.scalar(argument.value, ARROW_TYPE[argument.kind]))
        else:
            at = next(place)
            arrays.append(pa.array([row[at] for row in rows], ARROW_TYPE[argument[0]]))
    found: list[Any] = kernel.arrow(*arrays).to_pylist()
    return found


def _agree(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, float):
        return math.isclose(ours, float(theirs), rel_tol=1e-12, abs_tol=1e-300)
    if isinstance(ours, bool):
        return ours == bool(theirs)
    return bool(ours == theirs)


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, arguments) for name, several in CASES.items() for arguments in several], ids=str
)
def test_both_forms_agree(clickhouse: Session, name: str, arguments: list[Column | Constant]) -> None:
    kernel = KERNELS[name]
    rows = list(itertools.product(*(argument[1] for argument in arguments if not isinstance(argument, Constant))))
    ours, theirs = _ours(kernel, arguments, rows), _theirs(clickhouse, kernel, arguments, rows)
    differing = [(row, a, b) for row, a, b in zip(rows, ours, theirs, strict=True) if not _agree(a, b)]
    assert not differing, (len(differing), differing[:8])
