"""Broken bytes of real expressions: whatever they have become, they are answered, with findings and with little work.

Every expression of the tables is cut, spliced, repeated and bit-flipped. A failure names its seed; `pytest -m soak` tries more.
"""

from __future__ import annotations

import random
import sys
from functools import cache
from types import FrameType
from typing import Any

import pytest
from tests.conformance.test_conformance import BASELINES, CASES, MODELS

from fqlstream.errors import FqlError, render
from fqlstream.fql.check import CheckResult, check

CORPUS = sorted({case.row["expression"].encode() for case in CASES})
KINDS = ("metric", "segment", "expression")
#: Bytes that mean something to the lexer, or to UTF-8.
TELLING = b"()'\"\\=<>!,.^*/%+-&| \t\n\x00\x7f\x80\xc3\xe2\x80\x99\xed\xa0\xf0\xff0e"
LENGTH_MAX = 4_000


def mangled(rng: random.Random) -> bytes:
    """Take an expression and damage it in one to six places."""
    data = bytearray(rng.choice(CORPUS))
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        end = min(len(data), at + rng.randint(0, 12))
        match rng.randrange(7):
            case 0:
                data[at:end] = bytes([rng.choice(TELLING)])
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * rng.randint(1, 40)
            case 3 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 4:
                other = rng.choice(CORPUS)
                data[at:end] = other[rng.randint(0, len(other)) :]
            case 5:
                data[at:at] = rng.randbytes(rng.randint(1, 4))
            case _:
                data = bytearray(
                    rng.choice((b"(%b)", b"-%b", b"not %b", b"sum(%b)", b"if(%b, %b, null)")).replace(
                        b"%b", bytes(data)
                    )
                )
    return bytes(data[:LENGTH_MAX])


def counted(text: str, model: str, kind: Any) -> tuple[CheckResult, int]:
    """Check a text, counting calls: what makes them many makes it slow, on any machine."""
    calls = 0

    def profile(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    baselines = {item.name: item for item in BASELINES if item.model == model}
    sys.setprofile(profile)
    try:
        result = check(text, MODELS[model], kind, baselines=baselines)
    finally:
        sys.setprofile(None)
    return result, calls


@cache
def warm() -> None:
    """Let everything be imported and looked up that is so only once."""
    for case in CASES:
        check(case.row["expression"], MODELS[case.row["model"]])


def fuzz(seed: int, texts: int) -> None:
    warm()
    rng = random.Random(seed)
    for number in range(texts):
        # as the command line reads them: bytes that are no UTF-8 become half surrogates
        text = mangled(rng).decode(errors="surrogateescape")
        model, kind = rng.choice(sorted(MODELS)), rng.choice(KINDS)
        what = f"seed {seed}, text {number}, {kind} of {model}: {text!r}"
        try:
            result, calls = counted(text, model, kind)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}; {what}") from error
        assert result.ok == (not result.errors) == (result.expression is not None), what
        for item in (*result.errors, *result.warnings):
            assert 0 <= item.start <= item.end <= len(text), what
            assert render(text, item), what
        if not result.ok:
            with pytest.raises(FqlError):
                result.require()
        # suggestions for unknown names cost most: some thousand calls for each of the first few
        assert calls < 40_000 + 600 * len(text), f"{calls} calls; {what}"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_expressions_are_answered(seed: int) -> None:
    fuzz(seed, 700)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_more_damaged_expressions_are_answered() -> None:
    for seed in range(100, 140):
        fuzz(seed, 5_000)
