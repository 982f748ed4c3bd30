from hypothesis import given
from hypothesis import strategies as st

from fqlstream.stream.protocol import FLUSHES_PER_EPOCH, Published, Version

VERSIONS = st.builds(Version, epoch=st.integers(0, 2**31), flush=st.integers(0, FLUSHES_PER_EPOCH - 1))


@given(VERSIONS, VERSIONS)
def test_versions_are_ordered_by_epoch_then_flush_and_their_numbers_alike(one: Version, other: Version) -> None:
    assert (one < other) == ((one.epoch, one.flush) < (other.epoch, other.flush))
    assert (one < other) == (one.number < other.number)


def test_the_first_row_of_a_new_owner_is_newer_than_anything_of_the_one_before() -> None:
    assert Version(7, FLUSHES_PER_EPOCH - 1).number < Version(8, 0).number


@given(st.lists(st.tuples(VERSIONS, VERSIONS), min_size=1, max_size=8), st.integers(0, 7))
def test_the_version_of_values_rises_with_that_of_any_partition(steps: list[tuple[Version, Version]], one: int) -> None:
    """It is a sum of terms that only grow: whichever partition wrote, values made after it are newer."""
    before = {partition: min(pair).number for partition, pair in enumerate(steps)}
    after = dict(before)
    after[one % len(steps)] = max(steps[one % len(steps)]).number
    earlier, later = Published(before).value_version, Published(after).value_version
    assert earlier <= later
    assert (earlier == later) == (before == after)


def test_nothing_was_published_under_version_zero() -> None:
    assert Published().value_version == 0
