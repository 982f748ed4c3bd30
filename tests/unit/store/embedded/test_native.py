from __future__ import annotations

import pytest

from fqlstream.store.embedded.exceptions import EngineError
from fqlstream.store.embedded.native import BLOCK_INFO, all_with_revision, parse_type, with_revision

PLAIN = b"\x02\x02\x01a\x06String\x01x\x02yz\x01b\x05UInt8\x01\x02"


def test_a_plain_block_stays_for_a_client_that_names_no_revision() -> None:
    assert with_revision(PLAIN, 0) == PLAIN
    assert all_with_revision(PLAIN * 2, 0) == PLAIN * 2


def test_block_info_and_one_byte_per_column() -> None:
    assert with_revision(PLAIN, 54_405) == BLOCK_INFO + PLAIN
    expected = BLOCK_INFO + b"\x02\x02\x01a\x06String\x00\x01x\x02yz\x01b\x05UInt8\x00\x01\x02"
    assert with_revision(PLAIN, 54_454) == expected
    assert all_with_revision(PLAIN * 3, 54_454) == expected * 3
    assert all_with_revision(PLAIN * 3, 54_405) == (BLOCK_INFO + PLAIN) * 3


@pytest.mark.parametrize(
    "text", ["JSON", "Dynamic", "Variant(Int8, String)", "AggregateFunction(sum, Int8)", "", "Array(JSON)"]
)
def test_types_without_a_fixed_layout_are_refused(text: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_type(text)
    assert caught.value.status == 501


@pytest.mark.parametrize(
    ("text", "bytes_each"),
    [("Decimal(9, 2)", 4), ("Decimal(10, 2)", 8), ("Decimal(38, 2)", 16), ("Decimal(76, 2)", 32), ("FixedString(7)", 7),
     ("DateTime64(3, 'UTC')", 8), ("DateTime('Europe/Paris')", 4), ("Enum8('a,)' = 1, 'b\\'(' = 2)", 1), ("UUID", 16)],
)  # fmt: skip
def test_fixed_types_have_their_size(text: str, bytes_each: int) -> None:
    assert parse_type(text).bytes_each == bytes_each


def test_nested_types_are_read_whole() -> None:
    kind = parse_type("Array(Tuple(a Nullable(String), `b ,)` Map(LowCardinality(String), Enum8('x,' = 1)), UInt8))")

    (inner,) = kind.parts
    assert [part.name for part in inner.parts] == ["Nullable", "Array", "Fixed"]
    assert [part.name for part in inner.parts[1].parts[0].parts] == ["LowCardinality", "Fixed"]
