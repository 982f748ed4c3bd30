from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from fqlstream.ops.lag.memberships import assigned_partitions
from fqlstream.ops.lag.places import Place

assignments = st.dictionaries(st.text(max_size=20), st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=4)


def written(assignment: dict[str, list[int]], version: int = 1) -> bytes:
    """Write `ConsumerProtocolAssignment` as Kafka's message guide has it."""
    parts = [struct.pack(">hi", version, len(assignment))]
    for topic, partitions in assignment.items():
        name = topic.encode()
        parts += [
            struct.pack(">h", len(name)),
            name,
            struct.pack(f">i{len(partitions)}i", len(partitions), *partitions),
        ]
    return b"".join(parts) + struct.pack(">i", 3) + b"own"  # user data follows


@given(assignments, st.integers(0, 3))
def test_an_assignment_is_read(assignment: dict[str, list[int]], version: int) -> None:
    wanted = [Place(topic, partition) for topic, partitions in assignment.items() for partition in partitions]
    assert list(assigned_partitions(written(assignment, version))) == wanted


@given(st.binary(max_size=60))
def test_what_is_no_assignment_names_nothing_or_something_but_never_fails(data: bytes) -> None:
    assert all(isinstance(each, Place) for each in assigned_partitions(data))


@given(assignments.filter(bool), st.data())
def test_one_that_is_cut_names_nothing(assignment: dict[str, list[int]], data: st.DataObject) -> None:
    whole = written(assignment)[:-7]
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert list(assigned_partitions(whole[:cut])) == []
