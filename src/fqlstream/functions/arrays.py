"""Arrow arrays as NumPy sees them and back, with FQL's null rules: what numeric kernels are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Doubles = npt.NDArray[np.float64]
Datum = Any  # pa.Array or pa.Scalar: pyarrow ships no types

FLOAT64 = pa.float64()
UTF8 = pa.string()


def row_count(args: tuple[Datum, ...]) -> int:
    """Give the common length; scalars have none of their own."""
    return next((len(arg) for arg in args if isinstance(arg, pa.Array)), 1)


def doubles(array: pa.Array) -> Doubles:
    """Give the values of a Number array; what stands under a null is arbitrary. No copy where it is float64 already."""
    if not pa.types.is_float64(array.type):
        array = array.cast(FLOAT64, safe=False)
    if array.null_count == 0:
        return np.asarray(array.to_numpy(zero_copy_only=True))
    return np.frombuffer(array.buffers()[1], np.float64)[array.offset : array.offset + len(array)]


def as_numbers(datum: Datum) -> Datum:
    """Give a Number as float64, which FQL computes in; integers beyond 2^53 lose exactness."""
    return datum if pa.types.is_float64(datum.type) else pc.cast(datum, FLOAT64, safe=False)


def as_texts(datum: Datum) -> Datum:
    """Give a String as plain utf8."""
    kind = datum.type
    if pa.types.is_string(kind):
        return datum
    return datum.dictionary_decode().cast(UTF8) if pa.types.is_dictionary(kind) else datum.cast(UTF8)


def one_type(value: Datum, otherwise: Datum) -> tuple[Datum, Datum]:
    """Give both values in the form that their common FQL type is computed in."""
    kind = value.type
    if pa.types.is_boolean(kind):
        return value, otherwise
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return as_numbers(value), as_numbers(otherwise)
    return as_texts(value), as_texts(otherwise)


def validity(args: tuple[Datum, ...]) -> pa.BooleanArray | None:
    """Give where every array argument is non-null; None where that is everywhere."""
    valid = None
    for arg in args:
        if isinstance(arg, pa.Array) and arg.null_count:
            here = pc.is_valid(arg)
            valid = here if valid is None else pc.and_(valid, here)
    return valid


def numbers_from(values: Doubles, valid: pa.BooleanArray | None) -> pa.Array:
    """Give a Number array; what is not finite, and what is not valid, is null."""
    with np.errstate(all="ignore"):
        # a sum is the cheapest look at all values; one that is not finite says "perhaps", then each is looked at
        suspicious = not math.isfinite(values.sum())
    if suspicious:
        finite = np.isfinite(values)
        if not finite.all():
            here = pa.array(finite)
            valid = here if valid is None else pc.and_(valid, here)
    if valid is None:
        return pa.array(values)
    if valid.offset:
        return pa.array(values, mask=~np.asarray(valid.to_numpy(zero_copy_only=False)))
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(FLOAT64, len(values), [valid.buffers()[1], pa.py_buffer(values)])


def numeric(function: Callable[..., Any]) -> Callable[..., pa.Array]:
    """Make a kernel of a NumPy function over float64: null in, or nothing finite out, is null."""

    def run(*args: Datum) -> pa.Array:
        inputs: list[Any] = []
        for arg in args:
            if isinstance(arg, pa.Array):
                inputs.append(doubles(arg))
            elif arg.is_valid:
                inputs.append(np.float64(arg.as_py()))
            else:
                return pa.nulls(row_count(args), FLOAT64)
        with np.errstate(all="ignore"):
            result = function(*inputs)
        return numbers_from(result, validity(args))

    return run
