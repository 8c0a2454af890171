"""Six copies are one and the same."""

from __future__ import annotations

from cluster.sim.checkers.segments import Holding, check, check_against_log
from engine.log.apply import apply_record
from engine.log.record import Record
from tests.cluster.sim.checkers.histories import kinds


def _record(lsn: int, *, page: int, byte: int) -> Record:
    """One that changes a byte of its own of the page."""
    return Record(lsn, lsn - 1, lsn - 1, 1, page, False, ((lsn, bytes([byte])),))


def test_copies_that_agree() -> None:
    one = Holding("n1", 0, {(1, 1): b"a", (1, 2): b"b"}, {(0, 1): b"p"})
    two = Holding("n2", 0, {(1, 2): b"b"}, {(0, 2): b"q"})
    other_group = Holding("n1", 1, {(1, 2): b"z"}, {(0, 1): b"r"})
    assert check([one, two, other_group]) == []


def test_a_record_differs() -> None:
    held = [Holding(f"n{n}", 3, {(1, 7): b"a" if n % 2 else b"b"}) for n in range(4)]
    (violation,) = check(held)
    assert violation.kind == "record-differs"
    assert violation.message == "record 7 of epoch 1 of group 3 differs between n0, n2 and n1, n3"
    assert violation.nodes == ("n0", "n2", "n1", "n3")


def test_one_lsn_in_two_epochs_is_two_records() -> None:
    assert check([Holding("n1", 0, {(1, 7): b"a"}), Holding("n2", 0, {(2, 7): b"b"})]) == []


def test_a_page_differs() -> None:
    held = [Holding("n1", 0, {}, {(5, 7): b"a"}), Holding("n2", 0, {}, {(5, 7): b"b"})]
    assert kinds(check(held)) == ["page-differs"]


SENT = {(1, 7): b"a", (1, 8): b"b"}
LOG = [_record(7, page=5, byte=1), _record(8, page=5, byte=2)]
IMAGE_7 = apply_record(None, LOG[0])
IMAGE_8 = apply_record(IMAGE_7, LOG[1])


def against(held: Holding) -> list[str]:
    return kinds(check_against_log([held], LOG, SENT, lambda page: 0))


def test_what_the_log_says_is_there_in_pages_or_records() -> None:
    assert against(Holding("n1", 0, SENT, {}, whole=True)) == []
    assert against(Holding("n1", 0, {(1, 8): b"b"}, {(5, 7): IMAGE_7}, whole=True)) == []
    assert against(Holding("n1", 0, {}, {(5, 7): IMAGE_7, (5, 8): IMAGE_8}, whole=True)) == []


def test_a_hole_above_the_page_version_counts_if_the_copy_calls_itself_whole() -> None:
    assert against(Holding("n1", 0, {}, {(5, 7): IMAGE_7})) == []
    assert against(Holding("n1", 0, {}, {(5, 7): IMAGE_7}, whole=True)) == ["record-missing"]
    assert against(Holding("n1", 0, {(2, 8): b"b"}, {(5, 7): IMAGE_7}, whole=True)) == [
        "record-missing",
        "record-not-sent",
    ]
    assert against(Holding("n1", 1, {}, {}, whole=True)) == [], "the page is another group's"


def test_a_record_that_nobody_sent() -> None:
    assert against(Holding("n1", 0, {(1, 7): b"x"})) == ["record-not-sent"]
    assert against(Holding("n1", 0, {(1, 9): b"a"})) == ["record-not-sent"]


def test_all_six_copies_of_a_page_wrong_in_the_same_way() -> None:
    """As if every node had left out a record: they agree with each other, and not with the log."""
    wrong = apply_record(None, LOG[1])
    held = [Holding(f"n{n}", 0, {}, {(5, 8): wrong}) for n in range(6)]
    assert check(held) == []
    found = check_against_log(held, LOG, SENT, lambda page: 0)
    assert [(v.kind, v.nodes) for v in found] == [("page-not-of-log", (f"n{n}",)) for n in range(6)]


def test_a_page_version_of_an_lsn_that_changed_another_page() -> None:
    assert against(Holding("n1", 0, {}, {(6, 7): IMAGE_7})) == ["page-not-of-log"]
