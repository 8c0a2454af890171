"""What was said on the wire, and for how long it counts."""

from __future__ import annotations

from cluster.sim.ledger import Hearing, Ledger
from engine.types import Truncation

NODE = ("storage-7", "a1")


def test_who_was_dropped_owes_nothing_any_more_and_did_count_when_it_spoke():
    ledger = Ledger()
    ledger.of(*NODE, 0).fenced = 5
    ledger.of(*NODE, 1).fenced = 5
    ledger.forget(NODE, kept=[1])
    assert ledger.of(*NODE, 0).fenced == 0
    assert ledger.told_once(*NODE, 0).fenced == 5
    assert ledger.of(*NODE, 1).fenced == ledger.told_once(*NODE, 1).fenced == 5


def test_begun_anew_only_what_it_says_now_counts():
    ledger = Ledger()
    ledger.of(*NODE, 0).fenced = 5
    ledger.forget(NODE, kept=[])
    ledger.of(*NODE, 0).claim(4, 17)
    assert ledger.told_once(*NODE, 0).fenced == 0
    assert ledger.told_once(*NODE, 0).highest() == 17


def test_another_life_of_the_disk_is_somebody_else():
    ledger = Ledger()
    ledger.of(*NODE, 0).fenced = 5
    ledger.forget(NODE, kept=[])
    assert ledger.told_once(NODE[0], "b2", 0).fenced == 0


def test_an_acknowledgement_counts_among_the_members_it_named_and_those_after_them():
    said = Ledger().of(*NODE, 0)
    said.claim(1, 17, members=3)
    said.claim(1, 12, members=5)
    assert [said.by(members) for members in (2, 3, 4, 5)] == [0, 17, 17, 17]
    said.claim(2, 30, members=5)
    assert [said.by(members) for members in (3, 4, 5)] == [17, 17, 30]


def test_what_was_written_down_must_be_missed_unless_it_was_annulled():
    said = Ledger().of(*NODE, 0)
    assert said.must_miss([]) == 0
    said.write_down(1, 40)
    said.write_down(1, 30)  # a later life, with less: the row says so, and it must be damaged
    assert said.must_miss([]) == 40
    said.write_down(2, 120)
    assert said.must_miss([]) == 120


def test_what_was_written_between_fence_and_truncation_is_annulled_whatever_its_epoch():
    said = Ledger().of(*NODE, 0)
    said.write_down(1, 30)
    said.write_down(2, 40)
    assert said.must_miss([Truncation(2, 35, 100)]) == 30
    assert said.must_miss([Truncation(2, 40, 100)]) == 40


def test_who_said_that_it_has_less_counts_as_that_once_the_writer_has_heard():
    said = Ledger().of(*NODE, 0)
    said.claim(3, 40, members=2)
    said.claim(3, 25, members=2)
    assert (said.claims[3], said.by(2)) == (40, 40), "it may be counted still"
    said.heard(3)
    assert (said.claims[3], said.by(2)) == (25, 25)
    said.claim(3, 41, members=2)
    assert (said.claims[3], said.by(2)) == (41, 41)


def test_who_was_dropped_counts_among_the_members_that_it_was_one_of():
    """Found by the simulator (seed 1379): the writer moved VDL under the old members, of which one had just
    been told of the new ones, and had dropped its segment."""
    ledger = Ledger()
    four = [(f"storage-{n}", "a") for n in range(1, 5)]
    for key in four:
        ledger.of(*key, 0).claim(3, 68, members=2)
    ledger.forget(four[0], kept=[])
    assert ledger.acked_by(0, four, 2) == 68
    assert ledger.acked_by(0, four, 3) == 0, "what it had is no later segment's"
    ledger.of(*four[0], 0).claim(3, 5, members=4)
    assert (ledger.acked_by(0, four, 2), ledger.acked_by(0, four, 4)) == (68, 5)


LESS = (NODE, 3, 0)


def test_less_is_heard_once_the_writer_says_that_it_counts_what_it_hears():
    hearing = Hearing()
    hearing.answered(1, [LESS])
    assert hearing.received(1) == [], "it may be a stream that only asks"
    assert not hearing.counts(1)
    assert hearing.begins(1) == [LESS]
    assert hearing.counts(1)
    assert hearing.begins(1) == [], "heard once"


def test_a_question_beside_the_link_is_no_hearing_whatever_the_link_says():
    hearing = Hearing()
    hearing.answered(1, [LESS])
    hearing.received(1)
    assert hearing.begins(3) == []
    hearing.over(1)
    assert not hearing.counts(1)


def test_less_that_is_still_under_way_is_not_heard():
    hearing = Hearing()
    hearing.answered(1)
    hearing.received(1)
    hearing.begins(1)
    hearing.answered(1)
    hearing.answered(1, [LESS])
    assert hearing.received(1) == [], "the answer before it"
    assert hearing.received(1) == [LESS]
