"""Faster forms of the commonest row expressions, with the results of their kernels: the engine computes these instead.

Comparing a column with a constant, placing a value among a model's classes and choosing between two constants are most of
what metrics ask. A short text is compared as two integers; tests hold every form to its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fqlstream.aggregates.masks import Mask, booleans, flags, valid_mask
from fqlstream.events.definitions import ColumnType
from fqlstream.functions.expression import Apply, ColumnRef, DType, Expression, Literal
from fqlstream.functions.index import KERNELS

Words = npt.NDArray[np.uint64]

#: Arrow's views hold a text of up to so many bytes whole, beside its length.
_INLINE_BYTES: Final = 12
_FIRST_WORD_BYTES: Final = 4
_COMPARISONS: Final = frozenset({"<", "<=", ">", ">=", "==", "!="})
_TEXT_COLUMNS: Final = (ColumnType.CATEGORY, ColumnType.STRING)


@dataclass(frozen=True, slots=True)
class TextWords:
    """A text column as two integers per row, which tell short texts apart; shared by all that compare it."""

    column: ColumnRef


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as words: shape (rows, 2), and where they are not null (None: everywhere)."""

    words: Words
    valid: Mask | None


Form = tuple[Callable[..., pa.Array], tuple[Expression | TextWords | pa.Scalar, ...]]


def fast_form(node: Apply) -> Form | None:
    """Give a faster function and its inputs for a node, or None where there is none."""
    match node:
        case Apply(op="==" | "!=" | "class_index", args=(ColumnRef() as column, *values)) if (
            column.type in _TEXT_COLUMNS and _are_short(values)
        ):
            return _of_texts(node.op, column, [value.value for value in values if isinstance(value, Literal)])
        case Apply(op=op, args=(ColumnRef(type=ColumnType.INT) as column, Literal() as value)) if op in _COMPARISONS:
            whole = _whole(value)
            return None if whole is None else (KERNELS[op].arrow, (column, whole))
        case Apply(op="if", args=(condition, Literal() as yes, Literal() as no), dtype=DType.NUMBER) if (
            yes.value is not None and no.value is not None and not isinstance(condition, Literal)
        ):
            return _choose(yes.value, no.value), (condition,)
        case _:
            return None


def text_words(array: pa.Array) -> Texts:
    """Give a text column as words."""
    if not pa.types.is_string(array.type):
        array = array.cast(pa.string())
    views = _on_its_own(array).cast(pa.string_view())
    words = np.frombuffer(views.buffers()[1], np.uint64).reshape(-1, 2)
    return Texts(words[views.offset : views.offset + len(views)], valid_mask(array))


def _on_its_own(array: pa.StringArray) -> pa.StringArray:
    """Give the texts of a slice without the rest of its table, which the cast would go through; nulls become empty."""
    if not len(array):
        return array
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    first = int(ends[0])
    held = data.slice(first, int(ends[-1]) - first) if data is not None else pa.py_buffer(b"")
    return pa.StringArray.from_buffers(len(array), pa.py_buffer(ends - first), held)


def _are_short(values: Sequence[Expression]) -> bool:
    return _VIEWS and all(
        isinstance(value, Literal) and isinstance(value.value, str) and len(value.value.encode()) <= _INLINE_BYTES
        for value in values
    )


def _views_are_there() -> bool:
    """Whether this release of Arrow turns texts into views."""
    try:
        return bool(text_words(pa.array(["a", None, "b"])).words.shape == (3, 2))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False


def _of_texts(op: str, column: ColumnRef, values: Sequence[Any]) -> Form:
    wanted = [text_words(pa.array([value], pa.string())).words[0] for value in values]
    if op == "class_index":
        return _class_index(wanted), (TextWords(column),)
    return _text_equals(wanted[0], negated=op == "!="), (TextWords(column),)


def _text_equals(wanted: Words, *, negated: bool) -> Callable[[Texts], pa.Array]:
    def run(texts: Texts) -> pa.Array:
        equal = _equal(texts.words, wanted)
        return booleans(~equal if negated else equal, texts.valid)

    return run


def _class_index(wanted: Sequence[Words]) -> Callable[[Texts], pa.Array]:
    def run(texts: Texts) -> pa.Array:
        found = [_equal(texts.words, words) for words in wanted]
        place = np.zeros(len(texts.words))
        known = found[0]
        for index, here in enumerate(found[1:], start=1):
            # of equal classes, the first
            place += np.multiply(here & ~known, float(index))
            known = known | here
        if texts.valid is not None:
            known &= texts.valid
        if known.all():
            return pa.array(place)
        validity = pa.py_buffer(np.packbits(known, bitorder="little"))
        return pa.Array.from_buffers(pa.float64(), len(place), [validity, pa.py_buffer(place)])

    return run


def _equal(words: Words, wanted: Words) -> Mask:
    equal: Mask = words[:, 0] == wanted[0]
    # the first word holds the length and four bytes, the second the rest
    if int(wanted[0]) & 0xFFFFFFFF > _FIRST_WORD_BYTES:
        equal &= words[:, 1] == wanted[1]
    return equal


def _whole(value: Literal) -> pa.Scalar | None:
    """Give a constant as the integer it is, so that a column of integers need not become one of doubles."""
    number = value.value
    if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
        return pa.scalar(int(number), pa.int64())
    return None


def _choose(yes: Any, no: Any) -> Callable[[pa.BooleanArray], pa.Array]:
    choices = np.array([no, yes], dtype=np.float64)

    def run(condition: pa.BooleanArray) -> pa.Array:
        return pa.array(choices.take(flags(condition).view(np.uint8)))

    return run


_VIEWS: Final = _views_are_there()
