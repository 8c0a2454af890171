"""Which commit was the last one at a moment, by what storage nodes say of their logs."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.control.forkpoint import Answers, Said
from cluster.control.past import last_admitted
from engine.errors import ConfigError
from engine.moments import Moment
from engine.types import CommitMark, Member, Membership

SECOND = 1_000_000
NODES = "ABCDEF"
SIX = tuple(Member(n, f"az{i // 2}", n, n) for i, n in enumerate(NODES))
GROUPS = [Membership(pg, 1, SIX) for pg in range(2)]


def mark(lsn: int, seconds: int) -> CommitMark:
    return CommitMark(lsn, seconds * SECOND, 10)


# The clock was set back before the third; then another epoch, whose LSNs are far above.
COMMITS = [mark(2, 10), mark(4, 30), mark(6, 20), mark(1001, 40)]
NEWEST = COMMITS[-1]


def says(moment: Moment, commits: list[CommitMark], *, floor: int = 0, whole: bool = True) -> Said:
    """What a node says that has these commits in its log, as `engine.storage.forks` does."""
    kept = [c for c in commits if c.lsn >= floor]
    upto, by = moment.lsn or 2**62, moment.time_us or 2**62
    found = [c for c in kept if c.lsn <= upto and c.time_us <= by]
    commit, oldest = (found or [None])[-1], (kept or [None])[0]
    return Said(NEWEST.lsn, whole, floor, commit, oldest)


def everybody(moment: Moment, *, floor: int = 0) -> Answers:
    """Commits lie in both groups by turns."""
    return {
        node: {pg: says(moment, COMMITS[pg::2], floor=floor) for pg in range(2)} for node in NODES
    }


def found(moment: Moment, *, floor: int = 0) -> CommitMark:
    admitted = last_admitted(GROUPS, everybody(moment, floor=floor), NEWEST, moment)
    assert admitted.waits_for is None
    return admitted.commit


@pytest.mark.parametrize(
    ("lsn", "at"),
    [(5000, 3), (1001, 3), (1000, 2), (500, 2), (6, 2), (5, 1), (4, 1), (3, 0), (2, 0)],
)
def test_by_lsn(lsn: int, at: int) -> None:
    assert found(Moment(lsn=lsn)) == COMMITS[at]


@pytest.mark.parametrize(("seconds", "at"), [(50, 3), (40, 3), (39, 2), (20, 2), (19, 0), (10, 0)])
def test_by_time_a_wrong_clock_does_not_hide_later_commits(seconds: int, at: int) -> None:
    assert found(Moment(time_us=seconds * SECOND)) == COMMITS[at]


@pytest.mark.parametrize("moment", [Moment(lsn=3), Moment(time_us=5 * SECOND)])
def test_outside_the_window_the_window_is_named(moment: Moment) -> None:
    with pytest.raises(
        ConfigError, match=r"from LSN 4 \(1970-01-01T00:00:30.000000Z\) on.*newest is LSN 1001"
    ):
        found(moment, floor=4)


def test_before_the_first_commit_there_is_nothing() -> None:
    with pytest.raises(ConfigError, match="from LSN 2 "):
        found(Moment(lsn=1))


def test_the_newest_needs_no_answer() -> None:
    assert last_admitted(GROUPS, {}, NEWEST, Moment(lsn=2000)).commit == NEWEST
    assert Moment().newest
    assert not Moment(lsn=1).newest


def test_nothing_is_concluded_before_three_that_are_whole_have_spoken() -> None:
    moment = Moment(lsn=5)
    answers = {node: dict(said) for node, said in everybody(moment).items()}
    for node in "ABCD":
        answers[node][1] = says(moment, [], whole=False)
    assert last_admitted(GROUPS, answers, NEWEST, moment).waits_for == 1
    answers["D"][1] = says(moment, COMMITS[1::2])
    assert last_admitted(GROUPS, answers, NEWEST, moment) == last_admitted(
        GROUPS, everybody(moment), NEWEST, moment
    )


def test_who_has_collected_past_the_answer_lists_too_little() -> None:
    """Of A, B and C only C has the commit of LSN 4, and it has let go of it."""
    moment = Moment(lsn=5)
    answers = {node: {0: says(moment, COMMITS[0::2])} for node in "ABC"}
    answers["A"][1] = answers["B"][1] = says(moment, [])
    answers["C"][1] = says(moment, COMMITS[1::2], floor=6)
    assert last_admitted(GROUPS, answers, NEWEST, moment).waits_for == 1


def test_that_there_is_none_is_not_concluded_from_those_who_let_go_of_it() -> None:
    """LSN 2 is there and served by four; of those who answer, one lacks it and two have let go of it."""
    moment = Moment(lsn=3)
    answers: Answers = {
        "A": {0: says(moment, COMMITS[1:]), 1: says(moment, [])},
        "B": {0: says(moment, COMMITS, floor=4), 1: says(moment, [])},
        "C": {0: says(moment, COMMITS, floor=4), 1: says(moment, [])},
    }
    assert last_admitted(GROUPS, answers, NEWEST, moment).waits_for == 0


@given(st.data())
def test_it_is_the_last_one_or_not_known(data: st.DataObject) -> None:
    """Whoever answers, whatever they lack (two of six each record at most) and have collected."""
    moment = data.draw(st.builds(Moment, lsn=st.integers(1, 9)))
    log = [mark(lsn, lsn) for lsn in sorted(data.draw(st.sets(st.integers(1, 9), min_size=1)))]
    lacking = {c.lsn: data.draw(st.sets(st.sampled_from(NODES), max_size=2)) for c in log}
    newest = log[-1]
    answers: Answers = {
        node: {
            0: says(
                moment,
                [c for c in log if node not in lacking[c.lsn]],
                floor=data.draw(st.integers(0, newest.lsn)),
                whole=data.draw(st.booleans()),
            )
        }
        for node in data.draw(st.sets(st.sampled_from(NODES)))
    }
    try:
        admitted = last_admitted(GROUPS[:1], answers, newest, moment)
    except ConfigError:
        floors = sorted(one[0].floor for one in answers.values())
        first = log[bisect_right(log, moment.lsn or 0, key=lambda c: c.lsn) - 1]
        below = first.lsn > (moment.lsn or 0)  # before the first commit
        assert below or [f for f in floors if f > first.lsn][2:], "three have let go of it"
        return
    if admitted.waits_for is None:
        assert admitted.commit == [c for c in log if moment.admits(c)][-1]
