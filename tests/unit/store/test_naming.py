from __future__ import annotations

import pytest

from fqlstream.events.definitions import Column
from fqlstream.store.naming import event_table, event_view, identifier, label_table, literal, slug, stored_column


def test_plain_names_stay_what_they_are() -> None:
    assert (event_table("churn"), label_table("churn"), event_view("churn")) == (
        "event_rows_churn",
        "label_rows_churn",
        "events_churn",
    )


@pytest.mark.parametrize("name", ["my model", "ü", "a" * 256, "x/../y", "", "`;DROP"])
def test_free_text_becomes_a_short_plain_name(name: str) -> None:
    assert slug(name).replace("_", "a").isalnum()
    assert slug(name).isascii()
    assert len(slug(name)) <= 60


def test_different_names_have_different_slugs() -> None:
    names = ["a b", "a_b", "a  b", "a-b", "A b", "a" * 200 + "x", "a" * 200 + "y", "ü", "û"]
    assert len({slug(name) for name in names}) == len(names)


def test_views_are_named_after_their_model_as_far_as_files_can_be() -> None:
    assert event_view("my cool model") == "events_my cool model"
    assert event_view("ü" * 256) == f"events_{slug('ü' * 256)}"


def test_quoting() -> None:
    assert identifier("a`b\\c") == "`a\\`b\\\\c`"
    assert literal("a'b\\c") == "'a\\'b\\\\c'"


def test_a_stored_column_says_its_type() -> None:
    assert stored_column(Column(name="a:int", type="float")) == "a:int:float"
