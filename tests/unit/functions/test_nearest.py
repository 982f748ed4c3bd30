from __future__ import annotations

import pytest

from fqlstream.functions.nearest import did_you_mean


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("agee", ["Age", "age"], "age"),
        ("AGE", ["income", "age"], "age"),
        ("latency", ["latency_ms", "age"], "latency_ms"),
        ("LATENCY_MSS", ["latency_ms"], "latency_ms"),
        ("zzz", ["latency_ms", "age"], None),
        ("x" * 10_000, ["x"], None),
        ("a", [], None),
    ],
)
def test_the_nearest_name(name: str, known: list[str], meant: str | None) -> None:
    assert did_you_mean(name, known) == meant
