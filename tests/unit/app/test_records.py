"""Unpacking whole batches gives what aiokafka's own iterator gives, record by record."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.app.record_batches import CODECS, Row, batch, marker, sealed

from fqlstream.app.records import SourceRecords
from fqlstream.stream.batches import Fetch

TP = TopicPartition("events", 3)
MANY = 2**30


def ours(block: bytes, at: int = 0, aborted: object = (), *, isolation: int = READ_COMMITTED, slice_bytes: int = MANY):
    return list(SourceRecords(TP, block, aborted, at, isolation_level=isolation, slice_bytes=slice_bytes))


def theirs(block: bytes, at: int = 0, aborted: object = (), *, isolation: int = READ_COMMITTED):
    reader = PartitionRecords(TP, MemoryRecords(block), aborted, at, None, None, True, isolation)
    return list(reader), reader.next_fetch_offset


def flat(fetches: list[tuple[int, Fetch]]) -> list[tuple]:
    return [
        (offset, at_ms, key, value, tuple((name, text or b"") for name, text in fetch.headers.get(index, ())))
        for _, fetch in fetches
        for index, (offset, at_ms, key, value) in enumerate(
            zip(fetch.offsets.tolist(), fetch.record_at_ms.tolist(), fetch.keys, fetch.values, strict=True)
        )
    ]


def assert_same(block: bytes, at: int = 0, aborted: object = (), *, isolation: int = READ_COMMITTED, slice_bytes=MANY):
    expected, end = theirs(block, at, aborted, isolation=isolation)
    fetches = ours(block, at, aborted, isolation=isolation, slice_bytes=slice_bytes)
    assert flat(fetches) == [
        (record.offset, record.timestamp, record.key, record.value, tuple((n, v or b"") for n, v in record.headers))
        for record in expected
    ]
    position = at
    for start, fetch in fetches:
        assert start == position
        assert (fetch.topic, fetch.partition) == TP
        assert fetch.offsets.dtype == fetch.record_at_ms.dtype == np.int64
        assert fetch.bytes_count == sum(len(text or b"") for text in [*fetch.keys, *fetch.values])
        position = fetch.next_offset
    assert position == max(end, at)


texts = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=8), texts), max_size=2).map(tuple)


@st.composite
def blocks(draw) -> tuple[bytes, int]:
    """A block of batches with holes in and between them, and the offset that was asked for."""
    parts = []
    base = draw(st.integers(0, 50))
    first_end = None
    for _ in range(draw(st.integers(1, 4))):
        deltas = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=8)))
        rows = [Row(delta, draw(st.integers(1, 2**41)), draw(texts), draw(texts), draw(headers)) for delta in deltas]
        last = deltas[-1] + draw(st.integers(0, 3))
        stamp = draw(st.none() | st.integers(1, 2**41))
        codec = draw(st.sampled_from(sorted(CODECS)))
        parts.append(batch(base, rows, last_delta=last, codec=codec, log_append_at_ms=stamp))
        first_end = first_end if first_end is not None else base + last
        base += last + 1 + draw(st.integers(0, 3))
    return b"".join(parts), draw(st.integers(0, first_end))


@settings(deadline=None)
@given(blocks(), st.integers(1, 100))
def test_records_equal_aiokafkas_whatever_the_batches_and_slices(block_at: tuple[bytes, int], slice_bytes: int) -> None:
    block, at = block_at
    assert_same(block, at)
    assert_same(block, at, slice_bytes=slice_bytes)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_codec_is_read(codec: str) -> None:
    block = batch(100, [Row(index, value=b"x" * 300 + b"%d" % index) for index in range(50)], codec=codec)
    ((start, fetch),) = ours(block, 100)
    assert start == 100
    assert fetch.values[49] == b"x" * 300 + b"49"
    assert fetch.next_offset == 150


@pytest.mark.parametrize("isolation", [READ_COMMITTED, READ_UNCOMMITTED])
def test_aborted_transactions_are_skipped_where_only_committed_records_are_read(isolation: int) -> None:
    block = b"".join(
        [
            batch(0, [Row(0, value=b"a"), Row(1, value=b"a")], producer=7, transactional=True),
            batch(2, [Row(0, value=b"b")], producer=8, transactional=True),
            batch(3, [Row(0, value=b"plain")]),
            marker(4, producer=7, abort=True),
            batch(5, [Row(0, value=b"c")], producer=7, transactional=True),
            marker(6, producer=8, abort=False),
            marker(7, producer=7, abort=False),
        ]
    )
    assert_same(block, 0, [(7, 0)], isolation=isolation)
    values = [value for *_, value, _ in flat(ours(block, 0, [(7, 0)], isolation=isolation))]
    assert values == ([] if isolation == READ_COMMITTED else [b"a", b"a"]) + [b"b", b"plain", b"c"]


def test_a_block_of_nothing_but_an_aborted_transaction_still_moves_on() -> None:
    block = batch(10, [Row(0), Row(1)], producer=7, transactional=True) + marker(12, producer=7, abort=True)
    ((start, fetch),) = ours(block, 10, [(7, 10)])
    assert (start, len(fetch), fetch.next_offset) == (10, 0, 13)
    assert fetch.offsets.dtype == np.int64


def test_records_before_the_asked_offset_are_left_out() -> None:
    ((start, fetch),) = ours(batch(0, [Row(index) for index in range(10)]), 7)
    assert start == 7
    assert fetch.offsets.tolist() == [7, 8, 9]


def test_a_batch_compacted_to_its_last_offset_leaves_no_hole_behind() -> None:
    ((_, fetch),) = ours(batch(0, [Row(2), Row(5)], last_delta=9))
    assert fetch.offsets.tolist() == [2, 5]
    assert fetch.next_offset == 10


def test_headers_are_kept_only_for_records_that_have_some() -> None:
    rows = [Row(0), Row(1, headers=(("content-type", b"a"), ("rows", None))), Row(2)]
    ((_, fetch),) = ours(batch(0, rows) + batch(3, [Row(0, headers=(("x", b"y"),))]))
    assert fetch.headers == {1: (("content-type", b"a"), ("rows", b"")), 3: (("x", b"y"),)}


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_header_name_that_is_not_text_costs_nobody_anything(codec: str) -> None:
    rows = [Row(0, 1_700_000_000_001, b"k", b"v" * 200), Row(1, headers=(("name?", b"\xff"),)), Row(2, value=None)]
    good = batch(5, rows, codec="none")
    bad = sealed(good.replace(b"name?", b"name\xff"))
    if codec != "none":
        bad = _recompressed(bad, codec)
    ((_, fetch),) = ours(batch(0, [Row(4)]) + bad + batch(8, [Row(0)]))
    assert fetch.offsets.tolist() == [4, 5, 6, 7, 8]
    assert fetch.values[1:4] == [b"v" * 200, b"v", None]
    assert fetch.record_at_ms.tolist()[1:3] == [1_700_000_000_001, 1_700_000_000_000]
    assert fetch.headers == {2: (("name\ufffd", b"\xff"),)}


def _recompressed(plain: bytes, codec: str) -> bytes:
    from aiokafka import codec as codecs

    encode = getattr(codecs, f"{codec}_encode")
    data = bytearray(plain[:61] + encode(plain[61:]))
    data[8:12] = (len(data) - 12).to_bytes(4, "big")
    data[21:23] = (int.from_bytes(data[21:23], "big") | CODECS[codec]).to_bytes(2, "big")
    return sealed(data)


def test_a_wrong_checksum_is_an_error_after_the_good_batches() -> None:
    broken = bytearray(batch(2, [Row(0, value=b"hello")]))
    broken[-3] ^= 0xFF
    reader = SourceRecords(
        TP, batch(0, [Row(0), Row(1)]) + bytes(broken), (), 0, isolation_level=READ_COMMITTED, slice_bytes=MANY
    )
    start, fetch = next(reader)
    assert (start, fetch.next_offset) == (0, 2)
    with pytest.raises(CorruptRecordException, match=r"events\[3\]@2"):
        next(reader)


def test_a_block_cut_off_in_a_batch_gives_the_whole_ones() -> None:
    whole = batch(0, [Row(0), Row(1)])
    ((_, fetch),) = ours(whole + batch(2, [Row(0)])[:-5])
    assert fetch.next_offset == 2


def test_slices_end_at_batches_and_leave_the_position_between_them() -> None:
    block = b"".join(batch(at, [Row(0, value=b"x" * 60)]) for at in range(5))
    reader = SourceRecords(TP, block, (), 0, isolation_level=READ_COMMITTED, slice_bytes=100)
    seen = []
    for start, fetch in reader:
        assert reader.next_fetch_offset == fetch.next_offset
        seen.append((start, fetch.next_offset))
    assert seen == [(0, 2), (2, 4), (4, 5)]
