"""Every schedule of a chaos run: the seed's alone, within its time, and within what six copies promise."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.chaos.schedule import (
    CALM_S,
    DESTROYING,
    SECONDS_MAX,
    SECONDS_MIN,
    SETTLE_S,
    Shape,
    draw,
    label,
)
from cluster.faults.catalogue import Fault, Kind
from cluster.faults.kit import REAL, TWO_SIDED
from cluster.faults.targets import ROLES
from cluster.local.layout import AZS
from engine.errors import ConfigError

seeds = st.integers(0, 10**9)
times = st.floats(SECONDS_MIN, SECONDS_MAX)
shapes = st.builds(
    Shape,
    storage=st.integers(6, 9).map(lambda n: tuple(f"storage-{i + 1}" for i in range(n))),
    instances=st.integers(1, 5).map(lambda n: tuple(f"main-{i + 1}" for i in range(n))),
)


@given(seeds, times, shapes)
def test_the_same_seed_gives_the_same_schedule(seed, seconds, shape):
    assert draw(seed, seconds, shape) == draw(seed, seconds, shape)


@given(seeds, seeds)
def test_another_seed_gives_another_one(one, other):
    shape = Shape.new(2)
    same = draw(one, 300, shape).rounds == draw(other, 300, shape).rounds
    assert same == (one == other)


@given(seeds, times, shapes)
@example(0, SECONDS_MIN, Shape.new(0))
def test_everything_is_over_in_time_and_rounds_do_not_overlap(seed, seconds, shape):
    schedule = draw(seed, seconds, shape)
    assert schedule.rounds
    assert schedule.rounds[0].begins_s >= CALM_S
    assert schedule.rounds[-1].ends_s <= seconds
    for one in schedule.rounds:
        assert one.faults
        for fault in one.faults:
            assert one.begins_s <= fault.at < one.ends_s
            if fault.step is None:  # one at a step has its time from when the step is taken
                assert fault.at + fault.for_s <= one.ends_s + 0.05
    for before, after in pairwise(schedule.rounds):
        assert after.begins_s >= before.ends_s + SETTLE_S - 0.05


@given(seeds, times, shapes)
def test_no_round_takes_more_than_one_copy_away_for_good(seed, seconds, shape):
    for one in draw(seed, seconds, shape).rounds:
        destroyed = {fault.target for fault in one.faults if fault.kind in DESTROYING}
        assert destroyed <= {one.victim}
        assert one.victim in shape.storage


@given(seeds, times, shapes)
def test_the_kit_can_do_all_of_it(seed, seconds, shape):
    known = {*shape.storage, *shape.instances, *AZS, *ROLES, "control"}
    if len(shape.instances) == 1:
        known.remove("replica")
    for one in draw(seed, seconds, shape).rounds:
        for fault in one.faults:
            assert fault.kind in REAL
            assert fault.target in known
            assert bool(fault.peer) == (fault.kind in TWO_SIDED)
            assert not fault.peer or (fault.peer in known and fault.peer != fault.target)
            assert fault.step is None or fault.kind is Kind.KILL
            assert Fault.from_json(fault.to_json()) == fault


def test_every_kind_and_every_plot_comes_up_sooner_or_later():
    rounds = [r for seed in range(20) for r in draw(seed, 300, Shape.new(2)).rounds]
    assert {label(fault) for one in rounds for fault in one.faults} >= {
        *("kill", "crash-at", "pause", "az-down", "partition", "one-way", "isolate", "slow-net"),
        *("drop", "slow-disk", "fill-disk", "fail-fsync", "clock-skew"),
        *("wipe", "rot-log", "rot-page"),
    }
    assert {one.plot for one in rounds} == {"", "az-plus-one", "no-quorum", "zombie", "dying-heir"}


@pytest.mark.parametrize("seconds", [0, 14, 60 * 60])
def test_a_time_out_of_bounds_is_refused(seconds):
    with pytest.raises(ConfigError, match="minutes cannot be"):
        draw(1, seconds, Shape.new(2))
