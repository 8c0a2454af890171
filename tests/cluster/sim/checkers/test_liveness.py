"""After healing, writes and reads succeed."""

from __future__ import annotations

from dataclasses import replace

from cluster.sim.checkers.liveness import check
from cluster.sim.history import Endpoint
from tests.cluster.sim.checkers.histories import Script, a, kinds, r


def test_both_succeed() -> None:
    s = Script()
    s.add(a("x", 1), at=(10, 11))
    s.replica(r("x"), at=(10, 12))
    assert check(s.history, healed_at=10, within_s=2) == []


def test_too_early_too_late_or_not_at_all() -> None:
    s = Script()
    s.add(a("x", 1), at=(9, 11))
    s.add(a("x", 2), at=(10, 13))
    s.unknown(a("x", 3), at=(10, 11))
    s.replica(r("x"), at=(10, 12.5))
    found = check(s.history, healed_at=10, within_s=2)
    assert [v.kind for v in found] == ["no-write", "no-read", "no-read"]
    assert found[0].at == 12


def test_a_write_that_no_operation_shows_is_one() -> None:
    """Money that is moved, a row that no checker reads: the commit's LSN tells."""
    s = Script()
    s.add(at=(10, 11), commit_lsn=7)
    assert check(s.history, healed_at=10, within_s=2, endpoints=[]) == []


def test_what_was_to_write_and_found_nothing_to_change_is_none() -> None:
    s = Script()
    t = s.add(r("x"), at=(10, 11))
    found = check([replace(t, writes=True)], healed_at=10, within_s=2, endpoints=[])
    assert kinds(found) == ["no-write"]


def test_what_nobody_tries_is_not_missed() -> None:
    assert check([], healed_at=10, within_s=2, writes=False, endpoints=[]) == []
    found = check([], healed_at=10, within_s=2, writes=False, endpoints=[Endpoint.READER])
    assert kinds(found) == ["no-read"]


def test_a_cluster_without_readers() -> None:
    s = Script()
    s.add(r("x"), at=(10, 11))
    found = check(s.history, healed_at=10, within_s=2, endpoints=[Endpoint.WRITER])
    assert kinds(found) == ["no-write"]
