"""What may stand beside what stands already: each rule, and where its finding says that the trouble is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fqlstream.events.catalogue import Catalogue
from fqlstream.events.definitions import DEFINITION
from fqlstream.events.documents import read_documents
from fqlstream.ops.definition_rules import Finding, Proposal, find_problems
from fqlstream.settings import FqlSettings

MODEL = """\
kind: model
name: churn
version: v1
task: binary_classification
columns:
  - {name: age, type: int}
  - {name: country, type: category}
  - {name: score, type: float, role: output}
  - {name: churned, type: category, role: target, categories: ["no", "yes"]}
  - {name: embedding, type: vector, n_dimensions: 3}
task_params: {threshold: 0.5, target_class_order: ["no", "yes"]}
windows: {pane: 1m, sizes: [1h]}
"""
COST = "{kind: metric, model: churn, name: cost, definition: sum(age)}"
SENIORS = "{kind: segment, model: churn, name: seniors, definition: age >= 60}"


def proposals(text: str, source: str = "new.yaml") -> list[Proposal]:
    return [Proposal(item, DEFINITION.validate_python(item.value)) for item in read_documents(text, source)]


def catalogue(known: Catalogue, found: Sequence[Proposal]) -> Catalogue:
    for proposal in found:
        known = known.with_definition(proposal.definition)
    return known


def findings(new: Sequence[str], standing: Sequence[str] = (), limits: FqlSettings | None = None) -> list[Finding]:
    """Find what is wrong with new documents beside standing ones."""
    before = catalogue(Catalogue(), proposals("\n---\n".join(standing), "old.yaml"))
    proposed = proposals("\n---\n".join(new))
    after = catalogue(before, proposed)
    return list(find_problems(proposed, before.models, after.models, limits or FqlSettings()))


def test_what_is_right_is_no_finding() -> None:
    assert findings([MODEL, COST, SENIORS]) == []
    assert findings([COST, SENIORS], [MODEL]) == []
    assert findings([MODEL, COST], [MODEL, COST, SENIORS]) == [], "the same again"


@pytest.mark.parametrize(
    ("line", "becomes", "where", "said"),
    [
        ("{name: age, type: int}", "{name: age, type: float}", 6, "changes its type from int to float"),
        ("  - {name: country, type: category}\n", "", 5, "'country' is gone"),
        ("category, role: target,", "category, role: metadata,", 9, "changes its role from target to metadata"),
        ("n_dimensions: 3", "n_dimensions: 4", 10, "changes its dimensions from 3 to 4"),
        ("pane: 1m", "pane: 5m", 12, "the pane changes from 1m to 5m"),
    ],
)
def test_a_version_with_rows_keeps_what_its_rows_were_read_by(line: str, becomes: str, where: int, said: str) -> None:
    assert line in MODEL
    changed = MODEL.replace(line, becomes)
    (found, *rest) = findings([changed], [MODEL])
    assert rest == []
    assert found.text.startswith(f"new.yaml:{where} (document 1): ")
    assert said in found.text
    assert "make it a new version (this is 'v1' of 'churn')" in found.text
    assert not found.is_warning
    assert findings([changed.replace("version: v1", "version: v2")], [MODEL]) == [], "a new version may differ"


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("{name: age, type: int}", "{name: age, type: int, min: 18, max: 90}"),
        ("{name: age, type: int}", "{name: age, type: int}\n  - {name: added, type: float}"),
        ("threshold: 0.5", "threshold: 0.7"),
        ("sizes: [1h]", "sizes: [1h, 1d]"),
        ("{name: age, type: int}", "{name: age, type: int, role: metadata}"),
    ],
)
def test_what_leaves_rows_as_they_were_may_change(line: str, becomes: str) -> None:
    assert findings([MODEL.replace(line, becomes)], [MODEL]) == []


def test_a_definition_stands_once_in_a_set() -> None:
    (found,) = findings([MODEL, COST, COST])
    assert found.text.startswith("new.yaml:17 (document 3): metric 'cost' is also defined at new.yaml:15")


def test_what_belongs_to_no_model_is_told_which_there_are() -> None:
    other = COST.replace("churn", "chrun")
    (found,) = findings([other], [MODEL])
    assert "model 'chrun' is not defined (defined: churn)" in found.text
    (found,) = findings([other])
    assert "(defined: none)" in found.text


def test_an_expression_is_checked_where_it_stands_against_every_version() -> None:
    (found,) = findings([COST.replace("sum(age)", "sum(agee)")], [MODEL])
    assert found.text.startswith("new.yaml:1 (document 1): metric 'cost', under model version 'v1':\n")
    assert "sum(agee)" in found.text
    assert "    ^^^^" in found.text
    assert "age" in found.text.rpartition("hint")[2]
    second = MODEL.replace("version: v1", "version: v2").replace("  - {name: country, type: category}\n", "")
    both = findings([COST.replace("sum(age)", "count(country)")], [MODEL, second])
    assert ["'v2'" in item.text for item in both] == [True], "the version that lacks the column is named"


def test_a_new_version_is_held_to_the_expressions_that_stand() -> None:
    second = MODEL.replace("version: v1", "version: v2").replace("  - {name: age, type: int}\n", "")
    found = findings([second], [MODEL, COST, SENIORS])
    assert [item.text.split(",")[0] for item in found] == [
        "new.yaml:1 (document 1): metric 'cost'",
        "new.yaml:1 (document 1): segment 'seniors'",
    ]
    assert all("which stands already" in item.text for item in found)


def test_one_finding_is_told_once_however_many_versions_have_it() -> None:
    second = MODEL.replace("version: v1", "version: v2")
    assert len(findings([COST.replace("age", "agee")], [MODEL, second])) == 1


def test_a_warning_keeps_nothing_from_being_published_and_is_told_to_its_author_only() -> None:
    trap = COST.replace("sum(age)", '"average(if(fn(), -40, if(fp(), -400, 250)))"')
    seen = findings([MODEL, trap])
    assert [item.is_warning for item in seen] == [True]
    assert not findings([MODEL], [MODEL, trap]), "whoever applies the model again did not write it"


def test_a_model_may_have_so_many_metrics() -> None:
    limits = FqlSettings(metrics_max=2)
    many = [COST.replace("cost", f"cost {number}") for number in range(3)]
    assert findings([MODEL, *many[:2]], limits=limits) == []
    (found,) = findings([MODEL, *many], limits=limits)
    assert "3 metrics" in found.text
    assert not found.is_warning
