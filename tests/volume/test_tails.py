"""What a segment must be complete to."""

from __future__ import annotations

from engine.volume.tails import PgTails


def tails() -> PgTails:
    made = PgTails()
    for pg, lsn in ((0, 3), (1, 5), (0, 8), (1, 9), (0, 12)):
        made.note(pg, lsn)
    return made


def test_the_last_record_at_or_below_the_read_point() -> None:
    assert [tails().at(0, lsn) for lsn in (2, 3, 7, 8, 11, 12, 99)] == [0, 3, 3, 8, 8, 12, 12]
    assert [tails().at(pg, 4) for pg in (1, 2)] == [0, 0]


def test_below_what_is_known_a_later_one_is_asked_for() -> None:
    """Never 0: a group that has records there would be read as one that has no pages."""
    made = tails()
    made.forget_below(9)
    assert [made.at(0, lsn) for lsn in (1, 4, 9, 11, 12)] == [8, 8, 8, 8, 12]
    assert [made.at(1, lsn) for lsn in (1, 9)] == [9, 9]


def test_what_was_cut_is_answered_as_before() -> None:
    made = PgTails()
    for lsn in range(1, 2000):
        made.note(0, lsn)
        made.forget_below(lsn - 10)
    assert len(made._lsns[0]) < 600
    assert [made.at(0, lsn) for lsn in (5, 1989, 1995, 5000)] == [1989, 1989, 1995, 1999]
