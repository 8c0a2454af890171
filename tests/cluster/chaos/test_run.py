"""What a run makes of events, and of errors that come in groups."""

from __future__ import annotations

from cluster.chaos.run import new_events, plainly, shape_of
from cluster.chaos.schedule import Shape
from cluster.cli.failover import Happened
from cluster.local.layout import AZS, MAIN, ClusterSpec, InstanceSpec, Layout, StorageSpec
from engine.errors import ConfigError


def test_events_are_new_by_what_they_say_and_not_by_the_clock() -> None:
    old, same = Happened(50, "main-1", "works"), Happened(60, "main-2", "works")
    early = Happened(10, "main", "failover to main-2 finished")  # the clock was wrong
    assert new_events([old, same], [old, same, early, same]) == [early, same]
    assert new_events([old], [old]) == []


def test_an_error_that_explains_itself_is_not_told_as_a_group() -> None:
    gone = ConfigError("no cluster is running in .sextet")
    assert plainly(ExceptionGroup("", [gone, OSError("gone")])) is gone
    broken = ExceptionGroup("", [gone, KeyError("a bug of ours")])
    assert plainly(broken) is broken


def test_a_schedule_for_an_installation_as_it_was_made_is_that_of_a_new_one() -> None:
    layout = Layout(
        1,
        tuple(StorageSpec(f"storage-{n}", AZS[(n - 1) // 2], 10 + n) for n in range(1, 7)),
        (ClusterSpec(MAIN, 2, 3, 1 << 30, (InstanceSpec("main-1", 1, "az1", 4),)),),
    )
    assert shape_of(layout) == Shape.new(0)
