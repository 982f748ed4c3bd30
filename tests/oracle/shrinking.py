"""Make a failing case small: fewer rows, no segment, no window, simpler expressions, fewer columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tests.oracle.random_fql import Term

C = TypeVar("C", bound=Any)

TRIES_MAX = 400


def shrunk(case: C, fails: Callable[[C], bool]) -> C:
    """Give the smallest case found that still fails."""
    tries = 0
    progress = True
    while progress and tries < TRIES_MAX:
        progress = False
        for candidate in _candidates(case):
            tries += 1
            if fails(candidate):
                case, progress = candidate, True
                break
            if tries >= TRIES_MAX:
                break
    return case


def _candidates(case: C) -> Iterator[C]:
    if case.window is not None:
        yield replace(case, window=None)
    if case.segment is not None:
        yield replace(case, segment=None)
    if case.halves:
        yield replace(case, halves=False)
    rows = len(case.times)
    size = rows // 2
    while size:
        for start in range(0, rows, size):
            yield _with_rows(case, [row for row in range(rows) if not start <= row < start + size])
        size //= 2
    for term in _by_size(case.metrics[0]):
        yield replace(case, metrics=(term,))
    if case.segment is not None:
        for term in _by_size(case.segment):
            yield replace(case, segment=term)
    for name, values in case.columns.items():
        if any(value is not None for value in values):
            yield replace(case, columns={**case.columns, name: [None] * rows})


def _with_rows(case: C, kept: Sequence[int]) -> C:
    columns = {name: [values[row] for row in kept] for name, values in case.columns.items()}
    return replace(case, columns=columns, times=[case.times[row] for row in kept])


def _smaller(term: Term) -> Iterator[Term]:
    """Give the term with one piece of it replaced by a piece of that piece, or by a constant."""
    for below in _below(term):
        if below.dtype is term.dtype:
            yield below
    for place, (name, value) in enumerate(term.args):
        for smaller in _smaller(value):
            yield replace(term, args=(*term.args[:place], (name, smaller), *term.args[place + 1 :]))


def _below(term: Term) -> Iterator[Term]:
    for _, value in term.args:
        yield value
        yield from _below(value)


def _by_size(term: Term) -> list[Term]:
    texts = {smaller.render(): smaller for smaller in _smaller(term)}
    return [texts[text] for text in sorted(texts, key=len)]
