"""A crash right before and right after every protocol step, and another while recovering from it.

The surroundings provoke every step: a node that is away long enough to need a page copy, rot to repair,
a failover, a volume that grows. Then whoever takes the step first loses power. Only when that has happened
are the others armed: the writer is killed, if it was not the writer; whoever opens the volume then is
killed half-way, and so is whoever does it next, a step later; and the node that lost power is killed when
a later life of it takes the same step again.

What a plan's schedule cannot say is "and then": so crashes are not in it, but a listener's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cluster.control.repairing import RepairConfig
from cluster.faults.catalogue import STEPS, UNSIMULATED, Fault, Kind
from cluster.sim.checkers import Violation
from cluster.sim.loop import Stalled
from cluster.sim.run import Plan, Story
from cluster.sim.workload import Mix
from cluster.sim.world import Shape, SimProcess, World
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

SLOW = {Step.COPY, Step.COLLECT, Step.DROP_LOG, Step.NEW_ARCHIVE}
"""Steps that are reached only where no writer opens for a while, or late."""

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

LOST_STORES = tuple(
    fault
    for at in (1.5, 4.0, 6.5, 9.0, 11.5)
    for fault in (
        Fault(Kind.KILL, "archiver", at, 1.2),
        Fault(Kind.WIPE, "store", at + 0.6),
    )
)
"""While nobody archives, another store takes the place of the one there was: what is in no hot log any more
is lost to the archive."""

ARCHIVING = STEPS["archiver"]

MEMBERS = {Step.MEMBERS, Step.WHOLE, Step.DROP, Step.BEGIN_CHANGE, Step.COMMIT_CHANGE}


def provocation(step: Step) -> tuple[Fault, ...]:
    match step:
        case _ if step in MEMBERS or step is Step.FILL:
            return REPLACED
        case Step.CANCEL_CHANGE:
            return GIVEN_UP
        case Step.REPAIR:
            return (*PROVOCATION, *MUCH_ROT)
        case Step.NEW_ARCHIVE:
            return LOST_STORES
        case _ if step in SLOW:
            return LONG_AWAY
        case _:
            return PROVOCATION


SEEDS = {Step.CANCEL_CHANGE: 3, Step.COPY: 3}
"""With seed 1 a slow node that is being replaced holds the recovery up for longer than is waited here, and
nobody has to copy once more."""


def plan(step: Step) -> Plan:
    seed = SEEDS.get(step, 1)
    fleet: dict[str, Any] = {}
    if step in MEMBERS or step in (Step.CANCEL_CHANGE, Step.FILL):
        fleet = {"spares": 2, "repair": RepairConfig(check_s=0.2, busy_s=0.1, gone_s=0.8)}
    if step in ARCHIVING:
        fleet = {
            "archive": True,
            "archiver": replace(
                Shape().archiver,
                round_s=0.1,
                base_bytes_min=4096,
                base_volume_share=0.05,
                retention_s=1.0,
                backoff_limit_s=1.0,
            ),
        }
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
        schedule=provocation(step),
        safety_s=16.0 if step in SLOW else SAFETY_S,
    )


EARLY = {Step.CREATE, Step.ADD_GROUP, Step.CONFIRM, Step.ADVANCE_EPOCH, Step.FENCED}
"""Steps that come soon and then not for long."""

ONCE = {Step.GROW}
"""Not taken again by a later life: the catalog has the group by then, so the next writer opens with it."""

RECOVERY = (Step.TRUNCATED, Step.REHARDENED)
"""Where openings that follow the first crash are killed: one here, the next one there."""

RECOVERY_WITHIN_S = 2.0
"""What begins later than this after the first crash is no recovery from it."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash at a step."""

    at: float
    step: Step
    node: str
    life: int
    """Which life of the node it should have ended."""
    ended: bool
    """It was alive, and then was not."""


