"""Commits and recoveries as LSNs: one story that is right, and each way to spoil it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.sim.checkers.commits import Attempt, FinalLog, Recovery, check
from tests.cluster.sim.checkers.histories import kinds

# Epoch 1 commits 1..2 and 3..5; 6..7 reaches too few nodes. Epoch 2 keeps the first two, truncates
# (5, 105], and commits 106..106 and 107..109; epoch 3 finds both although 109 was never acknowledged.
FIRST, SECOND = Attempt(1, 2, 1, True, "c/1", at=1.0), Attempt(3, 5, 1, True, "c/2", at=2.0)
CUT = Attempt(6, 7, 1, False, "c/3")
FOURTH, FIFTH = Attempt(106, 106, 2, True, "c/4", at=5.0), Attempt(107, 109, 2, False, "c/5")
ATTEMPTS = (FIRST, SECOND, CUT, FOURTH, FIFTH)

OPEN = Recovery(1, 0, None, ())
R2 = Recovery(2, 5, (5, 105), (2, 5), at=4.0)
R3 = Recovery(3, 109, (109, 209), (2, 5, 106, 109), at=8.0)
RECOVERIES = (OPEN, R2, R3)

FINAL = FinalLog((1, 2, 3, 4, 5, 106, 107, 108, 109), (2, 5, 106, 109))


def test_a_right_story() -> None:
    assert check(ATTEMPTS, RECOVERIES, FINAL) == []
    assert check(ATTEMPTS, [replace(r, commits=None) for r in RECOVERIES]) == []
    assert check((), (), FinalLog((), ())) == []
    assert check(ATTEMPTS, RECOVERIES, FINAL, complete=True) == []


@pytest.mark.parametrize("spoilt", [R2, R3], ids=["first", "second"])
def test_a_recovery_loses_a_commit(spoilt: Recovery) -> None:
    low = Recovery(spoilt.epoch, 2, (2, 102), (2,), at=spoilt.at)
    recoveries = [low if r is spoilt else replace(r, commits=None) for r in RECOVERIES]
    found = check(ATTEMPTS, recoveries)
    assert "lost-commit" in kinds(found)
    lost = next(v for v in found if v.kind == "lost-commit" and v.lsns == (5, 2))
    assert lost.at == spoilt.at
    assert lost.message == (
        "commit 5 (c/2) was acknowledged in epoch 1, but the recovery of epoch"
        f" {spoilt.epoch} ended at 2 without it"
    )


def test_a_commit_acknowledged_by_a_zombie_counts() -> None:
    zombie = replace(CUT, acknowledged=True, at=99.0)
    assert kinds(check((FIRST, SECOND, zombie), RECOVERIES)) == ["lost-commit"]


def test_a_recovery_has_a_hole() -> None:
    found = check(ATTEMPTS, (OPEN, R2, replace(R3, commits=(2, 106, 109))), FINAL)
    assert kinds(found) == ["lost-commit", "not-a-prefix"]


def test_recoveries_disagree_about_an_unknown_commit() -> None:
    assert kinds(check(ATTEMPTS, (OPEN, R2, R3), replace(FINAL, commits=(2, 5, 106)))) == [
        "not-a-prefix",
        "torn-commit",
    ]


def test_the_final_log_lacks_a_commit() -> None:
    final = FinalLog((1, 2, 3, 4, 5, 107, 108, 109), (2, 5, 109))
    found = check(ATTEMPTS, [replace(r, commits=None) for r in RECOVERIES], final)
    assert kinds(found) == ["lost-commit"]


def test_vdl_falls() -> None:
    recoveries = (OPEN, replace(R2, commits=None), Recovery(3, 2, (2, 205), at=8.0))
    assert kinds(check((FIRST,), recoveries)) == ["vdl-regress"]


def test_vdl_is_in_the_middle_of_a_transaction() -> None:
    recoveries = (OPEN, Recovery(2, 4, (4, 104), (2,), at=4.0))
    found = check((FIRST, replace(SECOND, acknowledged=False)), recoveries)
    assert kinds(found) == ["torn-commit", "vdl-no-commit"]


def test_vdl_is_no_commit_of_anybody() -> None:
    recoveries = (OPEN, Recovery(2, 6, (6, 106), at=4.0))
    assert check((FIRST, SECOND), recoveries) == []
    assert kinds(check((FIRST, SECOND), recoveries, complete=True)) == ["vdl-no-commit"]


def test_an_unknown_commit_is_there_in_part() -> None:
    final = FinalLog((1, 2, 3, 4, 5, 106, 107), (2, 5, 106))
    found = check(ATTEMPTS, (OPEN, R2), final)
    assert kinds(found) == ["torn-commit"]
    assert "2 of" not in found[0].message
    assert "1 of the 3 records" in found[0].message


def test_all_records_but_the_mark_is_not_whole_either() -> None:
    final = FinalLog(FINAL.records, (2, 5, 106))
    assert kinds(check(ATTEMPTS, (OPEN, R2), final)) == ["torn-commit"]


def test_truncated_records_come_back() -> None:
    final = FinalLog((*FINAL.records, 6, 7), (*FINAL.commits, 7))
    found = check(ATTEMPTS, [replace(r, commits=None) for r in RECOVERIES], final)
    assert kinds(found) == ["resurrected"]
    assert found[0].lsns == (6, 7)


def test_an_lsn_is_given_twice() -> None:
    assert kinds(check((FIRST, Attempt(2, 3, 1, False)), ())) == ["lsn-reused"]


def test_an_epoch_allots_where_its_recovery_truncated() -> None:
    reused = Attempt(6, 7, 2, False)
    found = check((FIRST, SECOND, reused), (OPEN, R2))
    assert kinds(found) == ["lsn-reused"]


def test_an_epoch_is_used_twice() -> None:
    found = check(ATTEMPTS, (OPEN, R2, replace(R3, epoch=2)), FINAL)
    assert "epoch-regress" in kinds(found)
