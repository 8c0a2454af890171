"""What answers of storage nodes say about where a clone's groups begin."""

from __future__ import annotations

from cluster.control.forkpoint import Answers, Said, fork_point
from engine.types import Member, Membership, Replacement

A, B, C, D, E, F, G = (Member(n, f"az{i // 2}", n, n) for i, n in enumerate("ABCDEFG"))
SIX = Membership(0, 1, (A, B, C, D, E, F))
REPLACING = Membership(0, 2, (A, B, C, D, E, F), Replacement(F, G))


def said(**nodes: Said) -> Answers:
    return {node: {0: one} for node, one in nodes.items()}


def whole(tail: int, floor: int = 0) -> Said:
    return Said(tail, whole=True, floor=floor)


def lost(tail: int, floor: int = 0) -> Said:
    return Said(tail, whole=False, floor=floor)


def test_the_furthest_of_three_that_are_whole_has_the_last_record() -> None:
    point = fork_point([SIX], said(A=whole(50), B=whole(80), C=whole(60)))
    assert (dict(point.tails), point.waits_for) == ({0: 80}, None)


def test_who_lost_something_says_nothing_of_tails() -> None:
    answers = said(A=whole(50), B=whole(60), C=lost(90), D=lost(90), E=lost(90), F=lost(90))
    point = fork_point([SIX], answers)
    assert (dict(point.tails), point.waits_for) == ({}, 0)


def test_every_group_is_waited_for() -> None:
    other = Membership(1, 1, SIX.members)
    answers = {n: {0: whole(5), 1: whole(7)} for n in "AB"} | {"C": {0: whole(5)}}
    point = fork_point([SIX, other], answers)
    assert (dict(point.tails), point.waits_for) == ({0: 5}, 1)


def test_who_is_not_the_incarnation_or_no_member_does_not_count() -> None:
    point = fork_point([SIX], said(A=whole(50), B=whole(60), G=whole(90)))
    assert point.waits_for == 0


def test_three_of_either_six_are_enough_while_a_member_is_replaced() -> None:
    assert fork_point([REPLACING], said(A=whole(1), B=whole(2), G=whole(3))).waits_for is None


def test_what_a_write_quorum_has_let_go_of_is_gone() -> None:
    floors = {"A": whole(90, 70), "B": whole(90, 75), "C": whole(90, 72)}
    assert fork_point([SIX], said(**floors)).earliest == 70, "three others may keep it"
    floors |= {"D": whole(90, 10), "E": whole(90, 20), "F": whole(90, 30)}
    assert fork_point([SIX], said(**floors)).earliest == 70
    assert fork_point([SIX], said(**floors | {"A": whole(90, 10)})).earliest == 30


def test_the_group_that_has_let_go_of_most_counts() -> None:
    other = Membership(1, 1, SIX.members)
    answers = {n: {0: whole(90, 40), 1: whole(90, 60)} for n in "ABCDEF"}
    assert fork_point([SIX, other], answers).earliest == 60
    assert fork_point([other, SIX], answers).earliest == 60
