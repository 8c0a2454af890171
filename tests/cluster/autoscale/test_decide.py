"""Target tracking: within bounds, never within a cool-down, only what it added, and it settles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.autoscale.decide import Add, Remove, Replica, decide, wanted
from cluster.autoscale.rates import WINDOW_S, Rates
from cluster.local.policy import AutoscalePolicy
from engine.errors import ConfigError

POLICY = AutoscalePolicy("connections", 2, 1, 4, out_cooldown_s=10, in_cooldown_s=60)


def _replica(name: str, connections: int | None, *, auto: bool = True, load: float | None = 0.0):
    return Replica(name, auto, connections, load)


@pytest.mark.parametrize(
    ("total", "replicas"), [(0, 1), (1, 1), (2, 1), (3, 2), (6, 3), (8, 4), (800, 4)]
)
def test_what_is_wanted_keeps_the_average_at_the_target(total, replicas):
    assert wanted(POLICY, total) == replicas


def test_fractions_do_not_want_one_too_many():
    assert wanted(AutoscalePolicy("load", 0.3, 1, 15), 7 * 0.3) == 7
    assert wanted(AutoscalePolicy("load", 1e-300, 1, 15), 1e300) == 15


def test_one_more_after_the_cool_down():
    replicas = [_replica("main-2", 6, auto=False)]
    assert decide(POLICY, replicas, 9.9) is None
    assert decide(POLICY, replicas, 10) == Add("6 connections on 1 replicas, the target is 2 each")


def test_the_least_used_of_those_that_were_added_goes_after_its_cool_down():
    replicas = [
        _replica("main-2", 0, auto=False),
        _replica("main-3", 2),
        _replica("main-4", 1),
    ]
    assert decide(POLICY, replicas, 59.9) is None
    step = decide(POLICY, replicas, 60)
    assert isinstance(step, Remove)
    assert step.name == "main-4"


def test_what_a_user_added_stays_however_idle():
    replicas = [_replica(f"main-{n}", 0, auto=False) for n in range(2, 9)]
    assert decide(POLICY, replicas, 1e9) is None


def test_a_replica_that_says_nothing_is_no_reason_to_remove_one_but_does_not_hinder_adding():
    silent = _replica("main-3", None)
    assert decide(POLICY, [_replica("main-2", 0), silent], 1e9) is None
    assert isinstance(decide(POLICY, [_replica("main-2", 9), silent], 1e9), Add)


def test_load_is_what_counts_if_the_policy_says_so():
    policy = AutoscalePolicy("load", 100, 1, 4, 10, 60)
    assert decide(policy, [_replica("main-2", 50, load=90.0)], 1e9) is None
    step = decide(policy, [_replica("main-2", 0, load=190.5)], 1e9)
    assert step == Add("190.5 statements/s on 1 replicas, the target is 100 each")


def test_as_few_as_the_policy_wants_are_made_up_for():
    policy = AutoscalePolicy("connections", 2, 2, 4)
    assert isinstance(decide(policy, [], 1e9), Add)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"metric": "luck"}, "there is no metric luck; choose one of connections, load"),
        ({"target": 0}, "a target of 0 cannot be"),
        ({"target": math.nan}, "a target of nan"),
        ({"least": 0}, "0 to 4 replicas cannot be; choose from 1 to 15"),
        ({"least": 5}, "5 to 4 replicas"),
        ({"most": 16}, "1 to 16 replicas"),
        ({"in_cooldown_s": -1}, "a cool-down must be"),
        ({"out_cooldown_s": math.inf}, "a cool-down must be"),
    ],
)
def test_policies_that_cannot_be_are_refused(wrong, says):
    good = {"metric": "connections", "target": 2, "least": 1, "most": 4}
    with pytest.raises(ConfigError, match=says):
        AutoscalePolicy(**{**good, **wrong})


policies = st.builds(
    lambda metric, target, bounds, out, into: AutoscalePolicy(
        metric, target, min(bounds), max(bounds), out, into
    ),
    st.sampled_from(["connections", "load"]),
    st.floats(0.1, 50),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.integers(0, 30),
    st.integers(0, 30),
)


class Cluster:
    """Replicas that share a total, and how long ago their number has changed."""

    def __init__(self, policy: AutoscalePolicy, manual: int) -> None:
        self.policy = policy
        self.names = {f"m{n}": False for n in range(manual)}
        self.since = 0
        self.next = 0

    def tick(self, total: int, *, silent: bool = False) -> int:
        """One second with so many connections (or statements); by how many the number changed."""
        count = len(self.names)
        shares = [total // count + (n < total % count) for n in range(count)] if count else []
        replicas = [
            Replica(name, auto, None if silent else share, None if silent else float(share))
            for (name, auto), share in zip(self.names.items(), shares, strict=True)
        ]
        step = decide(self.policy, replicas, self.since)
        self.since += 1
        if isinstance(step, Add):
            assert count < self.policy.most
            assert self.since > self.policy.out_cooldown_s
            self.names[f"a{self.next}"] = True
            self.next += 1
        elif isinstance(step, Remove):
            assert count > self.policy.least
            assert self.since > self.policy.in_cooldown_s
            assert not silent
            assert self.names.pop(step.name), "a user's"
        if step is not None:
            self.since = 0
        return len(self.names) - count


@given(
    policies,
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=120),
)
def test_whatever_the_load_does_it_stays_within_bounds_and_cool_downs(policy, manual, loads):
    cluster = Cluster(policy, manual)
    for total, silent in loads:
        cluster.tick(total, silent=silent)  # asserts


@given(policies, st.integers(0, 8), st.lists(st.integers(0, 200), max_size=40), st.integers(0, 200))
def test_under_a_constant_load_it_settles_on_the_target_and_stays(policy, manual, before, total):
    cluster = Cluster(policy, manual)
    for load in before:
        cluster.tick(load)
    steps = 16 * (max(policy.out_cooldown_s, policy.in_cooldown_s) + 1)
    changes = [cluster.tick(total) for _ in range(int(steps))]
    assert len({change for change in changes if change}) <= 1, "one direction only"
    assert [cluster.tick(total) for _ in range(70)] == [0] * 70
    assert len(cluster.names) == max(manual, wanted(policy, total))


# -- rates


def test_rate_is_an_average_over_the_window():
    rates = Rates()
    seen = [rates.note("main-2", 7, 100 * n, float(n)) for n in range(12)]
    assert seen[: int(WINDOW_S)] == [None] * int(WINDOW_S)
    assert seen[int(WINDOW_S) :] == [100.0] * 7
    assert rates.note("main-2", 7, 1100, 17.0) == 0.0


def test_a_counter_that_begins_anew_is_no_rate():
    rates = Rates()
    rates.note("main-2", 7, 1000, 0.0)
    assert rates.note("main-2", 8, 3, 6.0) is None
    assert rates.note("main-2", 8, 63, 12.0) == 10.0
    assert rates.note("main-2", 8, 5, 13.0) is None, "it has been the writer, in the same process"
    assert rates.note("main-2", 8, 65, 19.0) == 10.0
    rates.forget_others({"main-3"})
    assert rates.note("main-2", 8, 66, 20.0) is None
