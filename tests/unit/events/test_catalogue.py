from __future__ import annotations

from typing import Any

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION


def fold(*documents: dict[str, Any], start: Catalogue | None = None) -> Catalogue:
    known = Catalogue() if start is None else start
    for document in documents:
        known = known.with_definition(DEFINITION.validate_python(document), position=known.position + 1)
    return known


def model(version: str, name: str = "m", **fields: Any) -> dict[str, Any]:
    return {"kind": "model", "name": name, "version": version, "columns": [{"name": "x", "type": "float"}], **fields}


def metric(name: str, text: str = "sum(x)") -> dict[str, Any]:
    return {"kind": "metric", "model": "m", "name": name, "definition": text}


SEGMENT = {"kind": "segment", "model": "m", "name": "s", "definition": "x > 1"}
BASELINE = {"kind": "baseline", "model": "m", "name": "b", "type": "rolling", "window": "1h"}


def test_the_newest_version_is_the_one_that_was_defined_last_for_the_first_time() -> None:
    known = fold(model("v1"), model("v2"), model("v1", retention="1d"))
    entry = known.models["m"]
    assert list(entry.versions) == ["v1", "v2"]
    assert entry.newest is entry.versions["v2"]
    assert entry.versions["v1"].retention_ms == 86_400_000


def test_definitions_may_come_before_their_model() -> None:
    known = fold(metric("a"))
    assert known.models["m"].newest is None
    assert fold(model("v1"), start=known).models["m"].metrics.keys() == {"a"}


def test_a_catalogue_is_a_value() -> None:
    before = fold(model("v1"), metric("a"))
    after = before.with_definition(DEFINITION.validate_python(metric("a", "min(x)")), revision=2, position=9)
    assert before.models["m"].metrics["a"].definition == "sum(x)"
    assert (before.position, after.position) == (1, 9)
    assert after.models["m"].revisions == {"a": 2}
    other = fold(model("v1", name="n"), start=before)
    assert other.models["m"] is before.models["m"], "what did not change is the same object"


def test_each_kind_goes_by_its_name() -> None:
    known = fold(model("v1"), metric("a"), metric("b"), SEGMENT, BASELINE)
    for kind, name in (("metric", "a"), ("segment", "s"), ("baseline", "b")):
        known = known.without(kind, "m", name, position=known.position + 1)
    entry = known.models["m"]
    assert (list(entry.metrics), entry.segments, entry.baselines) == (["b"], {}, {})
    assert known.position == 7


def test_a_model_goes_with_its_last_version() -> None:
    known = fold(model("v1"), model("v2"), metric("a"))
    one = known.without("model", "m", "v2")
    assert list(one.models["m"].versions) == ["v1"]
    assert one.models["m"].newest is one.models["m"].versions["v1"]
    assert one.without("model", "m", "v1").models == {}


def test_what_is_not_there_can_go_too_and_moves_the_position() -> None:
    known = fold(model("v1"))
    for kind, name, of in (("metric", "m", "gone"), ("metric", "nobody", "a"), ("model", "m", "v9")):
        after = known.without(kind, name, of, position=5)
        assert (after.models, after.position) == (known.models, 5)
