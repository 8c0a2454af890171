"""Which commit was the last one at a moment, by the log."""

from __future__ import annotations

import pytest

from cluster.control.past import Moment, walk_back
from engine.errors import ConfigError, Unavailable
from engine.log.frame import RecordRef
from engine.types import CommitMark

SECOND = 1_000_000


def record(lsn: int, prev: int, commit: CommitMark | None = None) -> RecordRef:
    return RecordRef(lsn, prev, 0, full=True, commit=commit, start=0, offset=0, end=0)


def mark(lsn: int, seconds: int) -> CommitMark:
    return CommitMark(lsn, seconds * SECOND, 10)


# Three commits of epoch one, of two records each; then another epoch, whose LSNs are far above.
COMMITS = [mark(2, 10), mark(4, 30), mark(6, 20), mark(1001, 40)]
LOG = [
    record(1, 0),
    record(2, 1, COMMITS[0]),
    record(3, 2),
    record(4, 3, COMMITS[1]),
    record(5, 4),
    record(6, 5, COMMITS[2]),
    record(1000, 6),
    record(1001, 1000, COMMITS[3]),
]
NEWEST = COMMITS[-1]


@pytest.mark.parametrize(
    ("lsn", "found"),
    [(5000, 3), (1001, 3), (1000, 2), (500, 2), (6, 2), (5, 1), (4, 1), (3, 0), (2, 0)],
)
def test_by_lsn(lsn: int, found: int) -> None:
    assert walk_back(reversed(LOG), NEWEST, 1, Moment(lsn=lsn)) == COMMITS[found]


@pytest.mark.parametrize(
    ("seconds", "found"), [(50, 3), (40, 3), (39, 2), (20, 2), (19, 0), (10, 0)]
)
def test_by_time_a_wrong_clock_does_not_hide_later_commits(seconds: int, found: int) -> None:
    assert walk_back(LOG, NEWEST, 1, Moment(time_us=seconds * SECOND)) == COMMITS[found]


def test_outside_the_window_the_window_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"from LSN 4 \(1970-01-01T00:00:30.000000Z\) on.*newest is LSN 1001"
    ):
        walk_back(LOG[3:], NEWEST, 4, Moment(lsn=3))
    with pytest.raises(ConfigError, match=r"from LSN 1001"):
        walk_back(LOG[-1:], NEWEST, 1001, Moment(time_us=5 * SECOND))
    with pytest.raises(ConfigError, match=r"from LSN 2 "):
        walk_back(LOG, NEWEST, 0, Moment(lsn=1))


def test_a_gap_is_not_passed_over() -> None:
    with pytest.raises(Unavailable, match="the log at LSN 5 "):
        walk_back([r for r in LOG if r.lsn != 5], NEWEST, 1, Moment(lsn=4))
    assert walk_back([r for r in LOG if r.lsn != 5], NEWEST, 1, Moment(lsn=6)) == COMMITS[2]


def test_the_newest_needs_no_log() -> None:
    assert walk_back([], NEWEST, 1, Moment(lsn=2000)) == NEWEST
    assert Moment().newest
    assert not Moment(lsn=1).newest
