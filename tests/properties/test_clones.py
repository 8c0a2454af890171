"""G9: trees of clones, each volume equal to its own model whatever happens to the others and to the nodes.

Hypothesis draws writes, clones of anybody's present or past, deletions in any order, crashes of nodes at
the steps in which clones come and go, lost power, wiped and rotten disks, and writers that follow one
another. Redo becomes pages and garbage is collected all the while. In the end everything is healed, and
every copy of every volume must show what its model says, while one after the other is deleted; nothing of
deleted volumes is left that no clone reads.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from engine.steps import Step
from tests.support.colony import GROUP_PAGES, GROUPS_MAX, Colony, Kept

EXAMPLES = {"ci": 25, "nightly": 200}.get(os.environ.get("SEXTET_HYPOTHESIS", ""), 10)
VOLUMES_MAX = 6
ROTTEN = "storage-6"
"""The node whose disk rots; it is never wiped, so what rots there is whole elsewhere."""

STEPS = (Step.FORK, Step.DROP, Step.COALESCE, Step.COLLECT, Step.COPY, Step.REPAIR, Step.PERSIST)


class Clones(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.colony = Colony(seed)
        self.run(self.colony.start())
        self.run(self.colony.create())

    def run(self, coro: object) -> object:
        return self.colony.run(coro)

    def one(self, data: st.DataObject) -> Kept:
        return self.colony.volumes[data.draw(st.sampled_from(sorted(self.colony.volumes)))]

    @rule(data=st.data(), commits=st.integers(1, 6), wait=st.booleans())
    def write(self, data: st.DataObject, commits: int, wait: bool) -> None:
        kept = self.one(data)
        reach = min(kept.size + 4, GROUP_PAGES * GROUPS_MAX)
        numbers = st.lists(st.integers(0, reach - 1), min_size=1, max_size=5, unique=True)
        for _ in range(commits):
            lsn = self.run(self.colony.write(kept, sorted(data.draw(numbers))))
        if wait:
            self.run(self.colony.durable(kept, lsn))

    @precondition(lambda self: len(self.colony.volumes) < VOLUMES_MAX)
    @rule(data=st.data(), back=st.sampled_from((0, 0, 1, 4)))
    def clone(self, data: st.DataObject, back: int) -> None:
        made = self.run(self.colony.clone(self.one(data), back=back))
        if made is not None:
            self.run(self.colony.check(made))

    @precondition(lambda self: len(self.colony.volumes) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.run(self.colony.delete(self.one(data)))

    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        self.run(self.colony.open(self.one(data)))

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        self.run(self.colony.check(self.one(data)))

    @rule(tenths=st.sampled_from((1, 3, 10)))
    def pass_time(self, tenths: int) -> None:
        async def passing() -> None:
            for _ in range(tenths):
                await asyncio.sleep(0.1)
                await self.colony.tend()

        self.run(passing())

    @precondition(lambda self: len(self.colony.up) > 4)
    @rule(data=st.data(), power=st.booleans(), away=st.booleans())
    def kill(self, data: st.DataObject, power: bool, away: bool) -> None:
        names = st.sampled_from([process.name for process in self.colony.up])
        process = self.colony.world.processes[data.draw(names)]
        self.run(self.colony.kill(process, power=power, away=away))

    @rule()
    def come_back(self) -> None:
        self.run(self.colony.come_back())

    @rule(step=st.sampled_from(STEPS), when=st.sampled_from(("before", "after")))
    def crash_at(self, step: Step, when: str) -> None:
        self.colony.crash_at(step, when, power=True)

    @rule()
    def rot(self) -> None:
        self.colony.rot(self.colony.world.processes[ROTTEN])

    @precondition(lambda self: self.colony.healthy)
    @rule(data=st.data())
    def wipe(self, data: st.DataObject) -> None:
        names = [p.name for p in self.colony.world.storage if p.name != ROTTEN]
        process = self.colony.world.processes[data.draw(st.sampled_from(names))]
        self.run(self.colony.wipe(process))

    def teardown(self) -> None:
        if not hasattr(self, "colony"):
            return
        try:
            self.run(self.finish())
            assert self.colony.world.errors == []
        finally:
            self.colony.end()

    async def finish(self) -> None:
        colony = self.colony
        colony.world.on_step.clear()
        await colony.heal()
        for kept in colony.volumes.values():
            await colony.durable(kept, await colony.write(kept, [0]))
            await colony.open(kept)
            await colony.check(kept)
        await asyncio.sleep(2.0)
        for kept in colony.volumes.values():
            await colony.check_every_copy(kept)
        colony.check_orphans()
        while colony.volumes:
            await colony.delete(colony.volumes[colony.rng.choice(sorted(colony.volumes))])
            await colony.until(lambda: not colony.untold)
            colony.check_orphans()
            for kept in colony.volumes.values():
                await colony.check_every_copy(kept)
        assert not any(process.memory.versions for process in colony.up)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [Step.FORK, Step.DROP])
def test_a_crash_at_this_step_leaves_it_all_or_nothing(step: Step, when: str) -> None:
    """Of making a clone, of deleting its parent, and of deleting the clone."""
    colony = Colony(1)

    async def story() -> None:
        await colony.start()
        first = await colony.create()
        for n in range(20):
            lsn = await colony.write(first, [n % 5, 5 + n % 3])
        await colony.durable(first, lsn)
        colony.crash_at(step, when, power=True)
        clone = await colony.clone(first)
        assert clone is not None
        await colony.write(clone, [1, 7])
        await colony.delete(first)
        assert not colony.world.on_step, "nobody took the step"
        await colony.heal()
        another = await colony.clone(clone)
        assert another is not None
        colony.crash_at(step, when, power=True)
        await colony.delete(clone)
        await colony.heal()
        await colony.check(another)
        await asyncio.sleep(1.0)
        await colony.check_every_copy(another)
        colony.check_orphans()

    try:
        colony.run(story())
        assert colony.world.errors == []
    finally:
        colony.end()


TestClones = Clones.TestCase
TestClones.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
