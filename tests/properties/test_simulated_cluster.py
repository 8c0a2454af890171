"""A whole simulated cluster as a state machine: Hypothesis draws what goes wrong and when, and shrinks it.

The swarm (`cluster.sim.swarm`) draws from one seed and is fast; here a failing story is cut down to the
few steps that matter, and Hypothesis remembers it.
"""

from __future__ import annotations

import asyncio
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cluster.faults.catalogue import Fault, Kind
from cluster.sim.run import Plan, Story
from cluster.sim.swarm import STORAGE
from cluster.sim.workload import Mix
from cluster.sim.world import Shape, World
from engine.config import InstanceConfig, VolumeConfig
from engine.steps import Step

INSTANCES = ("main-1", "main-2")
ANYBODY = (*STORAGE, *INSTANCES, "control", "writer")
LASTING = st.sampled_from((0.05, 0.5, 2.0))

EXAMPLES = {"ci": 12, "nightly": 400}.get(os.environ.get("SEXTET_HYPOTHESIS", ""), 8)


class SimulatedCluster(RuleBasedStateMachine):
    """Every rule takes some virtual time, in which clients go on working."""

    story: Story
    loss: Kind
    """How storage-2 may lose what it holds."""

    @initialize(
        seed=st.integers(0, 2**16),
        frame=st.sampled_from((2048, 1 << 20)),
        loss=st.sampled_from((Kind.WIPE, Kind.LOSE_WRITES)),
    )
    def start(self, seed: int, frame: int, loss: Kind) -> None:
        self.loss = loss
        shape = Shape(
            replicas=1,
            group_pages=16,
            max_pages=16 * 64,
            instance=InstanceConfig(pool_pages=16),
            volume=VolumeConfig(frame_bytes_max=frame),
        )
        plan = Plan(seed=seed, shape=shape, mix=Mix(clients=3, think_s=0.03))
        self.world = World(seed, shape)
        self.story = Story(self.world, plan)
        assert self.run(self.story.begin())

    def run(self, coro: object) -> object:
        return self.world.loop.run_until_complete(coro)

    def inject(self, *faults: Fault) -> None:
        async def begin() -> None:
            for fault in faults:
                self.story.injector.begin(fault)
            await asyncio.sleep(0.3)

        self.run(begin())

    def fault(self, kind: Kind, target: str, for_s: float, **more: object) -> Fault:
        now = self.world.loop.time()
        return Fault(kind, target, now, for_s, **more)  # type: ignore[arg-type]

    # -- what may happen

    @rule(seconds=st.sampled_from((0.01, 0.2, 1.0)))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(
        kind=st.sampled_from((Kind.KILL, Kind.POWER, Kind.PAUSE, Kind.ISOLATE)),
        whom=st.sampled_from(ANYBODY),
        for_s=LASTING,
    )
    def somebody_is_gone(self, kind: Kind, whom: str, for_s: float) -> None:
        self.inject(self.fault(kind, whom, for_s))

    @rule(az=st.sampled_from(("az1", "az2", "az3")), for_s=LASTING)
    def a_zone_is_down(self, az: str, for_s: float) -> None:
        self.inject(self.fault(Kind.AZ_DOWN, az, for_s))

    @rule(
        kind=st.sampled_from((Kind.PARTITION, Kind.ONE_WAY, Kind.RESET)),
        one=st.sampled_from(ANYBODY),
        other=st.sampled_from(ANYBODY),
        for_s=LASTING,
    )
    def two_cannot_talk(self, kind: Kind, one: str, other: str, for_s: float) -> None:
        if one != other:
            self.inject(self.fault(kind, one, for_s, peer=other))

    @rule(kind=st.sampled_from((Kind.FAIL_FSYNC, Kind.FILL_DISK)), whom=st.sampled_from(STORAGE))
    def a_disk_fails(self, kind: Kind, whom: str) -> None:
        self.inject(self.fault(kind, whom, 0.0 if kind is Kind.FAIL_FSYNC else 1.0))

    # Two of the six may lose what they hold for good, as in the swarm: one rots, and of another ...

    @rule(kind=st.sampled_from((Kind.ROT_LOG, Kind.ROT_PAGE)))
    def one_copy_rots(self, kind: Kind) -> None:
        self.inject(self.fault(kind, "storage-1", 0.0))

    @rule(for_s=LASTING)
    def another_copy_is_lost(self, for_s: float) -> None:
        """... the disk is replaced by an empty one, or had lied about what was durable."""
        self.inject(self.fault(self.loss, "storage-2", 0.0))
        if self.loss is Kind.LOSE_WRITES:
            self.inject(self.fault(Kind.POWER, "storage-2", for_s))

    @rule(whom=st.sampled_from(STORAGE))
    def a_read_goes_astray(self, whom: str) -> None:
        self.inject(self.fault(Kind.MISDIRECT_READ, whom, 0.0))

    @rule(
        slow=st.sampled_from(
            (
                (Kind.SLOW_NET, ANYBODY, ("latency_s", 0.05)),
                (Kind.DROP, ANYBODY, ("share", 0.2)),
                (Kind.SLOW_DISK, STORAGE, ("factor", 200.0)),
            )
        ),
        data=st.data(),
        for_s=LASTING,
    )
    def somebody_is_slow(
        self,
        slow: tuple[Kind, tuple[str, ...], tuple[str, float]],
        data: st.DataObject,
        for_s: float,
    ) -> None:
        kind, anybody, param = slow
        whom = data.draw(st.sampled_from(anybody))
        self.inject(self.fault(kind, whom, for_s, params=(param,)))

    @rule(whom=st.sampled_from(ANYBODY), seconds=st.sampled_from((-3600.0, 0.2, 3600.0)))
    def a_clock_jumps(self, whom: str, seconds: float) -> None:
        self.inject(self.fault(Kind.CLOCK_SKEW, whom, 0.0, params=(("seconds", seconds),)))

    @rule(heir=st.sampled_from(INSTANCES))
    def another_writer_is_named(self, heir: str) -> None:
        self.inject(self.fault(Kind.FAILOVER, heir, 0.0))

    @rule(
        step=st.sampled_from(Step),
        when=st.sampled_from(("before", "after")),
        power=st.booleans(),
    )
    def the_next_one_at_a_step_dies(self, step: Step, when: str, power: bool) -> None:
        kind = Kind.POWER if power else Kind.KILL
        self.story.injector.arm(
            Fault(kind, "all", self.world.loop.time(), 0.2, step=step, when=when)
        )
        self.wait(0.5)

    # -- the end

    def teardown(self) -> None:
        if not hasattr(self, "story"):
            return
        try:
            self.run(self.story.finish())
            violations = self.story.judge()
        finally:
            self.world.close()
        assert not violations, "\n".join(map(str, violations[:5]))


TestSimulatedCluster = SimulatedCluster.TestCase
TestSimulatedCluster.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
