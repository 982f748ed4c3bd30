"""The registry as a value: what belongs to what, whatever came and went in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fqlstream.events.definitions import (
    DEFINITION,
    ExecutionDefinition,
    ExperimentDefinition,
    JobDefinition,
    PipelineDefinition,
    Registered,
)
from fqlstream.events.registry import EMPTY_REGISTRY, Registry, RegistryDraft


def registry(*definitions: Registered, start: Registry = EMPTY_REGISTRY) -> Registry:
    draft = RegistryDraft(start)
    for position, definition in enumerate(definitions):
        draft.put(definition, 1_000, 2_000, position)
    return draft.finish()


def execution(name: str, pipeline: str = "train", deployment: str | None = None) -> ExecutionDefinition:
    return ExecutionDefinition(name=name, pipeline=pipeline, deployment=deployment)


def test_a_registry_is_a_value() -> None:
    before = registry(execution("e-1"))
    draft = RegistryDraft(before)
    draft.put(execution("e-2"), 0, 0, 1)
    draft.remove("execution", "e-1")
    after = draft.finish()
    assert (set(before.executions), set(after.executions)) == ({"e-1"}, {"e-2"})
    assert (set(before.executions_of["train"]), set(after.executions_of["train"])) == ({"e-1"}, {"e-2"})


def test_an_execution_that_moves_is_found_where_it_is_only() -> None:
    moved = registry(execution("e-1", "train", "nightly"), execution("e-1", "score"))
    assert set(moved.executions_of) == {"score"}
    assert not moved.executions_by


def test_a_job_is_found_by_its_number_and_by_its_name() -> None:
    found = registry(ExperimentDefinition(name="digits", id=3), JobDefinition(id=7, name="first", experiment="digits"))
    assert found.find("job", "7") is found.find("job", "first") is found.jobs[7]
    assert found.find("experiment", "3") is found.find("experiment", "digits") is found.experiments[3]
    assert [entry.definition.id for entry in found.jobs_of_experiment(3)] == [7]
    assert list(found.jobs_of_experiment(4)) == []


@pytest.mark.parametrize("name", ["8", "-7", "٧", "9" * 30, "", "x"])
def test_what_is_not_there_is_not_found(name: str) -> None:
    found = registry(ExperimentDefinition(name="digits", id=3), JobDefinition(id=7, experiment="digits"))
    assert found.find("job", name) is None
    assert found.find("experiment", name) is None
    assert found.find("pipeline", name) is None


def test_a_name_that_looks_like_a_number_is_a_name_first() -> None:
    found = registry(ExperimentDefinition(name="2", id=1), ExperimentDefinition(name="x", id=2))
    entry = found.find("experiment", "2")
    assert entry is not None
    assert entry.definition.name == "2"


def test_numbers_that_were_given_are_remembered() -> None:
    draft = RegistryDraft(registry(JobDefinition(id=7, experiment="digits")))
    draft.remove("job", "7")
    draft.count_from("experiment", 4)
    assert (draft.finish().job_id_last, draft.finish().experiment_id_last) == (7, 4)


def test_what_has_no_number_cannot_stand() -> None:
    with pytest.raises(ValueError, match="the job has no id"):
        registry(JobDefinition(experiment="digits"))


STEPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["a", "b", "c"]), st.sampled_from(["p", "q"]), st.sampled_from([None, "d", "f"])),
    max_size=30,
)  # fmt: skip


@given(STEPS, st.integers(0, 30))
def test_what_belongs_to_what_follows_from_what_stands(steps: list[tuple[bool, str, str, Any]], cut: int) -> None:
    """Links are kept beside the entries: they say at any time what a walk over all entries would."""
    standing: dict[str, ExecutionDefinition] = {}
    draft = RegistryDraft(registry(PipelineDefinition(name="p")))
    for index, (comes, name, pipeline, deployment) in enumerate(steps):
        if index == cut:
            draft = RegistryDraft(draft.finish())
        if comes:
            standing[name] = execution(name, pipeline, deployment)
            draft.put(standing[name], 0, 0, index)
        else:
            standing.pop(name, None)
            draft.remove("execution", name)
    now = draft.finish()
    for links, owner in ((now.executions_of, "pipeline"), (now.executions_by, "deployment")):
        expected: dict[str, set[str]] = {}
        for definition in standing.values():
            if (of := getattr(definition, owner)) is not None:
                expected.setdefault(of, set()).add(definition.name)
        assert {of: set(members) for of, members in links.items()} == expected
    assert {name: entry.definition for name, entry in now.executions.items()} == standing


def test_every_kind_has_a_place() -> None:
    documents = [
        {"kind": "pipeline", "name": "p"},
        {"kind": "deployment", "name": "d", "pipeline": "p"},
        {"kind": "execution", "name": "e", "pipeline": "p", "deployment": "d"},
        {"kind": "experiment", "name": "x", "id": 1},
        {"kind": "job", "id": 1, "experiment": "x"},
    ]
    definitions = [DEFINITION.validate_python(document) for document in documents]
    now = registry(*definitions)
    for definition in definitions:
        assert [entry.definition for entry in now.entries(definition.kind)] == [definition]
