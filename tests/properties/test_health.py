"""The failure detector and the pace of failovers, over any course of events."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.control.health import (
    MUTE,
    REST_FIRST_S,
    REST_LIMIT_S,
    Patience,
    Rest,
    Seen,
    Sight,
    WriterHealth,
)

PATIENCE = Patience()
STEP_S = 0.25
LONGEST_S = max(
    *(PATIENCE.refused_s, PATIENCE.silent_s, PATIENCE.recovering_s, PATIENCE.no_quorum_s),
    *(PATIENCE.witnessed_s, PATIENCE.loop_s),
)
ILL = [seen for seen in Seen if seen is not Seen.WORKING]

sights = st.builds(
    Sight,
    at=st.just(0.0),
    seen=st.sampled_from(Seen),
    storage=st.booleans(),
    witnessed=st.booleans(),
    cold=st.booleans(),
    busy=st.booleans(),
)
gaps = st.floats(0.01, 30.0)
courses = st.lists(st.tuples(gaps, sights), max_size=60)


def play(
    course: list[tuple[float, Sight]], health: WriterHealth, now: float = 0.0
) -> tuple[list[str | None], float]:
    """What was said at each sight, and the time at the end."""
    said = []
    for gap, sight in course:
        now += gap
        said.append(health.look(replace(sight, at=now)))
    return said, now


def every(count: int, sight: Sight) -> list[tuple[float, Sight]]:
    return [(STEP_S, sight)] * count


@given(courses)
def test_a_writer_is_replaced_only_while_it_does_not_work(course):
    said, _ = play(course, WriterHealth(0.0))
    for (_, sight), reason in zip(course, said, strict=True):
        assert reason is None or sight.seen is not Seen.WORKING


@given(courses)
def test_nobody_is_replaced_for_what_no_other_writer_could_do_better(course):
    said, _ = play(course, WriterHealth(0.0))
    for (_, sight), reason in zip(course, said, strict=True):
        assert reason is None or sight.storage or sight.seen in MUTE


@given(courses)
def test_one_look_or_two_never_suffice_however_long_we_slept_between_them(course):
    health = WriterHealth(0.0)
    _, now = play(course, health)
    for _ in range(math.ceil(PATIENCE.steady_s / STEP_S) + 1):
        now += STEP_S
        health.look(Sight(now, Seen.WORKING))
    for seen in (Seen.REFUSED, Seen.SILENT):
        now += 10_000.0
        assert health.look(Sight(now, seen)) is None


@given(courses, st.sampled_from(ILL), st.booleans())
def test_whoever_stays_ill_is_replaced_in_the_time_that_the_table_says(course, seen, witnessed):
    health = WriterHealth(0.0)
    _, now = play(course, health)
    said, _ = play(every(200, Sight(0, seen, witnessed=witnessed)), health, now)
    first = next(n for n, reason in enumerate(said) if reason is not None)
    assert (first - PATIENCE.looks_min) * STEP_S <= LONGEST_S
    assert all(said[first:]), "and as long as it is ill, since who is to follow may be missing"


@given(
    st.lists(
        st.tuples(
            st.integers(0, math.floor(PATIENCE.refused_s / STEP_S) - 2),
            st.integers(0, math.floor(PATIENCE.recovering_s / STEP_S) - 1),
            st.integers(math.ceil(PATIENCE.steady_s / STEP_S) + 1, 40),
        ),
        max_size=20,
    )
)
def test_a_writer_that_restarts_now_and_then_is_let_be(restarts):
    health = WriterHealth(0.0)
    course = every(10, Sight(0, Seen.WORKING))
    for refused, recovering, working in restarts:
        course += every(refused, Sight(0, Seen.REFUSED))
        course += every(recovering, Sight(0, Seen.RECOVERING))
        course += every(working, Sight(0, Seen.WORKING))
    said, _ = play(course, health)
    assert not any(said)


@given(st.integers(1, 4), st.integers(0, 6), st.sampled_from((Seen.REFUSED, Seen.RECOVERING)))
def test_a_crash_loop_ends_in_a_failover(down, working, seen):
    """Each crash is short enough to be borne, and each life too short to count."""
    rounds = math.ceil(PATIENCE.loop_s / (down * STEP_S)) + 1
    course = every(10, Sight(0, Seen.WORKING))
    for _ in range(rounds):
        course += every(down, Sight(0, seen))
        course += every(working, Sight(0, Seen.WORKING))
    said, _ = play(course, WriterHealth(0.0))
    assert any(said)


@given(st.integers(0, 3), st.integers(1, 14), st.integers(0, 14))
def test_whoever_was_just_named_gets_the_time_to_start_once(left, refused, recovering):
    """It answers as the replica that it was, goes, comes back and recovers; on a slow machine, slowly."""
    health = WriterHealth(0.0, named_now=True)
    start = [
        *every(left, Sight(0, Seen.RECOVERING)),
        *every(refused, Sight(0, Seen.REFUSED)),
        *every(recovering, Sight(0, Seen.RECOVERING)),
    ]
    said, now = play([*start, *every(20, Sight(0, Seen.WORKING))], health)
    assert not any(said)
    said, _ = play(every(10, Sight(0, Seen.REFUSED)), health, now)
    assert any(said[:7]), "later it gets no more time than others"


def test_times_of_the_table():
    """Seconds from the last sign of life to the verdict, asked every 0.25 s."""

    def borne(seen: Seen, **what: bool) -> float:
        health = WriterHealth(0.0, named_now=True)
        play(every(20, Sight(0, Seen.WORKING)), health)
        said, _ = play(every(400, Sight(0, seen, **what)), health, 5.0)
        return STEP_S * (1 + next(n for n, reason in enumerate(said) if reason is not None))

    assert borne(Seen.REFUSED) == 1.5
    assert borne(Seen.SILENT) == 1.25
    assert borne(Seen.SILENT, witnessed=True) == 5.0
    assert borne(Seen.SILENT, busy=True) == 60.0
    assert borne(Seen.SILENT, cold=True) == 15.0
    assert borne(Seen.NO_QUORUM) == 2.25
    assert borne(Seen.RECOVERING) == 6.25
    said, _ = play(every(40, Sight(0, Seen.REFUSED)), WriterHealth(0.0, named_now=True))
    assert STEP_S * (1 + next(n for n, why in enumerate(said) if why)) == 4.0


def test_silence_that_was_announced_is_no_sign_of_illness():
    """A large commit: 14 seconds of it, a word, and then storage needs a while for it."""
    busy = Sight(0, Seen.SILENT, busy=True)
    course = [
        *every(56, busy),
        *every(2, Sight(0, Seen.WORKING)),
        *every(7, Sight(0, Seen.NO_QUORUM)),
    ]
    said, _ = play([*every(8, Sight(0, Seen.WORKING)), *course], WriterHealth(0.0))
    assert not any(said)


@given(st.lists(st.floats(0.0, 5.0), max_size=300))
def test_failovers_that_do_not_help_get_rare(waits):
    rest, now, done = Rest(), 0.0, 0
    for wait in waits:
        now += wait
        if rest.allows(now):
            rest.failed_over(now)
            done += 1
    doublings = math.log2(REST_LIMIT_S / REST_FIRST_S)
    assert done <= 2 + doublings + now / REST_LIMIT_S


@given(st.integers(0, 40))
def test_after_one_that_helped_the_next_is_soon(times):
    rest = Rest()
    for n in range(times):
        rest.failed_over(float(n))
    rest.steady()
    rest.failed_over(1000.0)
    assert not rest.allows(1000.0 + REST_FIRST_S / 2)
    assert rest.allows(1000.0 + REST_FIRST_S)
