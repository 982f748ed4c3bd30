from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.forgetting import Forgetting


def test_the_least_recently_used_goes_first_and_weights_count() -> None:
    memory: Forgetting[str, int] = Forgetting(10)
    for key, weight in (("a", 4), ("b", 4), ("c", 2)):
        memory.put(key, weight, weight)
    assert memory.get("a") == 4
    memory.put("d", 1, 1)
    memory.trim()
    assert [key in memory for key in "abcd"] == [True, False, True, True]
    assert memory.weight == 7
    assert memory.get("b") is None


def test_what_is_dear_for_its_weight_stays_until_it_was_not_used_for_long() -> None:
    memory: Forgetting[str, int] = Forgetting(10)
    memory.put("dear", 0, 5, cost=50)
    for number in range(9):
        memory.put(f"cheap{number}", number, 5, cost=5)
        memory.trim()
        assert "dear" in memory
        assert len(memory) == 2
    number = 9
    while "dear" in memory:
        number += 1
        memory.put(f"cheap{number}", number, 5, cost=5)
        memory.trim()
    assert number < 40
    memory.put("again", 1, 5, cost=50)
    for number in range(30):
        assert memory.get("again") == 1
        memory.put(f"more{number}", number, 5, cost=5)
        memory.trim()


def test_uses_do_not_fill_the_memory() -> None:
    memory: Forgetting[int, int] = Forgetting(10)
    memory.put(0, 0, 1)
    for _ in range(1_000):
        memory.get(0)
    assert len(memory._heap) < 50


def test_a_value_in_place_of_another_takes_its_weight_too() -> None:
    memory: Forgetting[str, int] = Forgetting(10)
    memory.put("a", 1, 9)
    memory.put("a", 2, 3)
    assert (len(memory), memory.weight, memory.get("a")) == (1, 3, 2)
    memory.pop("a")
    memory.pop("a")
    assert (len(memory), memory.weight) == (0, 0)


def test_what_belongs_to_nobody_any_more_is_forgotten() -> None:
    memory: Forgetting[tuple[str, int], int] = Forgetting(100)
    for owner in "ab":
        for number in range(3):
            memory.put((owner, number), number, 5)
    memory.forget(lambda key: key[0] == "a")
    assert (len(memory), memory.weight) == (3, 15)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=60),
    st.integers(0, 40),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_after_trimming_both_bounds_hold_whatever_came(
    puts: list[tuple[int, int]], weight_max: int, entries_max: int | None
) -> None:
    memory: Forgetting[int, int] = Forgetting(weight_max, entries_max)
    for key, weight in puts:
        memory.put(key, weight, weight)
        memory.trim()
        assert memory.weight == sum(memory.get(key) or 0 for key in range(10)) <= weight_max
        assert entries_max is None or len(memory) <= entries_max
