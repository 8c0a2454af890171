"""Whole simulated clusters with an archive, under faults: what is restored is the committed log's state."""

from __future__ import annotations

import random

import pytest

from benchmarks.restores import one_run
from cluster.faults.catalogue import Fault, Kind
from cluster.sim.restores import POINTS
from cluster.sim.run import Plan, Story
from cluster.sim.workload import Mix
from cluster.sim.world import ARCHIVER, CLUSTER, Shape, World
from engine.archive.catalogue import Listing

SAFETY_S = 9.0
SHAPE = Shape(archive=True, replicas=1)
MIX = Mix(weights={"transfer": 4, "register-write": 2, "rollback": 1, "bank": 1, "append": 1})
"""Writes that do not let the volume grow: a base comes after as much log."""


def schedule(seed: int) -> tuple[Fault, ...]:
    """The archiver, whoever writes, storage and the control plane are killed, cut off and paused; and there
    are failovers."""
    rng = random.Random(seed)
    kinds = [
        (Kind.KILL, "archive-main"),
        (Kind.PAUSE, "archive-main"),
        (Kind.ISOLATE, "archive-main"),
        (Kind.KILL, "writer"),
        (Kind.POWER, "storage"),
        (Kind.KILL, "control"),
        (Kind.FAILOVER, "main-2"),
        (Kind.FAILOVER, "main-1"),
    ]
    rng.shuffle(kinds)
    lasting = {Kind.PAUSE, Kind.ISOLATE}
    return tuple(
        Fault(
            kind,
            rng.choice([f"storage-{n}" for n in range(1, 7)]) if target == "storage" else target,
            at=0.5 + n + rng.random() / 2,
            for_s=rng.random() if kind in lasting else 0.0,
        )
        for n, (kind, target) in enumerate(kinds)
    )


@pytest.mark.sim
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_restores_are_the_committed_log(seed: int) -> None:
    """The store is away for a while, too."""
    world = World(seed, SHAPE)
    story = Story(world, Plan(seed, SHAPE, MIX, schedule=schedule(seed), safety_s=SAFETY_S))
    bucket = world.bucket
    assert bucket is not None
    for at, away in ((4.0, True), (5.5, False)):
        world.loop.call_later(at, setattr, bucket, "unreachable", away)
    try:
        world.loop.run_until_complete(story.tell())
        violations = story.judge()
    finally:
        world.close()
    assert [f"{v.checker}/{v.kind} {v.message}" for v in violations] == []
    listing = Listing.of(CLUSTER, bucket.objects)
    assert len(listing.chunks) > 5
    assert listing.bases
    assert story.checks["archive"] == POINTS
    assert world.processes[ARCHIVER].lives >= 2
    assert world.epoch_open >= 2


@pytest.mark.long
@pytest.mark.sim
def test_restores_at_random_points_and_restored_again() -> None:
    """What `python -m benchmarks.restores` does a thousand times."""
    sums, wrong = one_run(1, 60)
    assert wrong == []
    assert (sums.restored, sums.again) == (60, 2)
    assert sums.cut_off, "a writer's redo was cut off"
    assert sums.failovers
    assert sums.bases
