from __future__ import annotations

import pytest

from fqlstream.code_metrics.inside.static_check import DOCUMENTED, FURTHER, check

FUNCTION = "def calc_metric(df):\n    return 1.0\n"


def code_of(text: str) -> str | None:
    found = check(text)
    return found and found["code"]


@pytest.mark.parametrize("module", DOCUMENTED + FURTHER)
def test_allowed_modules_may_be_imported(module: str) -> None:
    as_name = "annotations" if module == "__future__" else None
    text = f"from {module} import {as_name}\n" if as_name else f"import {module}\n"
    assert check(text + FUNCTION) is None


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "import numpy, os",
        "from os import path",
        "import os.path as p",
        "from . import x",
        "import pyspark.ml",
        "import numpy.f2py",
        "import mathx",
    ],
)
def test_others_may_not(text: str) -> None:
    assert code_of(f"{text}\n{FUNCTION}") == "CBM002"


@pytest.mark.parametrize(
    "text",
    [
        "from numpy import f2py",
        "x = ().__class__",
        "x = open('a')",
        "x = eval('1')",
        "x = getattr(1, 'real')",
        "x = __builtins__",
        "x = np.lib.sys",
        "x = '{0.__class__}'.format(1)",
        "x = spark.sql(\"select reflect('a', 'b')\")",
        "x = 'select * from parquet.`/etc`'",
        "match x:\n    case object(__class__=y): pass",
        "x = s.agg('to_csv')",
        "x = df._jdf",
    ],
)
def test_ways_out_are_refused(text: str) -> None:
    assert code_of(f"{text}\n{FUNCTION}") == "CBM003"


@pytest.mark.parametrize(
    "text",
    [
        "x = a[0]\na = [1]\na[0] += 1",
        "x: float = 1.0",
        "x = {'open': 1}['open']",
        "x = f'{1.0:.2f}'",
        "x = df['to_date']",
        "x = 'a sentence about reflection and transformations'",
        "x = '{:>10}'.format(1)",
        "class A:\n    def __init__(self):\n        self.x = 1",
        "for _ in range(3):\n    pass",
        "x = df.query('age > 3')",
        "match 1:\n    case int(real=y): pass",
    ],
)
def test_ordinary_code_passes(text: str) -> None:
    assert check(f"{text}\n{FUNCTION}") is None


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "calc_metric = lambda df: 1",
        "async def calc_metric(df): pass",
        "class calc_metric: pass",
        "def calc_metric(): pass",
        "def calc_metric(a, b): pass",
        "def calc_metric(df, *, b): pass",
        "if True:\n    def calc_metric(df): pass",
    ],
)
def test_the_entry_point_takes_one_argument(text: str) -> None:
    assert code_of(text) == "CBM004"


@pytest.mark.parametrize(
    "text", ["def calc_metric(*frames): pass", "def calc_metric(df, more=1): pass", "def calc_metric(df, /): pass"]
)
def test_other_signatures_that_can_be_called_pass(text: str) -> None:
    assert check(text) is None


def test_a_syntax_error_has_its_line() -> None:
    found = check("def calc_metric(df):\n    return 1 +\n")
    assert found is not None
    assert found["code"] == "CBM001"
    assert found["traceback"] == "line 2\n        return 1 +"
