"""What the records of the definitions topic say, folded in any pieces; and what of it a worker adopts."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.ops.definition_log import EMPTY, Folded, Record, adopt, fold, over_limit
from fqlstream.settings import FqlSettings

LIMITS = FqlSettings()


def record(offset: int, key: str, value: dict[str, Any] | bytes | None = None, **headers: int) -> Record:
    data = json.dumps(value).encode() if isinstance(value, dict) else value
    return Record(
        key.encode(), data, {name: str(number).encode() for name, number in headers.items()}, offset, 1_000 + offset
    )


def model(offset: int, version: str = "v1", columns: tuple[str, ...] = ("x",), **headers: int) -> Record:
    document = {
        "kind": "model",
        "name": "m",
        "version": version,
        "columns": [{"name": c, "type": "float"} for c in columns],
    }
    return record(offset, f"model/m/{version}", document, **headers)


def metric(offset: int, name: str, text: str = "sum(x)", **headers: int) -> Record:
    document = {"kind": "metric", "model": "m", "name": name, "definition": text}
    return record(offset, f"metric/m/{name}", document, **headers)


def segment(offset: int, name: str, text: str = "x > 1") -> Record:
    return record(offset, f"segment/m/{name}", {"kind": "segment", "model": "m", "name": name, "definition": text})


LOG = [
    model(0), metric(1, "a"), metric(2, "a", "min(x)", revision=2), segment(3, "s"), metric(4, "b"), record(5, "metric/m/b", revision=3),
    model(6, "v2", ("x", "y")), record(7, "nonsense", {}), record(8, "metric/m/a", b"{"), model(9, first_at=1), metric(10, "c", "sum(y)"),
]  # fmt: skip


def folded(records: list[Record]) -> Folded:
    return fold(EMPTY, records)[0]


@given(st.lists(st.integers(0, len(LOG)), max_size=4))
def test_what_stands_does_not_depend_on_how_the_log_was_read(cuts: list[int]) -> None:
    whole, _, refused = fold(EMPTY, LOG)
    now, said = EMPTY, []
    edges = [0, *sorted(cuts), len(LOG)]
    for start, end in itertools.pairwise(edges):
        now, _, more = fold(now, LOG[start:end])
        said += more
    assert now == whole
    assert tuple(said) == refused


def test_the_last_record_of_a_key_stands_and_a_tombstone_takes_it_back() -> None:
    now = folded(LOG)
    assert now.position == 10
    assert sorted(now.stored) == ["metric/m/a", "metric/m/c", "model/m/v1", "model/m/v2", "segment/m/s"]
    assert (now.stored["metric/m/a"].revision, now.stored["metric/m/a"].record.offset) == (2, 2)


def test_revisions_of_a_deleted_metric_are_not_used_again() -> None:
    assert folded(LOG).retired == {"metric/m/b": 3}
    later = folded([metric(0, "b", revision=5), record(1, "metric/m/b", revision=2)])
    assert later.retired == {"metric/m/b": 5}, "whatever its tombstone says"


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("nonsense", b"{}", "kind/model/name"),
        ("metric/m/a", b"{", "EOF"),
        ("metric/m/a", b"\xff", "Invalid JSON"),
        ("metric/m/a", b'{"kind": "metric", "model": "m", "name": "b", "definition": "1"}', "not the definition's own"),
        ("metric/m/a", b'{"kind": "metric", "model": "m", "name": "a"}', "definition: Field required"),
        ("job/m/a", b'{"kind": "job", "model": "m", "name": "a"}', "kind"),
    ],
)
def test_what_is_no_definition_is_refused_and_what_stood_before_stands(key: str, value: bytes, part: str) -> None:
    before = folded([model(0), metric(1, "a")])
    now, touched, (letter,) = fold(before, [record(2, key, value)])
    assert now.stored == before.stored
    assert now.position == 2
    assert touched == frozenset()
    assert (letter.code, letter.offset, letter.value) == ("bad_definition", 2, value)
    assert part in letter.reason


@pytest.mark.parametrize("text", ["", "-1", "1e3", "9" * 30, "x"])
def test_a_header_that_fits_nowhere_is_none(text: str) -> None:
    odd = Record(b"metric/m/a", metric(0, "a").value, {"revision": text.encode()}, 0, 5)
    assert folded([odd]).stored["metric/m/a"].revision == 1


def test_versions_are_in_the_order_in_which_they_were_first_defined_whatever_compaction_moved() -> None:
    entry, _refused = adopt(folded(LOG), "m", LIMITS)
    assert entry is not None
    assert list(entry.versions) == ["v1", "v2"], "v1 was moved to the end of the log"
    assert entry.newest is not None
    assert entry.newest.version == "v2"


def test_what_does_not_check_against_every_version_is_left_out() -> None:
    entry, (letter,) = adopt(folded(LOG), "m", LIMITS)
    assert entry is not None
    assert (list(entry.metrics), entry.revisions, list(entry.segments)) == (["a"], {"a": 2}, ["s"])
    assert letter.offset == 10
    assert letter.code.startswith("FQL")
    assert "metric 'c' under model version 'v1'" in letter.reason


def test_a_metric_whose_model_is_not_there_waits_for_it() -> None:
    entry, (letter,) = adopt(folded([metric(0, "a")]), "m", LIMITS)
    assert entry is None
    assert letter.code == "unknown_model"
    entry, refused = adopt(folded([metric(0, "a"), model(1)]), "m", LIMITS)
    assert entry is not None
    assert (list(entry.metrics), refused) == (["a"], ())


def test_beyond_a_limit_the_newest_are_left_out_and_it_says_which_setting() -> None:
    log = [model(0), *(metric(number, f"m{number}") for number in range(1, 7)), segment(7, "s")]
    entry, letters = adopt(folded(log), "m", FqlSettings(metrics_max=4))
    assert entry is not None
    assert list(entry.metrics) == ["m1", "m2", "m3", "m4"]
    assert [letter.offset for letter in letters] == [5, 6, 7], "and nothing after it, for its place in the order"
    assert {letter.code for letter in letters} == {"too_many"}
    assert "FQLSTREAM_FQL__METRICS_MAX allows 4" in letters[0].reason
    assert over_limit(entry, FqlSettings(metrics_max=4)) is None
    assert over_limit(entry, FqlSettings(metrics_max=3)) is not None
