"""Quorum sets: overlap, by exhaustion, for every expression that is used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Member, Membership
from engine.volume.membership import begin
from engine.volume.quorum import (
    AllOf,
    AnyOf,
    KOf,
    QuorumSet,
    full_tail_read,
    full_tail_write,
    overlaps,
    read_quorum,
    write_quorum,
)


def group(names: str, epoch: int = 1) -> Membership:
    members = tuple(Member(n, f"az{i // 2 + 1}", "", n) for i, n in enumerate(names))
    return Membership(0, epoch, members)


def replacing(names: str, old: str, new: str) -> Membership:
    before = group(names)
    member = next(m for m in before.members if m.node == old)
    return begin(before, old=member, new=Member(new, "az3", "", new))


OLD, NEW = group("ABCDEF"), group("ABCDEG", 2)
DURING, AGAIN = replacing("ABCDEF", "F", "G"), replacing("ABCDEG", "E", "H")
FULL, TAIL = ("A", "C", "E"), ("B", "D", "F")

PAIRS = {
    "write and write": (write_quorum(OLD), write_quorum(OLD)),
    "write and read": (write_quorum(OLD), read_quorum(OLD)),
    "while replacing: write and write": (write_quorum(DURING), write_quorum(DURING)),
    "while replacing: write and read": (write_quorum(DURING), read_quorum(DURING)),
    "while replacing: write and the old write": (write_quorum(DURING), write_quorum(OLD)),
    "while replacing: write and the new write": (write_quorum(DURING), write_quorum(NEW)),
    "while replacing: write and the old read": (write_quorum(DURING), read_quorum(OLD)),
    "while replacing: write and the new read": (write_quorum(DURING), read_quorum(NEW)),
    "a second replacement": (write_quorum(AGAIN), read_quorum(AGAIN)),
    "full and tail: write and write": (full_tail_write(FULL, TAIL), full_tail_write(FULL, TAIL)),
    "full and tail: write and read": (full_tail_write(FULL, TAIL), full_tail_read(FULL, TAIL)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_used_overlaps(name: str) -> None:
    left, right = PAIRS[name]
    assert overlaps(left, right)
    assert overlaps(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (KOf(3, tuple("ABCDEF")), KOf(3, tuple("ABCDEF"))),
        (KOf(4, tuple("ABCDEF")), KOf(2, tuple("ABCDEF"))),
        (write_quorum(OLD), read_quorum(group("GHIJKL"))),
    ],
)
def test_what_is_no_quorum_is_found_out(left: QuorumSet, right: QuorumSet) -> None:
    assert not overlaps(left, right)


def test_a_zone_and_one_more_leave_a_read_quorum_and_no_write_quorum() -> None:
    left = {"D", "E", "F"}
    assert read_quorum(OLD).satisfied(left)
    assert not write_quorum(OLD).satisfied(left)
    assert write_quorum(OLD).satisfied(left | {"C"})


@pytest.mark.parametrize(("k", "nodes"), [(0, "AB"), (3, "AB"), (1, "AA")])
def test_a_senseless_quorum_is_refused(k: int, nodes: str) -> None:
    with pytest.raises(ValueError, match="no quorum"):
        KOf(k, tuple(nodes))


EXPRESSIONS: list[QuorumSet] = [
    write_quorum(OLD),
    read_quorum(OLD),
    write_quorum(DURING),
    read_quorum(DURING),
    full_tail_write(FULL, TAIL),
    full_tail_read(FULL, TAIL),
    AnyOf((KOf(1, ("A",)), AllOf((KOf(1, ("B",)), KOf(2, ("C", "D")))))),
]


@given(
    st.sampled_from(EXPRESSIONS),
    st.dictionaries(st.sampled_from("ABCDEFG"), st.integers(0, 20)),
)
def test_reached_is_the_highest_value_with_a_quorum(
    quorum: QuorumSet, values: dict[str, int]
) -> None:
    """Against the definition, tried value by value."""
    dumb = 0
    for value in range(21):
        if quorum.satisfied({node for node, v in values.items() if v >= value and value}):
            dumb = value
    assert quorum.reached(values) == dumb
