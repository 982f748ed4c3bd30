"""Numbers of experiments and jobs, and what refers to what is there."""

from __future__ import annotations

import pytest

from fqlstream.events.documents import parse_definition, read_documents
from fqlstream.events.registry import EMPTY_REGISTRY, Registry
from fqlstream.ops import registration
from fqlstream.ops.registration import Entrant


def entrants(text: str) -> list[Entrant]:
    return [Entrant(document, parse_definition(document)) for document in read_documents(text, "f.yaml")]


def standing(text: str) -> Registry:
    numbered, problems = registration.number(entrants(text), EMPTY_REGISTRY)
    assert not problems
    return registration.after(numbered, EMPTY_REGISTRY)


def problems(text: str, registry: Registry = EMPTY_REGISTRY) -> list[str]:
    numbered, found = registration.number(entrants(text), registry)
    return [*found, *registration.find_problems(numbered, registration.after(numbered, registry))]


DIGITS = "{kind: experiment, name: digits}\n"
JOB = "{kind: job, experiment: digits}\n"


def joined(*documents: str) -> str:
    return "---\n".join(documents)


def numbers(text: str, registry: Registry = EMPTY_REGISTRY) -> list[int]:
    return [getattr(item.definition, "id", 0) for item in registration.number(entrants(text), registry)[0]]


def test_numbers_count_up_and_belong_to_names() -> None:
    registry = standing(joined(DIGITS, JOB, JOB, JOB.replace("job,", "job, name: best,")))
    assert sorted(registry.jobs) == [1, 2, 3]
    again = joined(JOB, DIGITS, JOB.replace("job,", "job, name: best,"), DIGITS.replace("digits", "other"), JOB)
    assert numbers(again, registry) == [4, 1, 3, 2, 5]


def test_a_number_may_be_given_and_the_next_ones_follow_it() -> None:
    assert numbers(joined(DIGITS, JOB.replace("job,", "job, id: 40,"), JOB)) == [1, 40, 41]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (JOB, "f.yaml:1 (document 1): job 1: there is no experiment 'digits'"),
        ("{kind: deployment, name: d, pipeline: p}", "f.yaml:1 (document 1): deployment 'd': there is no pipeline 'p'"),
        ("{kind: execution, name: e, pipeline: p}", "f.yaml:1 (document 1): execution 'e': there is no pipeline 'p'"),
        (joined("{kind: pipeline, name: p}\n", "{kind: execution, name: e, pipeline: p, deployment: d}"),
         "f.yaml:3 (document 2): execution 'e': there is no deployment 'd'"),
        (joined("{kind: pipeline, name: p}\n", "{kind: pipeline, name: q}\n", "{kind: deployment, name: d, pipeline: p}\n",
                "{kind: execution, name: e, pipeline: q, deployment: d}"),
         "f.yaml:7 (document 4): execution 'e': deployment 'd' is of pipeline 'p', not of 'q'"),
        (joined("{kind: pipeline, name: p}\n", "{kind: pipeline, name: p, description: x}"),
         "f.yaml:3 (document 2): pipeline 'p' is also defined at f.yaml:1 (document 1)"),
        (joined(DIGITS, "{kind: experiment, name: digits, id: 5}"), "f.yaml:3 (document 2): experiment 'digits' has the number 1, not 5"),
    ],
)  # fmt: skip
def test_what_refers_to_nothing_is_told_with_its_place(text: str, said: str) -> None:
    assert problems(text)[0] == said


def test_a_number_of_another_experiment_is_refused() -> None:
    taken = problems("{kind: experiment, name: other, id: 1}", standing(DIGITS))
    assert taken == ["f.yaml:1 (document 1): the number 1 is that of experiment 'digits'"]


def test_members_go_before_what_holds_them() -> None:
    registry = standing(
        joined(
            "{kind: pipeline, name: p}\n", "{kind: deployment, name: d, pipeline: p}\n",
            "{kind: execution, name: e, pipeline: p, deployment: d}\n", DIGITS, JOB,
        )
    )  # fmt: skip
    assert registration.members(registry, "pipeline", "p") == (("execution", "e"), ("deployment", "d"))
    assert registration.members(registry, "deployment", "d") == (("execution", "e"),)
    assert registration.members(registry, "experiment", "digits") == (("job", "1"),)
    assert registration.members(registry, "execution", "e") == ()


def test_entries_are_selected_by_name_number_and_owner() -> None:
    registry = standing(joined(DIGITS, JOB, DIGITS.replace("digits", "letters"), JOB.replace("digits", "letters")))

    def ids(**wanted: str) -> list[int | None]:
        return [getattr(entry.definition, "id", None) for entry in registration.select(registry, "job", **wanted)]

    assert sorted(ids(), key=str) == [1, 2]
    assert ids(name="2") == [2]
    assert ids(of="digits") == [1]
    assert ids(name="2", of="digits") == []
    assert ids(of="nothing") == []
