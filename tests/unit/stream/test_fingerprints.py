"""Fingerprints of event ids: fixed for ever, so that a replay after an upgrade takes the same verdicts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.fingerprints import EMPTY, Fingerprints, concat, fingerprint

WORD = 2**64 - 1
IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=12)


def by_hand(text: str, model: str) -> tuple[int, int]:
    """The definition in plain integers: little-endian words of 8 bytes, folded by multiplication, twice."""
    salt = 0xCBF29CE484222325
    for byte in model.encode():
        salt = (salt ^ byte) * 0x100000001B3 & WORD
    data = text.encode()
    found = []
    for multiplier, seed in ((0x9E3779B97F4A7C15, 0x243F6A8885A308D3), (0xC2B2AE3D27D4EB4F, 0x13198A2E03707344)):
        state = seed ^ salt
        for at in range(0, len(data), 8):
            state = (state ^ int.from_bytes(data[at : at + 8], "little")) * multiplier & WORD
            state ^= state >> 32
        state = (state ^ len(data)) * 0xFF51AFD7ED558CCD & WORD
        found.append(state ^ state >> 32)
    return found[0], found[1]


def pairs(found: Fingerprints) -> list[tuple[int, int]]:
    return list(zip(found.high.tolist(), found.low.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "high", "low"),
    [
        ("", 0x079413730CD8782D, 0xB7304F0E285AC803),
        ("r-1", 0x7588065127988EFF, 0x9FA170F9AD9708B6),
        ("a longer id, of more than one word: ünïcode", 0xF48410510C3732B1, 0xCB706D2E74D5CB25),
    ],
)
def test_ids_of_the_model_churn_have_these_fingerprints_in_every_release(text: str, high: int, low: int) -> None:
    assert pairs(fingerprint(pa.array([text]), "churn")) == [(high, low)]


@given(IDS, st.text(max_size=8))
def test_a_column_is_fingerprinted_as_its_ids_are(ids: list[str], model: str) -> None:
    model = model.encode(errors="replace").decode()
    assert pairs(fingerprint(pa.array(ids, pa.string()), model)) == [by_hand(text, model) for text in ids]


@given(IDS, st.integers(0, 12), st.integers(0, 12))
def test_how_a_column_lies_in_memory_does_not_matter(ids: list[str], start: int, cut: int) -> None:
    whole = pa.array(["before", *ids], pa.string())
    expected = pairs(fingerprint(pa.array(ids, pa.string()), "m"))
    assert pairs(fingerprint(whole.slice(1), "m")) == expected
    assert pairs(fingerprint(pa.chunked_array([ids[:cut], ids[cut:]], pa.string()), "m")) == expected
    assert pairs(fingerprint(whole.cast(pa.large_string()).slice(1), "m")) == expected
    assert pairs(fingerprint(whole.slice(1 + start), "m")) == expected[start:]


def test_a_column_without_chunks_has_no_fingerprints() -> None:
    assert len(fingerprint(pa.chunked_array([], pa.string()), "m")) == 0
    assert len(fingerprint(pa.array([], pa.string()), "m")) == len(EMPTY) == 0


def test_ids_of_other_lengths_that_differ_by_little_are_other_ids() -> None:
    """Zeros at the end of an id are part of it, and its length weighs against no character."""
    ids = [f"{letter}{chr(0) * zeros}" for letter in "abcdefgh" for zeros in range(20)]
    ids += [f"12345678{text}" for text in ids]
    found = fingerprint(pa.array(ids), "m")
    for half in (found.high, found.low):
        assert len(np.unique(half)) == len(ids)


def test_what_is_almost_the_same_is_another_id_in_both_halves() -> None:
    ids = ["", "a", "b", "a\0", "\0a", "a" * 8, "a" * 9, "a" * 16, "a" * 8 + "\0", "\u00e9", "e\u0301"]
    found = pairs(fingerprint(pa.array(ids), "m")) + pairs(fingerprint(pa.array(ids), "n"))
    for one, other in combinations(found, 2):
        assert one[0] != other[0]
        assert one[1] != other[1]


def test_a_hundred_thousand_ids_in_a_row_spread_over_all_bits() -> None:
    found = fingerprint(pa.array([f"r-{number}" for number in range(100_000)]), "m")
    for half in (found.high, found.low):
        assert len(np.unique(half)) == len(half)
        for bit in range(64):
            share = float(((half >> np.uint64(bit)) & np.uint64(1)).mean())
            assert abs(share - 0.5) < 0.01, f"bit {bit}: {share}"  # six standard deviations


def test_parts_are_joined_and_taken_in_order() -> None:
    ids = [f"e{number}" for number in range(7)]
    whole = fingerprint(pa.array(ids), "m")
    parts = [fingerprint(pa.array(ids[:3]), "m"), fingerprint(pa.array(ids[3:]), "m")]
    assert pairs(concat(parts)) == pairs(whole)
    assert pairs(concat([])) == []
    assert pairs(whole.take(np.array([5, 1]))) == [pairs(whole)[5], pairs(whole)[1]]
    assert pairs(whole.take(slice(2, 4))) == pairs(whole)[2:4]
