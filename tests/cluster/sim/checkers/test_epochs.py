"""One writer per epoch, and epochs never fall."""

from __future__ import annotations

from cluster.sim.checkers.epochs import Quorum, Sighting, check
from tests.cluster.sim.checkers.histories import kinds


def test_a_quiet_run() -> None:
    sightings = [Sighting(2, "n1", "a", 2), Sighting(1, "n1", "a", 1), Sighting(3, "n1", "a", 2)]
    quorums = [Quorum(1, "main-1#1", 1), Quorum(2, "main-1#1", 1), Quorum(3, "main-2#1", 2)]
    assert check(sightings, quorums) == []


def test_a_node_goes_back() -> None:
    (violation,) = check([Sighting(1, "n1", "a", 2), Sighting(2, "n1", "a", 1)], [])
    assert violation.kind == "node-epoch-regress"
    assert str(violation) == (
        "epochs: node-epoch-regress at 2.000000s: n1 was at epoch 2 at 1.000000s and is at 1\n  nodes n1"
    )


def test_a_wiped_node_begins_anew() -> None:
    assert check([Sighting(1, "n1", "a", 2), Sighting(2, "n1", "b", 0)], []) == []


def test_two_writers_in_one_epoch() -> None:
    found = check([], [Quorum(1, "main-1#1", 1), Quorum(2, "main-2#1", 1)])
    assert kinds(found) == ["two-writers"]


def test_an_old_writer_has_a_quorum_after_a_new_one() -> None:
    quorums = [Quorum(1, "main-1#1", 1), Quorum(2, "main-2#1", 2), Quorum(3, "main-1#1", 1)]
    assert check([], quorums) == []  # it may learn late that its writes had been durable
