"""Six copies are one and the same."""

from __future__ import annotations

from cluster.sim.checkers.segments import Holding, check
from tests.cluster.sim.checkers.histories import kinds


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


def test_when_settled_everybody_has_everything() -> None:
    held = [Holding("n1", 0, {(1, 7): b"a"}, {(5, 7): b"a"}), Holding("n2", 0)]
    assert check(held) == []
    found = check(held, settled=True)
    assert kinds(found) == ["page-missing", "record-missing"]
    assert found[0].nodes == ("n2",)
