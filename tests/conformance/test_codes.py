"""Codes of errors, findings and dead letters are part of the product: each means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import fqlstream
from fqlstream.events.refusals import REFUSALS

SOURCES: Final = Path(fqlstream.__file__).parent
CODE: Final = re.compile(r"[A-Z]{3}\d{3}")

#: Codes that more than one module gives, and the one thing that each of them says wherever it is given.
SHARED: Final = {
    "APP021": "the port of a worker's numbers is taken",
    "API032": "the API's address is taken",
    "ACC004": "there is no key of that id",
    "ACC005": "there is no user of that name",
    "ACC006": "there is a user of that name already",
    "BEN003": "a contender of a benchmark failed",
    "BEN004": "a benchmark has no such figure",
    "BEN005": "a benchmark's events did not all reach their topic",
    # modules inside of a sandbox know nothing of the product: code_metrics/failures.py declares what they say
    "CBM001": "a metric's code cannot be read",
    "CBM002": "a metric's code imports what is not allowed",
    "CBM003": "a metric's code uses what no metric may",
    "CBM004": "a metric's code has no usable calc_metric",
    "CBM010": "a metric's code raised an error",
    "CBM011": "calc_metric did not return a number",
    "CBM012": "the data frame has no such column, or none of that name alone",
    "CBM013": "a library is not installed here",
    "CBM021": "a metric needed more memory than its limit",
    "CBM023": "a metric needed more processes than its limit",
    "CBM024": "a metric needed more disk than its limit",
    "CBM106": "metric code is run no more: the service stops",
    "CBM107": "SPARK_REMOTE is missing or no address",
    "DEF020": "the topic of definitions is missing",
    "DEF030": "nothing of that kind and name is defined",
    "DEF033": "metrics read the baseline",
    "DEF034": "what is registered has members",
    "DEF042": "the model defines no metric to explain",
    "DLT002": "there is no letter at that place",
    "FQL007": "an operator is written as other languages write it",
    "FQL030": "the model has no such column or attribute",
    "FQL040": "a call lacks an argument",
    "FQL042": "the function has no such argument here",
    "FQL047": "an argument is none of the values that it may have",
    "FQL061": "the model's targets, outputs or parameters are not what the function works on",
    "FQL064": "a metric reads a baseline that is not there",
    "DLV001": "the source topic is another one than the states were counted from",
    "DLV002": "records left the log before they were counted",
    "DLV003": "the log is older than the states",
    "KFK021": "the source topic is missing",
    "KFK101": "the log does not hold the offset that comes next",
    "KFK121": "a topic is missing",
    "STA001": "a stored state is of a newer release",
    "STA002": "a stored state is damaged",
    "STO002": "ClickHouse refused a statement",
    "STO012": "the store's port is taken",
    "STO040": "a code metric would read more rows than its limit",
}


def codes() -> Iterator[tuple[str, str]]:
    """Every literal that is a code, with the module that it stands in."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                yield node.value, str(path.relative_to(SOURCES))


def test_a_code_belongs_to_one_module_or_says_the_same_in_each() -> None:
    modules = defaultdict(set)
    for code, module in codes():
        modules[code].add(module)
    assert len(modules) > 150, "the codes were not found"
    several = {code: sorted(where) for code, where in modules.items() if len(where) > 1}
    assert several.keys() == SHARED.keys(), several


def test_codes_of_dead_letters_are_no_codes_of_errors() -> None:
    refused = {refusal.code for refusal in REFUSALS}
    assert len(refused) == len(REFUSALS)
    elsewhere = {(code, module) for code, module in codes() if module != "events/refusals.py" and code in refused}
    assert not elsewhere
