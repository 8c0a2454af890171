"""One catalogue: what the wrappers know, what the command takes, and what the simulator has."""

from __future__ import annotations

import pytest

from cluster.cli.fault import seconds
from cluster.faults.catalogue import ABOUT, STEPS, Kind
from cluster.faults.kit import LASTING, ON_DISKS, REAL, TWO_SIDED, WAITING
from engine.errors import ConfigError
from engine.faults import table
from engine.steps import Step


def test_kinds_that_the_wrappers_know_are_the_catalogues():
    names = ("PARTITION", "ONE_WAY", "ISOLATE", "SLOW_NET", "DROP", "SLOW_DISK", "FILL_DISK")
    for name in (*names, "FAIL_FSYNC", "CLOCK_SKEW", "KILL"):
        assert getattr(table, name) == Kind[name].value


def test_every_kind_is_real_or_the_simulators_alone():
    assert REAL >= LASTING | WAITING | ON_DISKS | TWO_SIDED
    alone = {Kind.POWER, Kind.RESET, Kind.LOSE_WRITES, Kind.MISDIRECT_READ, Kind.FAILOVER}
    assert set(ABOUT) - REAL == alone


def test_every_step_is_taken_by_one_kind_of_process():
    assert sorted(step for steps in STEPS.values() for step in steps) == sorted(Step)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, 0.0), ("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1.5h", 5400.0), (" 7 ", 7.0)],
)
def test_times_as_users_write_them(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "-1s", "soon", "1d", "s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="is no time; write it like 30s, 500ms or 2m"):
        seconds(text)
