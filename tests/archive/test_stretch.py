"""The next stretch of the log, out of whatever frames storage nodes gave."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.archive.stretch import Stretch, next_stretch
from engine.errors import Corrupt
from engine.log.frame import decode_frame
from engine.types import LSN, CommitMark
from tests.archive.books import Ledger, Written, frame_of, ledger_of

COMMITS = st.lists(
    st.tuples(st.lists(st.integers(0, 15), min_size=1, max_size=5), st.integers(0, 20)),
    min_size=1,
    max_size=12,
)
PLENTY = 1 << 30


def chained(ledger: Ledger, after: LSN, upto: LSN, given_lsns: set[LSN]) -> list[Written]:
    """The model: walk the log as it was written until something was not given."""
    found = []
    for record in ledger.records:
        if after < record.lsn <= upto:
            if record.lsn not in given_lsns:
                break
            found.append(record)
    return found


def check(stretch: Stretch, after: LSN, expected: list[Written]) -> None:
    upto = expected[-1].lsn if expected else after
    assert (stretch.after, stretch.upto) == (after, upto)
    decoded = {
        r.lsn: r for frame in stretch.frames for r in decode_frame(frame) if after < r.lsn <= upto
    }
    assert sorted(decoded) == [r.lsn for r in expected]
    assert [decoded[r.lsn].prev_lsn for r in expected] == [r.prev for r in expected]
    assert [decoded[r.lsn].page for r in expected] == [r.page for r in expected]
    assert list(stretch.commits) == [r.commit for r in expected if r.commit is not None]
    assert stretch.tails == {r.pg: r.lsn for r in expected}
    for frame in stretch.frames:
        assert any(after < r.lsn <= upto for r in decode_frame(frame)), "a frame for nothing"


@given(COMMITS, st.randoms(use_true_random=False), st.data())
def test_it_is_the_longest_prefix_that_chains(
    commits: list[tuple[list[int], int]], rng: random.Random, data: st.DataObject
) -> None:
    ledger = ledger_of(commits)
    frames = ledger.frames(lambda _: rng.random() < 0.3)
    gone = data.draw(st.sets(st.integers(0, len(frames) - 1), max_size=2))
    known = [frame for n, frame in enumerate(frames) if n not in gone]
    # Another node cut its frames elsewhere, and lacks others.
    known += [f for f in ledger.frames(lambda _: rng.random() < 0.3) if rng.random() < 0.2]
    known += [rng.choice(known) for _ in range(3)] if known else []
    rng.shuffle(known)
    marks = [0, *(mark.lsn for mark in ledger.marks)]
    after = data.draw(st.integers(0, marks[-1]))
    upto = data.draw(st.sampled_from(marks))
    lsns = {record.lsn for frame in known for record in decode_frame(frame)}
    check(
        next_stretch(after, upto, known, bytes_max=PLENTY),
        after,
        chained(ledger, after, upto, lsns),
    )


@given(COMMITS, st.integers(1, 3000), st.randoms(use_true_random=False))
def test_it_keeps_to_the_byte_bound_and_gets_on(
    commits: list[tuple[list[int], int]], bytes_max: int, rng: random.Random
) -> None:
    """One frame at least, however large; otherwise no more than the bound, and no less than fits."""
    ledger = ledger_of(commits)
    frames = ledger.frames(lambda _: rng.random() < 0.5)
    rng.shuffle(frames)
    last, at = ledger.records[-1].lsn, 0
    by_lsn = {r.lsn: f for f in frames for r in decode_frame(f)}
    while at < last:
        stretch = next_stretch(at, last, frames, bytes_max=bytes_max)
        check(stretch, at, [r for r in ledger.records if at < r.lsn <= stretch.upto])
        size = sum(len(frame) for frame in stretch.frames)
        assert size <= bytes_max or len(stretch.frames) == 1
        if stretch.upto < last:
            following = by_lsn[next(r.lsn for r in ledger.records if r.lsn > stretch.upto)]
            assert following not in stretch.frames
            assert size + len(following) > bytes_max
        assert stretch.upto > at
        at = stretch.upto


@given(COMMITS, COMMITS, st.randoms(use_true_random=False), st.data())
def test_a_branch_that_never_happened_is_refused(
    commits: list[tuple[list[int], int]],
    others: list[tuple[list[int], int]],
    rng: random.Random,
    data: st.DataObject,
) -> None:
    """A recovery cut it off, and somebody gave it all the same, with what did happen."""
    dead = ledger_of(commits)
    marks = [mark.lsn for mark in dead.marks]
    vdl = data.draw(st.sampled_from([0, *marks[:-1]]))
    alive = dead.branch(vdl)
    for pages, time_s in others:
        size = max(alive.states[-1][0].pages, max(pages) + 1)
        alive.commit(sorted(set(pages)), size, time_s)
    annulled = [frame_of([r]) for r in dead.records if r.lsn > vdl]
    frames = alive.frames(lambda _: rng.random() < 0.3)
    whole = next_stretch(vdl, alive.records[-1].lsn, frames, bytes_max=PLENTY)
    check(whole, vdl, [r for r in alive.records if r.lsn > vdl])
    given_frames = [*frames, *annulled]
    rng.shuffle(given_frames)
    with pytest.raises(Corrupt):
        next_stretch(vdl, alive.records[-1].lsn, given_frames, bytes_max=PLENTY)
    # What lies above the VDL may still be in flight on either branch: it is not looked at.
    check(
        next_stretch(0, vdl, given_frames, bytes_max=PLENTY),
        0,
        [r for r in alive.records if r.lsn <= vdl],
    )


def test_two_records_with_one_lsn_are_refused() -> None:
    """In one, the transaction ends there."""
    one, other = Ledger(), Ledger()
    one.commit([0, 1, 2], 3, 5)
    other.commit([0, 1], 2, 5)
    frames = [frame_of(one.records[:2]), frame_of(other.records)]
    with pytest.raises(Corrupt, match="two records have LSN 2"):
        next_stretch(0, 3, frames, bytes_max=PLENTY)


def test_nothing_gives_nothing() -> None:
    assert next_stretch(5, 9, [], bytes_max=1) == Stretch(5, 5, (), ())
    ledger = ledger_of([((0,), 1)])
    frames = ledger.frames(lambda _: True)
    assert next_stretch(1, 1, frames, bytes_max=1).upto == 1
    assert next_stretch(0, 0, frames, bytes_max=1).upto == 0
    mark = CommitMark(1, ledger.marks[0].time_us, 1)
    assert next_stretch(0, 1, frames, bytes_max=1).commits == (mark,)
