"""Looks through a metric's code before it runs, in a process of its own that can be killed: code on standard input, JSON on standard output.

This makes mistakes plain early, and is no boundary: what passes it is still held by the sandbox. It needs the standard
library only, and is run as a file (`python -I -S static_check.py`).
"""

from __future__ import annotations

import ast
import json
import re
import resource
import sys
import warnings
from collections.abc import Iterator
from typing import Final

#: Libraries that Aporia documents for code-based metrics.
DOCUMENTED: Final = (
    "pyspark",
    "pyspark.sql",
    "pyspark.sql.functions",
    "snowflake",
    "snowflake.snowpark",
    "snowflake.snowpark.functions",
    "numpy",
    "numpy.core._methods",
    "pandas",
    "math",
    "scipy",
    "scipy.stats",
    "statsmodels",
    "statsmodels.stats.proportion",
)
#: Further parts of the same libraries, and of Python's own, that ordinary metric code uses.
FURTHER: Final = (
    "__future__",
    "collections",
    "collections.abc",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "itertools",
    "numbers",
    "numpy.linalg",
    "numpy.typing",
    "operator",
    "pyspark.sql.types",
    "pyspark.sql.window",
    "re",
    "scipy.optimize",
    "scipy.special",
    "statistics",
    "statsmodels.api",
    "statsmodels.stats.weightstats",
    "string",
    "typing",
    "warnings",
)
_ALLOWED: Final = frozenset(DOCUMENTED + FURTHER)

#: Built-in names that reach past the language's own fences.
_NAMES: Final = frozenset(
    [
        "__import__",
        "__builtins__",
        "__loader__",
        "__spec__",
        "breakpoint",
        "compile",
        "delattr",
        "dir",
        "eval",
        "exec",
        "exit",
        "getattr",
        "globals",
        "help",
        "input",
        "locals",
        "open",
        "quit",
        "setattr",
        "vars",
    ]
)
#: Attributes that lead to other modules, to files, to the network, or to Java.
_ATTRIBUTES: Final = frozenset(
    [
        "sys",
        "os",
        "io",
        "builtins",
        "importlib",
        "subprocess",
        "ctypes",
        "ctypeslib",
        "f2py",
        "socket",
        "shutil",
        "pathlib",
        "pickle",
        "inspect",
        "gc",
        "multiprocessing",
        "threading",
        "DataSource",
        "fromfile",
        "tofile",
        "memmap",
        "load",
        "loadtxt",
        "genfromtxt",
        "save",
        "savez",
        "savez_compressed",
        "savetxt",
        "fromregex",
        "read_csv",
        "read_table",
        "read_fwf",
        "read_json",
        "read_html",
        "read_xml",
        "read_excel",
        "read_hdf",
        "read_feather",
        "read_parquet",
        "read_orc",
        "read_pickle",
        "read_sql",
        "read_sql_query",
        "read_sql_table",
        "read_stata",
        "read_sas",
        "read_spss",
        "read_clipboard",
        "ExcelFile",
        "ExcelWriter",
        "HDFStore",
        "to_csv",
        "to_json",
        "to_html",
        "to_xml",
        "to_excel",
        "to_hdf",
        "to_feather",
        "to_parquet",
        "to_orc",
        "to_pickle",
        "to_sql",
        "to_stata",
        "to_clipboard",
        "to_latex",
        "to_markdown",
        "write",
        "writeTo",
        "writeStream",
        "readStream",
        "mergeInto",
        "saveAsTable",
        "saveAsTextFile",
        "saveAsPickleFile",
        "newAPIHadoopFile",
        "textFile",
        "wholeTextFiles",
        "binaryFiles",
        "sparkContext",
        "SparkContext",
        "SparkFiles",
        "SparkConf",
        "addFile",
        "addPyFile",
        "addArtifact",
        "addArtifacts",
        "addJar",
        "tb_frame",
        "tb_next",
        "f_back",
        "f_globals",
        "f_builtins",
        "f_locals",
        "f_code",
        "gi_frame",
        "cr_frame",
        "ag_frame",
        "func_globals",
    ]
)
#: Underscored names that are ordinary all the same.
_UNDERSCORED: Final = frozenset(
    {
        "_",
        "__name__",
        "__doc__",
        "__len__",
        "__init__",
        "__future__",
        "_methods",
        "_mean",
        "_sum",
        "_var",
        "_std",
        "_amax",
        "_amin",
        "_prod",
        "_any",
        "_all",
        "_ptp",
        "_clip",
        "_count_reduce_items",
    }
)
#: Texts that name such an attribute to a function that looks it up, as Series.agg does.
_NAMED: Final = frozenset(name for name in _ATTRIBUTES if name.startswith(("to_", "read_")))
_SQL_DOOR: Final = re.compile(
    r"\b(?:reflect|try_reflect|java_method)\s*\(|\btransform\b.*\busing\b|\b(?:csv|text|json|orc|parquet|avro|binaryfile)\s*\.\s*`|\badd\s+(?:jar|file)\b",
    re.IGNORECASE | re.DOTALL,
)
_FORMAT_WALK: Final = re.compile(r"\{[^{}]*(?:\._|\[_|__)[^{}]*\}|__\w+__")

