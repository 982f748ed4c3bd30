"""What one query may name; what is read is tested against a real store, in tests/integration/test_recorded_metrics.py."""

from __future__ import annotations

from fqlstream.store.recorded import in_parts


def test_what_a_query_names_is_cut_by_number_and_by_length() -> None:
    short = [str(number) for number in range(5_000)]
    parts = list(in_parts(short, lambda text: (text,)))
    assert [text for part in parts for text in part] == short
    assert max(map(len, parts)) == 2_000
    long = ["é" * 256] * 500
    parts = list(in_parts(long, lambda text: (text,)))
    assert sum(map(len, parts)) == 500
    # as a form field: each of two bytes as %XX, quotes and commas too; ClickHouse reads 128 KiB of one
    assert max(sum(6 * len(text) + 9 for text in part) for part in parts) <= 100_000
    assert list(in_parts([], lambda text: (text,))) == []
    assert list(in_parts(["x" * 10**6], lambda text: (text,))) == [["x" * 10**6]], "one is never nothing"
