"""A crash right before and right after every protocol step, and another while recovering from it.

The surroundings provoke every step: a node that is away long enough to need a page copy, rot to repair,
a failover, a volume that grows. Then whoever takes the step first loses power, whoever takes it the next
time is killed, and so is the writer that recovers from it, half-way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.control.repairing import RepairConfig
from cluster.faults.catalogue import Fault, Kind
from cluster.sim.run import Plan, Result, run
from cluster.sim.workload import Mix
from cluster.sim.world import Shape
from engine.config import InstanceConfig, VolumeConfig
from engine.steps import Step

SAFETY_S = 9.0

PROVOCATION = (
    *(Fault(Kind.ROT_PAGE, "storage-6", 1.2 + 0.4 * n) for n in range(10)),
    Fault(Kind.ROT_LOG, "storage-6", 1.4),
    Fault(Kind.KILL, "storage-5", 1.5, 2.5),
    Fault(Kind.FAILOVER, "main-2", 3.2),
    Fault(Kind.KILL, "storage-6", 4.2, 0.3),
    Fault(Kind.KILL, "storage-4", 4.6, 1.8),
    Fault(Kind.FAILOVER, "main-1", 5.5),
    Fault(Kind.FAILOVER, "main-3", 6.5),
)

LONG_AWAY = (
    Fault(Kind.KILL, "storage-5", 5.5, 3.5),
    Fault(Kind.KILL, "storage-4", 10.0, 3.5),
)
"""A page copy needs peers that have dropped their logs, which they do only some time after an opening."""

SLOW = {Step.COPY, Step.COLLECT, Step.DROP_LOG}
"""Steps that are reached only where no writer opens for a while."""

MUCH_ROT = tuple(
    Fault(Kind.ROT_PAGE, node, 4.4 + 0.2 * n)
    for node in ("storage-1", "storage-6")
    for n in range(15)
)


REPLACED = (
    Fault(Kind.WIPE, "storage-4", 1.5, 0.3),
    Fault(Kind.KILL, "storage-1", 3.0, 5.0),
    Fault(Kind.WIPE, "storage-6", 5.0, 0.3),
    Fault(Kind.WIPE, "storage-4", 6.5, 0.3),
)
"""New disks, and a node that is away for so long that another one takes its place."""

GIVEN_UP = (
    Fault(Kind.SLOW_DISK, "storage-7", 0.5, 7.0, params=(("factor", 2000.0),)),
    Fault(Kind.SLOW_DISK, "storage-8", 0.5, 7.0, params=(("factor", 2000.0),)),
    Fault(Kind.KILL, "storage-1", 1.5, 1.2),
    Fault(Kind.KILL, "storage-2", 3.5, 1.2),
    Fault(Kind.KILL, "storage-1", 5.5, 1.2),
)
"""Whoever is to replace them is slow, and they come back."""

MEMBERS = {Step.MEMBERS, Step.WHOLE, Step.DROP, Step.BEGIN_CHANGE, Step.COMMIT_CHANGE}


def provocation(step: Step) -> tuple[Fault, ...]:
    match step:
        case _ if step in MEMBERS:
            return REPLACED
        case Step.CANCEL_CHANGE:
            return GIVEN_UP
        case _ if step in SLOW:
            return LONG_AWAY
        case Step.REPAIR:
            return (*PROVOCATION, *MUCH_ROT)
        case _:
            return PROVOCATION


def plan(step: Step, when: str, *, seed: int = 1) -> Plan:
    early = step in (Step.CREATE, Step.ADD_GROUP, Step.CONFIRM, Step.ADVANCE_EPOCH, Step.FENCED)
    crashes = (
        Fault(Kind.POWER, "all", 0.0 if early else 1.0, 0.4, step=step, when=when),
        Fault(Kind.KILL, "all", 0.0 if early else 1.0, 0.2, step=step, when=when, nth=2),
        Fault(Kind.KILL, "all", 3.3, 0.2, step=Step.TRUNCATED, when=when),
        Fault(Kind.KILL, "all", 3.3, 0.2, step=Step.REHARDENED, when=when, nth=2),
    )
    fleet: dict[str, Any] = {}
    if step in MEMBERS or step is Step.CANCEL_CHANGE:
        fleet = {"spares": 2, "repair": RepairConfig(check_s=0.2, busy_s=0.1, gone_s=0.8)}
    return Plan(
        seed=seed,
        shape=Shape(
            group_pages=16,
            max_pages=16 * 64,
            storage=replace(Shape().storage, wal_file_bytes=4096, frame_cache_bytes=4096),
            instance=InstanceConfig(pool_pages=16),
            volume=VolumeConfig(frame_bytes_max=4096),
            **fleet,
        ),
        mix=Mix(clients=2, think_s=0.08, big_rows=40),
        schedule=(*provocation(step), *crashes),
        safety_s=16.0 if step in SLOW else SAFETY_S,
    )


def judged(result: Result) -> str:
    return "\n".join(map(str, result.violations[:5]))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", Step, ids=lambda step: step.value)
def test_a_crash_at_this_step_and_again_in_the_recovery_from_it(step: Step, when: str) -> None:
    result = run(plan(step, when))
    assert result.ok, judged(result)
    assert result.steps.get((when, step), 0) >= 2, "the step was not taken again after the crash"
    assert result.faults["power"][1] >= 1, "nobody crashed there"
