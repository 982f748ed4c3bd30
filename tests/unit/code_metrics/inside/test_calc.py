from __future__ import annotations

import errno
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fqlstream.code_metrics.inside import calc
from fqlstream.code_metrics.inside.collected import CollectedRows


def failure_of(code: str, frame: Any = None, columns: tuple[str, ...] = ("age", "score")) -> dict[str, Any]:
    with pytest.raises(calc.MetricError) as caught:
        calc.compute(calc.load(code), frame, columns)
    return dict(caught.value.parts)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (1.5, 1.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (Decimal("1.25"), 1.25),
        (Fraction(1, 2), 0.5),
        (np.array(2.0), 2.0),
        (math.inf, math.inf),
    ],
)
def test_real_numbers_are_values(value: object, number: float) -> None:
    assert calc.as_number(value) == number


def test_missing_values_are_nan() -> None:
    assert math.isnan(calc.as_number(pd.NA))
    assert math.isnan(calc.as_number(float("nan")))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, "is a return missing"),
        (True, "float or an int"),
        ("1", "float or an int"),
        ([1.0], "one number of it"),
        (1j, "float or an int"),
        (np.array([1.0]), "float or an int"),
    ],
)
def test_anything_else_is_refused_with_what_to_return(value: object, hint: str) -> None:
    with pytest.raises(calc.MetricError) as caught:
        calc.as_number(value)
    assert caught.value.parts["code"] == "CBM011"
    assert hint in str(caught.value.parts["hint"])


def test_a_number_beyond_floats_is_refused() -> None:
    with pytest.raises(calc.MetricError, match="beyond what a float holds"):
        calc.as_number(10**400)


def test_the_traceback_holds_the_metrics_own_lines_only() -> None:
    found = failure_of(
        "import json\n\ndef inner(x):\n    return json.loads(x)\n\ndef calc_metric(df):\n    return inner('{')\n"
    )
    assert found["code"] == "CBM010"
    assert found["message"].startswith("JSONDecodeError: Expecting property name")
    assert (
        found["traceback"]
        == "line 7, in calc_metric\n    return inner('{')\nline 4, in inner\n    return json.loads(x)"
    )


def test_what_the_top_level_raises_is_the_metrics_too() -> None:
    found = failure_of("x = 1 / 0\n")
    assert (found["code"], found["traceback"]) == ("CBM010", "line 1, in <module>\n    x = 1 / 0")


@pytest.mark.parametrize("code", ["raise SystemExit(0)", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_leaving_is_a_failure(code: str) -> None:
    assert failure_of(f"def calc_metric(df):\n    {code}\n")["code"] == "CBM010"


def test_no_function_is_said_so() -> None:
    assert failure_of("calc_metric = 1")["code"] == "CBM004"


@pytest.mark.parametrize(
    ("expression", "missing"),
    [("df['nope']", "'nope'"), ("df.set_index('age').loc['x']", None), ("{}['nope']", None)],
)
def test_a_missing_column_is_named_with_those_there_are(expression: str, missing: str | None) -> None:
    frame = pd.DataFrame({"age": [1], "score": [0.5]})
    found = failure_of(f"def calc_metric(df):\n    return {expression}\n", frame)
    assert (found["code"] == "CBM012") == (missing is not None or "loc" in expression)
    if missing is not None:
        assert found["message"] == f"there is no column {missing}"
        assert found["hint"] == "the columns are age, score"


def test_a_missing_column_of_collected_rows_is_named() -> None:
    found = failure_of("def calc_metric(df):\n    return df.columns.nope\n", CollectedRows([(1,)], ["age"]), ("age",))
    assert (found["code"], found["message"], found["hint"]) == (
        "CBM012",
        "there is no column 'nope'",
        "the columns are age",
    )


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ("MemoryError()", "CBM021"),
        (f"OSError({errno.ENOSPC}, 'full')", "CBM024"),
        (f"BlockingIOError({errno.EAGAIN}, 'no')", "CBM023"),
        ('RuntimeError("can\'t start new thread")', "CBM023"),
        ("RuntimeError('java.lang.OutOfMemoryError: Java heap space')", "CBM021"),
        ("PermissionError(13, 'no')", "CBM010"),
    ],
)
def test_limits_are_told_from_mistakes(raised: str, code: str) -> None:
    assert failure_of(f"def calc_metric(df):\n    raise {raised}\n")["code"] == code


def test_snowflake_is_explained_where_it_is_not_installed() -> None:
    found = failure_of("import snowflake.snowpark\n\ndef calc_metric(df):\n    return 1\n")
    assert found["code"] == "CBM013"
    assert found["hint"].startswith("snowflake.snowpark can only build expressions here")


def test_a_long_message_is_cut() -> None:
    assert len(failure_of("def calc_metric(df):\n    raise ValueError('x' * 10**6)\n")["message"]) == 2_000
