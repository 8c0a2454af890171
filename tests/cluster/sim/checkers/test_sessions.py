"""Read points and commit LSNs against what sessions are promised."""

from __future__ import annotations

from cluster.sim.checkers.sessions import check, looked_at
from cluster.sim.history import Endpoint, Outcome
from tests.cluster.sim.checkers.histories import Script, a, kinds


def test_a_quiet_run() -> None:
    s = Script()
    s.add(at=(0, 1), read_lsn=0, commit_lsn=3)
    s.add(at=(2, 3), read_lsn=3, commit_lsn=5)
    s.replica(at=(4, 5), read_lsn=3)
    s.replica(at=(4, 5), read_lsn=0)
    assert check(s.history) == []


def test_a_session_goes_back() -> None:
    s = Script()
    s.replica(session="s", read_lsn=5)
    s.replica(session="s", read_lsn=4)
    (violation,) = check(s.history)
    assert violation.kind == "read-point-regress"
    assert violation.lsns == (5, 4)


def test_another_session_may_be_behind() -> None:
    s = Script()
    s.replica(session="s", read_lsn=5)
    s.replica(session="t", read_lsn=4)
    assert check(s.history) == []


def test_the_writer_is_behind_an_acknowledged_commit() -> None:
    s = Script()
    s.add(at=(0, 1), commit_lsn=5)
    s.add(at=(2, 3), read_lsn=4)
    assert kinds(check(s.history)) == ["stale-read-point"]


def test_the_writer_is_behind_a_replica() -> None:
    s = Script()
    s.replica(at=(0, 1), read_lsn=5)
    s.add(at=(2, 3), read_lsn=4)
    assert kinds(check(s.history)) == ["stale-read-point"]


def test_concurrent_reads_may_be_behind() -> None:
    s = Script()
    s.add(at=(0, 2), commit_lsn=5)
    s.add(at=(2, 3), read_lsn=4)
    assert check(s.history) == []


def test_what_a_failed_writer_worked_on_may_not_have_been_durable() -> None:
    s = Script()
    s.add(at=(0, 1), read_lsn=9, outcome=Outcome.ABORTED, session="s")
    s.add(at=(1, 2), read_lsn=9, outcome=Outcome.UNKNOWN, session="s")
    s.add(at=(3, 4), read_lsn=4, session="s")
    assert check(s.history) == []


def test_two_commits_have_one_lsn() -> None:
    s = Script()
    s.add(commit_lsn=5)
    s.add(commit_lsn=5)
    assert kinds(check(s.history)) == ["lsn-reused"]


def test_a_commit_below_its_own_read_point() -> None:
    s = Script()
    s.add(read_lsn=5, commit_lsn=5)
    assert kinds(check(s.history)) == ["commit-below-read-point"]


def test_what_was_looked_at_is_transactions_with_an_lsn_that_is_compared() -> None:
    s = Script()
    s.add(commit_lsn=3)
    s.add(read_lsn=2, commit_lsn=4)
    s.replica(read_lsn=1)
    s.add(a("x", 1))
    s.add(commit_lsn=9, outcome=Outcome.UNKNOWN)
    s.add(
        read_lsn=3, outcome=Outcome.ABORTED, endpoint=Endpoint.SUPERSEDED
    )  # may be of a lost commit
    assert looked_at(s.history) == 3
