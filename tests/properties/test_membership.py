"""Changes of a group's members: every quorum that may be in force meets those before and after it.

First by exhaustion over all sets of members, then a model: who acknowledged what under which members, and
whether a recovery under any of them still finds it.
"""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Member, Membership
from engine.volume.membership import back, begin, forward, is_joining, made_whole, supersedes
from engine.volume.quorum import QuorumSet, overlaps, read_quorum, sixes, write_quorum


def member(node: str, incarnation: str = "1") -> Member:
    return Member(node, "az1", f"{node}:1", incarnation)


STABLE = Membership(0, 1, tuple(member(n) for n in "ABCDEF"))
ANOTHER = begin(STABLE, old=member("F"), new=member("G"))
REBORN = begin(STABLE, old=member("F"), new=member("F", "2"))
CHANGES = {"another node": ANOTHER, "a new disk of the same node": REBORN}


def subsets(names: str) -> chain[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))


def names(membership: Membership) -> str:
    return "".join(m.node for m in membership.voters)


@pytest.mark.parametrize("name", CHANGES)
def test_quorums_overlap_within_and_across_every_step(name: str) -> None:
    during = CHANGES[name]
    after = forward(during)
    for one in (STABLE, during, after, back(during)):
        assert overlaps(write_quorum(one), write_quorum(one))
        assert overlaps(write_quorum(one), read_quorum(one))
    for one, other in ((STABLE, during), (during, after), (during, back(during))):
        assert overlaps(write_quorum(one), write_quorum(other))
    assert overlaps(write_quorum(during), read_quorum(STABLE))
    assert overlaps(write_quorum(during), read_quorum(back(during)))
    if during is ANOTHER:  # else the name F means another disk than before
        assert overlaps(write_quorum(during), read_quorum(after))


@pytest.mark.parametrize("name", CHANGES)
def test_a_quorum_during_the_change_is_one_before_and_one_afterwards(name: str) -> None:
    during = CHANGES[name]
    for chosen in subsets(names(during)):
        present = set(chosen)
        if write_quorum(during).satisfied(present):
            old = present - {"F"} if during is REBORN else present
            assert write_quorum(STABLE).satisfied(old)
            assert write_quorum(forward(during)).satisfied(present)


def test_a_new_disk_counts_for_nothing_until_it_has_the_place() -> None:
    for chosen in subsets("ABCDE"):
        present = set(chosen)
        assert write_quorum(REBORN).satisfied(present) == (len(present) >= 4)
        assert write_quorum(REBORN).satisfied(present | {"F"}) == (len(present) >= 4)
    assert write_quorum(forward(REBORN)).satisfied(set("ABCF"))


def test_three_that_are_left_are_no_quorum_and_enough_to_make_a_fourth_whole() -> None:
    assert not write_quorum(ANOTHER).satisfied(set("ABCG"))
    assert made_whole(ANOTHER, "G", set("ABC"))
    assert write_quorum(forward(ANOTHER)).satisfied(set("ABCG"))


def test_who_joins_is_made_whole_by_three_of_those_before() -> None:
    assert not made_whole(ANOTHER, "G", set("AB"))
    assert made_whole(ANOTHER, "G", {"D", "E", "F"})
    assert not made_whole(REBORN, "F", {"A", "B", "F"}), "a lost disk vouches for nobody"
    assert made_whole(REBORN, "F", {"A", "B", "E"})


def test_a_damaged_member_needs_three_of_one_six() -> None:
    assert made_whole(STABLE, "A", set("BCD"))
    assert not made_whole(ANOTHER, "A", {"E", "F", "G"}), "two of either six"
    assert made_whole(ANOTHER, "A", {"D", "E", "G"})
    assert made_whole(ANOTHER, "A", {"D", "E", "F"})


@pytest.mark.parametrize("name", CHANGES)
def test_voters_are_one_for_each_node(name: str) -> None:
    during = CHANGES[name]
    assert len(set(names(during))) == len(during.voters)
    new = during.replacing.new if during.replacing else None
    assert new in during.voters
    assert is_joining(during, new.node)
    assert forward(during).voters == forward(during).members
    assert forward(during).epoch == back(during).epoch == STABLE.epoch + 2
    assert back(during).members == STABLE.members


@pytest.mark.parametrize(
    ("membership", "old", "new"),
    [
        (ANOTHER, member("A"), member("H")),
        (STABLE, member("G"), member("H")),
        (STABLE, member("A", "2"), member("H")),
        (STABLE, member("A"), member("B")),
        (STABLE, member("A"), member("A")),
        (STABLE, member("A"), member("H", "")),
    ],
)
def test_a_change_that_is_none_is_refused(membership: Membership, old: Member, new: Member) -> None:
    with pytest.raises(ValueError, match=r"member|disk"):
        begin(membership, old=old, new=new)


@pytest.mark.parametrize("step", [forward, back])
def test_nothing_to_end(step) -> None:
    with pytest.raises(ValueError, match="nobody"):
        step(STABLE)


def test_what_is_newer_is_taken_over() -> None:
    moved = Membership(0, 1, (*STABLE.members[:5], Member("F", "az1", "elsewhere", "1")))
    assert supersedes(ANOTHER, STABLE)
    assert not supersedes(STABLE, ANOTHER)
    assert supersedes(moved, STABLE)
    assert not supersedes(STABLE, STABLE)


# -- the argument of the module, against a model


def quorum_sets(quorum: QuorumSet, everyone: str) -> list[set[str]]:
    return [set(s) for s in subsets(everyone) if quorum.satisfied(set(s))]


@given(st.data(), st.booleans())
def test_what_was_acknowledged_is_found_after_the_change(data: st.DataObject, reborn: bool) -> None:
    """A record acknowledged under the old members, and one during the change; then G is made whole by
    some three, it takes F's place, and a recovery fences any write quorum of the new six."""
    during = REBORN if reborn else ANOTHER
    new = "F" if reborn else "G"
    old = data.draw(st.sampled_from(quorum_sets(write_quorum(STABLE), "ABCDEF")), label="old acks")
    holders = old - {"F"} if reborn else set(old)  # its disk is gone, whatever it had acknowledged
    three = data.draw(
        st.sampled_from([set(s) for s in subsets("ABCDE" if reborn else "ABCDEF") if len(s) == 3]),
        label="caught up with",
    )
    assert made_whole(during, new, three)
    if three & holders:
        holders.add(new)
    now = data.draw(
        st.sampled_from(quorum_sets(write_quorum(during), "ABCDEF" if reborn else "ABCDEFG")),
        label="acks during the change",
    )
    after = forward(during)
    six = sixes(after)[0]
    for chosen in combinations(six, 4):
        assert holders & set(chosen), "an acknowledged record is on none of the fenced"
        assert now & set(chosen)
    for denying in combinations(six, 3):
        assert holders & set(denying), "three deny what was acknowledged"
        assert now & set(denying)