_MEMORY_BYTES: Final = 512 * 2**20


def check(code: str) -> dict[str, str | None] | None:
    """Say what is wrong with a metric's code, as the four parts of a failure; None: nothing that can be seen without running it."""
    try:
        with warnings.catch_warnings(record=True):
            tree = ast.parse(code, filename="<metric>")
    except SyntaxError as error:
        line = (error.text or "").rstrip("\n")
        place = f"line {error.lineno}\n    {line}" if error.lineno else ""
        return _failure("CBM001", f"the code is no Python: {error.msg}", place)
    except (ValueError, RecursionError, MemoryError) as error:
        return _failure("CBM001", f"the code cannot be read: {type(error).__name__}: {error}", "")
    lines = code.splitlines()
    for node in ast.walk(tree):
        for code_of_failure, message, hint in _findings(node):
            number = getattr(node, "lineno", 0)
            text = lines[number - 1] if 0 < number <= len(lines) else ""
            return _failure(
                code_of_failure, message, f"line {number}\n    {text.strip()[:200]}" if number else "", hint
            )
    return _entry_point(tree)


def _findings(node: ast.AST) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _imported(alias.name)
    elif isinstance(node, ast.ImportFrom):
        yield from _imported("." * node.level + (node.module or ""))
        for alias in node.names:
            # `from numpy.core import _methods` is the documented module's other spelling
            if f"{node.module}.{alias.name}" not in _ALLOWED:
                yield from _attribute(alias.name)
    elif isinstance(node, ast.Attribute):
        yield from _attribute(node.attr)
    elif isinstance(node, ast.MatchClass):
        for name in node.kwd_attrs:
            yield from _attribute(name)
    elif isinstance(node, ast.Name) and (node.id in _NAMES or _is_dunder(node.id)):
        yield (
            "CBM003",
            f"{node.id} is not available to a metric",
            "a metric computes on its data frame and returns a number",
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not isinstance(node, ast.JoinedStr):
        yield from _text(node.value)


def _imported(name: str) -> Iterator[tuple[str, str, str]]:
    parent = name.rpartition(".")[0]
    if name in _ALLOWED or (name == "numpy.core" and parent in _ALLOWED):
        return
    yield "CBM002", f"import of {name} is not allowed", "allowed are " + ", ".join(sorted(_ALLOWED))


def _attribute(name: str) -> Iterator[tuple[str, str, str]]:
    if name in _ATTRIBUTES:
        yield (
            "CBM003",
            f".{name} is not available to a metric",
            f'there are no files, network or other modules here; a column of this name is df["{name}"]',
        )
    elif name.startswith("_") and name not in _UNDERSCORED:
        yield "CBM003", f".{name} is private and not available to a metric", f'a column of this name is df["{name}"]'


def _text(value: str) -> Iterator[tuple[str, str, str]]:
    if value in _NAMED:
        yield "CBM003", f"{value} is not available to a metric", "there are no files here"
    elif _SQL_DOOR.search(value):
        yield "CBM003", "this SQL calls Java, runs a program or reads a file", "a metric reads its data frame only"
    elif _FORMAT_WALK.search(value) and "{" in value:
        yield (
            "CBM003",
            "this text looks up private attributes when it is formatted",
            "format values, not their attributes",
        )


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in _UNDERSCORED


def _entry_point(tree: ast.Module) -> dict[str, str | None] | None:
    hint = "write: def calc_metric(df): ... return a number"
    found = [node for node in tree.body if getattr(node, "name", None) == "calc_metric"]
    if not found:
        return _failure("CBM004", "the code defines no function calc_metric", "", hint)
    function = found[-1]
    if not isinstance(function, ast.FunctionDef):
        return _failure("CBM004", "calc_metric must be an ordinary function", f"line {function.lineno}", hint)
    given = function.args
    positional = len(given.posonlyargs) + len(given.args)
    required = positional - len(given.defaults) + sum(default is None for default in given.kw_defaults)
    if (positional == 0 and given.vararg is None) or required > 1:
        return _failure("CBM004", "calc_metric must take one argument, the data frame", f"line {function.lineno}", hint)
    return None


def _failure(code: str, message: str, traceback: str, hint: str | None = None) -> dict[str, str | None]:
    return {"code": code, "message": message, "traceback": traceback, "hint": hint}


def main() -> None:
    """Check what comes on standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = sys.stdin.buffer.read().decode("utf-8", "strict")
    sys.stdout.write(json.dumps(check(code)))


if __name__ == "__main__":
    main()