class Crashes:
    """Crashes of one run, each armed when the one before it has happened."""

    def __init__(self, story: Story, step: Step, when: str) -> None:
        self.first: Crash | None = None
        self.again: Crash | None = None
        """The same node at the same step, in a later life."""
        self.recovering: list[Crash] = []
        """Those who were opening the volume afterwards."""
        self._world, self._injector = story.world, story.injector
        self._step, self._when = step, when
        self._from_s = 0.0 if step in EARLY else 1.0

    def arm(self) -> None:
        self._world.on_step.append(self._on_step)

    def _on_step(self, when: str, step: Step, process: SimProcess) -> None:
        if when != self._when or self._injector.quiet:
            return
        first = self.first
        if first is None:
            if step is self._step and self._begun():
                self.first = self._crash(Kind.POWER, 0.4, step, process)
                self._fell_writer(process)
        elif (
            self.again is None
            and (step, process.name) == (first.step, first.node)
            and process.lives > first.life
        ):
            self.again = self._crash(Kind.KILL, 0.2, step, process)
        elif len(self.recovering) < len(RECOVERY) and step is RECOVERY[len(self.recovering)]:
            self.recovering.append(self._crash(Kind.KILL, 0.2, step, process))

    def _begun(self) -> bool:
        return self._world.loop.time() >= self._from_s

    def _crash(self, kind: Kind, for_s: float, step: Step, process: SimProcess) -> Crash:
        was_up, life = process.up, process.lives
        self._injector.begin(Fault(kind, process.name, for_s=for_s), (process,))
        now = self._world.loop.time()
        return Crash(now, step, process.name, life, was_up and not process.up)

    def _fell_writer(self, crashed: SimProcess) -> None:
        """Let a recovery of the volume begin while `crashed` is still away."""
        if crashed is not self._world.writer():
            self._world.loop.call_later(
                0.1,
                self._injector.begin,
                Fault(Kind.KILL, "writer"),
                context=self._world.network.context,
            )


def carried_out(plan: Plan, step: Step, when: str) -> tuple[Crashes, list[Violation]]:
    """As `cluster.sim.run.run`, with crashes at the step."""
    world = World(plan.seed, plan.shape)
    story = Story(world, plan)
    crashes = Crashes(story, step, when)

    async def tell() -> None:
        if await story.begin():
            crashes.arm()
            await asyncio.sleep(plan.safety_s)
            await story.finish()

    try:
        try:
            world.loop.run_until_complete(tell())
        except Stalled as error:
            story.findings.add("stalled", str(error), at=world.loop.time())
        return crashes, story.judge()
    finally:
        world.close()


def _sides() -> Iterator[object]:
    """Every step, before and after: one of the two in every run of the tests, the other in the long one."""
    for at, step in enumerate(step for step in Step if step not in UNSIMULATED):
        for side, when in enumerate(("before", "after")):
            marks = () if at % 2 == side else (pytest.mark.long,)
            yield pytest.param(step, when, marks=marks, id=f"{step.value}-{when}")


@pytest.mark.parametrize(("step", "when"), list(_sides()))
def test_a_crash_at_this_step_and_again_in_the_recovery_from_it(step: Step, when: str) -> None:
    crashes, violations = carried_out(plan(step), step, when)
    assert not violations, "\n".join(map(str, violations[:5]))
    first = crashes.first
    assert first is not None, "nobody took the step"
    assert first.ended, f"nobody alive crashed there: {first}"
    assert [c.step for c in crashes.recovering] == [*RECOVERY], (
        "no recovery was broken off after it"
    )
    assert all(c.ended for c in crashes.recovering), (
        f"who was dead was killed: {crashes.recovering}"
    )
    since = crashes.recovering[0].at - first.at
    assert 0 < since < RECOVERY_WITHIN_S, f"the recovery was {since:.3f} s after the crash"
    if step not in ONCE:
        again = crashes.again
        assert again is not None, f"{first.node} did not take the step again"
        assert again.ended, f"nobody alive crashed there again: {again}"
