"""The simulator's check of restores sees a record in an archive that a failover cut off."""

from __future__ import annotations

from cluster.sim.checkers.oracle import CommittedLog, Oracle
from cluster.sim.restores import check
from engine.archive.catalogue import Target
from tests.archive.books import T0_US, Book, Ledger, book_of, ledger_of


def kinds(book: Book, kept: Ledger, *targets: Target, told: int = 0) -> tuple[list[str], int]:
    log = CommittedLog.from_frames(kept.frames(lambda _record: True))
    found, restored = check(book.bucket, "main", Oracle(log), targets, told=told)
    return sorted({violation.kind for violation in found}), restored


def branches() -> tuple[Ledger, Ledger]:
    """A writer's log, the last commit of which was cut off; and what its successor made of it."""
    cut = ledger_of([((0,), 1), ((0, 1), 2), ((1, 2), 3)])
    kept = cut.branch(cut.marks[1].lsn)
    kept.commit([0, 1], 2, T0_US + 4_000_000)
    return cut, kept


def test_the_committed_log_is_found_right() -> None:
    _, kept = branches()
    book = book_of(kept, [1, 3], bases=(2,))
    last = kept.marks[-1].lsn
    targets = [Target(lsn=lsn) for lsn in (0, 1, 2, 3, 4, last // 2, last - 1, last)]
    assert kinds(book, kept, Target(), *targets) == ([], 1 + len(targets))


def test_a_record_that_was_cut_off_is_found() -> None:
    """Also if no restore happened to reach it."""
    cut, kept = branches()
    book = book_of(cut, [1, 3], bases=(2,))
    assert kinds(book, kept, Target(lsn=3)) == (["archive-branch"], 1)
    assert kinds(book, kept, Target(lsn=5)) == (["archive-branch", "restore-differs"], 1)


def test_lost_last_objects_are_found() -> None:
    _, kept = branches()
    book = book_of(kept, [1, 3])
    last = kept.marks[-1].lsn
    assert kinds(book, kept, Target(), told=last) == ([], 1)
    book.bucket.delete(max(book.objects))
    assert "archive-broken" in kinds(book, kept, Target(), told=last)[0]
